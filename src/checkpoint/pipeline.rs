//! A model as diffusers' `DDPMPipeline` saves it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::folder::write_new;
use super::state::extra_ema;
use super::{CheckpointError, tensor_file};
use crate::diffusion::SchedulerConfig;
use crate::files::read_regular_text;
use crate::model::{Precision, Tensors, UNetConfig};

/// A network with its weights, and the diffusion process it was trained for.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// The network.
    pub unet: UNetConfig,
    /// The process.
    pub scheduler: SchedulerConfig,
    /// The averaged weights, by diffusers' names.
    pub weights: Tensors,
}

pub(super) const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

pub(super) fn read_text(path: &Path) -> Result<String, CheckpointError> {
    read_regular_text(path).map_err(CheckpointError::read(path))
}

/// `folder/part/file`, or `folder/file` as the oldest pipelines on the hub have it.
fn part(folder: &Path, part: &str, file: &str) -> PathBuf {
    let nested = folder.join(part).join(file);
    let flat = folder.join(file);
    if !nested.exists() && flat.exists() { flat } else { nested }
}

impl Pipeline {
    /// Loads the pipeline in `folder`.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file.
    pub fn load(folder: &Path) -> Result<Self, CheckpointError> {
        if folder.join("classifier").is_dir() {
            let message =
                "this is a classifier, which draws no images: give it as --classifier beside a model";
            return Err(CheckpointError::invalid(folder, message));
        }
        let path = part(folder, "unet", "config.json");
        let unet = UNetConfig::from_json(&read_text(&path)?)
            .map_err(|source| CheckpointError::Model { path, source })?;
        let path = part(folder, "scheduler", "scheduler_config.json");
        let scheduler = serde_json::from_str(&read_text(&path)?)
            .map_err(|error| CheckpointError::invalid(&path, error))?;
        let path = part(folder, "unet", WEIGHTS);
        if !path.exists() && path.with_extension("bin").exists() {
            return Err(CheckpointError::invalid(
                path.with_extension("bin"),
                "weights are read from safetensors files; load this pipeline in diffusers and save it with \
                 save_pretrained(..., safe_serialization=True)",
            ));
        }
        Ok(Self { unet, scheduler, weights: tensor_file::read(&path)? })
    }

    /// Loads the pipeline in `folder`, which a training run has written, with the average of the weights that has this
    /// decay.
    ///
    /// # Errors
    /// [`CheckpointError`] that lists the decays that there are.
    pub fn load_average(folder: &Path, ema_decay: f64) -> Result<Self, CheckpointError> {
        let pipeline = Self::load(folder)?;
        Ok(match extra_ema(folder, ema_decay)? {
            Some(weights) => Self { weights, ..pipeline },
            None => pipeline,
        })
    }

    /// Writes the pipeline alone into a new folder, without what only training needs; with f16 the weights are rounded.
    ///
    /// # Errors
    /// [`CheckpointError::Taken`] for a folder that is there already; [`CheckpointError::Write`].
    pub fn export(&self, folder: &Path, precision: Precision) -> Result<(), CheckpointError> {
        write_new(folder, |temporary| self.write_as(temporary, precision))
    }

    /// Writes the pipeline's files into an existing folder.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), CheckpointError> {
        self.write_as(folder, Precision::F32)
    }

    fn write_as(&self, folder: &Path, precision: Precision) -> Result<(), CheckpointError> {
        let class = self.scheduler.class_name.as_str();
        let index = json!({
            "_class_name": "DDPMPipeline",
            "_diffusers_version": self.scheduler.diffusers_version,
            "scheduler": ["diffusers", class],
            "unet": ["diffusers", "UNet2DModel"],
        });
        write_json(&folder.join("model_index.json"), &index)?;
        let unet = folder.join("unet");
        fs::create_dir(&unet).map_err(CheckpointError::write(&unet))?;
        write_json(&unet.join("config.json"), &self.unet)?;
        tensor_file::write_as(precision, &unet.join(WEIGHTS), &self.weights)?;
        let scheduler = folder.join("scheduler");
        fs::create_dir(&scheduler).map_err(CheckpointError::write(&scheduler))?;
        write_json(&scheduler.join("scheduler_config.json"), &self.scheduler)
    }
}

pub(super) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), CheckpointError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| CheckpointError::invalid(path, error))?;
    fs::write(path, text + "\n").map_err(CheckpointError::write(path))
}
