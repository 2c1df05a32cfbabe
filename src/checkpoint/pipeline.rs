//! A model as diffusers' `DDPMPipeline` saves it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::folder::write_new;
use super::json::{read_json, write_json};
use super::state::extra_ema;
use super::weights_file::{self, WEIGHTS};
use super::{CheckpointError, model_index, tensor_file};
use crate::diffusion::SchedulerConfig;
use crate::model::{Misfit, Precision, Tensors, UNetConfig, check_unet};

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

/// The folder of a part: `folder/unet`; or `folder` itself, as a network saved alone and the oldest pipelines on the
/// hub have it.
fn part(folder: &Path, part: &str, file: &str) -> PathBuf {
    let nested = folder.join(part);
    let is_flat = !nested.join(file).exists() && folder.join(file).exists();
    if is_flat { folder.to_owned() } else { nested }
}

/// Reads a scheduler's config.
pub(super) fn read_scheduler(path: &Path) -> Result<SchedulerConfig, CheckpointError> {
    serde_json::from_value(read_json(path)?).map_err(|error| CheckpointError::invalid(path, error))
}

/// Reads the config.json of a network.
///
/// # Errors
/// [`CheckpointError`] naming the file.
pub fn read_config(path: &Path) -> Result<UNetConfig, CheckpointError> {
    UNetConfig::from_value(read_json(path)?)
        .map_err(|source| CheckpointError::Model { path: path.to_owned(), source })
}

/// Says of weights that are not those of a config which two files do not fit each other, and how large each is.
pub(super) fn misfit(weights: &Path, config: &Path, tensors: &Tensors, misfit: Misfit) -> CheckpointError {
    let found = tensors.values().map(|tensor| tensor.data.len() as u64).sum();
    let Misfit { source, parameters } = misfit;
    CheckpointError::Weights {
        path: weights.to_owned(),
        config: config.to_owned(),
        found,
        parameters,
        source,
    }
}

impl Pipeline {
    /// Loads the pipeline in `folder`; see [`Pipeline::open`], which also gives what was assumed.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file.
    pub fn load(folder: &Path) -> Result<Self, CheckpointError> {
        Ok(Self::open(folder)?.0)
    }

    /// Loads the pipeline in `folder`, or a network that was saved alone, and gives in sentences what had to be assumed
    /// of it.
    ///
    /// The weights are exactly those of the network, and finite.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file.
    pub fn open(folder: &Path) -> Result<(Self, Vec<String>), CheckpointError> {
        if folder.join("classifier").is_dir() {
            return Err(CheckpointError::IsClassifier { folder: folder.to_owned() });
        }
        model_index::check(folder)?;
        let mut notes = Vec::new();
        let unet_folder = part(folder, "unet", "config.json");
        // A network that lies in the folder of its pipeline is of that pipeline.
        let around = folder.parent().filter(|_| unet_folder == folder && model_index::path(folder).is_none());
        if let Some(around) = around.filter(|around| model_index::path(around).is_some()) {
            model_index::check(around)?;
        }
        let config_path = unet_folder.join("config.json");
        let unet = read_config(&config_path)?;
        let path = part(folder, "scheduler", SCHEDULER).join(SCHEDULER);
        let beside =
            around.map(|around| around.join("scheduler").join(SCHEDULER)).filter(|path| path.exists());
        let scheduler = if path.exists() || model_index::path(folder).is_some() {
            read_scheduler(&path)?
        } else if let Some(path) = beside {
            notes.push(format!("{}: taken to go with {}", path.display(), folder.display()));
            read_scheduler(&path)?
        } else {
            notes.push(format!(
                "{}: there is no {SCHEDULER}; taken to be trained as DDPMScheduler does by default: 1000 timesteps, \
                 linear betas, the noise predicted. If that is not so, put a {SCHEDULER} there",
                folder.display()
            ));
            SchedulerConfig::default()
        };
        let unused = scheduler.unused_keys();
        if !unused.is_empty() {
            notes.push(format!("{}: keys that nothing here uses: {}", path.display(), unused.join(", ")));
        }
        if folder.join("unet_ema").is_dir() {
            notes.push(format!(
                "{0}: taken from unet; the averaged weights are beside it, give {0}/unet_ema to draw with them",
                folder.display()
            ));
        }
        let (path, weights) = weights_file::read(&unet_folder, &mut notes)?;
        check_unet(&unet, &weights)
            .map_err(|source| CheckpointError::Model { path: config_path.clone(), source })?
            .map_err(|fault| misfit(&path, &config_path, &weights, fault))?;
        Ok((Self { unet, scheduler, weights }, notes))
    }

    /// As [`Pipeline::open`], of a folder that a training run has written, with the average of the weights that has
    /// this decay.
    ///
    /// # Errors
    /// [`CheckpointError`] that lists the decays that there are.
    pub fn open_average(folder: &Path, ema_decay: f64) -> Result<(Self, Vec<String>), CheckpointError> {
        let (pipeline, notes) = Self::open(folder)?;
        Ok(match extra_ema(folder, ema_decay, &pipeline.weights)? {
            Some(weights) => (Self { weights, ..pipeline }, notes),
            None => (pipeline, notes),
        })
    }

    /// Writes the pipeline alone into a new folder, without what only training needs; with f16 the weights are rounded.
    ///
    /// # Errors
    /// [`CheckpointError::Taken`] for a folder that is there already; [`CheckpointError::Write`]; for f16, a weight
    /// that is too large.
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
        write_json(&scheduler.join(SCHEDULER), &self.scheduler)
    }
}

const SCHEDULER: &str = "scheduler_config.json";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
