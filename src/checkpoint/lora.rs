//! Checkpoints of runs that train low-rank adapters: the adapters, as diffusers and as peft have them, and which model
//! they are for. The weights of that model stay where they are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::json::{read_json, write_json};
use super::pipeline::{configured, write_config, write_scheduler};
use super::tensor_file::{self, Shapes};
use super::{CheckpointError, model_index};
use crate::network::number::whole_as_integer;
use crate::network::{Adapted, Component, Network, Precision, Tensors};
use crate::pipeline::Pipeline;

/// Which model the adapters are for; a folder with it is such a checkpoint.
const BASE: &str = "base_model.json";

/// The file of diffusers' `save_lora_weights`, with the network's name before those of the tensors.
pub(super) const DIFFUSERS: &str = "pytorch_lora_weights.safetensors";
/// What diffusers keeps beside the tensors of its file: the settings of the adapters.
pub(super) const DIFFUSERS_METADATA: &str = "lora_adapter_metadata";

/// The files of peft's `save_pretrained`.
pub(super) const PEFT_CONFIG: &str = "adapter_config.json";
pub(super) const PEFT: &str = "adapter_model.safetensors";
/// What peft puts before the names of the tensors.
pub(super) const PEFT_PREFIX: &str = "base_model.model.";

/// The model that adapters are trained for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseModel {
    /// Its folder.
    pub path: PathBuf,
    /// CRC-32C of its weights as they are used: names, shapes and numbers. How files hold them does not count.
    pub weights_crc32c: u32,
}

/// What peft's configuration says of the adapters of a run.
#[derive(Serialize, Deserialize)]
struct Settings {
    r: usize,
    #[serde(serialize_with = "whole_as_integer")]
    lora_alpha: f32,
    target_modules: BTreeSet<String>,
}

fn checksum(weights: &Tensors) -> u32 {
    weights.iter().fold(0, |sum, (name, tensor)| {
        let shape: Vec<u8> = tensor.shape.iter().flat_map(|&size| (size as u64).to_le_bytes()).collect();
        let sum = crc32c::crc32c_append(crc32c::crc32c_append(sum, name.as_bytes()), &shape);
        let bytes: Vec<u8> = tensor.data.iter().flat_map(|value| value.to_le_bytes()).collect();
        crc32c::crc32c_append(sum, &bytes)
    })
}

impl BaseModel {
    /// The model in `folder`, whose weights are these.
    ///
    /// # Errors
    /// [`CheckpointError::Read`] for a folder that is not there, [`CheckpointError::Invalid`] for one that holds
    /// adapters itself.
    pub fn new(folder: &Path, weights: &Tensors) -> Result<Self, CheckpointError> {
        if let Some(base) = Self::of_checkpoint(folder)? {
            let message = format!(
                "path is {}, so this folder holds adapters of the model there, and no weights of its own for further \
                 adapters to be trained on; export it first, and take what is exported",
                base.path.display()
            );
            return Err(CheckpointError::invalid(folder.join(BASE), message));
        }
        let path = fs::canonicalize(folder).map_err(CheckpointError::read(folder))?;
        Ok(Self { path, weights_crc32c: checksum(weights) })
    }

    /// What a checkpoint says of it; `None` for one that has its own weights.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file.
    pub fn of_checkpoint(checkpoint: &Path) -> Result<Option<Self>, CheckpointError> {
        let path = checkpoint.join(BASE);
        if !path.is_file() {
            return Ok(None);
        }
        let found = serde_json::from_value(read_json(&path)?);
        found.map(Some).map_err(|error| CheckpointError::invalid(&path, error))
    }

    /// The weights of its network called `part`.
    fn weights(
        &self,
        checkpoint: &Path,
        part: &str,
        notes: &mut Vec<String>,
    ) -> Result<Tensors, CheckpointError> {
        let invalid = |message: String| CheckpointError::invalid(checkpoint.join(BASE), message);
        let path = self.path.display();
        if !self.path.is_dir() {
            return Err(invalid(format!(
                "the adapters are for the model in {path}, which is not there; put it back, or write here where it is now"
            )));
        }
        // Adapters of adapters might be those of each other, without end.
        if is_checkpoint(&self.path) {
            return Err(invalid(format!(
                "path is {path}, which holds adapters of another model itself; adapters are read for a model with weights \
                 of its own: export that one first, and write here where the exported model is"
            )));
        }
        let (mut pipeline, of_base) = Pipeline::open(&self.path)?;
        notes.extend(of_base);
        let component = pipeline.networks.remove(part);
        let weights = component.map(|component| component.weights).unwrap_or_default();
        let found = checksum(&weights);
        if found != self.weights_crc32c {
            return Err(invalid(format!(
                "the adapters are for the weights that were in {path} (CRC-32C {}), and there are others now ({found}); put \
                 the model back as it was, or write here where it is now",
                self.weights_crc32c
            )));
        }
        Ok(weights)
    }
}

