//! `ddpm-gpu predict`

use std::path::PathBuf;

use ddpm_gpu::conditions::Conditions;
use ddpm_gpu::output::check_writable;
use ddpm_gpu::sample::predict;

use super::checkpoint::CheckpointArgs;
use super::images::{read_floats, write_floats};
use super::{DeviceArgs, PrecisionArgs, parse_finite_list, parse_list};

/// Run the network once on a batch, to compare it with another implementation
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: CheckpointArgs,
    /// Noised images [N, C, H, W], floats
    #[arg(long, value_name = "x_t.npy")]
    input: PathBuf,
    /// Timestep of each image, separated by commas; or one for all
    #[arg(long, value_name = "T,...")]
    timesteps: String,
    /// Class of each image, separated by commas; or one for all
    #[arg(long, value_name = "K,...")]
    class_labels: Option<String>,
    /// The network's output [N, C, H, W]
    #[arg(long, value_name = "out.npy")]
    output: PathBuf,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// One value for each of `n` images.
fn spread<T: Copy>(mut values: Vec<T>, n: usize) -> Vec<T> {
    if let [value] = values[..] {
        values = vec![value; n];
    }
    values
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let pipeline = args.model.load()?;
    let x_t = read_floats(&args.input)?;
    let n = x_t.shape[0];
    let timesteps = spread(parse_finite_list("--timesteps", &args.timesteps)?, n);
    let labels = match &args.class_labels {
        Some(text) => Some(spread(parse_list::<u32>("--class-labels", text)?, n)),
        None => None,
    };
    check_writable(&args.output)?;
    let device = args.device.open().await?;
    args.precision.warn(&device);
    let conditions = Conditions::of_classes(labels);
    let output = predict(&device, &pipeline, &x_t, &timesteps, &conditions, args.precision.precision).await?;
    write_floats(&args.output, &output)
}
