//! A file of decoded images, for datasets that do not fit in memory.
//!
//! ```text
//! magic [16], key [8], number of images [8], values an image [8]         all integers little-endian
//! a slot for each image: CRC-32 of what follows and of the index [4], kind [4]: 1 bytes, 2 floats; values [4 x values]
//! ```
//!
//! Slots are filled as images are first decoded; the rest of the file is a hole. Nothing in it is trusted: a slot whose
//! checksum is wrong, as after a kill in the middle of a write, counts as empty, and a file of another key is made anew.
//! The key is a hash of the paths, lengths and times of change of the dataset's files.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use flate2::Crc;

use super::cached::Cached;
use crate::data::ImageShape;
use crate::data::positioned::PositionedFile;
use crate::hash::fnv1a;

const MAGIC: &[u8; 16] = b"ddpm-gpu images1";
const HEADER: usize = 40;
const SLOT_HEADER: usize = 8;

/// Decoded images on disk.
pub(super) struct CacheFile {
    file: PositionedFile,
    elements: usize,
    /// Whether writing failed, so that it is not tried again for every image.
    full: AtomicBool,
}

impl CacheFile {
    /// Opens the file for `len` images of `shape` of the dataset at `path`, or makes it; `None` with a warning in the log
    /// where that is impossible.
    pub(super) fn open(
        folder: &Path,
        path: &Path,
        files: &[PathBuf],
        shape: ImageShape,
        len: usize,
    ) -> Option<Self> {
        match Self::try_open(folder, path, files, shape, len) {
            Ok(file) => Some(file),
            Err(error) => {
                log::warn!(
                    "{}: decoded images cannot be kept there, so images that do not fit in memory are decoded again each \
                     time: {error}",
                    folder.display()
                );
                None
            }
        }
    }

    fn try_open(
        folder: &Path,
        path: &Path,
        files: &[PathBuf],
        shape: ImageShape,
        len: usize,
    ) -> io::Result<Self> {
        let path = fs::canonicalize(path)?;
        let ImageShape { channels, height, width } = shape;
        let name = fnv1a(&format!("{}\n{width}x{height}x{channels}", path.display()));
        fs::create_dir_all(folder)?;
        let cache = folder.join(format!("{name:016x}.images"));

        let header = [
            &MAGIC[..],
            &key(files)?.to_le_bytes(),
            &(len as u64).to_le_bytes(),
            &(shape.elements() as u64).to_le_bytes(),
        ]
        .concat();
        let bytes = HEADER as u64 + len as u64 * slot_bytes(shape.elements());
        // A new file has a random name until it is renamed to its own, so that a link of that name is replaced, not
        // followed.
        let mut new = tempfile::NamedTempFile::new_in(folder)?;
        if let Some(file) = open_own(&cache, new.as_file())? {
            let length = file.metadata()?.len();
            let file = PositionedFile::new(file, cache.clone());
            let mut found = [0; HEADER];
            if length == bytes && file.read_exact_at(&mut found, 0).is_ok() && found[..] == header[..] {
                return Ok(Self { file, elements: shape.elements(), full: AtomicBool::new(false) });
            }
        }
        new.write_all(&header)?;
        new.as_file().set_len(bytes)?;
        let file = PositionedFile::new(new.persist(&cache)?, cache);
        Ok(Self { file, elements: shape.elements(), full: AtomicBool::new(false) })
    }

    /// Writes image `index` to `pixels`, if the file has it whole.
    pub(super) fn read(&self, index: usize, pixels: &mut [f32]) -> bool {
        let at = self.slot(index);
        let mut slot = vec![0; SLOT_HEADER + self.elements];
        if self.file.read_exact_at(&mut slot, at).is_err() {
            return false;
        }
        if slot[4] == 2 {
            let first = slot.len();
            slot.resize(SLOT_HEADER + 4 * self.elements, 0);
            if self.file.read_exact_at(&mut slot[first..], at + first as u64).is_err() {
                return false;
            }
        }
        let Some((&checksum, content)) = slot.split_first_chunk() else { return false };
        if checksum != checksum_of(index, content) {
            return false;
        }
        let values = &content[4..];
        let cached = match content[0] {
            1 => Cached::Bytes(values.into()),
            2 => {
                Cached::Floats(values.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
            }
            _ => return false,
        };
        cached.write(pixels);
        true
    }

    /// Keeps image `index`.
    pub(super) fn write(&self, index: usize, cached: &Cached) {
        if self.full.load(Ordering::Relaxed) {
            return;
        }
        let mut content = Vec::with_capacity(4 + cached.bytes());
        match cached {
            Cached::Bytes(bytes) => {
                content.extend([1, 0, 0, 0]);
                content.extend_from_slice(bytes);
            }
            Cached::Floats(values) => {
                content.extend([2, 0, 0, 0]);
                content.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
        let slot = [&checksum_of(index, &content)[..], &content].concat();
        if let Err(error) = self.file.write_all_at(&slot, self.slot(index))
            && !self.full.swap(true, Ordering::Relaxed)
        {
            log::warn!(
                "{}: no more decoded images can be kept, the rest are decoded again each time: {error}",
                self.file.path().display()
            );
        }
    }

    fn slot(&self, index: usize) -> u64 {
        HEADER as u64 + index as u64 * slot_bytes(self.elements)
    }
}

/// Opens a file that is there already, if it is a regular file itself, not a link to one or one with further names, and
/// of the user who owns `new`.
fn open_own(path: &Path, new: &File) -> io::Result<Option<File>> {
    let Ok(listed) = fs::symlink_metadata(path) else { return Ok(None) };
    if !listed.is_file() {
        return Ok(None);
    }
    let file = File::options().read(true).write(true).open(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let (opened, new) = (file.metadata()?, new.metadata()?);
        let is_listed = (opened.dev(), opened.ino()) == (listed.dev(), listed.ino());
        if !is_listed || opened.nlink() != 1 || opened.uid() != new.uid() {
            return Ok(None);
        }
    }
    #[cfg(not(unix))]
    let _ = new;
    Ok(Some(file))
}

fn slot_bytes(elements: usize) -> u64 {
    (SLOT_HEADER + 4 * elements) as u64
}

fn checksum_of(index: usize, content: &[u8]) -> [u8; 4] {
    let mut crc = Crc::new();
    crc.update(&(index as u64).to_le_bytes());
    crc.update(content);
    crc.sum().to_le_bytes()
}

/// A hash of the paths, lengths and times of change of files.
fn key(files: &[PathBuf]) -> io::Result<u64> {
    let mut text = String::new();
    for path in files {
        let metadata = fs::metadata(path)?;
        let changed = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        text += &format!("{}\n{}\n{}\n", path.display(), metadata.len(), changed.as_nanos());
    }
    Ok(fnv1a(&text))
}
