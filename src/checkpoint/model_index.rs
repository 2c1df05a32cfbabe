//! `model_index.json`: which pipeline diffusers makes of a folder, and of which parts.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::CheckpointError;
use super::json::read_json;

/// Pipelines that draw with a network and a scheduler alone.
const PIPELINES: [&str; 3] = ["DDPMPipeline", "DDIMPipeline", "PNDMPipeline"];

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

/// Refuses a folder whose index names a pipeline, or a part of one, that this program does not have.
///
/// # Errors
/// [`CheckpointError`] naming the class.
pub(super) fn check(folder: &Path) -> Result<(), CheckpointError> {
    let Some(path) = path(folder) else { return check_parts(folder) };
    let index = read_json(&path)?;
    let class = class_of(&path, &index)?;
    let invalid = |message: String| Err(CheckpointError::invalid(&path, message));
    if !PIPELINES.contains(&class.as_str()) {
        return invalid(format!(
            "the pipeline is of the class {class}, which this program does not have: it draws images with a \
             UNet2DModel and a scheduler, as {} do",
            PIPELINES.join(", ")
        ));
    }
    for (part, value) in index.as_object().into_iter().flatten().filter(|(key, _)| !key.starts_with('_')) {
        // ["diffusers", "UNet2DModel"], or nulls for a part that is left out.
        let class = value.get(1).unwrap_or(value);
        match (part.as_str(), class) {
            (_, Value::Null) | ("scheduler", Value::String(_)) => {}
            ("unet", Value::String(class)) if class == "UNet2DModel" => {}
            ("unet", class) => {
                return invalid(format!("the unet is of the class {class}; this program has UNet2DModel"));
            }
            (part, class) => {
                return invalid(format!(
                    "the pipeline has the part {part} = {class}, which this program does not have: it takes unet and \
                     scheduler"
                ));
            }
        }
    }
    Ok(())
}

/// Refuses a folder without an index that has parts which a pipeline of a network and a scheduler does not have.
fn check_parts(folder: &Path) -> Result<(), CheckpointError> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // accelerate writes the averaged weights beside the others.
        if !["unet", "unet_ema", "scheduler"].contains(&name.as_str()) && path.join("config.json").is_file() {
            let message = format!(
                "there is no {FILE}, and beside the network there is {name}, whose part in drawing is not known; save \
                 the whole pipeline with diffusers' save_pretrained"
            );
            return Err(CheckpointError::invalid(folder, message));
        }
    }
    Ok(())
}

/// Refuses a folder whose index does not name `class`.
pub(super) fn check_class(folder: &Path, expected: &str) -> Result<(), CheckpointError> {
    let Some(path) = path(folder) else { return Ok(()) };
    let class = class_of(&path, &read_json(&path)?)?;
    if class == expected {
        return Ok(());
    }
    Err(CheckpointError::invalid(path, format!("it is of the class {class}; expected {expected}")))
}
