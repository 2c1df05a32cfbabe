//! Checkpoints of OpenAI's improved-diffusion and guided-diffusion, as pipelines of a `UNet2DModel`.
//!
//! Their `UNetModel` computes what diffusers' `UNet2DModel` does, with other names and another order of the rows of
//! queries, keys and values ([`names`]). Its form is told by the names and shapes of its tensors ([`form`]), as far as
//! they tell; the rest is said by the flags that the model was trained with, whose names and defaults are theirs
//! ([`settings`]).
//!
//! Source: `unet.py`, `script_util.py` and `gaussian_diffusion.py` of <https://github.com/openai/improved-diffusion>
//! (Nichol and Dhariwal 2021) and <https://github.com/openai/guided-diffusion> (Dhariwal and Nichol 2021).

mod form;
mod names;
mod process;
mod settings;
mod understood;

use std::path::Path;

pub use settings::{ImportSettings, NoiseSchedule};

use self::form::Form;
use self::names::renamed;
use self::understood::Understood;
use super::weights_file::without_prefixes;
use super::{CheckpointError, tensor_file, torch_file};
use crate::pipeline::{Pipeline, Role};
use crate::setting::SettingError;

/// Why a file is not imported.
#[derive(Debug)]
enum Refusal {
    /// What the file is, in a sentence.
    File(String),
    /// A setting that does not fit the file, or is missing.
    Setting(SettingError),
}

impl From<String> for Refusal {
    fn from(message: String) -> Self {
        Self::File(message)
    }
}

impl From<SettingError> for Refusal {
    fn from(error: SettingError) -> Self {
        Self::Setting(error)
    }
}

/// Reads a checkpoint of improved-diffusion or guided-diffusion, a file of `torch.save` or of safetensors, and gives in
/// sentences what had to be assumed of it; `key` is that of the state dict in a file that has several.
///
/// # Errors
/// [`CheckpointError`] that names the file, and the tensor or the setting, where the model has no exact place here.
pub fn import(
    path: &Path,
    key: Option<&str>,
    settings: &ImportSettings,
) -> Result<(Pipeline, Vec<String>), CheckpointError> {
    let invalid = |message: String| CheckpointError::invalid(path, message);
    let mut notes = Vec::new();
    let is_safetensors = path.extension().is_some_and(|extension| extension == "safetensors");
    let tensors = match (is_safetensors, key) {
        (false, _) => torch_file::read(path, key, &mut notes)?,
        (true, None) => tensor_file::read(path)?,
        (true, Some(key)) => {
            return Err(invalid(format!("a file of safetensors has one set of tensors, and no key {key}")));
        }
    };
    let tensors = without_prefixes(path, tensors, &mut notes);
    let refused = |refusal: Refusal| match refusal {
        Refusal::File(message) => invalid(message),
        Refusal::Setting(source) => CheckpointError::Setting { path: path.to_owned(), source },
    };
    let form = Form::of(&tensors, settings).map_err(refused)?;
    let understood = Understood::of(&form, settings).map_err(refused)?;
    let scheduler = process::scheduler(&understood)
        .map_err(|error| invalid(format!("its noise schedule cannot be had: {error}")))?;
    let of_config = |source| CheckpointError::Model { path: path.to_owned(), source };
    let network = understood.network(&form);
    network.check().map_err(of_config)?;
    let weights = renamed(&form, &understood, tensors).map_err(invalid)?;
    network.check_weights(&weights).map_err(of_config)?.map_err(|misfit| {
        invalid(format!(
            "as a {}, {}; it is of no form that improved-diffusion or guided-diffusion has",
            network.class_name(),
            misfit.source
        ))
    })?;
    notes.extend(understood.notes().into_iter().map(|note| format!("{}: {note}", path.display())));
    let role = if form.is_classifier() { Role::Classifies } else { Role::Denoises };
    Ok((Pipeline::new(role, network, weights, scheduler), notes))
}
