//! Folders of checkpoints: `checkpoint-000500` and so on, each whole or not there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{CheckpointError, TrainingState};

const PREFIX: &str = "checkpoint-";

/// Checkpoints are written under this name first; what a kill leaves of one is removed by the next.
const TEMPORARY: &str = ".checkpoint-in-writing";

/// Creates a folder and those above it.
///
/// # Errors
/// [`CheckpointError::Write`]
pub fn create_folder(path: &Path) -> Result<(), CheckpointError> {
    fs::create_dir_all(path).map_err(CheckpointError::write(path))
}

/// Checkpoints in `output` by step, oldest first.
fn list(output: &Path) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    let entries = match fs::read_dir(output) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(CheckpointError::read(output)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(CheckpointError::read(output))?.path();
        let step = path.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX)?.parse().ok());
        if let Some(step) = step
            && path.join("model_index.json").is_file()
        {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The newest checkpoint in `output`.
///
/// # Errors
/// [`CheckpointError::Read`]
pub fn newest(output: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    Ok(list(output)?.pop().map(|(_, path)| path))
}

/// The checkpoint that `folder` is, or the newest one in it.
///
/// # Errors
/// [`CheckpointError::NoCheckpoint`]
pub fn resolve(folder: &Path) -> Result<PathBuf, CheckpointError> {
    if folder.join("model_index.json").is_file() {
        return Ok(folder.to_owned());
    }
    newest(folder)?.ok_or_else(|| CheckpointError::NoCheckpoint { folder: folder.to_owned() })
}

/// Writes a checkpoint into `output` and returns its folder; `write_model` writes the model's files into a folder.
///
/// Everything is written to a temporary folder, synced to the disk and renamed: a kill at any moment leaves the
/// checkpoints before whole, and never half a new one.
///
/// # Errors
/// [`CheckpointError::Write`] naming the file.
pub(crate) fn save(
    output: &Path,
    state: &TrainingState,
    write_model: impl FnOnce(&Path) -> Result<(), CheckpointError>,
) -> Result<PathBuf, CheckpointError> {
    create_folder(output)?;
    let temporary = output.join(TEMPORARY);
    remove(&temporary)?;
    fs::create_dir(&temporary).map_err(CheckpointError::write(&temporary))?;
    write_model(&temporary)?;
    state.write(&temporary)?;
    sync(&temporary)?;
    let path = output.join(format!("{PREFIX}{:06}", state.step));
    remove(&path)?;
    fs::rename(&temporary, &path).map_err(CheckpointError::write(&path))?;
    sync_entry(output)?;
    Ok(path)
}

/// Writes a folder that is not there yet, whole or not at all.
///
/// # Errors
/// [`CheckpointError::Taken`]; [`CheckpointError::Write`] naming the file.
pub(super) fn write_new(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), CheckpointError>,
) -> Result<(), CheckpointError> {
    if path.exists() {
        return Err(CheckpointError::Taken { folder: path.to_owned() });
    }
    let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    create_folder(parent)?;
    let temporary = tempfile::Builder::new()
        .prefix(".ddpm-gpu-")
        .tempdir_in(parent)
        .map_err(CheckpointError::write(parent))?;
    // a temporary folder is private; the one that it becomes is like any other
    let inner = temporary.path().join("whole");
    create_folder(&inner)?;
    write(&inner)?;
    sync(&inner)?;
    fs::rename(&inner, path).map_err(CheckpointError::write(path))?;
    sync_entry(parent)
}

/// Removes all checkpoints in `output` but the `keep` newest.
///
/// # Errors
/// [`CheckpointError::Write`]
pub fn prune(output: &Path, keep: usize) -> Result<(), CheckpointError> {
    let checkpoints = list(output)?;
    let surplus = checkpoints.len().saturating_sub(keep.max(1));
    checkpoints.iter().take(surplus).try_for_each(|(_, path)| remove(path))
}

fn remove(path: &Path) -> Result<(), CheckpointError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(CheckpointError::write(path)(error))
        }
        _ => Ok(()),
    }
}

/// Brings every file of a folder, and the folders themselves, to the disk.
fn sync(folder: &Path) -> Result<(), CheckpointError> {
    for entry in fs::read_dir(folder).map_err(CheckpointError::read(folder))? {
        let path = entry.map_err(CheckpointError::read(folder))?.path();
        if path.is_dir() { sync(&path)? } else { sync_entry(&path)? }
    }
    sync_entry(folder)
}

fn sync_entry(path: &Path) -> Result<(), CheckpointError> {
    // Windows neither needs nor allows syncing a folder.
    if cfg!(windows) && path.is_dir() {
        return Ok(());
    }
    File::open(path).and_then(|file| file.sync_all()).map_err(CheckpointError::write(path))
}
