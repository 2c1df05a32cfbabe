//! The model that a command uses.

use std::path::PathBuf;

use ddpm_gpu::checkpoint::{Pipeline, resolve};

/// The model to use.
#[derive(clap::Args)]
pub(super) struct CheckpointArgs {
    /// A checkpoint, a training run's output folder (its newest checkpoint), or a pipeline saved by diffusers
    #[arg(value_name = "DIR")]
    pub(super) checkpoint: PathBuf,
    /// Which average of the weights to take, of several that a model was trained with (train --ema-decay A,B): its decay.
    /// By default the first
    #[arg(long, value_name = "X")]
    ema_decay: Option<f64>,
}

impl CheckpointArgs {
    pub(super) fn load(&self) -> anyhow::Result<Pipeline> {
        let folder = resolve(&self.checkpoint)?;
        Ok(match self.ema_decay {
            Some(decay) => Pipeline::load_average(&folder, decay)?,
            None => Pipeline::load(&folder)?,
        })
    }
}
