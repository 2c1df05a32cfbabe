//! What resuming needs beside the pipeline.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::json::{json_text, read_json, write_json};
use super::tensor_file::{self, Shapes};
use super::weights_file::{WEIGHTS as NETWORK_WEIGHTS, names};
use super::{CheckpointError, lora};
use crate::data::Fingerprint;
use crate::diffusion::LearnedSchedule;
use crate::network::Tensors;
use crate::ops::loss_scale::LossScale;
use crate::output::write_text;
use crate::pipeline::CLASSES;

/// Where a training run stands.
#[derive(Clone, Debug, Default)]
pub struct TrainingState {
    /// Steps done.
    pub step: u64,
    /// Settings of the run, as the trainer saved them.
    pub options: Value,
    /// The images; `None` for a checkpoint that does not say.
    pub dataset: Option<Fingerprint>,
    /// Weights that are trained, not averaged; the moments and averages below are of the same.
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

/// Weights and both moments.
const FILES: [&str; 3] = ["weights.safetensors", "first_moment.safetensors", "second_moment.safetensors"];

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

/// The file whose numbers a run goes on from.
fn header_path(checkpoint: &Path) -> PathBuf {
    checkpoint.join(FOLDER).join("state.json")
}

/// What to do where a training state is not whole.
fn damaged(checkpoint: &Path, path: &Path, what: impl Display) -> CheckpointError {
    let name = checkpoint.file_name().unwrap_or_default().display();
    let message = format!(
        "{what}; the training state is not whole: move {name} elsewhere to go on from the checkpoint before it, or \
         start anew in another folder"
    );
    CheckpointError::invalid(path, message)
}

/// What a checkpoint's own folder says of its step; `None` where it says nothing that can be read.
pub(super) fn step_of(checkpoint: &Path) -> Option<u64> {
    read_json(&header_path(checkpoint)).ok()?.get("step")?.as_u64()
}

impl Header {
    fn read(checkpoint: &Path) -> Result<Self, CheckpointError> {
        let path = header_path(checkpoint);
        let value = match read_json(&path) {
            Err(CheckpointError::Invalid { message, .. }) => return Err(damaged(checkpoint, &path, message)),
            read => read?,
        };
        serde_json::from_value(value).map_err(|error| damaged(checkpoint, &path, error))
    }

    fn decays(&self, checkpoint: &Path) -> Result<Decays, CheckpointError> {
        Decays::deserialize(&self.options)
            .map_err(|error| damaged(checkpoint, &header_path(checkpoint), format!("options: {error}")))
    }

    /// Refuses a header that lacks what the files beside it, or its own options, say that there was.
    fn check(&self, checkpoint: &Path, decays: &[f64]) -> Result<(), CheckpointError> {
        let lacks =
            |what: &str| Err(damaged(checkpoint, &header_path(checkpoint), format!("it lacks {what}")));
        let option = |key: &str| self.options.get(key);
        if option("precision") == Some(&"f16".into()) && self.loss_scale.is_none() {
            return lacks("`loss_scale`, which a run in f16 has");
        }
        if option("learned_schedule") == Some(&true.into()) && self.learned_schedule.is_none() {
            return lacks("`learned_schedule`, which this run has by its options");
        }
        if let Some(LossScale { scale, finite_steps, skipped_steps }) = self.loss_scale
            && !(scale > 0.0 && finite_steps >= 0.0 && skipped_steps >= 0.0 && scale.is_finite())
        {
            return lacks("a `loss_scale` of positive numbers");
        }
        let is_known = |name: &str| {
            let known = decays.iter().any(|&decay| ema_file(decay) == name);
            known || !(name.starts_with("ema_") && name.ends_with(".safetensors"))
        };
        match names(&checkpoint.join(FOLDER)).iter().find(|name| !is_known(name)) {
            Some(name) => lacks(&format!("the decay of {name} in `extra_ema_decays`")),
            None => Ok(()),
        }
    }
}

/// The shapes of those of a model's tensors that are trained: a state holds nothing of the others.
fn trained_shapes<'a>(model: &Shapes, state: impl Iterator<Item = &'a String>) -> Shapes {
    let names: BTreeSet<&String> = state.collect();
    let of_model = |name: &&String| Some(((*name).clone(), model.get(*name)?.clone()));
    names.iter().filter_map(of_model).collect()
}

/// Refuses tensors that are not, one for one, of the shapes of those in `of` that are trained.
fn check_alike(path: &Path, tensors: &Tensors, trained: &Shapes, of: &str) -> Result<(), CheckpointError> {
    let shape = |name: &str| tensors.get(name).map(|tensor| &tensor.shape);
    let differs = |name: &&String| shape(name) != trained.get(*name);
    let Some(name) = trained.keys().chain(tensors.keys()).find(differs) else { return Ok(()) };
    let words = |shape: Option<&Vec<usize>>| shape.map_or("missing".to_owned(), |shape| format!("{shape:?}"));
    let message = format!(
        "the tensor {name} is {} here, and {} in {of}: the two files are not of one checkpoint",
        words(shape(name)),
        words(trained.get(name))
    );
    Err(CheckpointError::invalid(path, message))
}

