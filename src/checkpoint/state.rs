//! What resuming needs beside the pipeline.

use std::path::Path;
use std::{fs, io};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::pipeline::write_json;
use super::{CheckpointError, tensor_file};
use crate::data::Fingerprint;
use crate::diffusion::LearnedSchedule;
use crate::files::read_regular_text;
use crate::model::Tensors;
use crate::ops::loss_scale::LossScale;
use crate::output::write_text;

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
    /// Averages of the weights besides the one that the model has, each with its decay, in the order of the options.
    pub extra_emas: Vec<(f64, Tensors)>,
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

/// The decays of the averages that options speak of: that of the model's own weights, and the others'.
#[derive(Deserialize)]
struct Decays {
    ema_decay: f64,
    #[serde(default)]
    extra_ema_decays: Vec<f64>,
}

impl Header {
    fn read(path: &Path) -> Result<Self, CheckpointError> {
        let text = read_regular_text(path).map_err(CheckpointError::read(path))?;
        serde_json::from_str(&text).map_err(|error| CheckpointError::invalid(path, error))
    }

    fn decays(&self, path: &Path) -> Result<Decays, CheckpointError> {
        Decays::deserialize(&self.options).map_err(|error| CheckpointError::invalid(path, error))
    }
}

fn ema_file(decay: f64) -> String {
    format!("ema_{decay}.safetensors")
}

/// The average of the weights with this decay in a checkpoint; `None` for the one that the model itself has.
pub(super) fn extra_ema(checkpoint: &Path, decay: f64) -> Result<Option<Tensors>, CheckpointError> {
    let folder = checkpoint.join(FOLDER);
    let path = folder.join("state.json");
    if !path.exists() {
        let message = "there is no training state, so nothing is known of averages of the weights; leave --ema-decay out";
        return Err(CheckpointError::invalid(checkpoint, message));
    }
    let Decays { ema_decay, extra_ema_decays } = Header::read(&path)?.decays(&path)?;
    if decay == ema_decay {
        return Ok(None);
    }
    if !extra_ema_decays.contains(&decay) {
        let known: Vec<String> = [ema_decay].iter().chain(&extra_ema_decays).map(f64::to_string).collect();
        let message = format!(
            "there is no average of the weights with --ema-decay {decay}; there is: {}",
            known.join(", ")
        );
        return Err(CheckpointError::invalid(checkpoint, message));
    }
    tensor_file::read(&folder.join(ema_file(decay))).map(Some)
}

/// Writes into a checkpoint what is known of its data set by now, in place of what it says.
pub(crate) fn record_dataset(checkpoint: &Path, dataset: &Fingerprint) -> Result<(), CheckpointError> {
    let path = checkpoint.join(FOLDER).join("state.json");
    let header = Header { dataset: Some(dataset.clone()), ..Header::read(&path)? };
    let text =
        serde_json::to_string_pretty(&header).map_err(|error| CheckpointError::invalid(&path, error))?;
    write_text(&path, &(text + "\n")).map_err(|error| CheckpointError::write(&path)(io::Error::other(error)))
}

impl TrainingState {
    /// Loads the training state in a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file.
    pub fn load(checkpoint: &Path) -> Result<Self, CheckpointError> {
        let folder = checkpoint.join(FOLDER);
        let path = folder.join("state.json");
        let header = Header::read(&path)?;
        let decays = header.decays(&path)?.extra_ema_decays;
        let Header { step, options, dataset, loss_scale, learned_schedule } = header;
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
            extra_emas: decays
                .into_iter()
                .map(|decay| Ok((decay, tensors(&ema_file(decay))?)))
                .collect::<Result<_, CheckpointError>>()?,
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
        for (decay, ema) in &self.extra_emas {
            tensor_file::write(&folder.join(ema_file(*decay)), ema)?;
        }
        tensor_file::write(&folder.join("weights.safetensors"), &self.weights)?;
        tensor_file::write(&folder.join("first_moment.safetensors"), &self.first_moment)?;
        tensor_file::write(&folder.join("second_moment.safetensors"), &self.second_moment)
    }
}
