//! `ddpm-gpu kernels bisect`

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use ddpm_gpu::device::Device;
use ddpm_gpu::diffusion::SchedulerConfig;
use ddpm_gpu::network::{Component, Network, Tensors};
use ddpm_gpu::train::TrainOptions;
use ddpm_gpu::workbench::bisect;

use super::ModelArgs;
use crate::cli::checkpoint::load_model;
use crate::cli::progress::Progress;
use crate::cli::{AdapterArgs, PrecisionArgs, tuning};

/// Find the first kernel of a training step that an adapter gets wrong
///
/// The CPU executor runs a training step. The adapter repeats each call on the operands that the CPU executor had, in model
/// order, until a result leaves its tolerance: that call is named with its module path. Exit status 1 if there is one.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Model and weights of this checkpoint; without it, a preset with fresh weights
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    device: AdapterArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let mut scheduler = SchedulerConfig::default();
    let (network, weights): (Arc<dyn Network>, Option<Tensors>) = match &args.checkpoint {
        Some(path) => {
            let pipeline = load_model(path)?;
            let Component { network, weights } = pipeline.denoiser()?.clone();
            scheduler = pipeline.scheduler;
            (network, Some(weights))
        }
        None => (args.model.network()?, None),
    };
    let device = args.device.open().await?;
    if matches!(device, Device::Cpu) {
        bail!("the CPU executor is what adapters are compared with: choose an adapter with --device");
    }
    // The variants that training on this adapter takes.
    tuning::set(&device, tuning::Budget::NONE_NEW);
    let options = TrainOptions { precision: args.precision.precision, ..args.model.options() };
    let mut progress: Option<Progress> = None;
    let culprit = bisect(&device, &network, &scheduler, weights.as_ref(), options, &mut |right, total| {
        progress.get_or_insert_with(|| Progress::new(0, total as u64)).set(right as u64, "");
    })
    .await?;
    if let Some(progress) = &progress {
        progress.finish();
    }
    let Some(culprit) = culprit else {
        println!("{} gets every call of a training step right", device.name());
        return Ok(());
    };
    println!("{} / {} {}", culprit.path, culprit.kernel, culprit.variant);
    println!("  entry points {}", culprit.entries.join(", "));
    println!("  {}", culprit.shapes);
    println!("  {}", culprit.failure);
    if let Some(error) = culprit.worst_error {
        println!("  largest error {error:.1e} of the output's magnitude, allowed {:.1e}", culprit.tolerance);
    }
    println!("  {} calls before it are right", culprit.index);
    bail!("{} gets {} wrong, first at {}", device.name(), culprit.kernel, culprit.path)
}