/// The shapes of the weights of the network in a checkpoint, or of its adapters, and their file, relative to it.
fn model_shapes(checkpoint: &Path) -> Result<(Shapes, String), CheckpointError> {
    if let Some(adapters) = lora::shapes(checkpoint)? {
        return Ok(adapters);
    }
    let parts = CLASSES.iter().flat_map(|class| class.networks);
    let mut files = parts.map(|part| format!("{}/{NETWORK_WEIGHTS}", part.name));
    let first = files.next().unwrap_or_default();
    let file = if checkpoint.join(&first).exists() {
        first
    } else {
        files.find(|file| checkpoint.join(file).exists()).unwrap_or(first)
    };
    Ok((tensor_file::shapes(&checkpoint.join(&file))?, file))
}

fn ema_file(decay: f64) -> String {
    format!("ema_{decay}.safetensors")
}

/// The average of the trained weights with this decay in a checkpoint; `None` for the one that the model itself has.
///
/// `model` are the model's own weights.
pub(super) fn extra_ema(
    checkpoint: &Path,
    decay: f64,
    model: &Tensors,
) -> Result<Option<Tensors>, CheckpointError> {
    let folder = checkpoint.join(FOLDER);
    if !header_path(checkpoint).exists() {
        let there = "it has no training state; use the weights of the model itself".to_owned();
        return Err(CheckpointError::NoAverage { folder: checkpoint.to_owned(), decay, there });
    }
    let Decays { ema_decay, extra_ema_decays } = Header::read(checkpoint)?.decays(checkpoint)?;
    if decay == ema_decay {
        return Ok(None);
    }
    if !extra_ema_decays.contains(&decay) {
        let known: Vec<String> = [ema_decay].iter().chain(&extra_ema_decays).map(f64::to_string).collect();
        let there = format!("the decays are {}", known.join(", "));
        return Err(CheckpointError::NoAverage { folder: checkpoint.to_owned(), decay, there });
    }
    let path = folder.join(ema_file(decay));
    let tensors = tensor_file::read(&path)?;
    let weights = tensor_file::shapes(&folder.join(FILES[0]))?;
    let shapes = model.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect();
    let trained = trained_shapes(&shapes, weights.keys().chain(tensors.keys()));
    check_alike(&path, &tensors, &trained, "the model's own weights")?;
    Ok(Some(tensors))
}

/// The decays of the averages of the weights in a checkpoint, that of the model's own first; none where it is of no
/// run.
///
/// # Errors
/// [`CheckpointError`] for a training state that is not whole.
pub fn averages(checkpoint: &Path) -> Result<Vec<f64>, CheckpointError> {
    if !header_path(checkpoint).exists() {
        return Ok(Vec::new());
    }
    let Decays { ema_decay, extra_ema_decays } = Header::read(checkpoint)?.decays(checkpoint)?;
    Ok([ema_decay].into_iter().chain(extra_ema_decays).collect())
}

/// Writes into a checkpoint what is known of its data set by now, in place of what it says.
pub(crate) fn record_dataset(checkpoint: &Path, dataset: &Fingerprint) -> Result<(), CheckpointError> {
    let path = header_path(checkpoint);
    let header = Header { dataset: Some(dataset.clone()), ..Header::read(checkpoint)? };
    let text = json_text(&path, &header)?;
    write_text(&path, &text).map_err(|error| CheckpointError::write(&path)(io::Error::other(error)))
}

impl TrainingState {
    /// Loads the training state in a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file.
    pub fn load(checkpoint: &Path) -> Result<Self, CheckpointError> {
        let folder = checkpoint.join(FOLDER);
        let header = Header::read(checkpoint)?;
        let decays = header.decays(checkpoint)?.extra_ema_decays;
        header.check(checkpoint, &decays)?;
        let Header { step, options, dataset, loss_scale, learned_schedule } = header;
        let tensors = |name: &str| tensor_file::read(&folder.join(name));
        let files = FILES.map(str::to_owned).into_iter().chain(decays.iter().map(|&decay| ema_file(decay)));
        let files: Vec<String> = files.collect();
        let mut found = Vec::new();
        for name in &files {
            found.push(tensors(name)?);
        }
        let (shapes, model) = model_shapes(checkpoint)?;
        let trained = trained_shapes(&shapes, found.iter().flat_map(Tensors::keys));
        for (name, tensors) in files.iter().zip(&found) {
            check_alike(&folder.join(name), tensors, &trained, &model)?;
        }
        let mut found = found.into_iter();
        let [weights, first_moment, second_moment] = FILES.map(|_| found.next().unwrap_or_default());
        let has_sampler = folder.join(TIMESTEP_SAMPLER).exists();
        Ok(Self {
            timestep_sampler: has_sampler.then(|| tensors(TIMESTEP_SAMPLER)).transpose()?,
            step,
            options,
            dataset,
            loss_scale,
            learned_schedule,
            weights,
            first_moment,
            second_moment,
            extra_emas: decays.into_iter().zip(found).collect(),
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
        let tensors = [&self.weights, &self.first_moment, &self.second_moment];
        FILES
            .iter()
            .zip(tensors)
            .try_for_each(|(name, tensors)| tensor_file::write(&folder.join(name), tensors))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
