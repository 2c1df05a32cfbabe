//! `ddpm-gpu train`

mod dry_run;
mod objective;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use ddpm_gpu::data::Dataset;
use ddpm_gpu::diffusion::{MOST_TIMESTEPS, SchedulerConfig};
use ddpm_gpu::image_size::in_words;
use ddpm_gpu::network::{SampleSize, SuperResolution, UNetConfig};
use ddpm_gpu::output::describe_strips;
use ddpm_gpu::train::{Denoise, Run, TrainOptions, train};

use objective::ObjectiveArgs;

use super::DeviceArgs;
use super::bounds::{MOST_STEPS, count_in, count_u64_in, finite_f32_in, finite_in, parse_image_size};
use super::condition_image::{self, PairArgs};
use super::origin::{Beginning, Origin};
use super::process::ProcessArgs;
use super::training::{DataArgs, TrainingArgs, Watch};

/// Train a model on images
///
/// The output folder receives checkpoints, which diffusers' DDPMPipeline.from_pretrained loads as they are, and grids
/// of samples. Ctrl-C saves and stops; --resume goes on.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Folder for checkpoints and samples
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Train without classes even if the images have them
    #[arg(long)]
    unconditional: bool,
    /// Share of images to train on as of no class, for classifier-free guidance (sample --guidance-scale): 0.1 to 0.2
    /// is usual. "No class" is one more row of the class embedding, the last
    #[arg(long, default_value_t = 0.0, value_name = "P", value_parser = finite_in(0.0..1.0))]
    label_dropout: f64,
    /// Train a super-resolution model: from images of LOW pixels to the model's size. LOW is WIDTHxHEIGHT, or the
    /// short side alone: of 64x32, 16 is 32x16. Images of the data set are shrunk to LOW, enlarged again and given to
    /// the network as further channels (Ho et al. 2021, cascaded diffusion)
    #[arg(long, value_name = "LOW", value_parser = parse_image_size)]
    super_resolution: Option<SampleSize>,
    /// With --super-resolution: the small images are noised by up to N steps of the forward process, so that the model
    /// does not rely on what another model draws badly; 200 by default, 0 for none
    #[arg(long, value_name = "N", requires = "super_resolution", value_parser = count_in(0..=MOST_TIMESTEPS))]
    noise_augmentation: Option<usize>,
    #[command(flatten)]
    pairs: PairArgs,
    /// Share of activations to drop; overrides the model's
    #[arg(long, value_name = "P", value_parser = finite_f32_in(0.0..1.0))]
    dropout: Option<f32>,
    #[command(flatten)]
    process: ProcessArgs,
    #[command(flatten)]
    objective: ObjectiveArgs,
    #[command(flatten)]
    pub(super) training: TrainingArgs,
    /// Steps between sample grids; 0 for none
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = count_u64_in(0..=MOST_STEPS))]
    sample_every: u64,
    /// Print parameters, memory, the largest batch that fits, and after three steps how long the run will take; write
    /// nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(super) async fn run(args: Args, settings: Option<String>) -> anyhow::Result<()> {
    let origin = args.training.origin.open(&args.output, args.training.resume)?;
    let model = args.data.model(origin.as_ref())?;
    let scheduler = args.process.scheduler(origin.as_ref().map(Origin::scheduler))?;
    let dataset = args.pairs.pair(args.data.open(&model)?, &model, &args.data)?;
    let config = fit(model, dataset.as_ref(), &scheduler, origin.is_some(), &args)?;
    config.check()?;
    let options = options(&args)?;
    let channels = config.image_channels();
    let Beginning { network, initial_weights, base } =
        Beginning::of(origin.as_ref(), Arc::new(config), &scheduler, options.seed)?;
    let task = Denoise::new(network, scheduler)?;
    let device = args.training.open(&args.device).await?;
    let run = Run {
        device,
        dataset,
        options,
        initial_weights,
        base,
        output: args.output,
        resume: args.training.resume,
        checkpoint_every: args.training.checkpoint_every,
        checkpoints_to_keep: args.training.checkpoints_to_keep,
        sample_every: args.sample_every,
        settings,
    };
    if args.dry_run {
        return dry_run::run(&run, task).await;
    }
    if let Some(strips) = describe_strips(channels).filter(|_| run.sample_every > 0) {
        eprintln!("sample grids: {strips}");
    }
    args.training.report_resumption(&run.output, run.settings.as_deref())?;
    let mut watch = Watch::new("train", &args.training, &run.device.name())?;
    let stop = watch.stop.clone();
    let outcome = train(&run, task, &stop, &mut |event| watch.show(event)).await;
    watch.finish(outcome)
}

/// The model with what the data and the flags say of it.
fn fit(
    mut config: UNetConfig,
    dataset: &dyn Dataset,
    scheduler: &SchedulerConfig,
    starts_from_model: bool,
    args: &Args,
) -> anyhow::Result<UNetConfig> {
    let classes = dataset.classes().len();
    let model_channels = config.image_channels();
    if args.unconditional {
        config = config.unconditional();
    } else if args.data.classes_are_those_of_data() {
        config.null_class &= classes > 0;
        config.num_class_embeds = (classes > 0).then_some(classes + usize::from(config.null_class));
    }
    if args.label_dropout > 0.0 {
        if args.unconditional {
            bail!("--label-dropout drops classes, --unconditional trains without any; leave one of them out");
        }
        let Some(embeds) = config.num_class_embeds else {
            bail!(
                "--label-dropout drops classes, and the model has none: give it num_class_embeds, or take a preset, \
                 which has the classes of the images"
            );
        };
        config.num_class_embeds = Some(embeds.max(classes + 1));
        config.null_class = true;
    }
    // A learned variance takes as many output channels again.
    if config.out_channels == model_channels || starts_from_model {
        config.out_channels = scheduler.variance_type.output_channels(model_channels);
    }
    if let Some(low) = args.super_resolution {
        let low_size = SampleSize::of(low_size(low, config.image_size()?)?);
        config.in_channels = 2 * model_channels;
        config.super_resolution =
            Some(SuperResolution { low_size, augmentation: args.noise_augmentation.unwrap_or(200) });
    }
    condition_image::fit(&mut config, dataset);
    if let Some(dropout) = args.dropout {
        config.dropout = dropout;
    }
    Ok(config)
}

/// Height and width of the small images of which a model makes images of `size`.
fn low_size(low: SampleSize, size: [usize; 2]) -> anyhow::Result<[usize; 2]> {
    let SampleSize::Square(short_side) = low else { return Ok(low.sides()) };
    let Some(low) = SuperResolution::low_of(short_side, size) else {
        bail!(
            "--super-resolution {short_side}: images of {} do not shrink to a short side of {short_side} in \
             proportion; choose another, or give both as WIDTHxHEIGHT",
            in_words(size)
        );
    };
    Ok(low)
}

fn options(args: &Args) -> anyhow::Result<TrainOptions> {
    let objective = &args.objective;
    Ok(TrainOptions {
        label_dropout: args.label_dropout,
        objective: objective.objective,
        loss_type: objective.loss_type()?,
        loss_weighting: objective.loss_weighting()?,
        learned_schedule: args.process.is_learned(),
        timestep_sampling: objective.timestep_sampler,
        ..args.training.options()
    })
}
