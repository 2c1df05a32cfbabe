//! Folders of checkpoints: `checkpoint-000500` and so on, each whole or not there.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::model_index::{CONFIG, averaged};
use super::state::step_of;
use super::weights_file::{first_weights, has_weights, listed, names};
use super::{CheckpointError, TrainingState, foreign, lora};
use crate::pipeline::{CLASSES, Part};

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

/// The step in the name of a checkpoint's folder.
fn step_in_name(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok()
}

/// The folders in `output` that are called as checkpoints are and hold a model, by the step in their names, oldest
/// first.
fn list(output: &Path, is_model: fn(&Path) -> bool) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    let entries = match fs::read_dir(output) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(CheckpointError::read(output)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(CheckpointError::read(output))?.path();
        if let Some(step) = step_in_name(&path)
            && is_model(&path)
        {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The last of [`list`]; refuses a folder whose training state is of another step than its name says, since the name
/// decides which is the newest.
fn last(output: &Path, is_model: fn(&Path) -> bool) -> Result<Option<PathBuf>, CheckpointError> {
    let mut found = list(output, is_model)?;
    let differs = |(named, path): &&(u64, PathBuf)| step_of(path).is_some_and(|step| step != *named);
    if let Some((named, path)) = found.iter().find(differs) {
        let step = step_of(path).unwrap_or_default();
        let message = format!(
            "its name says step {named}, its training state is of step {step}; rename it to {PREFIX}{step:06}, or move \
             it elsewhere if it is not of this run"
        );
        return Err(CheckpointError::invalid(path, message));
    }
    Ok(found.pop().map(|(_, path)| path))
}

/// Whether a folder is a pipeline, such as a checkpoint of this program, or one of adapters.
fn is_pipeline(folder: &Path) -> bool {
    folder.join("model_index.json").is_file() || lora::is_checkpoint(folder)
}

/// Whether a folder holds a network, alone or with more.
fn is_model(folder: &Path) -> bool {
    let has_network = |folder: &Path| folder.join(CONFIG).is_file() && has_weights(folder);
    let has_part = |part: &Part| {
        [part.name, &averaged(part.name)].iter().any(|name| folder.join(name).join(CONFIG).is_file())
    };
    let mut parts = CLASSES.iter().flat_map(|class| class.networks);
    is_pipeline(folder) || has_network(folder) || parts.any(has_part)
}

/// The newest checkpoint in `output`.
///
/// # Errors
/// [`CheckpointError::Read`]; [`CheckpointError::Invalid`] for a folder whose name and training state disagree.
pub fn newest(output: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    last(output, is_pipeline)
}

/// The model that `folder` is, or the newest checkpoint in it.
///
/// # Errors
/// [`CheckpointError::NoCheckpoint`] that says what there is; as [`newest`].
pub fn resolve(folder: &Path) -> Result<PathBuf, CheckpointError> {
    if is_model(folder) {
        return Ok(folder.to_owned());
    }
    let none = |there: String| CheckpointError::NoCheckpoint { folder: folder.to_owned(), there };
    if !folder.exists() {
        return Err(none("there is no such folder".to_owned()));
    }
    if !folder.is_dir() {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let words = foreign::of_name(&name).or_else(|| foreign::of_contents(folder)).unwrap_or_else(|| {
            "this is a file; give the folder of the model that it belongs to, with the network's config.json and the \
             weights. A checkpoint of improved-diffusion or guided-diffusion becomes one by `ddpm-gpu import`"
                .to_owned()
        });
        return Err(none(words));
    }
    last(folder, is_model)?.ok_or_else(|| {
        if let Some(weights) = first_weights(folder).filter(|_| !folder.join(CONFIG).exists()) {
            return none(format!(
                "there are weights, {weights}, but no {CONFIG} that says of which network they are; copy that of the \
                 network that was trained there"
            ));
        }
        none(format!(
            "expected a model_index.json, a network's config.json with its weights, or a folder checkpoint-<step> with \
             one; there is {}",
            listed(&names(folder))
        ))
    })
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

/// Removes checkpoints in `output` that came before `written`, the one just written, so that `keep` stay with it.
///
/// Only what is surely an older checkpoint goes: its training state is of the step that its name says.
///
/// # Errors
/// [`CheckpointError::Write`]
pub fn prune(output: &Path, keep: usize, written: &Path) -> Result<(), CheckpointError> {
    let is_older = |(step, path): &(u64, PathBuf)| {
        Some(*step) < step_in_name(written) && path != written && step_of(path) == Some(*step)
    };
    let older: Vec<(u64, PathBuf)> = list(output, is_pipeline)?.into_iter().filter(is_older).collect();
    let surplus = (older.len() + 1).saturating_sub(keep.max(1));
    older.iter().take(surplus).try_for_each(|(_, path)| discard(output, path))
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
