//! The weights of a network in a folder: under which name they lie, whole or in parts, and under which names the
//! tensors.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::json::read_json;
use super::{CheckpointError, foreign, tensor_file, torch_file};
use crate::network::Tensors;

/// The file that this program and diffusers write.
pub(super) const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// How names begin: diffusers' own, and accelerate's of a model that is saved as one of many; the first that is there
/// is read.
const STEMS: [&str; 3] = ["diffusion_pytorch_model", "model", "pytorch_model"];

/// A format of files, known by the ending of their names.
struct Format {
    ending: &'static str,
    read: fn(&Path, &mut Vec<String>) -> Result<Tensors, CheckpointError>,
}

/// All of them; of several files with the same weights the first is read.
const FORMATS: [Format; 4] = [
    Format { ending: "safetensors", read: |path, _| tensor_file::read(path) },
    Format { ending: "bin", read: |path, notes| torch_file::read(path, None, notes) },
    Format { ending: "pt", read: |path, notes| torch_file::read(path, None, notes) },
    Format { ending: "pth", read: |path, notes| torch_file::read(path, None, notes) },
];

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
pub(super) fn listed<Name: Borrow<str>>(names: &[Name]) -> String {
    const SHOWN: usize = 8;
    match names {
        [] => "nothing".to_owned(),
        few if few.len() <= SHOWN => few.join(", "),
        many => format!("{} and {} more", many[..SHOWN].join(", "), many.len() - SHOWN),
    }
}

/// What a file of weights has of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Share {
    Whole,
    /// Which tensor lies in which of several files.
    Index,
    /// `-00001-of-00002`
    Shard,
}

/// What the name of a file of weights says; the least of several is read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    /// Which of [`STEMS`].
    stem: usize,
    /// Which of [`FORMATS`].
    format: usize,
    share: Share,
    /// `fp16` of diffusion_pytorch_model.fp16.safetensors
    variant: Option<String>,
    name: String,
}

impl Named {
    /// What a name says, if it is that of weights.
    fn of(name: &str) -> Option<Self> {
        let (stem, rest) =
            STEMS.iter().enumerate().find_map(|(stem, begin)| Some((stem, name.strip_prefix(begin)?)))?;
        let named = |format, share, variant: &str| Self {
            stem,
            format,
            share,
            variant: Some(variant).filter(|variant| !variant.is_empty()).map(str::to_owned),
            name: name.to_owned(),
        };
        // Nothing, or a word after a dot.
        let variant = |text: &str| -> Option<String> {
            match text.strip_prefix('.') {
                None if text.is_empty() => Some(String::new()),
                Some(word) if !word.is_empty() && !word.contains('.') => Some(word.to_owned()),
                _ => None,
            }
        };
        FORMATS.iter().enumerate().find_map(|(format, Format { ending, .. })| {
            if let Some(rest) = rest.strip_suffix(".json")
                && let Some(rest) = rest.strip_prefix(&format!(".{ending}.index"))
            {
                return Some(named(format, Share::Index, &variant(rest)?));
            }
            let rest = rest.strip_suffix(ending)?.strip_suffix('.')?;
            if let Some((before, part)) = rest.split_once('-').filter(|(_, part)| part.contains("-of-")) {
                // diffusers once wrote the variant last.
                let after = part.split_once('.').map_or("", |(_, variant)| variant);
                let before = before.strip_prefix('.').unwrap_or(before);
                return Some(named(format, Share::Shard, if before.is_empty() { after } else { before }));
            }
            Some(named(format, Share::Whole, &variant(rest)?))
        })
    }
}

/// Whether a folder has files that look like a network's weights.
pub(super) fn has_weights(folder: &Path) -> bool {
    first_weights(folder).is_some()
}

/// A file in a folder that looks like a network's weights.
pub(super) fn first_weights(folder: &Path) -> Option<String> {
    names(folder).into_iter().find(|name| Named::of(name).is_some() || foreign::of_name(name).is_some())
}

/// The weights' file in a network's folder, or their index; `notes` gets what was assumed.
///
/// # Errors
/// [`CheckpointError`] that says what there is instead.
fn find(folder: &Path, variant: Option<&str>, notes: &mut Vec<String>) -> Result<Named, CheckpointError> {
    let names = names(folder);
    let all: Vec<Named> = names.iter().filter_map(|name| Named::of(name)).collect();
    let (shards, mut found): (Vec<Named>, Vec<Named>) =
        all.into_iter().partition(|named| named.share == Share::Shard);
    let variants: BTreeSet<String> = found.iter().filter_map(|named| named.variant.clone()).collect();
    let variants: Vec<String> = variants.into_iter().collect();
    if let Some(variant) = variant {
        found.retain(|named| named.variant.as_deref() == Some(variant));
        if found.is_empty() {
            let (folder, variant) = (folder.to_owned(), variant.to_owned());
            return Err(CheckpointError::NoVariant { folder, variant, there: variants });
        }
    } else if found.iter().any(|named| named.variant.is_none()) {
        found.retain(|named| named.variant.is_none());
    } else if variants.len() > 1 {
        return Err(CheckpointError::Variants { folder: folder.to_owned(), there: variants });
    }
    found.sort();
    if let Some(first) = found.into_iter().next() {
        if (first.variant.is_some() && variant.is_none()) || first.stem > 0 {
            notes.push(format!(
                "{}: taken for the weights, as {WEIGHTS} is not there",
                folder.join(&first.name).display()
            ));
        }
        return Ok(first);
    }
    if let Some(shard) = shards.first() {
        let message = format!(
            "the weights are split over several files, of which {} is one, and the list of them is missing: \
             {}.{}.index.json; copy it too",
            shard.name, STEMS[shard.stem], FORMATS[shard.format].ending
        );
        return Err(CheckpointError::invalid(folder, message));
    }
    if let Some((name, message)) = names.iter().find_map(|name| Some((name, foreign::of_name(name)?))) {
        return Err(CheckpointError::invalid(folder.join(name), message));
    }
    let message = format!("there are no weights: expected {WEIGHTS}; there is {}", listed(&names));
    Err(CheckpointError::invalid(folder, message))
}

