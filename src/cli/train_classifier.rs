//! `ddpm-gpu train-classifier`

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use ddpm_gpu::diffusion::VarianceType;
use ddpm_gpu::network::ClassifierConfig;
use ddpm_gpu::train::{Classify, Run, train};

use super::DeviceArgs;
use super::bounds::{MOST_STEPS, count_u64_in, finite_f32_in};
use super::origin::{Beginning, Origin};
use super::process::ProcessArgs;
use super::training::{DataArgs, TrainingArgs, Watch};

/// Train a classifier of noised images, for classifier guidance (sample --classifier)
///
/// It is the encoder of the model with average pooling and a linear layer (Dhariwal and Nichol 2021). The output folder
/// receives checkpoints; accuracy is printed by quarter of the timesteps, on held-out images where the data set has
/// some.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Folder for checkpoints
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Share of activations to drop; overrides the model's
    #[arg(long, value_name = "P", value_parser = finite_f32_in(0.0..1.0))]
    dropout: Option<f32>,
    #[command(flatten)]
    process: ProcessArgs,
    #[command(flatten)]
    training: TrainingArgs,
    /// Steps between measurements of the accuracy; 0 for none
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = count_u64_in(0..=MOST_STEPS))]
    measure_every: u64,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(super) async fn run(args: Args, settings: Option<String>) -> anyhow::Result<()> {
    let origin = args.training.origin.open(&args.output, args.training.resume)?;
    let mut scheduler = args.process.scheduler(origin.as_ref().map(Origin::scheduler))?;
    if args.process.is_learned() {
        bail!(
            "--beta-schedule learned is learned by a model that draws images; give the classifier that model's betas by \
             --trained-betas"
        );
    }
    if args.process.has_learned_variance() {
        bail!(
            "--variance-type learned_range is of models that draw images; a classifier has no variance: leave it out"
        );
    }
    if scheduler.variance_type == VarianceType::LearnedRange {
        // That of the model whose encoder it starts from.
        scheduler.variance_type = VarianceType::FixedSmall;
    }
    let mut config = args.data.model(origin.as_ref())?;
    let dataset = args.data.open(&config)?;
    let held_out = args.data.open_held_out(&config)?;
    config = config.unconditional();
    if let Some(dropout) = args.dropout {
        config.dropout = dropout;
    }
    config.check()?;
    // A dataset without classes is refused when the run begins.
    let num_classes = dataset.classes().len().max(1);
    let network = Arc::new(ClassifierConfig { num_classes, encoder: config });
    let Beginning { network, initial_weights, base } =
        Beginning::of(origin.as_ref(), network, &scheduler, args.training.seed)?;
    let task = Classify::new(network, scheduler, held_out)?;
    let device = args.training.open(&args.device).await?;
    args.training.report_resumption(&args.output, settings.as_deref())?;
    let run = Run {
        device,
        dataset,
        options: args.training.options(),
        initial_weights,
        base,
        output: args.output,
        resume: args.training.resume,
        checkpoint_every: args.training.checkpoint_every,
        checkpoints_to_keep: args.training.checkpoints_to_keep,
        sample_every: args.measure_every,
        settings,
    };
    let mut watch = Watch::new("train-classifier", &args.training, &run.device.name())?;
    let stop = watch.stop.clone();
    let outcome = train(&run, task, &stop, &mut |event| watch.show(event)).await;
    watch.finish(outcome)
}
