//! What `train` and `train-classifier` share: data, settings, and the run on the terminal.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use ddpm_gpu::checkpoint::newest;
use ddpm_gpu::data::{self, DataError, Dataset, OpenOptions, Split};
use ddpm_gpu::device::Device;
use ddpm_gpu::files::read_regular_text;
use ddpm_gpu::image_size::LARGEST_SIDE;
use ddpm_gpu::log::Scalars;
use ddpm_gpu::network::{Preset, SampleSize, UNetConfig};
use ddpm_gpu::train::{
    CheckpointEvery, EmaWarmup, Event, LrSchedule, OptimizerKind, Outcome, SETTINGS_FILE, TrainError,
    TrainOptions,
};

use super::bounds::{
    MOST, MOST_STEPS, above_up_to, count_in, count_u64_in, finite_f32_in, finite_in, parse_image_size,
};
use super::config::{self, ConfigArgs};
use super::dashboard::{self, Dashboard};
use super::dataset::{DatasetArgs, describe, describe_passed_over, doubts};
use super::origin::{Origin, OriginArgs};
use super::progress::Progress;
use super::table::mib;
use super::{DeviceArgs, PrecisionArgs, model, one_of};

/// The images and the model.
#[derive(clap::Args)]
pub(super) struct DataArgs {
    /// What to train on: digits (in the program), fashion-mnist, cifar10; a folder of images (PNG, JPEG, WebP, GIF,
    /// BMP, TIFF, Netpbm), with a subfolder for each class or without; a .npy or .npz file; a WebDataset tar file or a
    /// folder of them. `ddpm-gpu data` shows what is seen in it
    #[arg(long, value_name = "NAME|PATH")]
    pub(super) dataset: String,
    /// Preset (digits, fashion, emoji, ddpm-cifar10-32) or a config.json of a diffusers UNet2DModel; by default the
    /// model of --init-from, or the preset that suits the data set
    #[arg(long, value_name = "PRESET|FILE")]
    pub(super) model: Option<String>,
    /// Size of the images: WIDTHxHEIGHT, such as 64x32, or one number for a square; overrides the model's
    /// sample_size, which in a config.json is [height, width]
    #[arg(long, value_name = "N|WxH", value_parser = parse_image_size)]
    pub(super) image_size: Option<SampleSize>,
    #[command(flatten)]
    pub(super) files: DatasetArgs,
    /// Leave out images that cannot be read, and count them
    #[arg(long)]
    pub(super) skip_bad_images: bool,
}

