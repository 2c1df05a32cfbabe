//! `ddpm-gpu train`

mod objective;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use ddpm_gpu::data::{self, Dataset, OpenOptions};
use ddpm_gpu::graph::MemoryReport;
use ddpm_gpu::log::Scalars;
use ddpm_gpu::model::{Preset, SampleSize, UNetConfig};
use ddpm_gpu::train::{Event, LrSchedule, Outcome, Run, TrainOptions, Trainer, train};

use objective::{ObjectiveArgs, ProcessArgs};

use super::dashboard::{self, Dashboard};
use super::dataset::{DatasetArgs, describe};
use super::progress::Progress;
use super::{DeviceArgs, PrecisionArgs, one_of};

/// Train a model on images
///
/// The output folder receives checkpoints, which diffusers' DDPMPipeline.from_pretrained loads as they are, and grids
/// of samples. Ctrl-C saves and stops; --resume goes on.
#[derive(clap::Args)]
pub(super) struct Args {
    /// What to train on: digits (in the program), fashion-mnist, cifar10; a folder of images (PNG, JPEG, WebP), with a
    /// subfolder for each class or without; a .npy or .npz file; a WebDataset tar file or a folder of them. `ddpm-gpu
    /// data` shows what is seen in it
    #[arg(long, value_name = "NAME|PATH")]
    dataset: String,
    /// Folder for checkpoints and samples
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Preset (digits, fashion, ddpm-cifar10-32) or a config.json of a diffusers UNet2DModel; by default the preset that
    /// suits the data set
    #[arg(long, value_name = "PRESET|FILE")]
    model: Option<String>,
    #[command(flatten)]
    data: DatasetArgs,
    /// Leave out images that cannot be read, and count them
    #[arg(long)]
    skip_bad_images: bool,
    /// Train without classes even if the images have them
    #[arg(long)]
    unconditional: bool,
    /// Share of activations to drop; overrides the model's
    #[arg(long, value_name = "P")]
    dropout: Option<f32>,
    #[command(flatten)]
    process: ProcessArgs,
    #[command(flatten)]
    objective: ObjectiveArgs,
    /// Steps in all, those before a resume included
    #[arg(long, default_value_t = TrainOptions::default().steps, value_name = "N")]
    steps: u64,
    /// Images in a step
    #[arg(long, default_value_t = TrainOptions::default().batch_size, value_name = "N")]
    batch_size: usize,
    /// AdamW's learning rate
    #[arg(long, default_value_t = TrainOptions::default().learning_rate, value_name = "X")]
    learning_rate: f64,
    /// Steps over which the learning rate grows from 0
    #[arg(long, default_value_t = TrainOptions::default().warmup_steps, value_name = "N")]
    warmup_steps: u64,
    /// What the learning rate does after that: constant; cosine or linear: fall to 0 at the last step
    #[arg(long, default_value = "constant", value_name = "NAME", value_parser = parse_lr_schedule)]
    lr_schedule: LrSchedule,
    /// AdamW's decay of the first moment
    #[arg(long, default_value_t = TrainOptions::default().betas[0], value_name = "X")]
    adam_beta1: f32,
    /// AdamW's decay of the second moment
    #[arg(long, default_value_t = TrainOptions::default().betas[1], value_name = "X")]
    adam_beta2: f32,
    /// AdamW's weight decay
    #[arg(long, default_value_t = TrainOptions::default().weight_decay, value_name = "X")]
    weight_decay: f32,
    /// Largest norm of all gradients; 0 for no clip
    #[arg(long, default_value_t = TrainOptions::default().max_grad_norm, value_name = "X")]
    max_grad_norm: f32,
    /// Largest decay of the moving average of the weights; early steps use (1 + step) / (10 + step)
    #[arg(long, default_value_t = TrainOptions::default().ema_decay, value_name = "X")]
    ema_decay: f64,
    /// Mirror images at random
    #[arg(long)]
    random_flip: bool,
    /// Decides initial weights, order of the data, timesteps, noise and dropout
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Keep only what enters residual and attention blocks, and compute the rest again in the backward pass: less than
    /// half the activations for about a sixth more time, and the same weights to the bit
    #[arg(long)]
    checkpointing: bool,
    /// Go on from the newest checkpoint in the output folder
    #[arg(long)]
    resume: bool,
    /// Steps between checkpoints; one is also written at the end
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_every: u64,
    /// How many of the newest checkpoints to keep
    #[arg(long, default_value_t = 3, value_name = "N")]
    checkpoints_to_keep: usize,
    /// Steps between sample grids; 0 for none
    #[arg(long, default_value_t = 1000, value_name = "N")]
    sample_every: u64,
    /// Show the loss curve, speed, memory and the newest samples on the whole terminal
    #[arg(long)]
    dashboard: bool,
    /// Print parameters and memory, and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

fn parse_lr_schedule(name: &str) -> Result<LrSchedule, String> {
    one_of("schedules", &LrSchedule::ALL, name)
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let model = model(&args)?;
    let dataset = open_dataset(&args, &model)?;
    let config = fit(model, dataset.as_ref(), &args)?;
    config.check()?;
    let options = options(&args)?;
    let scheduler = args.process.scheduler()?;
    if args.dry_run {
        let (parameters, memory) = Trainer::dry_run(&config, &scheduler, &options)?;
        println!("parameters: {parameters}");
        print_memory(&memory);
        let other = TrainOptions { checkpointing: !options.checkpointing, ..options };
        let (_, other_memory) = Trainer::dry_run(&config, &scheduler, &other)?;
        let with = if other.checkpointing { "with" } else { "without" };
        println!("{with} --checkpointing the total is {:.1} MiB", mib(other_memory.total()));
        return Ok(());
    }
    if args.dashboard {
        dashboard::check_terminal()?;
    }
    let device = args.device.open().await?;
    args.precision.warn(&device);
    let run = Run {
        device,
        dataset,
        config,
        scheduler,
        options,
        output: args.output,
        resume: args.resume,
        checkpoint_every: args.checkpoint_every,
        checkpoints_to_keep: args.checkpoints_to_keep,
        sample_every: args.sample_every,
    };
    let stop = stop_on_interrupt(args.dashboard)?;
    let mut progress = None;
    let mut board: Option<anyhow::Result<Dashboard>> = None;
    let outcome = train(&run, &stop, &mut |event| {
        if args.dashboard {
            // not before there is something to show: until then, what is printed is seen
            let start = || Dashboard::start(run.device.name(), run.options.steps, stop.clone());
            match board.get_or_insert_with(start) {
                Ok(board) => board.show(event),
                Err(_) => stop.store(true, Ordering::Relaxed),
            }
        } else {
            show(event, &run.options, &mut progress);
        }
    })
    .await;
    // gives the terminal back before anything is printed
    board.transpose()?;
    let outcome = outcome?;
    if let Some(progress) = &progress {
        progress.finish();
    }
    match outcome {
        Outcome::Finished { checkpoint } => eprintln!("done: {}", checkpoint.display()),
        Outcome::Interrupted { checkpoint, step } => eprintln!(
            "stopped after {step} steps and saved {}; run the same command with --resume to go on",
            checkpoint.display()
        ),
    }
    Ok(())
}

/// The model asked for, or the preset that suits the data.
fn model(args: &Args) -> anyhow::Result<UNetConfig> {
    let name = match (&args.model, args.dataset.as_str()) {
        (Some(name), _) => name.as_str(),
        (None, "digits") => "digits",
        (None, "fashion-mnist") => "fashion",
        (None, _) => "ddpm-cifar10-32",
    };
    super::model::load(name)
}

fn open_dataset(args: &Args, model: &UNetConfig) -> anyhow::Result<Arc<dyn Dataset>> {
    let size = match model.sample_size {
        Some(SampleSize::Square(size)) => Some(size),
        Some(SampleSize::Rectangle([height, width])) if height == width => Some(height),
        Some(SampleSize::Rectangle([height, width])) => {
            bail!("the model takes images of {width}x{height}; only square images can be read")
        }
        None => None,
    };
    let options = OpenOptions {
        channels: Some(model.in_channels),
        image_size: size,
        skip_bad_images: args.skip_bad_images,
        ..args.data.options()
    };
    let dataset: Arc<dyn Dataset> = data::open(&args.dataset, &options)?.into();
    eprintln!("data: {}", describe(dataset.as_ref()));
    if !dataset.skipped().is_empty() {
        eprintln!("skipped {} bad images:", dataset.skipped().len());
        for skipped in dataset.skipped().iter().take(10) {
            eprintln!("  {}: {}", skipped.path.display(), skipped.reason);
        }
    }
    Ok(dataset)
}

/// The model with what the data and the flags say of it: presets take their number of classes from the data.
fn fit(mut config: UNetConfig, dataset: &dyn Dataset, args: &Args) -> anyhow::Result<UNetConfig> {
    let is_preset = args.model.as_ref().is_none_or(|name| Preset::named(name).is_some());
    let classes = dataset.classes().len();
    if args.unconditional {
        config.num_class_embeds = None;
    } else if is_preset {
        config.num_class_embeds = (classes > 0).then_some(classes);
    }
    // A learned variance takes as many output channels again.
    if config.out_channels == config.in_channels {
        config.out_channels = args.process.variance_type.output_channels(config.in_channels);
    }
    if let Some(dropout) = args.dropout {
        config.dropout = dropout;
    }
    Ok(config)
}

fn options(args: &Args) -> anyhow::Result<TrainOptions> {
    let objective = &args.objective;
    Ok(TrainOptions {
        steps: args.steps,
        batch_size: args.batch_size,
        learning_rate: args.learning_rate,
        warmup_steps: args.warmup_steps,
        lr_schedule: args.lr_schedule,
        betas: [args.adam_beta1, args.adam_beta2],
        weight_decay: args.weight_decay,
        max_grad_norm: args.max_grad_norm,
        ema_decay: args.ema_decay,
        random_flip: args.random_flip,
        objective: objective.objective,
        loss_type: objective.loss_type()?,
        loss_weighting: objective.loss_weighting()?,
        learned_schedule: args.process.is_learned(),
        timestep_sampling: objective.timestep_sampler,
        precision: args.precision.precision,
        seed: args.seed,
        checkpointing: args.checkpointing,
    })
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

fn print_memory(memory: &MemoryReport) {
    println!("memory:");
    for (role, &bytes) in &memory.bytes {
        println!("  {:12} {:10.1} MiB", format!("{role:?}").to_lowercase(), mib(bytes));
    }
    println!("  {:12} {:10.1} MiB", "total", mib(memory.total()));
}

/// A flag that Ctrl-C sets; a second Ctrl-C ends the program at once.
fn stop_on_interrupt(dashboard: bool) -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            if dashboard {
                ratatui::restore();
            }
            std::process::exit(130);
        }
        if !dashboard {
            eprintln!("\nfinishing the step and saving; press Ctrl-C again to stop without saving");
        }
    })
    .context("Ctrl-C cannot be handled")?;
    Ok(stop)
}

fn show(event: Event, options: &TrainOptions, progress: &mut Option<Progress>) {
    let bar = progress.get_or_insert_with(|| {
        let first = if let Event::Started { step, .. } = &event { *step } else { 0 };
        Progress::new(first, options.steps)
    });
    match event {
        Event::Started { step, bytes } => {
            let from = if step > 0 { format!(", from step {step}") } else { String::new() };
            bar.line(&format!("training to step {}{from}; {:.0} MiB of buffers", options.steps, mib(bytes)));
        }
        Event::Progress { scalars: Scalars { step, loss, images_per_second, .. }, loss_scale } => {
            let skipped = match loss_scale {
                Some(state) if state.skipped_steps > 0.0 => {
                    format!("  loss scale {}, {} steps skipped", state.scale, state.skipped_steps)
                }
                _ => String::new(),
            };
            bar.set(step, &format!("loss {loss:.4}  {images_per_second:.0} images/s{skipped}"));
        }
        Event::Checkpoint(path) => bar.line(&format!("saved {}", path.display())),
        Event::Samples { path, .. } => bar.line(&format!("drew {}", path.display())),
    }
}
