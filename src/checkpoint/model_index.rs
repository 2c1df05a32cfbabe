//! `model_index.json`: which pipeline diffusers makes of a folder, and of which parts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::CheckpointError;
use super::json::read_json;
use crate::network::NETWORKS;
use crate::pipeline::{CLASSES, Part, PipelineClass};

const FILE: &str = "model_index.json";

/// The configuration of a network, in its folder.
pub(super) const CONFIG: &str = "config.json";

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

/// What a folder holds.
pub(super) struct Contents {
    pub(super) class: &'static PipelineClass,
    /// The classes of its networks, as far as the files say.
    pub(super) networks: BTreeMap<String, String>,
}

/// The pipeline that a network's folder lies in, where that has an index.
pub(super) fn around(folder: &Path) -> Option<PathBuf> {
    if path(folder).is_some() || !folder.join(CONFIG).is_file() {
        return None;
    }
    // A relative path need not name the folder above it.
    let whole = fs::canonicalize(folder).ok()?;
    Some(whole.parent()?.to_owned()).filter(|above| path(above).is_some())
}

/// What a folder holds: by its index; a network alone by the index of the folder around it, or by its config.json; else by
/// the folders that there are. `own` is the class of a network that is in no table.
///
/// # Errors
/// [`CheckpointError`] naming a class that this program does not have.
pub(super) fn contents(folder: &Path, own: Option<&str>) -> Result<Contents, CheckpointError> {
    if let Some(path) = path(folder) {
        return of_index(path, own);
    }
    let name = fs::canonicalize(folder).ok().and_then(|whole| Some(whole.file_name()?.to_owned()));
    if let (Some(above), Some(name)) = (around(folder), name) {
        let found = contents(&above, own)?;
        let name = name.to_string_lossy();
        if found.class.networks.iter().any(|part| part.name == name || averaged(part.name) == name) {
            return Ok(found);
        }
    }
    of_folders(folder)
}

/// What an index says.
fn of_index(path: PathBuf, own: Option<&str>) -> Result<Contents, CheckpointError> {
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
            (Some(_), Value::Null) => {
                return invalid(format!("it leaves out the {part}, without which a {name} does nothing"));
            }
            (None, Value::Null) if part != "scheduler" => {}
            (Some(network), Value::String(name))
                if network.classes.contains(&name.as_str()) || own == Some(name) =>
            {
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
    Ok(Contents { class, networks })
}

/// Without an index: the class whose folders are there. A network alone counts as part of the first class that has such
/// networks. Other networks' folders are refused.
fn of_folders(folder: &Path) -> Result<Contents, CheckpointError> {
    let config = folder.join(CONFIG);
    let mut networks = BTreeMap::new();
    let has = |class: &&PipelineClass| class.networks.iter().any(|part| folder.join(part.name).is_dir());
    let class = match CLASSES.iter().find(has) {
        Some(class) => class,
        None if config.is_file() => {
            let said = read_json(&config)?.get("_class_name").and_then(Value::as_str).map(str::to_owned);
            let parts =
                || CLASSES.iter().flat_map(|class| class.networks.iter().map(move |part| (class, part)));
            let known = |name: &str| parts().find(|(_, part)| part.classes.contains(&name));
            match &said {
                None => &CLASSES[0],
                Some(name) => {
                    let (class, part) = known(name).ok_or_else(|| {
                        let names: Vec<&str> = NETWORKS.iter().map(|network| network.name).collect();
                        let message = format!(
                            "the network is of the class {name}; this program has {}",
                            names.join(", ")
                        );
                        CheckpointError::invalid(&config, message)
                    })?;
                    networks.insert(part.name.to_owned(), name.clone());
                    class
                }
            }
        }
        None => &CLASSES[0],
    };
    let Ok(entries) = fs::read_dir(folder) else { return Ok(Contents { class, networks }) };
    // accelerate writes the averaged weights beside the others.
    let is_known = |name: &str| {
        let is_part = |part: &Part| part.name == name || averaged(part.name) == name;
        name == "scheduler" || class.networks.iter().any(is_part)
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !is_known(&name) && path.join(CONFIG).is_file() {
            let message = format!(
                "there is no {FILE}, and beside the network there is {name}, which no pipeline of this program has; \
                 save the whole pipeline with diffusers' save_pretrained"
            );
            return Err(CheckpointError::invalid(folder, message));
        }
    }
    Ok(Contents { class, networks })
}

/// The folder of a network's averaged weights, as accelerate names it.
pub(super) fn averaged(part: &str) -> String {
    format!("{part}_ema")
}
