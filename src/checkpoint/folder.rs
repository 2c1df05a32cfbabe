//! Folders of checkpoints: `checkpoint-000500` and so on, each whole or not there.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::{CheckpointError, TrainingState};

const PREFIX: &str = "checkpoint-";

/// Checkpoints have this name while they are written, and that one while they are removed: so whatever is called
/// `checkpoint-000500` is whole, whenever a run is killed.
const WRITING: &str = ".checkpoint-in-writing";
const REMOVAL: &str = ".checkpoint-in-removal";

/// Creates a folder and those above it.
///
/// # Errors
/// [`CheckpointError::Write`]
pub fn create_folder(path: &Path) -> Result<(), CheckpointError> {
    fs::create_dir_all(path).map_err(CheckpointError::write(path))
}

/// Takes a run's folder until the result is dropped, and removes what a run that was killed left half-done there.
///
/// # Errors
/// [`CheckpointError::InUse`], [`CheckpointError::Write`]
pub(crate) fn occupy(output: &Path) -> Result<Option<File>, CheckpointError> {
    // Windows does not open folders as files; there two runs in one folder are not noticed.
    let folder = match cfg!(windows) {
        true => None,
        false => Some(File::open(output).map_err(CheckpointError::read(output))?),
    };
    // Other errors are of file systems that know no locks.
    if let Some(Err(TryLockError::WouldBlock)) = folder.as_ref().map(File::try_lock) {
        return Err(CheckpointError::InUse { folder: output.to_owned() });
    }
    remove(&output.join(WRITING))?;
    remove(&output.join(REMOVAL))?;
    Ok(folder)
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
/// checkpoints before whole, and never half a new one. What cannot be written whole, for want of room, is removed.
///
/// # Errors
/// [`CheckpointError::Write`] naming the file.
pub(crate) fn save(
    output: &Path,
    state: &TrainingState,
    write_model: impl FnOnce(&Path) -> Result<(), CheckpointError>,
) -> Result<PathBuf, CheckpointError> {
    create_folder(output)?;
    let temporary = output.join(WRITING);
    remove(&temporary)?;
    let write = || {
        fs::create_dir(&temporary).map_err(CheckpointError::write(&temporary))?;
        write_model(&temporary)?;
        state.write(&temporary)?;
        sync(&temporary)
    };
    write().inspect_err(|_| {
        // The first error is the one to report.
        let _ = remove(&temporary);
    })?;
    let path = output.join(format!("{PREFIX}{:06}", state.step));
    discard(output, &path)?;
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
    checkpoints.iter().take(surplus).try_for_each(|(_, path)| discard(output, path))
}

/// Removes a checkpoint, if there is one.
fn discard(output: &Path, checkpoint: &Path) -> Result<(), CheckpointError> {
    let removal = output.join(REMOVAL);
    remove(&removal)?;
    match fs::rename(checkpoint, &removal) {
        Ok(()) => remove(&removal),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(CheckpointError::write(checkpoint)(error)),
    }
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
    let is_folder = path.is_dir();
    // Windows neither needs nor allows syncing a folder, and syncs files only where they are open for writing.
    if cfg!(windows) && is_folder {
        return Ok(());
    }
    let file = File::options().read(true).write(!is_folder).open(path);
    file.and_then(|file| file.sync_all()).map_err(CheckpointError::write(path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