/// Reads the tensors of all files that an index lists, each of which has exactly those that the index says.
fn read_listed(index: &Path, format: &Format, notes: &mut Vec<String>) -> Result<Tensors, CheckpointError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let invalid = |message: String| CheckpointError::invalid(index, message);
    let Index { weight_map } = Index::deserialize(read_json(index)?)
        .map_err(|error| invalid(format!("this is no index of weights: {error}; copy it again")))?;
    let folder = index.parent().unwrap_or(Path::new(""));
    let files: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
    let is_name = |file: &&&str| Path::new(file).file_name().is_some_and(|name| name == **file);
    if let Some(elsewhere) = files.iter().find(|file| !is_name(file)) {
        return Err(invalid(format!(
            "it lists {}, which is no name of a file beside it; copy the model again",
            elsewhere.escape_debug()
        )));
    }
    let missing: Vec<String> =
        files.iter().filter(|file| !folder.join(file).is_file()).map(|&file| file.to_owned()).collect();
    if !missing.is_empty() {
        return Err(invalid(format!(
            "{} of the {} files that it lists are missing: {}; copy them too",
            missing.len(),
            files.len(),
            listed(&missing)
        )));
    }
    if files.is_empty() {
        return Err(invalid("it lists no files; copy it again".to_owned()));
    }
    let mut tensors = Tensors::new();
    for file in files {
        let path = folder.join(file);
        let found = (format.read)(&path, notes)?;
        let is_here = |name: &str| weight_map.get(name).is_some_and(|of| of == file);
        let name = index.file_name().unwrap_or_default().display();
        let lacking: Vec<String> =
            weight_map.keys().filter(|name| is_here(name) && !found.contains_key(*name)).cloned().collect();
        let surplus: Vec<String> = found.keys().filter(|name| !is_here(name)).cloned().collect();
        for (names, what) in [(lacking, "it lacks tensors that"), (surplus, "it has tensors that not")] {
            if !names.is_empty() {
                let listed = listed(&names);
                let message = format!(
                    "{what} {name} says lie in it: {listed}; the files are not of one model, copy all of them again"
                );
                return Err(CheckpointError::invalid(path, message));
            }
        }
        tensors.extend(found);
    }
    Ok(tensors)
}

/// The weights in a network's folder, by diffusers' names, and their file; of several variants, such as `fp16`, the one
/// asked for. `notes` gets what was assumed.
///
/// # Errors
/// [`CheckpointError`] naming the file.
pub(super) fn read(
    folder: &Path,
    variant: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<(PathBuf, Tensors), CheckpointError> {
    let named = find(folder, variant, notes)?;
    let (path, format) = (folder.join(&named.name), &FORMATS[named.format]);
    let tensors = match named.share {
        Share::Index => read_listed(&path, format, notes)?,
        Share::Whole | Share::Shard => (format.read)(&path, notes)?,
    };
    let tensors = without_prefixes(&path, tensors, notes);
    Ok((path, tensors))
}

/// Tensors without what wrappers put before all of their names.
pub(super) fn without_prefixes(path: &Path, mut tensors: Tensors, notes: &mut Vec<String>) -> Tensors {
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
    tensors
}

#[cfg(test)]
#[allow(clippy::panic)]
mod tests {
    use super::*;

    /// Names that diffusers 0.42 and accelerate 1.13 write, and older ones of diffusers.
    #[test]
    fn names_say_what_a_file_has() {
        for (name, stem, ending, share, variant) in [
            (WEIGHTS, 0, "safetensors", Share::Whole, None),
            ("diffusion_pytorch_model.fp16.safetensors", 0, "safetensors", Share::Whole, Some("fp16")),
            ("diffusion_pytorch_model.non_ema.bin", 0, "bin", Share::Whole, Some("non_ema")),
            ("diffusion_pytorch_model.safetensors.index.json", 0, "safetensors", Share::Index, None),
            ("diffusion_pytorch_model.bin.index.fp16.json", 0, "bin", Share::Index, Some("fp16")),
            ("diffusion_pytorch_model-00001-of-00005.safetensors", 0, "safetensors", Share::Shard, None),
            ("diffusion_pytorch_model.fp16-00001-of-00005.bin", 0, "bin", Share::Shard, Some("fp16")),
            ("diffusion_pytorch_model-00001-of-00005.fp16.bin", 0, "bin", Share::Shard, Some("fp16")),
            ("model.safetensors", 1, "safetensors", Share::Whole, None),
            ("pytorch_model.bin", 2, "bin", Share::Whole, None),
            ("model.pth", 1, "pth", Share::Whole, None),
        ] {
            let named = Named::of(name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(
                (named.stem, FORMATS[named.format].ending, named.share, named.variant.as_deref()),
                (stem, ending, share, variant),
                "{name}"
            );
        }
        for name in [
            "optimizer.bin",
            "scheduler.bin",
            "random_states_0.pkl",
            "config.json",
            "model.json",
            "model",
            "model_index.json",
        ] {
            assert_eq!(Named::of(name), None, "{name}");
        }
    }
}
