//! A noise-conditional classifier, in a folder of the form of a pipeline's.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::pipeline::{WEIGHTS, read_text, write_json};
use super::{CheckpointError, tensor_file};
use crate::diffusion::SchedulerConfig;
use crate::model::{Tensors, UNetConfig};

/// A classifier of noised images with its weights, and the diffusion process whose images it knows.
#[derive(Clone, Debug)]
pub struct Classifier {
    /// The network.
    pub config: ClassifierConfig,
    /// The process.
    pub scheduler: SchedulerConfig,
    /// The averaged weights; those of the encoder have diffusers' names.
    pub weights: Tensors,
}

/// `classifier/config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassifierConfig {
    /// Number of classes.
    pub num_classes: usize,
    /// The U-Net of which it is the encoder.
    pub encoder: UNetConfig,
}

impl Classifier {
    /// Loads the classifier in `folder`.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file.
    pub fn load(folder: &Path) -> Result<Self, CheckpointError> {
        let part = folder.join("classifier");
        if !part.is_dir() {
            let message = "this is no classifier; `ddpm-gpu train-classifier` makes one";
            return Err(CheckpointError::invalid(folder, message));
        }
        let read = |path: &Path| -> Result<serde_json::Value, CheckpointError> {
            serde_json::from_str(&read_text(path)?).map_err(|error| CheckpointError::invalid(path, error))
        };
        let path = part.join("config.json");
        let config: ClassifierConfig =
            serde_json::from_value(read(&path)?).map_err(|error| CheckpointError::invalid(&path, error))?;
        config.encoder.check().map_err(|source| CheckpointError::Model { path, source })?;
        let path = folder.join("scheduler/scheduler_config.json");
        let scheduler =
            serde_json::from_value(read(&path)?).map_err(|error| CheckpointError::invalid(&path, error))?;
        Ok(Self { config, scheduler, weights: tensor_file::read(&part.join(WEIGHTS))? })
    }

    /// Writes the classifier's files into an existing folder.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), CheckpointError> {
        let index = json!({ "_class_name": "NoiseConditionalClassifier" });
        write_json(&folder.join("model_index.json"), &index)?;
        for part in ["classifier", "scheduler"] {
            let path = folder.join(part);
            fs::create_dir(&path).map_err(CheckpointError::write(&path))?;
        }
        write_json(&folder.join("classifier/config.json"), &self.config)?;
        tensor_file::write(&folder.join("classifier").join(WEIGHTS), &self.weights)?;
        write_json(&folder.join("scheduler/scheduler_config.json"), &self.scheduler)
    }
}
