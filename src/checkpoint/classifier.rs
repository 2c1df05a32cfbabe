//! A noise-conditional classifier, in a folder of the form of a pipeline's.

use std::fs;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use super::json::{read_json, write_json};
use super::pipeline::{misfit, read_scheduler};
use super::weights_file::WEIGHTS;
use super::{CheckpointError, model_index, tensor_file};
use crate::diffusion::SchedulerConfig;
use crate::model::{CLASSES, Tensors, UNetConfig, check_classifier};

/// What `model_index.json` calls it; diffusers has no such class.
const CLASS: &str = "NoiseConditionalClassifier";

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
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassifierConfig {
    /// Number of classes.
    pub num_classes: usize,
    /// The U-Net of which it is the encoder.
    pub encoder: UNetConfig,
}

impl ClassifierConfig {
    fn read(path: &Path) -> Result<Self, CheckpointError> {
        let mut value = read_json(path)?;
        let encoder = value.get_mut("encoder").map(Value::take).ok_or_else(|| {
            CheckpointError::invalid(path, "it has no key `encoder`, which a classifier of this program has")
        })?;
        let encoder = UNetConfig::from_value(encoder)
            .map_err(|source| CheckpointError::Model { path: path.to_owned(), source })?;
        let num_classes = value.get("num_classes").and_then(Value::as_u64).unwrap_or(0) as usize;
        if !(1..=CLASSES).contains(&num_classes) {
            let found = value.get("num_classes").unwrap_or(&Value::Null);
            let message = format!("num_classes is {found}; it must be from 1 to {CLASSES}");
            return Err(CheckpointError::invalid(path, message));
        }
        Ok(Self { num_classes, encoder })
    }
}

impl Classifier {
    /// Loads the classifier in `folder`.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file.
    pub fn load(folder: &Path) -> Result<Self, CheckpointError> {
        let part = folder.join("classifier");
        if !part.is_dir() {
            return Err(CheckpointError::NoClassifier { folder: folder.to_owned() });
        }
        model_index::check_class(folder, CLASS)?;
        let path = part.join("config.json");
        let config = ClassifierConfig::read(&path)?;
        let scheduler = read_scheduler(&folder.join("scheduler/scheduler_config.json"))?;
        let file = part.join(WEIGHTS);
        let weights = tensor_file::read(&file)?;
        check_classifier(&config.encoder, config.num_classes, &weights)
            .map_err(|source| CheckpointError::Model { path: path.clone(), source })?
            .map_err(|fault| misfit(&file, &path, &weights, fault))?;
        Ok(Self { config, scheduler, weights })
    }

    /// Writes the classifier's files into an existing folder.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), CheckpointError> {
        let index = json!({ "_class_name": CLASS });
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
