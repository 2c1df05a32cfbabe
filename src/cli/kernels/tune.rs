//! `ddpm-gpu kernels tune`

use anyhow::bail;
use ddpm_gpu::device::Device;
use ddpm_gpu::train::TrainOptions;
use ddpm_gpu::workbench::tune;

use super::ModelArgs;
use crate::cli::table::{table, time};
use crate::cli::{DeviceArgs, PrecisionArgs, tuning};

/// Time the variants of each kernel at the shapes of a model's training step, and keep the fastest
///
/// Commands that train and sample do so by themselves at first use. This does it again, whatever was chosen before, and
/// reports what it found. Calls are timed in the order of their arithmetic until the time of --tuning is over.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let network = args.model.network()?;
    let device = args.device.adapter.open().await?;
    if matches!(device, Device::Cpu) {
        bail!(
            "the CPU executor has one way to run each kernel and nothing to tune: choose an adapter with --device"
        );
    }
    let tuning = tuning::again(args.device.tuning)?;
    let options = TrainOptions { precision: args.precision.precision, ..args.model.options() };
    let (_, choices) = tune(&device, &network, options, tuning).await?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&choices)?);
        return Ok(());
    }
    let rows = choices.iter().map(|choice| {
        let mark = if choice.chosen == choice.default { "" } else { "*" };
        let mut others: Vec<(&String, f64)> =
            choice.milliseconds.iter().map(|(name, ms)| (name, *ms)).collect();
        others.retain(|(name, _)| **name != choice.chosen);
        others.sort_by(|a, b| a.1.total_cmp(&b.1));
        let others: Vec<String> =
            others.iter().map(|(name, ms)| format!("{name} {}", time(1e-3 * ms))).collect();
        let own = choice.milliseconds.get(&choice.chosen);
        vec![
            choice.call.clone(),
            format!("{}{mark}", choice.chosen),
            own.map_or_else(|| "-".to_owned(), |ms| time(1e-3 * ms)),
            choice.gain().map_or_else(|| "-".to_owned(), |gain| format!("{gain:.2}")),
            others.join(", "),
        ]
    });
    println!("{}", table(&["call", "chosen", "time", "gain", "others"], &[2, 3], rows.collect()));
    let changed = choices.iter().filter(|choice| choice.chosen != choice.default).count();
    println!(
        "{} kinds of calls; {changed} take another variant than the default (*); gain: time of the default over that of the \
         choice",
        choices.len()
    );
    Ok(())
}
