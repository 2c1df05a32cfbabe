//! What a training run writes down while it runs: TensorBoard event files, and the same as JSON lines; and its plot.

mod json_lines;
#[cfg(feature = "cli")]
mod plot;
mod records;
mod tensorboard;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use json_lines::{Line, METRICS_FILE, read_metrics};
#[cfg(feature = "cli")]
pub use plot::plot_loss;
pub use tensorboard::EventFile;

use self::json_lines::JsonLines;
use crate::output::Grid;

/// What is measured from time to time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scalars {
    /// Steps done.
    pub step: u64,
    /// Loss.
    pub loss: f32,
    /// Mean loss of the images whose timestep is in each quarter of 0..T, where there are such images; `None` where the
    /// losses of single images are not known.
    pub loss_quartiles: Option<[Option<f32>; 4]>,
    /// Norm of the gradient of all parameters, before it is clipped.
    pub gradient_norm: Option<f32>,
    /// Learning rate.
    pub learning_rate: f64,
    /// Speed.
    pub images_per_second: f64,
}

/// A log that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused.
    #[error(
        "{}: the log cannot be written: {source}; check that you may write there and that the disk has room",
        .path.display()
    )]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The operating system refused to let it be read.
    #[error(
        "{}: the log cannot be read: {source}; check that it is there and that you may read it",
        .path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A line is no JSON of ours.
    #[error("{}, line {line}: expected the metrics of a run, found {found}; delete the line", .path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        found: String,
    },
}

/// The logs of a run: `metrics.jsonl`, and event files in `tensorboard/`.
///
/// A run is worth more than its logs: what cannot be written is left out, and [`Log::take_warning`] says so once.
#[derive(Debug)]
pub struct Log {
    /// `None` where it could not be opened.
    lines: Option<JsonLines>,
    events: Option<EventFile>,
    /// What is still to be said.
    warning: Option<String>,
    has_failed: bool,
}

/// The folder of event files in the output folder of a run.
pub const TENSORBOARD_FOLDER: &str = "tensorboard";

impl Log {
    /// Opens the logs of the run in `output`, which goes on from `step`: what was logged of later steps, which a resumed run
    /// does again, is taken back.
    pub fn open(output: &Path, step: u64) -> Self {
        let mut log = Self { lines: None, events: None, warning: None, has_failed: false };
        let path = output.join(METRICS_FILE);
        let lines = JsonLines::open(&path, step);
        if let Ok((_, foreign @ 1..)) = lines {
            log.warning =
                Some(format!("{}: left out {foreign} line(s) that are no metrics of a run", path.display()));
        }
        log.lines = log.unless_failed(lines).map(|(lines, _)| lines);
        let events = EventFile::create(&output.join(TENSORBOARD_FOLDER), step, SystemTime::now());
        log.events = log.unless_failed(events);
        log
    }

    /// What could not be read or written, in words, the first time that there is anything to say.
    pub fn take_warning(&mut self) -> Option<String> {
        self.warning.take()
    }

    /// Logs scalars.
    pub fn scalars(&mut self, scalars: &Scalars) {
        let now = SystemTime::now();
        self.write(|lines| lines.scalars(scalars, now), |events| events.scalars(scalars, now));
    }

    /// Brings what was logged to the disk: before a checkpoint is, which says that these steps are done.
    pub fn sync(&mut self) {
        self.write(|lines| lines.sync(), |events| events.sync());
    }

    /// Logs a grid of samples, which is in the file `path`.
    pub fn samples(&mut self, step: u64, grid: &Grid, path: &Path) {
        let now = SystemTime::now();
        self.write(|lines| lines.samples(step, path, now), |events| events.image(step, "samples", grid, now));
    }

    fn write(
        &mut self,
        lines: impl FnOnce(&mut JsonLines) -> Result<(), LogError>,
        events: impl FnOnce(&mut EventFile) -> Result<(), LogError>,
    ) {
        let outcomes = [self.lines.as_mut().map(lines), self.events.as_mut().map(events)];
        for outcome in outcomes.into_iter().flatten() {
            self.unless_failed(outcome);
        }
    }

    /// What was done; of failures the first is kept, to be said.
    fn unless_failed<T>(&mut self, outcome: Result<T, LogError>) -> Option<T> {
        let error = match outcome {
            Ok(done) => return Some(done),
            Err(error) => error,
        };
        if !std::mem::replace(&mut self.has_failed, true) {
            let said = self.warning.take().map_or(String::new(), |said| format!("{said}; "));
            self.warning = Some(format!("{said}{error}; training goes on, and logs what it can"));
        }
        None
    }
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_log_that_cannot_be_opened_is_said_once_and_the_other_is_written() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(TENSORBOARD_FOLDER), "a file in its place").unwrap();
        let mut log = Log::open(folder.path(), 0);
        let warning = log.take_warning().unwrap();
        assert!(warning.contains(TENSORBOARD_FOLDER) && warning.contains("training goes on"), "{warning}");
        log.scalars(&Scalars { step: 10, ..Scalars::default() });
        log.sync();
        assert_eq!(log.take_warning(), None);
        assert_eq!(read_metrics(folder.path()).unwrap().len(), 1);
    }

    #[test]
    fn foreign_bytes_do_not_keep_a_run_from_going_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS_FILE);
        fs::write(&path, b"{\"step\": 10, \"time\": 2}\n\xff\n").unwrap();
        let mut log = Log::open(folder.path(), 10);
        assert!(log.take_warning().unwrap().contains("left out 1 line"));
        assert_eq!(read_metrics(&path).unwrap().len(), 1);
    }
}
