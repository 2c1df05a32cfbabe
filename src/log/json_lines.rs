//! `metrics.jsonl`: an object a line, for scripts and for `ddpm-gpu plot`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{LogError, Scalars, seconds};
use crate::files::read_regular_text;
use crate::output::write_atomically;

/// The file's name in the output folder of a run.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// A line of the file; what a line does not say is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Steps done.
    pub step: u64,
    /// Seconds since 1970.
    pub time: f64,
    /// Loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f32>,
    /// Mean loss by quarter of the timesteps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_quartiles: Option<[Option<f32>; 4]>,
    /// Norm of the gradient of all parameters, before it is clipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<f32>,
    /// Learning rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Speed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images_per_second: Option<f64>,
    /// A grid of samples was written to this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<PathBuf>,
}

/// The file, to which lines are added.
#[derive(Debug)]
pub(super) struct JsonLines {
    file: File,
    path: PathBuf,
}

impl JsonLines {
    /// Opens the file, and drops lines of steps after `step` and what is no whole line: a run that was killed leaves such.
    pub(super) fn open(path: &Path, step: u64) -> Result<Self, LogError> {
        let io_error = |source| LogError::Io { path: path.to_owned(), source };
        if path.exists() {
            let text = fs::read_to_string(path).map_err(io_error)?;
            let keep = |line: &&str| {
                line.ends_with('\n') && serde_json::from_str::<Line>(line).is_ok_and(|line| line.step <= step)
            };
            let kept: String = text.split_inclusive('\n').filter(keep).collect();
            if kept != text {
                write_atomically(path, |file| file.write_all(kept.as_bytes()))
                    .map_err(|error| io_error(io::Error::other(error)))?;
            }
        }
        let file = File::options().append(true).create(true).open(path).map_err(io_error)?;
        Ok(Self { file, path: path.to_owned() })
    }

    pub(super) fn scalars(&mut self, scalars: &Scalars, now: SystemTime) -> Result<(), LogError> {
        // JSON has no NaN: such a number is left out
        self.write(&Line {
            step: scalars.step,
            time: seconds(now),
            loss: Some(scalars.loss).filter(|loss| loss.is_finite()),
            loss_quartiles: scalars.loss_quartiles,
            gradient_norm: scalars.gradient_norm.filter(|norm| norm.is_finite()),
            learning_rate: Some(scalars.learning_rate),
            images_per_second: Some(scalars.images_per_second),
            samples: None,
        })
    }

    pub(super) fn samples(&mut self, step: u64, path: &Path, now: SystemTime) -> Result<(), LogError> {
        self.write(&Line { step, time: seconds(now), samples: Some(path.to_owned()), ..Line::default() })
    }

    pub(super) fn sync(&self) -> Result<(), LogError> {
        self.file.sync_data().map_err(|source| LogError::Io { path: self.path.clone(), source })
    }

    fn write(&mut self, line: &Line) -> Result<(), LogError> {
        let io_error = |source| LogError::Io { path: self.path.clone(), source };
        let mut text = serde_json::to_vec(line).map_err(|error| io_error(error.into()))?;
        text.push(b'\n');
        // one write, so that others who read along see whole lines
        self.file.write_all(&text).map_err(io_error)
    }
}

/// The lines of a run's `metrics.jsonl`; `path` is the file or the run's folder. A last line without an end, which a run
/// that goes on may just be writing, is left out.
///
/// # Errors
/// [`LogError`]
pub fn read_metrics(path: &Path) -> Result<Vec<Line>, LogError> {
    let path = if path.is_dir() { path.join(METRICS_FILE) } else { path.to_owned() };
    let text = read_regular_text(&path).map_err(|source| LogError::Io { path: path.clone(), source })?;
    text.split_inclusive('\n')
        .enumerate()
        .filter(|(_, line)| line.ends_with('\n'))
        .map(|(number, line)| {
            serde_json::from_str(line).map_err(|error| LogError::BadLine {
                path: path.clone(),
                line: number + 1,
                found: error.to_string(),
            })
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn scalars(step: u64) -> Scalars {
        Scalars {
            step,
            loss: 0.1 * step as f32,
            loss_quartiles: Some([Some(0.5), None, Some(0.25), Some(0.125)]),
            gradient_norm: Some(2.5),
            learning_rate: 1e-4,
            images_per_second: 12.5,
        }
    }

    #[test]
    fn lines_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS_FILE);
        let mut log = JsonLines::open(&path, 0).unwrap();
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1500);
        log.scalars(&scalars(10), time).unwrap();
        log.samples(10, Path::new("samples/a.png"), time).unwrap();
        log.scalars(&Scalars { loss: f32::NAN, loss_quartiles: None, ..scalars(20) }, time).unwrap();
        let lines = read_metrics(folder.path()).unwrap();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].loss_quartiles, scalars(10).loss_quartiles);
        assert_eq!((lines[0].step, lines[0].time, lines[0].loss), (10, 1.5, Some(1.0)));
        assert_eq!(lines[1].samples.as_deref(), Some(Path::new("samples/a.png")));
        assert_eq!((lines[2].loss, lines[2].gradient_norm), (None, Some(2.5)));
    }

    #[test]
    fn a_resumed_run_takes_back_what_it_does_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS_FILE);
        let mut log = JsonLines::open(&path, 0).unwrap();
        for step in [10, 20, 30] {
            log.scalars(&scalars(step), SystemTime::now()).unwrap();
        }
        log.file.write_all(b"{\"step\": 15, \"time\": 1}").unwrap();
        let mut log = JsonLines::open(&path, 20).unwrap();
        log.scalars(&scalars(25), SystemTime::now()).unwrap();
        let steps: Vec<u64> = read_metrics(&path).unwrap().iter().map(|line| line.step).collect();
        assert_eq!(steps, [10, 20, 25]);
    }

    #[test]
    fn a_foreign_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS_FILE);
        fs::write(&path, "{\"step\": 1, \"time\": 2}\n{\"epoch\": 1}\n").unwrap();
        let message = read_metrics(&path).unwrap_err().to_string();
        assert!(message.contains("metrics.jsonl, line 2"), "{message}");
        assert!(read_metrics(&folder.path().join("none")).unwrap_err().to_string().contains("none"));
    }
}
