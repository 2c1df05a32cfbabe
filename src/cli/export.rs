//! `ddpm-gpu export`

use std::path::PathBuf;

use ddpm_gpu::network::Precision;

use super::checkpoint::CheckpointArgs;

/// Write a trained model alone, to be shared
///
/// The new folder is a diffusers pipeline of the averaged weights: what `sample` needs, a quarter of a checkpoint, which also
/// holds what only training needs.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: CheckpointArgs,
    /// The folder to write; it must not be there yet
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// How weights are stored: f32; or f16, which takes half the space and rounds them
    #[arg(long, default_value_t = Precision::F32, value_name = "f32|f16")]
    precision: Precision,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    args.model.open()?.export(&args.output, args.precision)?;
    eprintln!("wrote {}", args.output.display());
    Ok(())
}
