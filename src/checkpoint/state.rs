//! What resuming needs beside the pipeline.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::pipeline::write_json;
use super::{CheckpointError, tensor_file};
use crate::data::Fingerprint;
use crate::diffusion::LearnedSchedule;
use crate::model::Tensors;
use crate::ops::loss_scale::LossScale;

/// Where a training run stands.
#[derive(Clone, Debug, Default)]
pub struct TrainingState {
    /// Steps done.
    pub step: u64,
    /// Settings of the run, as the trainer saved them.
    pub options: Value,
    /// The images; `None` for a checkpoint that does not say.
    pub dataset: Option<Fingerprint>,
    /// Weights, not averaged.
    pub weights: Tensors,
    /// First moments of the optimiser.
    pub first_moment: Tensors,
    /// Second moments of the optimiser.
    pub second_moment: Tensors,
    /// Where loss scaling stands; `None` for a run without.
    pub loss_scale: Option<LossScale>,
    /// The losses that importance sampling of timesteps remembers; `None` for a run without.
    pub timestep_sampler: Option<Tensors>,
    /// The noise schedule's network, where it is learned.
    pub learned_schedule: Option<LearnedSchedule>,
}

const FOLDER: &str = "training_state";

const TIMESTEP_SAMPLER: &str = "timestep_sampler.safetensors";

#[derive(Serialize, Deserialize)]
struct Header {
    step: u64,
    options: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dataset: Option<Fingerprint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    loss_scale: Option<LossScale>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    learned_schedule: Option<LearnedSchedule>,
}

impl TrainingState {
    /// Loads the training state in a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file.
    pub fn load(checkpoint: &Path) -> Result<Self, CheckpointError> {
        let folder = checkpoint.join(FOLDER);
        let path = folder.join("state.json");
        let text = fs::read_to_string(&path).map_err(CheckpointError::read(&path))?;
        let Header { step, options, dataset, loss_scale, learned_schedule } =
            serde_json::from_str(&text).map_err(|error| CheckpointError::invalid(&path, error))?;
        let tensors = |name: &str| tensor_file::read(&folder.join(name));
        let has_sampler = folder.join(TIMESTEP_SAMPLER).exists();
        Ok(Self {
            timestep_sampler: has_sampler.then(|| tensors(TIMESTEP_SAMPLER)).transpose()?,
            step,
            options,
            dataset,
            loss_scale,
            learned_schedule,
            weights: tensors("weights.safetensors")?,
            first_moment: tensors("first_moment.safetensors")?,
            second_moment: tensors("second_moment.safetensors")?,
        })
    }

    /// Writes the state into an existing checkpoint folder.
    pub(super) fn write(&self, checkpoint: &Path) -> Result<(), CheckpointError> {
        let folder = checkpoint.join(FOLDER);
        fs::create_dir(&folder).map_err(CheckpointError::write(&folder))?;
        let header = Header {
            step: self.step,
            options: self.options.clone(),
            dataset: self.dataset.clone(),
            loss_scale: self.loss_scale,
            learned_schedule: self.learned_schedule.clone(),
        };
        write_json(&folder.join("state.json"), &header)?;
        if let Some(losses) = &self.timestep_sampler {
            tensor_file::write(&folder.join(TIMESTEP_SAMPLER), losses)?;
        }
        tensor_file::write(&folder.join("weights.safetensors"), &self.weights)?;
        tensor_file::write(&folder.join("first_moment.safetensors"), &self.first_moment)?;
        tensor_file::write(&folder.join("second_moment.safetensors"), &self.second_moment)
    }
}
