//! Reads and writes at a position of a file, from several threads.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A file that threads read and write at positions.
#[derive(Debug)]
pub(super) struct PositionedFile {
    file: Mutex<File>,
    path: PathBuf,
}

impl PositionedFile {
    pub(super) fn new(file: File, path: PathBuf) -> Self {
        Self { file: Mutex::new(file), path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills the buffer from a position.
    pub(super) fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        self.seek(position)?.read_exact(buffer)
    }

    pub(super) fn write_all_at(&self, buffer: &[u8], position: u64) -> io::Result<()> {
        self.seek(position)?.write_all(buffer)
    }

    fn seek(&self, position: u64) -> io::Result<MutexGuard<'_, File>> {
        // every use seeks first, so a panic elsewhere leaves nothing wrong behind
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(position))?;
        Ok(file)
    }
}