/// The settings of a run.
#[derive(clap::Args)]
pub(super) struct TrainingArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// Steps in all, those before a resume included
    #[arg(long, default_value_t = TrainOptions::default().steps, value_name = "N")]
    #[arg(value_parser = count_u64_in(1..=MOST_STEPS))]
    pub(super) steps: u64,
    /// Images in a step
    #[arg(long, default_value_t = TrainOptions::default().batch_size, value_name = "N")]
    #[arg(value_parser = count_in(1..=MOST))]
    pub(super) batch_size: usize,
    /// Images that are on the device at once, of which --batch-size is a multiple: less memory, the same steps but for
    /// rounding. By default all
    #[arg(long, value_name = "N", value_parser = count_in(1..=MOST))]
    pub(super) micro_batch_size: Option<usize>,
    /// How weights follow gradients: adamw; or adam, whose weight decay is a part of the gradient
    #[arg(long, default_value = "adamw", value_name = "NAME", value_parser = parse_optimizer)]
    pub(super) optimizer: OptimizerKind,
    /// Learning rate
    #[arg(long, default_value_t = TrainOptions::default().learning_rate, value_name = "X")]
    #[arg(value_parser = finite_in(above_up_to(0.0, 1e30)))]
    pub(super) learning_rate: f64,
    /// Steps over which the learning rate grows from 0
    #[arg(long, default_value_t = TrainOptions::default().warmup_steps, value_name = "N")]
    #[arg(value_parser = count_u64_in(0..=MOST_STEPS))]
    pub(super) warmup_steps: u64,
    /// What the learning rate does after that: constant; cosine or linear: fall to 0 at the last step
    #[arg(long, default_value = "constant", value_name = "NAME", value_parser = parse_lr_schedule)]
    pub(super) lr_schedule: LrSchedule,
    /// Decay of the first moment
    #[arg(long, default_value_t = TrainOptions::default().betas[0], value_name = "X")]
    #[arg(value_parser = finite_f32_in(0.0..1.0))]
    pub(super) adam_beta1: f32,
    /// Decay of the second moment
    #[arg(long, default_value_t = TrainOptions::default().betas[1], value_name = "X")]
    #[arg(value_parser = finite_f32_in(0.0..1.0))]
    pub(super) adam_beta2: f32,
    /// Weight decay
    #[arg(long, default_value_t = TrainOptions::default().weight_decay, value_name = "X")]
    #[arg(value_parser = finite_f32_in(0.0..=1e9))]
    pub(super) weight_decay: f32,
    /// Largest norm of all gradients; 0 for no clip
    #[arg(long, default_value_t = TrainOptions::default().max_grad_norm, value_name = "X")]
    #[arg(value_parser = finite_f32_in(0.0..=1e9))]
    pub(super) max_grad_norm: f32,
    /// Largest decay of the moving average of the weights, which is what samples are drawn with. Or several, separated
    /// by commas: averages of all of them are kept in every checkpoint, and sample --ema-decay X chooses one
    /// afterwards; the first is the one taken by default
    #[arg(long, default_values_t = [TrainOptions::default().ema_decay], value_delimiter = ',', value_name = "X,...")]
    #[arg(value_parser = finite_in(0.0..1.0))]
    pub(super) ema_decay: Vec<f64>,
    /// What the decay grows by from the first step on, up to --ema-decay: ratio, (1 + step) / (10 + step); or power, as
    /// diffusers' use_ema_warmup, 1 - (1 + step / G)^-P
    #[arg(long, default_value = "ratio", value_name = "NAME", value_parser = ["ratio", "power"])]
    pub(super) ema_warmup: String,
    /// P of --ema-warmup power: 2/3 suits a million steps and more, 3/4 fewer
    #[arg(long, default_value_t = 2.0 / 3.0, value_name = "P", value_parser = finite_in(above_up_to(0.0, 100.0)))]
    pub(super) ema_power: f64,
    /// G of --ema-warmup power
    #[arg(long, default_value_t = 1.0, value_name = "G", value_parser = finite_in(above_up_to(0.0, 1e9)))]
    pub(super) ema_inv_gamma: f64,
    /// Mirror images at random
    #[arg(long)]
    pub(super) random_flip: bool,
    /// Shift images at random by up to so many pixels in each direction; what comes in repeats the edge. The model
    /// learns to draw shifted images too
    #[arg(long, default_value_t = 0, value_name = "PIXELS", value_parser = count_in(0..=LARGEST_SIDE))]
    pub(super) random_shift: usize,
    /// Decides initial weights, order of the data, timesteps, noise and all dropout
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = count_u64_in(0..=u64::MAX))]
    pub(super) seed: u64,
    /// Keep only what enters residual and attention blocks, and compute the rest again in the backward pass: less than
    /// half the activations for about a sixth more time, and the same weights to the bit
    #[arg(long)]
    pub(super) checkpointing: bool,
    #[command(flatten)]
    pub(super) origin: OriginArgs,
    /// Leave parameters as they are whose names in the file match: * stands for any text, as in 'down_blocks.*' or
    /// '*.norm?.*'. May be given several times. No gradients are computed below the lowest layer that is trained
    #[arg(long, value_name = "PATTERN")]
    pub(super) freeze: Vec<String>,
    /// Go on from the newest checkpoint in the output folder; without one a new run is started
    #[arg(long)]
    pub(super) resume: bool,
    /// Steps between checkpoints, or time: 500, 90s, 10m, 2h; one is also written at the end
    #[arg(long, default_value_t = CheckpointEvery::Steps(1000), value_name = "N|TIME")]
    pub(super) checkpoint_every: CheckpointEvery,
    /// How many of the newest checkpoints to keep
    #[arg(long, default_value = "3", value_name = "N", value_parser = parse_to_keep)]
    pub(super) checkpoints_to_keep: usize,
    /// Show the loss curve, speed, memory and the newest samples on the whole terminal
    #[arg(long)]
    pub(super) dashboard: bool,
    #[command(flatten)]
    pub(super) precision: PrecisionArgs,
}

fn parse_optimizer(name: &str) -> Result<OptimizerKind, String> {
    one_of("optimizers", &OptimizerKind::ALL, name)
}

fn parse_to_keep(text: &str) -> Result<usize, String> {
    let parsed = text.parse().ok().filter(|&keep| keep > 0);
    parsed.ok_or_else(|| "give a number of at least 1: a run goes on from its newest checkpoint".to_owned())
}

