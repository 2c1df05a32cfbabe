//! A file to which whole records are added.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::LogError;

/// A file that ends with a whole record, also after one could not be written.
#[derive(Debug)]
pub(super) struct Records {
    file: File,
    path: PathBuf,
    /// Bytes of whole records.
    length: u64,
}

impl Records {
    /// Adds to what is in `file`.
    pub(super) fn new(mut file: File, path: PathBuf) -> Result<Self, LogError> {
        match file.seek(SeekFrom::End(0)) {
            Ok(length) => Ok(Self { file, path, length }),
            Err(source) => Err(LogError::Io { path, source }),
        }
    }

    /// Adds a record by one write, so that others who read along see whole records; or leaves the file as it was.
    pub(super) fn add(&mut self, record: &[u8]) -> Result<(), LogError> {
        if let Err(source) = self.file.write_all(record) {
            // A full disk takes a part of it. If that cannot be taken back either, the first error is the one to report.
            let _ = self.file.set_len(self.length);
            let _ = self.file.seek(SeekFrom::Start(self.length));
            return Err(LogError::Io { path: self.path.clone(), source });
        }
        self.length += record.len() as u64;
        Ok(())
    }

    /// Brings the records to the disk.
    pub(super) fn sync(&self) -> Result<(), LogError> {
        self.file.sync_data().map_err(|source| LogError::Io { path: self.path.clone(), source })
    }

    pub(super) fn path(&self) -> &std::path::Path {
        &self.path
    }
}
