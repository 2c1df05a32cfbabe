//! The weights of a network in a folder: under which name they lie, and under which names the tensors.

use std::fs;
use std::path::{Path, PathBuf};

use super::{CheckpointError, tensor_file};
use crate::network::Tensors;

/// The file that this program and diffusers write.
pub(super) const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

const STEM: &str = "diffusion_pytorch_model";
const EXTENSION: &str = "safetensors";

/// What wrappers put before the name of each tensor: torch.compile, and data parallel training.
const PREFIXES: [&str; 2] = ["_orig_mod.", "module."];

/// The names of a folder's entries, in order.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
    names.sort();
    names
}

/// The first names of a list, for a message.
pub(super) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 8;
    match names {
        [] => "nothing".to_owned(),
        few if few.len() <= SHOWN => few.join(", "),
        many => format!("{} and {} more", many[..SHOWN].join(", "), many.len() - SHOWN),
    }
}

/// Whether a folder has files that look like a network's weights.
pub(super) fn has_weights(folder: &Path) -> bool {
    names(folder).iter().any(|name| name.starts_with(STEM))
}

/// The weights' file in a network's folder; `notes` gets what was assumed.
///
/// # Errors
/// [`CheckpointError`] that says what there is instead.
fn find(folder: &Path, notes: &mut Vec<String>) -> Result<PathBuf, CheckpointError> {
    let usual = folder.join(WEIGHTS);
    if usual.is_file() {
        return Ok(usual);
    }
    let names = names(folder);
    // What lies between the stem and the extension: `fp16` of diffusion_pytorch_model.fp16.safetensors.
    let middle = |name: &str, extension: &str| -> Option<String> {
        let middle = name.strip_prefix(STEM)?.strip_suffix(extension)?.strip_suffix('.')?;
        Some(middle.to_owned())
    };
    let of = |extension: &str| -> Vec<&String> {
        names.iter().filter(|name| middle(name, extension).is_some()).collect()
    };
    let stored = of(EXTENSION);
    if let Some(shard) = stored.iter().find(|name| name.contains("-of-")) {
        let message = format!(
            "the weights are split over {} files, of which {shard} is the first; they are read from one file: load the \
             model in diffusers and save it with save_pretrained(..., max_shard_size=\"100GB\")",
            stored.len()
        );
        return Err(CheckpointError::invalid(folder, message));
    }
    match stored.as_slice() {
        [variant] => {
            notes.push(format!(
                "{}: taken for the weights, as {WEIGHTS} is not there",
                folder.join(variant).display()
            ));
            return Ok(folder.join(variant));
        }
        [] => {}
        several => {
            let several: Vec<String> = several.iter().map(|&name| name.clone()).collect();
            let message = format!(
                "there are several files of weights, and {WEIGHTS} is none of them: {}; rename the one to take to it",
                listed(&several)
            );
            return Err(CheckpointError::invalid(folder, message));
        }
    }
    if let Some(pickled) = of("bin").first() {
        let message = "weights are read from safetensors files; load this pipeline in diffusers and save it with \
                       save_pretrained(..., safe_serialization=True)";
        return Err(CheckpointError::invalid(folder.join(pickled), message));
    }
    let message = format!("there are no weights: expected {WEIGHTS}; there is {}", listed(&names));
    Err(CheckpointError::invalid(folder, message))
}

/// The weights in a network's folder, by diffusers' names, and their file; `notes` gets what was assumed.
///
/// # Errors
/// [`CheckpointError`] naming the file.
pub(super) fn read(folder: &Path, notes: &mut Vec<String>) -> Result<(PathBuf, Tensors), CheckpointError> {
    let path = find(folder, notes)?;
    let mut tensors = tensor_file::read(&path)?;
    while let Some(prefix) = PREFIXES
        .iter()
        .find(|prefix| !tensors.is_empty() && tensors.keys().all(|name| name.starts_with(**prefix)))
    {
        notes.push(format!(
            "{}: the names of the tensors are read without `{prefix}` before them",
            path.display()
        ));
        tensors =
            tensors.into_iter().map(|(name, tensor)| (name[prefix.len()..].to_owned(), tensor)).collect();
    }
    Ok((path, tensors))
}