fn parse_lr_schedule(name: &str) -> Result<LrSchedule, String> {
    one_of("schedules", &LrSchedule::ALL, name)
}

/// Says what a data set holds, and what of it is left out.
pub(super) fn report(what: &str, dataset: &dyn Dataset) {
    eprintln!("{what}: {}", describe(dataset));
    doubts(dataset).iter().for_each(|text| eprintln!("{text}"));
    if let Some(text) = describe_passed_over(dataset.passed_over()) {
        eprintln!("{text}");
    }
    if !dataset.skipped().is_empty() {
        eprintln!("skipped {} bad images:", dataset.skipped().len());
        for skipped in dataset.skipped().iter().take(10) {
            eprintln!("  {}: {}", skipped.path.display(), skipped.reason);
        }
    }
}

impl DataArgs {
    /// The model asked for, or that of `origin`, or the preset that suits the data.
    pub(super) fn model(&self, origin: Option<&Origin>) -> anyhow::Result<UNetConfig> {
        let mut model = match (&self.model, origin) {
            (None, Some(origin)) => origin.config()?,
            _ => self.named_model()?,
        };
        if let Some(size) = self.image_size {
            model.sample_size = Some(SampleSize::of(size.sides()));
        }
        Ok(model)
    }

    fn named_model(&self) -> anyhow::Result<UNetConfig> {
        model::load(match (&self.model, self.dataset.as_str()) {
            (Some(name), _) => name.as_str(),
            (None, "digits") => "digits",
            (None, "fashion-mnist") => "fashion",
            (None, _) => "ddpm-cifar10-32",
        })
    }

    /// Whether the model has as many classes as the data: a configuration file says how many it has, and a preset or
    /// the model that a run starts from does not.
    pub(super) fn classes_are_those_of_data(&self) -> bool {
        self.model.as_ref().is_none_or(|name| Preset::named(name).is_some())
    }

    /// The images, of the shape that the model takes.
    pub(super) fn open(&self, model: &UNetConfig) -> anyhow::Result<Arc<dyn Dataset>> {
        let dataset: Arc<dyn Dataset> =
            data::open(&self.dataset, &self.open_options(model, Split::Train))?.into();
        report("data", dataset.as_ref());
        Ok(dataset)
    }

    /// The images held out from training, where the data set has any; says why there are none where they cannot be
    /// read.
    pub(super) fn open_held_out(&self, model: &UNetConfig) -> anyhow::Result<Option<Arc<dyn Dataset>>> {
        Ok(match data::open(&self.dataset, &self.open_options(model, Split::Test)) {
            Ok(dataset) => Some(dataset.into()),
            Err(DataError::NoSplit { .. }) => None,
            Err(error) => {
                eprintln!("note: no held-out images, so accuracy is that on the training images: {error}");
                None
            }
        })
    }

    fn open_options(&self, model: &UNetConfig, split: Split) -> OpenOptions {
        OpenOptions {
            channels: Some(model.image_channels()),
            image_size: model.sample_size.map(SampleSize::sides),
            skip_bad_images: self.skip_bad_images,
            split,
            ..self.files.options()
        }
    }
}

impl TrainingArgs {
    /// Opens the device of a run, and says what a user should know of it.
    pub(super) async fn open(&self, device: &DeviceArgs) -> anyhow::Result<Device> {
        if self.dashboard {
            dashboard::check_terminal()?;
        }
        let device = device.open().await?;
        self.precision.warn(&device);
        Ok(device)
    }

    /// Says whether there is a run to go on with in `output`, and which settings are others than those that it was
    /// started with.
    pub(super) fn report_resumption(&self, output: &Path, settings: Option<&str>) -> anyhow::Result<()> {
        if !self.resume {
            return Ok(());
        }
        if newest(output)?.is_none() {
            eprintln!("{}: there is no checkpoint to resume, so a new run is started", output.display());
            return Ok(());
        }
        let then = read_regular_text(&output.join(SETTINGS_FILE)).ok();
        if let (Some(then), Some(now)) = (then, settings) {
            for change in config::changes(&then, now) {
                eprintln!("changed since the run was started: {change}");
            }
        }
        Ok(())
    }

