//! What a training run writes down while it runs: TensorBoard event files, and the same as JSON lines; and its plot.

mod json_lines;
#[cfg(feature = "cli")]
mod plot;
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
        "{}: the log cannot be written or read: {source}; check that you may write there and that the disk has room",
        .path.display()
    )]
    Io {
        /// The file or folder.
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
#[derive(Debug)]
pub struct Log {
    lines: JsonLines,
    events: EventFile,
}

/// The folder of event files in the output folder of a run.
pub const TENSORBOARD_FOLDER: &str = "tensorboard";

impl Log {
    /// Opens the logs of the run in `output`, which goes on from `step`: what was logged of later steps, which a resumed run
    /// does again, is taken back.
    ///
    /// # Errors
    /// [`LogError::Io`]
    pub fn open(output: &Path, step: u64) -> Result<Self, LogError> {
        let lines = JsonLines::open(&output.join(METRICS_FILE), step)?;
        let events = EventFile::create(&output.join(TENSORBOARD_FOLDER), step, SystemTime::now())?;
        Ok(Self { lines, events })
    }

    /// Logs scalars.
    ///
    /// # Errors
    /// [`LogError::Io`]
    pub fn scalars(&mut self, scalars: &Scalars) -> Result<(), LogError> {
        let now = SystemTime::now();
        self.lines.scalars(scalars, now)?;
        self.events.scalars(scalars, now)
    }

    /// Brings what was logged to the disk: before a checkpoint is, which says that these steps are done.
    ///
    /// # Errors
    /// [`LogError::Io`]
    pub fn sync(&self) -> Result<(), LogError> {
        self.lines.sync()?;
        self.events.sync()
    }

    /// Logs a grid of samples, which is in the file `path`.
    ///
    /// # Errors
    /// [`LogError::Io`]
    pub fn samples(&mut self, step: u64, grid: &Grid, path: &Path) -> Result<(), LogError> {
        let now = SystemTime::now();
        self.lines.samples(step, path, now)?;
        self.events.image(step, "samples", grid, now)
    }
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
