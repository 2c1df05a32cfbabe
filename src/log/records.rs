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
            // A full disk takes a part of it. If that cannot be taken back either, the first error is the one to
            // report.
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

    /// The file.
    pub(super) fn path(&self) -> &std::path::Path {
        &self.path
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn records_follow_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "one\n").unwrap();
        let file = File::options().append(true).open(&path).unwrap();
        let mut records = Records::new(file, path.clone()).unwrap();
        records.add(b"two\n").unwrap();
        records.sync().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_record_that_cannot_be_written_is_an_error_that_names_the_file() {
        let path = PathBuf::from("/dev/full");
        let file = File::options().write(true).open(&path).unwrap();
        let mut records = Records::new(file, path).unwrap();
        let message = records.add(b"one").unwrap_err().to_string();
        assert!(
            message.contains("/dev/full: the log cannot be written") && message.contains("No space"),
            "{message}"
        );
        assert_eq!(records.length, 0);
    }
}
