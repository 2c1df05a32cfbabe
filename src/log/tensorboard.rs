//! TensorBoard's event files.
//!
//! A file is a sequence of records, each a length, a masked CRC-32C of the length, the data, a masked CRC-32C of the data;
//! the data are a protocol buffer `Event`. Sources: TensorFlow, `tensorflow/core/lib/io/record_writer.h`,
//! `tensorflow/core/util/event.proto` and `tensorflow/core/framework/summary.proto`.

use std::fs::{self, File};
use std::path::Path;
use std::time::SystemTime;

use prost::Message;

use super::records::Records;
use super::{LogError, Scalars, seconds};
use crate::output::Grid;

#[derive(Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Message)]
struct SessionLog {
    /// 1 is START: events of this step and later ones, in earlier files, count as undone.
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(oneof = "Content", tags = "2, 4")]
    content: Option<Content>,
}

#[derive(prost::Oneof)]
enum Content {
    #[prost(float, tag = "2")]
    SimpleValue(f32),
    #[prost(message, tag = "4")]
    Image(Image),
}

#[derive(Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// Channels.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    /// A PNG file.
    #[prost(bytes = "vec", tag = "4")]
    encoded_image_string: Vec<u8>,
}

/// An event file that is being written.
#[derive(Debug)]
pub struct EventFile {
    records: Records,
}

impl EventFile {
    /// Makes a new event file in `folder`, for a run that goes on from `step`.
    ///
    /// # Errors
    /// [`LogError::Io`]
    pub fn create(folder: &Path, step: u64, now: SystemTime) -> Result<Self, LogError> {
        let io_error = |path: &Path| {
            let path = path.to_owned();
            move |source| LogError::Io { path, source }
        };
        fs::create_dir_all(folder).map_err(io_error(folder))?;
        // TensorBoard takes files with `tfevents` in their names, in the order of their names
        let stem = format!("events.out.tfevents.{:010}.{step:08}", seconds(now) as u64);
        let mut number = 0;
        let (file, path) = loop {
            let path = folder.join(format!("{stem}.{number}.ddpm-gpu"));
            match File::options().write(true).create_new(true).open(&path) {
                Ok(file) => break (file, path),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(io_error(&path)(error)),
            }
        };
        let mut events = Self { records: Records::new(file, path)? };
        events.write(0, What::FileVersion("brain.Event:2".to_owned()), now)?;
        // at step 0 too: a run that was killed before its first checkpoint leaves events that are undone
        events.write(step + 1, What::SessionLog(SessionLog { status: 1 }), now)?;
        Ok(events)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.records.path()
    }

    /// Writes one event with all scalars.
    ///
    /// # Errors
    /// [`LogError::Io`]
    pub fn scalars(&mut self, scalars: &Scalars, now: SystemTime) -> Result<(), LogError> {
        let mut values = vec![("loss".to_owned(), scalars.loss)];
        for (quarter, loss) in scalars.loss_quartiles.into_iter().flatten().enumerate() {
            values.extend(loss.map(|loss| (format!("loss_by_timestep/quartile_{}", quarter + 1), loss)));
        }
        values.extend(scalars.gradient_norm.map(|norm| ("gradient_norm".to_owned(), norm)));
        values.push(("learning_rate".to_owned(), scalars.learning_rate as f32));
        values.push(("images_per_second".to_owned(), scalars.images_per_second as f32));
        let value = values
            .into_iter()
            .map(|(tag, value)| Value { tag, content: Some(Content::SimpleValue(value)) })
            .collect();
        self.write(scalars.step, What::Summary(Summary { value }), now)
    }

    /// Writes a picture.
    ///
    /// # Errors
    /// [`LogError::Io`]
    pub fn image(&mut self, step: u64, tag: &str, grid: &Grid, now: SystemTime) -> Result<(), LogError> {
        let encoded_image_string =
            grid.to_png().map_err(|source| LogError::Io { path: self.path().to_owned(), source })?;
        let image = Image {
            height: grid.height as i32,
            width: grid.width as i32,
            colorspace: grid.channels as i32,
            encoded_image_string,
        };
        let value = vec![Value { tag: tag.to_owned(), content: Some(Content::Image(image)) }];
        self.write(step, What::Summary(Summary { value }), now)
    }

    pub(super) fn sync(&self) -> Result<(), LogError> {
        self.records.sync()
    }

    fn write(&mut self, step: u64, what: What, now: SystemTime) -> Result<(), LogError> {
        let event = Event { wall_time: seconds(now), step: step as i64, what: Some(what) };
        self.records.add(&record(&event.encode_to_vec()))
    }
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length), data, &masked_crc(data)].concat()
}

fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn files_are_those_that_tensorboard_writes() {
        let folder = tempfile::tempdir().unwrap();
        let at = |seconds: f64| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds);
        let mut events = EventFile::create(folder.path(), 20, at(1_700_000_000.0)).unwrap();
        let scalars = Scalars {
            step: 30,
            loss: 0.75,
            loss_quartiles: Some([Some(2.0), None, Some(0.5), Some(0.25)]),
            gradient_norm: Some(3.5),
            learning_rate: 2e-4,
            images_per_second: 41.5,
        };
        events.scalars(&scalars, at(1_700_000_001.5)).unwrap();
        let few = Scalars { step: 40, loss_quartiles: None, gradient_norm: None, ..scalars };
        events.scalars(&few, at(1_700_000_002.5)).unwrap();
        let name = events.path().file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("events.out.tfevents.1700000000."), "{name}");
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/events.out.tfevents.golden");
        assert!(fs::read(events.path()).unwrap() == fs::read(golden).unwrap());
    }

    #[test]
    fn every_session_has_a_file_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let paths =
            [0, 10, 10].map(|step| EventFile::create(folder.path(), step, now).unwrap().path().to_owned());
        assert!(paths.is_sorted() && paths[1] != paths[2]);
    }
}
