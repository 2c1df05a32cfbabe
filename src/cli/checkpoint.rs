//! The model that a command uses.

use std::path::{Path, PathBuf};

use anyhow::Context;
use ddpm_gpu::checkpoint::{WeightsChoice, add_lora, resolve};
use ddpm_gpu::pipeline::Pipeline;

use super::bounds::finite_in;

/// The model in a folder, or the newest checkpoint there; what had to be assumed of it is printed.
pub(super) fn load_model(folder: &Path) -> anyhow::Result<Pipeline> {
    that_draws(folder, Pipeline::open(&resolve(folder)?)?)
}

/// The classifier in a folder, or the newest checkpoint there.
pub(super) fn load_classifier(folder: &Path) -> anyhow::Result<Pipeline> {
    let pipeline = noted(Pipeline::open(&resolve(folder)?)?);
    pipeline.classifier().with_context(|| folder.display().to_string())?;
    Ok(pipeline)
}

/// A pipeline with its notes printed, which draws images.
fn that_draws(folder: &Path, opened: (Pipeline, Vec<String>)) -> anyhow::Result<Pipeline> {
    let pipeline = noted(opened);
    pipeline.denoiser().with_context(|| folder.display().to_string())?;
    Ok(pipeline)
}

/// A pipeline with its notes printed.
pub(super) fn noted((pipeline, notes): (Pipeline, Vec<String>)) -> Pipeline {
    for note in notes {
        eprintln!("note: {note}");
    }
    pipeline
}

/// The model to use.
#[derive(clap::Args)]
pub(super) struct CheckpointArgs {
    /// A checkpoint, a training run's output folder (its newest checkpoint), or a pipeline or UNet2DModel saved by
    /// diffusers
    #[arg(value_name = "DIR")]
    pub(super) checkpoint: PathBuf,
    /// Low-rank adapters (LoRA) to add to the model: a safetensors file that diffusers or peft wrote, or its folder. A
    /// run of adapters of this program needs no such flag: it says which model it is of
    #[arg(long, value_name = "PATH")]
    lora: Option<PathBuf>,
    #[command(flatten)]
    weights: WeightsArgs,
}

/// Which weights of the model.
#[derive(clap::Args)]
pub(super) struct WeightsArgs {
    /// Which average of the weights to take, of several that a model was trained with (train --ema-decay A,B): its
    /// decay. By default the first
    #[arg(long, value_name = "X", value_parser = finite_in(0.0..1.0))]
    ema_decay: Option<f64>,
    /// Which variant of the weights to read, of several that diffusers wrote beside each other: fp16 for
    /// diffusion_pytorch_model.fp16.safetensors. By default the plain ones
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
}

impl CheckpointArgs {
    /// A model that draws images.
    pub(super) fn load(&self) -> anyhow::Result<Pipeline> {
        self.with_lora(self.weights.load(&resolve(&self.checkpoint)?)?)
    }

    /// A pipeline that does whatever it does.
    pub(super) fn open(&self) -> anyhow::Result<Pipeline> {
        self.with_lora(noted(self.weights.open(&resolve(&self.checkpoint)?)?))
    }

    fn with_lora(&self, mut pipeline: Pipeline) -> anyhow::Result<Pipeline> {
        if let Some(path) = &self.lora {
            add_lora(&mut pipeline, path)?.iter().for_each(|note| eprintln!("note: {note}"));
        }
        Ok(pipeline)
    }
}

impl WeightsArgs {
    /// The pipeline in a checkpoint's own folder.
    pub(super) fn load(&self, folder: &Path) -> anyhow::Result<Pipeline> {
        that_draws(folder, self.open(folder)?)
    }

    fn open(&self, folder: &Path) -> anyhow::Result<(Pipeline, Vec<String>)> {
        let choice = WeightsChoice { variant: self.variant.clone(), ema_decay: self.ema_decay };
        Ok(Pipeline::open_chosen(folder, &choice)?)
    }
}
