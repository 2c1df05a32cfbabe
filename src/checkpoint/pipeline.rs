//! A pipeline in a folder, as diffusers saves it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::folder::write_new;
use super::json::{read_json, write_json};
use super::model_index::{CONFIG, Contents};
use super::state::extra_ema;
use super::weights_file::{self, WEIGHTS};
use super::{BaseModel, CheckpointError, WeightsChoice, lora, model_index, tensor_file};
use crate::diffusion::SchedulerConfig;
use crate::network::{Component, Misfit, NETWORKS, Network, Precision, Tensors, UNetConfig, from_config};
use crate::pipeline::{Part, Pipeline};

/// The folder of a part: `folder/unet`; or `folder` itself, as a network saved alone and the oldest pipelines on the
/// hub have it.
fn part(folder: &Path, part: &str, file: &str) -> PathBuf {
    let nested = folder.join(part);
    let is_flat = !nested.join(file).exists() && folder.join(file).exists();
    if is_flat { folder.to_owned() } else { nested }
}

/// Reads a scheduler's config.
fn read_scheduler(path: &Path) -> Result<SchedulerConfig, CheckpointError> {
    serde_json::from_value(read_json(path)?).map_err(|error| CheckpointError::invalid(path, error))
}

/// Reads the config.json of a `UNet2DModel`.
///
/// # Errors
/// [`CheckpointError`] naming the file.
pub fn read_config(path: &Path) -> Result<UNetConfig, CheckpointError> {
    UNetConfig::from_value(read_json(path)?)
        .map_err(|source| CheckpointError::Model { path: path.to_owned(), source })
}