/// Whether a folder is a checkpoint of adapters.
pub(super) fn is_checkpoint(folder: &Path) -> bool {
    folder.join(BASE).is_file()
}

/// The shapes of the adapters in a checkpoint, and their file; `None` for another kind of checkpoint.
pub(super) fn shapes(checkpoint: &Path) -> Result<Option<(Shapes, String)>, CheckpointError> {
    if !is_checkpoint(checkpoint) {
        return Ok(None);
    }
    let shapes = tensor_file::shapes(&checkpoint.join(PEFT))?;
    let without_prefix = |name: String| name.strip_prefix(PEFT_PREFIX).map_or(name.clone(), str::to_owned);
    let shapes = shapes.into_iter().map(|(name, shape)| (without_prefix(name), shape)).collect();
    Ok(Some((shapes, PEFT.to_owned())))
}

/// Reads the network called `part` of a checkpoint of adapters: with the adapters apart from its weights, which are
/// those of `base`.
pub(super) fn read_network(
    checkpoint: &Path,
    part: &str,
    class: &str,
    own: Option<&Arc<dyn Network>>,
    base: &BaseModel,
    notes: &mut Vec<String>,
) -> Result<Component, CheckpointError> {
    let path = checkpoint.join(PEFT_CONFIG);
    let Settings { r, lora_alpha, target_modules } =
        serde_json::from_value(read_json(&path)?).map_err(|error| CheckpointError::invalid(&path, error))?;
    if r == 0 {
        return Err(CheckpointError::invalid(&path, "r is 0; adapters have a rank of at least 1"));
    }
    let own = own.map(|own| own.adapted().map_or(own, Adapted::network));
    let network = configured(&checkpoint.join(part), class, own)?;
    let network: Arc<dyn Network> = Arc::new(Adapted::new(network, r, lora_alpha, target_modules));
    let file = checkpoint.join(PEFT);
    let mut weights = base.weights(checkpoint, part, notes)?;
    for (name, tensor) in tensor_file::read(&file)? {
        weights.insert(name.strip_prefix(PEFT_PREFIX).map_or(name.clone(), str::to_owned), tensor);
    }
    let config = checkpoint.join(part).join(model_index::CONFIG);
    let of_config = |source| CheckpointError::Model { path: config.clone(), source };
    if let Err(misfit) = network.check_weights(&weights).map_err(of_config)? {
        return Err(CheckpointError::invalid(&file, misfit.source));
    }
    Ok(Component { network, weights })
}

/// The settings of adapters by peft's names.
fn settings(adapted: &Adapted) -> serde_json::Result<Map<String, Value>> {
    let low_rank = adapted.low_rank();
    let target_modules = adapted.layers().cloned().collect();
    let own = Settings { r: low_rank.rank, lora_alpha: low_rank.alpha, target_modules };
    let fixed = [
        ("init_lora_weights", json!(true)),
        ("lora_dropout", json!(0.0)),
        ("bias", json!("none")),
        ("rank_pattern", json!({})),
        ("alpha_pattern", json!({})),
        ("use_rslora", json!(false)),
        ("use_dora", json!(false)),
    ];
    let mut settings: Map<String, Value> = serde_json::from_value(serde_json::to_value(own)?)?;
    settings.extend(fixed.map(|(key, value)| (key.to_owned(), value)));
    Ok(settings)
}

impl Pipeline {
    /// Writes the adapters of the pipeline's network into an existing folder, its configuration, and which model they
    /// are for.
    ///
    /// # Errors
    /// [`CheckpointError::Write`] naming the file.
    pub(crate) fn write_adapters(&self, folder: &Path, base: &BaseModel) -> Result<(), CheckpointError> {
        for (name, Component { network, weights }) in &self.networks {
            let Some(adapted) = network.adapted() else { continue };
            write_config(&folder.join(name), adapted.network().as_ref())?;
            let (_, adapters) = adapted.split(weights.clone());
            let prefixed = |prefix: &str| -> Tensors {
                adapters.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone())).collect()
            };
            let config = folder.join(PEFT_CONFIG);
            let mut settings = settings(adapted).map_err(|error| CheckpointError::invalid(&config, error))?;
            let of_part: Map<String, Value> =
                settings.iter().map(|(key, value)| (format!("{name}.{key}"), value.clone())).collect();
            let metadata = Value::Object(of_part).to_string();
            let (path, tensors) = (folder.join(DIFFUSERS), prefixed(&format!("{name}.")));
            tensor_file::write_with(Precision::F32, &path, &tensors, (DIFFUSERS_METADATA, &metadata))?;
            tensor_file::write(&folder.join(PEFT), &prefixed(PEFT_PREFIX))?;
            settings.extend([
                ("peft_type".to_owned(), json!("LORA")),
                ("base_model_name_or_path".to_owned(), json!(base.path)),
                ("inference_mode".to_owned(), json!(true)),
            ]);
            write_json(&config, &settings)?;
        }
        write_json(&folder.join(BASE), base)?;
        write_scheduler(folder, &self.scheduler)
    }
}
