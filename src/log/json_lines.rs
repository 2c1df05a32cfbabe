//! `metrics.jsonl`: an object a line, for scripts and for `ddpm-gpu plot`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::records::Records;
use super::{LogError, Scalars, seconds};
use crate::files::read_regular;
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
    records: Records,
}

impl JsonLines {
    /// Opens the file, and drops lines of steps after `step` and what is no line of ours: a run that was killed leaves such.
    /// Gives the number of foreign lines among them, a last one without an end not counted.
    pub(super) fn open(path: &Path, step: u64) -> Result<(Self, usize), LogError> {
        let io_error = |source| LogError::Io { path: path.to_owned(), source };
        let mut foreign = 0;
        if path.exists() {
            // Bytes, since a disk may have left anything there.
            let text =
                read_regular(path).map_err(|source| LogError::Read { path: path.to_owned(), source })?;
            let mut kept = Vec::with_capacity(text.len());
            for line in text.split_inclusive(|&byte| byte == b'\n') {
                let is_whole = line.ends_with(b"\n");
                match serde_json::from_slice::<Line>(line) {
                    Ok(parsed) if is_whole && parsed.step <= step => kept.extend_from_slice(line),
                    Ok(_) => {}
                    Err(_) => foreign += usize::from(is_whole),
                }
            }
            if kept != text {
                write_atomically(path, |file| file.write_all(&kept))
                    .map_err(|error| io_error(io::Error::other(error)))?;
            }
        }
        let file = File::options().append(true).create(true).open(path).map_err(io_error)?;
        Ok((Self { records: Records::new(file, path.to_owned())? }, foreign))
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
        self.records.sync()
    }

    fn write(&mut self, line: &Line) -> Result<(), LogError> {
        let mut text = serde_json::to_vec(line)
            .map_err(|error| LogError::Io { path: self.records.path().to_owned(), source: error.into() })?;
        text.push(b'\n');
        self.records.add(&text)
    }
}

/// The lines of a run's `metrics.jsonl`; `path` is the file or the run's folder. A last line without an end, which a run
/// that goes on may just be writing, is left out.
///
/// # Errors
/// [`LogError`]
pub fn read_metrics(path: &Path) -> Result<Vec<Line>, LogError> {
    let path = if path.is_dir() { path.join(METRICS_FILE) } else { path.to_owned() };
    let text = read_regular(&path).map_err(|source| LogError::Read { path: path.clone(), source })?;
    text.split_inclusive(|&byte| byte == b'\n')
        .enumerate()
        .filter(|(_, line)| line.ends_with(b"\n"))
        .map(|(number, line)| {
            serde_json::from_slice(line).map_err(|_| LogError::BadLine {
                path: path.clone(),
                line: number + 1,
                found: beginning(line),
            })
        })
        .collect()
}

/// The first characters of a line, for messages.
fn beginning(line: &[u8]) -> String {
    const SHOWN: usize = 40;
    let text = String::from_utf8_lossy(line.trim_ascii());
    let more = if text.chars().count() > SHOWN { " ..." } else { "" };
    format!("`{}`{more}", text.chars().take(SHOWN).collect::<String>())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

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
        let mut log = JsonLines::open(&path, 0).unwrap().0;
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
        let mut log = JsonLines::open(&path, 0).unwrap().0;
        for step in [10, 20, 30] {
            log.scalars(&scalars(step), SystemTime::now()).unwrap();
        }
        log.records.add(b"\xff\xfe no line of ours\n{\"step\": 15, \"time\": 1}").unwrap();
        let (mut log, foreign) = JsonLines::open(&path, 20).unwrap();
        assert_eq!(foreign, 1);
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
        assert!(message.contains("found `{\"epoch\": 1}`; delete the line"), "{message}");
        assert!(read_metrics(&folder.path().join("none")).unwrap_err().to_string().contains("none"));
    }
}