/// Says of weights that are not those of a config which two files do not fit each other, and how large each is.
fn misfit(weights: &Path, config: &Path, tensors: &Tensors, misfit: Misfit) -> CheckpointError {
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

/// The network of this class that the configuration in `folder` describes. `own` is one that may be in no table.
pub(super) fn configured(
    folder: &Path,
    class: &str,
    own: Option<&Arc<dyn Network>>,
) -> Result<Arc<dyn Network>, CheckpointError> {
    let config = folder.join(CONFIG);
    let of_config = |source| CheckpointError::Model { path: config.clone(), source };
    let is_known = NETWORKS.iter().any(|known| known.name == class);
    match own.filter(|own| !is_known && own.class_name() == class) {
        None => from_config(class, read_json(&config)?).map_err(of_config),
        // Nothing else reads the configuration of a user's network, so it must be that of the one at hand.
        Some(own) => {
            let text = own.to_json().map_err(of_config)?;
            let theirs: Value = serde_json::from_str(&text).map_err(|error| of_config(error.into()))?;
            if read_json(&config)? != theirs {
                let message = format!("it is not the configuration of the {class} at hand");
                return Err(CheckpointError::invalid(config, message));
            }
            Ok(own.clone())
        }
    }
}

/// Reads a network of this class, with weights that are exactly its own, and finite.
fn read_network(
    folder: &Path,
    class: &str,
    own: Option<&Arc<dyn Network>>,
    variant: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<Component, CheckpointError> {
    let config = folder.join(CONFIG);
    let of_config = |source| CheckpointError::Model { path: config.clone(), source };
    let network = configured(folder, class, own)?;
    let (path, weights) = weights_file::read(folder, variant, notes)?;
    network
        .check_weights(&weights)
        .map_err(of_config)?
        .map_err(|fault| misfit(&path, &config, &weights, fault))?;
    Ok(Component { network, weights })
}

/// Reads the scheduler of the pipeline in `folder`, whose network lies in `network`; `notes` gets what was assumed.
fn find_scheduler(
    folder: &Path,
    network: &Path,
    notes: &mut Vec<String>,
) -> Result<SchedulerConfig, CheckpointError> {
    let own = part(folder, "scheduler", SCHEDULER).join(SCHEDULER);
    // A network alone, or a checkpoint of training, that lies in the folder of a pipeline is of that pipeline.
    let around = model_index::around(folder, network);
    let beside = around.map(|around| around.join("scheduler").join(SCHEDULER)).filter(|path| path.exists());
    let (path, scheduler) = if own.exists() || model_index::path(folder).is_some() {
        let scheduler = read_scheduler(&own)?;
        (own, scheduler)
    } else if let Some(path) = beside {
        notes.push(format!("{}: taken to go with {}", path.display(), folder.display()));
        let scheduler = read_scheduler(&path)?;
        (path, scheduler)
    } else {
        notes.push(format!(
            "{}: there is no {SCHEDULER}; taken to be trained as DDPMScheduler does by default: 1000 timesteps, \
             linear betas, the noise predicted. If that is not so, put a {SCHEDULER} there",
            folder.display()
        ));
        (own, SchedulerConfig::default())
    };
    let unused = scheduler.unused_keys();
    if !unused.is_empty() {
        notes.push(format!("{}: keys that nothing here uses: {}", path.display(), unused.join(", ")));
    }
    Ok(scheduler)
}

/// The folder of a network, or that of its averaged weights where only these are there, or where `folder` itself is
/// that.
fn network_folder(folder: &Path, of: &Part, notes: &mut Vec<String>) -> PathBuf {
    let found = part(folder, of.name, CONFIG);
    let averaged = model_index::averaged(of.name);
    let beside = folder.join(&averaged);
    if !found.join(CONFIG).exists() && beside.join(CONFIG).exists() {
        notes.push(format!("{}: taken from {averaged}, as there is no {}", folder.display(), of.name));
        return beside;
    }
    if beside.is_dir() {
        notes.push(format!(
            "{0}: taken from {1}; the averaged weights are beside it, give {0}/{averaged} to draw with them",
            folder.display(),
            of.name
        ));
    }
    found
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
        let (pipeline, notes) = Self::open_with(folder, None, None)?;
        Ok((pipeline.merged_of(folder)?, notes))
    }

    /// The pipeline of `folder` with adapters merged into the weights.
    fn merged_of(self, folder: &Path) -> Result<Self, CheckpointError> {
        self.merged().map_err(|source| CheckpointError::Model { path: folder.to_owned(), source })
    }

    /// As [`Pipeline::load`], to go on with training: a network may be `own`, whose class is in no table, and adapters
    /// stay apart from the weights that they change.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file.
    pub fn load_with(folder: &Path, own: &Arc<dyn Network>) -> Result<Self, CheckpointError> {
        Ok(Self::open_with(folder, Some(own), None)?.0)
    }

    /// As [`Pipeline::open`], with the weights that are chosen.
    ///
    /// # Errors
    /// [`CheckpointError`] that lists the variants or the averages that there are.
    pub fn open_chosen(
        folder: &Path,
        choice: &WeightsChoice,
    ) -> Result<(Self, Vec<String>), CheckpointError> {
        let (mut pipeline, notes) = Self::open_with(folder, None, choice.variant.as_deref())?;
        if let Some(ema_decay) = choice.ema_decay {
            // A training run has one network.
            for component in pipeline.networks.values_mut() {
                if let Some(weights) = extra_ema(folder, ema_decay, &component.weights)? {
                    component.weights.extend(weights);
                }
            }
        }
        Ok((pipeline.merged_of(folder)?, notes))
    }

    fn open_with(
        folder: &Path,
        own: Option<&Arc<dyn Network>>,
        variant: Option<&str>,
    ) -> Result<(Self, Vec<String>), CheckpointError> {
        let own_class = own.map(|own| own.class_name());
        let Contents { class, networks: classes, mut notes } = model_index::contents(folder, own_class)?;
        let folders: Vec<PathBuf> =
            class.networks.iter().map(|part| network_folder(folder, part, &mut notes)).collect();
        // Configurations first: what they refuse is said before large files are read.
        let scheduler = find_scheduler(folder, folders.first().map_or(folder, PathBuf::as_path), &mut notes)?;
        let base = BaseModel::of_checkpoint(folder)?;
        let mut networks = BTreeMap::new();
        for (part, of_network) in class.networks.iter().zip(&folders) {
            let class = classes.get(part.name).map_or(part.classes[0], String::as_str);
            let component = match &base {
                Some(base) => lora::read_network(folder, part.name, class, own, base, &mut notes)?,
                None => read_network(of_network, class, own, variant, &mut notes)?,
            };
            networks.insert(part.name.to_owned(), component);
        }
        Ok((Self { class, networks, scheduler }, notes))
    }

    /// Writes the pipeline alone into a new folder, adapters merged, without what only training needs; with f16 the
    /// weights are rounded.
    ///
    /// # Errors
    /// [`CheckpointError::Taken`] for a folder that is there already; [`CheckpointError::Write`]; for f16, a weight
    /// that is too large.
    pub fn export(&self, folder: &Path, precision: Precision) -> Result<(), CheckpointError> {
        if self.networks.values().any(|component| component.network.adapted().is_some()) {
            return self.clone().merged_of(folder)?.export(folder, precision);
        }
        write_new(folder, |temporary| self.write_as(temporary, precision))
    }

    /// Writes the pipeline's files into an existing folder.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), CheckpointError> {
        self.write_as(folder, Precision::F32)
    }

    fn write_as(&self, folder: &Path, precision: Precision) -> Result<(), CheckpointError> {
        let mut index = Map::from_iter([
            // Of pipelines made of the same networks the first, which draws by their scheduler's own steps.
            ("_class_name".to_owned(), json!(self.class.written())),
            ("_diffusers_version".to_owned(), json!(self.scheduler.diffusers_version)),
            ("scheduler".to_owned(), json!(["diffusers", self.scheduler.class_name])),
        ]);
        for part in self.class.networks {
            if let Some(Component { network, .. }) = self.networks.get(part.name) {
                let class = network.class_name();
                index.insert(part.name.to_owned(), json!([part.library_of(class), class]));
            }
        }
        write_json(&folder.join("model_index.json"), &Value::Object(index))?;
        for (name, Component { network, weights }) in &self.networks {
            let folder = folder.join(name);
            write_config(&folder, network.as_ref())?;
            tensor_file::write_as(precision, &folder.join(WEIGHTS), weights)?;
        }
        write_scheduler(folder, &self.scheduler)
    }
}

/// Writes the configuration of a network into a new folder.
pub(super) fn write_config(folder: &Path, network: &dyn Network) -> Result<(), CheckpointError> {
    fs::create_dir(folder).map_err(CheckpointError::write(folder))?;
    let config = folder.join(CONFIG);
    let text = network.to_json().map_err(|source| CheckpointError::Model { path: config.clone(), source })?;
    fs::write(&config, text).map_err(CheckpointError::write(&config))
}

/// Writes the scheduler of the pipeline in a folder.
pub(super) fn write_scheduler(folder: &Path, scheduler: &SchedulerConfig) -> Result<(), CheckpointError> {
    let folder = folder.join("scheduler");
    fs::create_dir(&folder).map_err(CheckpointError::write(&folder))?;
    write_json(&folder.join(SCHEDULER), scheduler)
}

const SCHEDULER: &str = "scheduler_config.json";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