    /// The settings as the library takes them.
    pub(super) fn options(&self) -> TrainOptions {
        TrainOptions {
            steps: self.steps,
            batch_size: self.batch_size,
            micro_batch_size: self.micro_batch_size,
            optimizer: self.optimizer,
            learning_rate: self.learning_rate,
            warmup_steps: self.warmup_steps,
            lr_schedule: self.lr_schedule,
            betas: [self.adam_beta1, self.adam_beta2],
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
            ema_decay: self.ema_decay[0],
            extra_ema_decays: self.ema_decay[1..].to_vec(),
            ema_warmup: match self.ema_warmup.as_str() {
                "power" => EmaWarmup::Power { inv_gamma: self.ema_inv_gamma, power: self.ema_power },
                _ => EmaWarmup::Ratio,
            },
            random_flip: self.random_flip,
            random_shift: self.random_shift,
            precision: self.precision.precision,
            seed: self.seed,
            checkpointing: self.checkpointing,
            freeze: self.freeze.clone(),
            init_from: self.origin.name(),
            ..TrainOptions::default()
        }
    }
}

/// A run on the terminal: progress or the dashboard, and Ctrl-C.
pub(super) struct Watch {
    /// Becomes true when the user asks the run to stop.
    pub(super) stop: Arc<AtomicBool>,
    /// Name of the subcommand.
    command: &'static str,
    steps: u64,
    progress: Option<Progress>,
    /// Where the dashboard is to run: the name of the device.
    device: Option<String>,
    board: Option<anyhow::Result<Dashboard>>,
}

impl Watch {
    /// Watches over a run on `device`.
    pub(super) fn new(command: &'static str, args: &TrainingArgs, device: &str) -> anyhow::Result<Self> {
        Ok(Self {
            stop: stop_on_interrupt(args.dashboard)?,
            command,
            steps: args.steps,
            progress: None,
            device: args.dashboard.then(|| device.to_owned()),
            board: None,
        })
    }

    /// Says how the run ended.
    pub(super) fn finish(self, outcome: Result<Outcome, TrainError>) -> anyhow::Result<()> {
        // gives the terminal back before anything is printed
        self.board.transpose()?;
        let outcome = outcome?;
        if let Some(progress) = &self.progress {
            progress.finish();
        }
        match outcome {
            Outcome::Finished { checkpoint } => eprintln!("done: {}", checkpoint.display()),
            Outcome::Interrupted { checkpoint, step } => {
                eprintln!("stopped after {step} steps and saved {}; to go on:", checkpoint.display());
                let settings = checkpoint.with_file_name(SETTINGS_FILE).display().to_string();
                let quote = if settings.contains(char::is_whitespace) { "'" } else { "" };
                eprintln!("  ddpm-gpu {} --config {quote}{settings}{quote} --resume", self.command);
            }
        }
        Ok(())
    }

    /// Shows what happened.
    pub(super) fn show(&mut self, event: Event) {
        if let Some(device) = &self.device {
            // not before there is something to show: until then, what is printed is seen
            let start = || Dashboard::start(device.clone(), self.steps, self.stop.clone());
            match self.board.get_or_insert_with(start) {
                Ok(board) => board.show(event),
                Err(_) => self.stop.store(true, Ordering::Relaxed),
            }
            return;
        }
        let bar = self.progress.get_or_insert_with(|| {
            let first = if let Event::Started { step, .. } = &event { *step } else { 0 };
            Progress::new(first, self.steps)
        });
        match event {
            Event::Started { step, bytes, trained, fixed } => {
                let from = if step > 0 { format!(", from step {step}") } else { String::new() };
                if fixed > 0 {
                    bar.line(&format!(
                        "{trained} of {} parameters are trained, {fixed} are frozen",
                        trained + fixed
                    ));
                }
                bar.line(&format!("training to step {}{from}; {} of buffers", self.steps, mib(bytes)));
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
            Event::Warning(text) => bar.line(&format!("warning: {text}")),
            Event::Checkpoint(path) => bar.line(&format!("saved {}", path.display())),
            Event::Samples { path, .. } => bar.line(&format!("drew {}", path.display())),
            Event::Accuracy { quartiles, is_held_out } => bar.line(&accuracy(quartiles, is_held_out)),
        }
    }
}

/// A classifier's accuracy in a line.
pub(super) fn accuracy(quartiles: [f64; 4], is_held_out: bool) -> String {
    let shares = quartiles.map(|share| format!("{:.1}%", 100.0 * share)).join(", ");
    let images = if is_held_out { "held-out" } else { "training" };
    format!("accuracy on {images} images, by quarter of the timesteps from the least noisy: {shares}")
}

/// A flag that Ctrl-C sets, or a request to end from a service manager; a second one ends the program at once.
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
