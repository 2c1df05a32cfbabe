//! `model_index.json`: which pipeline diffusers makes of a folder, and of which parts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::CheckpointError;
use super::json::read_json;
use super::weights_file::listed;
use crate::network::NETWORKS;
use crate::pipeline::{CLASSES, Part, PipelineClass};

const FILE: &str = "model_index.json";

/// The configuration of a network, in its folder.
pub(super) const CONFIG: &str = "config.json";

/// The index of a folder, where it has one.
pub(super) fn path(folder: &Path) -> Option<PathBuf> {
    Some(folder.join(FILE)).filter(|path| path.is_file())
}

/// What a folder holds.
pub(super) struct Contents {
    pub(super) class: &'static PipelineClass,
    /// The classes of its networks, as far as the files say.
    pub(super) networks: BTreeMap<String, String>,
    /// What was assumed, in sentences.
    pub(super) notes: Vec<String>,
}

/// The pipeline that a network alone, or a checkpoint of training, lies in: the folder above, or the one above that, as
/// in `pipeline/checkpoint-500/unet`, that has an index. `network` is the folder of the network in `folder`.
pub(super) fn around(folder: &Path, network: &Path) -> Option<PathBuf> {
    if path(folder).is_some() || !network.join(CONFIG).is_file() {
        return None;
    }
    // A relative path need not name the folder above it.
    let whole = fs::canonicalize(folder).ok()?;
    whole.ancestors().skip(1).take(2).find(|above| path(above).is_some()).map(Path::to_owned)
}

/// What a folder holds: by its index; a network alone by the index of the folder around it, or by its config.json; else
/// by the folders that there are. `own` is the class of a network that is in no table.
///
/// # Errors
/// [`CheckpointError`] naming a class that this program does not have.
pub(super) fn contents(folder: &Path, own: Option<&str>) -> Result<Contents, CheckpointError> {
    if let Some(path) = path(folder) {
        return of_index(path, own);
    }
    let name = fs::canonicalize(folder).ok().and_then(|whole| Some(whole.file_name()?.to_owned()));
    let above = fs::canonicalize(folder).ok().and_then(|whole| Some(whole.parent()?.to_owned()));
    let above = above.filter(|above| path(above).is_some() && folder.join(CONFIG).is_file());
    if let (Some(above), Some(name)) = (above, name) {
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
    let invalid = |message: String| Err(CheckpointError::invalid(&path, message));
    let mut notes = Vec::new();
    let name = match index.get("_class_name") {
        Some(Value::String(name)) => name.clone(),
        // ["pipeline", "MyPipeline"]: a class of the folder's own, in pipeline.py. Its networks may be ours.
        Some(Value::Array(own)) if own.len() == 2 => {
            let name = own[1].as_str().unwrap_or_default();
            let parts: Vec<&String> = index
                .as_object()
                .into_iter()
                .flatten()
                .map(|(key, _)| key)
                .filter(|key| !key.starts_with('_'))
                .collect();
            let has_all = |class: &&PipelineClass| {
                class.networks.iter().all(|part| parts.iter().any(|name| *name == part.name))
            };
            let Some(class) = CLASSES.iter().find(has_all) else {
                return invalid(format!(
                    "the pipeline is of a class of its own, {name}, and has the parts {}; this program has those of: {}",
                    listed(&parts.into_iter().map(String::as_str).collect::<Vec<_>>()),
                    CLASSES.iter().map(|class| class.name).collect::<Vec<_>>().join(", ")
                ));
            };
            notes.push(format!(
                "{}: the pipeline is of a class of its own, {name}, whose code is not run; its parts are taken for those of \
                 a {}",
                path.display(),
                class.name
            ));
            class.name.to_owned()
        }
        _ => {
            return invalid(
                "it names no `_class_name`, so it is not known what the folder holds; save the pipeline again with \
                 diffusers' save_pretrained"
                    .to_owned(),
            );
        }
    };
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
    Ok(Contents { class, networks, notes })
}

/// Without an index: the class whose folders are there. A network alone counts as part of the first class that has such
/// networks. Other networks' folders are refused.
fn of_folders(folder: &Path) -> Result<Contents, CheckpointError> {
    let config = folder.join(CONFIG);
    let mut networks = BTreeMap::new();
    let is_there =
        |part: &Part| [part.name, &averaged(part.name)].iter().any(|name| folder.join(name).is_dir());
    let has = |class: &&PipelineClass| class.networks.iter().any(is_there);
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
    let found = Contents { class, networks, notes: Vec::new() };
    let Ok(entries) = fs::read_dir(folder) else { return Ok(found) };
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
    Ok(found)
}

/// The folder of a network's averaged weights, as accelerate names it.
pub(super) fn averaged(part: &str) -> String {
    format!("{part}_ema")
}
