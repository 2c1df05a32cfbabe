//! `model_index.json`: which pipeline diffusers makes of a folder, and of which parts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::CheckpointError;
use super::json::read_json;
use crate::pipeline::{CLASSES, Part, PipelineClass};

const FILE: &str = "model_index.json";

/// The index of a folder, where it has one.
pub(super) fn path(folder: &Path) -> Option<PathBuf> {
    Some(folder.join(FILE)).filter(|path| path.is_file())
}

/// The class that an index names.
fn class_of(path: &Path, index: &Value) -> Result<String, CheckpointError> {
    index.get("_class_name").and_then(Value::as_str).map(str::to_owned).ok_or_else(|| {
        let message = "it names no `_class_name`, so it is not known what the folder holds; save the pipeline again \
                       with diffusers' save_pretrained";
        CheckpointError::invalid(path, message)
    })
}

/// The class of the pipeline in a folder, and the class of each of its networks, by the folder's index; without one, by
/// the folders that there are.
///
/// # Errors
/// [`CheckpointError`] naming a class that this program does not have.
pub(super) fn classes(
    folder: &Path,
) -> Result<(&'static PipelineClass, BTreeMap<String, String>), CheckpointError> {
    let Some(path) = path(folder) else { return Ok((class_of_folders(folder)?, BTreeMap::new())) };
    let index = read_json(&path)?;
    let name = class_of(&path, &index)?;
    let invalid = |message: String| Err(CheckpointError::invalid(&path, message));
    let Some(class) = CLASSES.iter().find(|class| class.name == name) else {
        let known: Vec<&str> = CLASSES.iter().map(|class| class.name).collect();
        return invalid(format!(
            "the pipeline is of the class {name}, which this program does not have; it has {}",
            known.join(", ")
        ));
    };
    let mut networks = BTreeMap::new();
    for (part, value) in index.as_object().into_iter().flatten().filter(|(key, _)| !key.starts_with('_')) {
        // ["diffusers", "UNet2DModel"], or nulls for a part that is left out.
        let of_part = value.get(1).unwrap_or(value);
        let network = class.networks.iter().find(|network| network.name == part);
        match (network, of_part) {
            (_, Value::Null) => {}
            (Some(network), Value::String(name)) if network.classes.contains(&name.as_str()) => {
                networks.insert(part.clone(), name.clone());
            }
            (Some(network), of_part) => {
                let known = network.classes.join(", ");
                return invalid(format!("the {part} is of the class {of_part}; this program has {known}"));
            }
            (None, Value::String(_)) if part == "scheduler" => {}
            (None, of_part) => {
                let known: Vec<&str> = class.networks.iter().map(|network| network.name).collect();
                return invalid(format!(
                    "the pipeline has the part {part} = {of_part}, which this program does not have: a {name} has {} and \
                     scheduler",
                    known.join(", ")
                ));
            }
        }
    }
    Ok((class, networks))
}

/// The class of a folder without an index: that whose networks have their folders there, or the first, of which a network
/// that was saved alone is taken to be. Refuses folders of networks that no such pipeline has.
fn class_of_folders(folder: &Path) -> Result<&'static PipelineClass, CheckpointError> {
    let has = |class: &&PipelineClass| class.networks.iter().any(|part| folder.join(part.name).is_dir());
    let class = CLASSES.iter().find(has).unwrap_or(&CLASSES[0]);
    let Ok(entries) = fs::read_dir(folder) else { return Ok(class) };
    // accelerate writes the averaged weights beside the others.
    let is_known = |name: &str| {
        let is_part = |part: &Part| part.name == name || averaged(part.name) == name;
        name == "scheduler" || class.networks.iter().any(is_part)
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !is_known(&name) && path.join("config.json").is_file() {
            let message = format!(
                "there is no {FILE}, and beside the network there is {name}, whose part in drawing is not known; save \
                 the whole pipeline with diffusers' save_pretrained"
            );
            return Err(CheckpointError::invalid(folder, message));
        }
    }
    Ok(class)
}

/// The folder of a network's averaged weights, as accelerate names it.
pub(super) fn averaged(part: &str) -> String {
    format!("{part}_ema")
}
