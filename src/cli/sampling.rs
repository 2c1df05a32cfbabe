//! What the commands that draw images share: the model, guidance, and the files they write.

use std::path::PathBuf;

use anyhow::Context;
use ddpm_gpu::conditions::Conditions;
use ddpm_gpu::device::Device;
use ddpm_gpu::diffusion::{LevelSpacing, Respacing, SchedulerConfig, TimestepSpacing};
use ddpm_gpu::network::Network;
use ddpm_gpu::pipeline::Pipeline;
use ddpm_gpu::sample::{Guidance, Images, SampleProgress, SampleRequest};
use ddpm_gpu::sampler::{self, Clip, Sampler, SamplerOptions, TOLERANCES};

use super::bounds::{MOST, MOST_SCALE, above, above_up_to, count_in, count_u64_in, finite_in};
use super::checkpoint::{CheckpointArgs, load_classifier};
use super::condition_image::{ConditionImageArgs, condition};
use super::images::{check_outputs, write_floats, write_grid};
use super::progress::Progress;
use super::{DeviceArgs, PrecisionArgs, parse_list};

/// What steers towards a class.
#[derive(clap::Args)]
pub(super) struct GuidanceArgs {
    /// Scale of classifier-free guidance, as diffusers counts it: 1 is none (the paper's w is one less); 2 to 5 are
    /// usual. The model must have been trained with --label-dropout
    #[arg(long, default_value_t = 1.0, value_name = "W", value_parser = finite_in(0.0..=MOST_SCALE))]
    guidance_scale: f64,
    /// The class that means "no class", for a model of others that was trained with one: classifier-free guidance leads
    /// away from it. Models that --label-dropout trained say so themselves
    #[arg(long, value_name = "K")]
    null_class: Option<u32>,
    /// How far to bring the guided output back to the standard deviation of the unguided one, from 0 to 1: against
    /// overexposure at large scales (Lin et al. 2023)
    #[arg(long, default_value_t = 0.0, value_name = "PHI", value_parser = finite_in(0.0..=1.0))]
    guidance_rescale: f64,
    /// Also guide by the gradient of a classifier of `train-classifier`
    #[arg(long, value_name = "DIR")]
    classifier: Option<PathBuf>,
    /// Factor of the classifier's gradient; by default 1
    #[arg(long, value_name = "S", requires = "classifier", value_parser = finite_in(-MOST_SCALE..=MOST_SCALE))]
    classifier_scale: Option<f64>,
}

impl GuidanceArgs {
    /// The model, told which class means none.
    pub(super) fn told(&self, pipeline: Pipeline) -> anyhow::Result<Pipeline> {
        told_null_class(pipeline, self.null_class)
    }

    /// The guidance asked for.
    pub(super) fn guidance(&self) -> anyhow::Result<Guidance> {
        let classifier = match &self.classifier {
            Some(folder) => Some((load_classifier(folder)?, self.classifier_scale.unwrap_or(1.0))),
            None => None,
        };
        Ok(Guidance { scale: self.guidance_scale, rescale: self.guidance_rescale, classifier })
    }
}

/// The model, told which class means none where the user says it.
pub(super) fn told_null_class(pipeline: Pipeline, none: Option<u32>) -> anyhow::Result<Pipeline> {
    match none {
        Some(none) => Ok(pipeline.with_null_class(none).context("--null-class")?),
        None => Ok(pipeline),
    }
}

/// The sampler of that name; without one, that of the model's scheduler config. What the config decides is printed.
pub(super) fn sampler_or_default(
    name: Option<&str>,
    pipeline: &Pipeline,
) -> anyhow::Result<&'static Sampler> {
    let config = &pipeline.scheduler;
    let own = sampler::of(config)?;
    let sampler = name.map_or(Ok(own), sampler::by_name)?;
    let choices = match config.choices() {
        choices if choices.is_empty() => String::new(),
        choices => format!(" with {}", choices.join(", ")),
    };
    let class = &config.class_name;
    match name {
        None => eprintln!(
            "the sampler is {}, for the model's scheduler is a {class}{choices}; --sampler chooses another",
            sampler.name
        ),
        Some(_) if sampler == own && !choices.is_empty() => {
            eprintln!("the sampler {} is that of the model's scheduler, a {class}{choices}", sampler.name);
        }
        Some(_) => {}
    }
    Ok(sampler)
}

/// What may be chosen about a sampler beside its steps.
#[derive(clap::Args, PartialEq, Default)]
pub(super) struct SamplerArgs {
    /// How the steps are spaced: leading, trailing or linspace, as in diffusers; by default as the model's scheduler
    /// config says
    #[arg(long, value_name = "NAME")]
    timestep_spacing: Option<TimestepSpacing>,
    /// The order of the dpm samplers, deis and unipc, from 1 to 3; by default as the model's scheduler config says,
    /// else 2
    #[arg(long, value_name = "N", value_parser = count_in(1..=3))]
    solver_order: Option<usize>,
    /// Where the levels of noise lie between the first and the last: timesteps, karras, exponential, lu or beta, as
    /// diffusers' use_karras_sigmas and so on; by default as the model's scheduler config says, else karras for euler
    /// and heun and timesteps for the others
    #[arg(long, value_name = "NAME")]
    noise_levels: Option<LevelSpacing>,
    /// Noise of ddim, from 0 for none to 1 for as much as ddpm adds
    #[arg(long, value_name = "X", value_parser = finite_in(0.0..=1.0))]
    eta: Option<f64>,
    /// Error that ode allows in a step, absolute and relative; 1e-5 by default. Those of all steps add up
    #[arg(long, value_name = "X", value_parser = finite_in(TOLERANCES))]
    tolerance: Option<f64>,
    /// Langevin steps that pc takes before each other step; 1 by default
    #[arg(long, value_name = "N", value_parser = count_in(0..=MOST_CORRECTIONS))]
    corrector_steps: Option<usize>,
    /// Signal-to-noise ratio of these steps; 0.16 by default
    #[arg(long, value_name = "X", value_parser = finite_in(above(0.0)))]
    snr: Option<f64>,
    /// Add noise in the last step of ddpm and pc too, where trailing spacing or a steps_offset let it begin at a
    /// timestep other than 0: as diffusers does, at the image's cost
    #[arg(long)]
    noise_in_last_step: bool,
    /// Clamp estimates of x_0 to -R..R, 1 if R is left out; by default as the model's scheduler config says
    #[arg(long, value_name = "R", num_args = 0..=1, default_missing_value = "1")]
    #[arg(value_parser = finite_in(above_up_to(0.0, MOST_SCALE)))]
    clip_sample: Option<f64>,
    /// Leave estimates of x_0 as they are
    #[arg(long, conflicts_with_all = ["clip_sample", "dynamic_thresholding"])]
    no_clip_sample: bool,
    /// Clamp estimates of x_0 to the quantile P of each image's absolute values, such as 0.995, and scale them back to
    /// -1..1 (Saharia et al. 2022)
    #[arg(long, value_name = "P", conflicts_with = "clip_sample", value_parser = finite_in(above_up_to(0.0, 1.0)))]
    dynamic_thresholding: Option<f64>,
}

impl SamplerArgs {
    /// The options, of a model with this scheduler config.
    pub(super) fn options(&self, config: &SchedulerConfig, steps: Option<Respacing>) -> SamplerOptions {
        let defaults = SamplerOptions::new(config);
        let clip = match (self.clip_sample, self.no_clip_sample, self.dynamic_thresholding) {
            (Some(limit), ..) => Clip::Clamp(limit),
            (_, true, _) => Clip::None,
            (.., Some(ratio)) => Clip::Dynamic { ratio, max: f64::from(f32::MAX) },
            (None, false, None) => defaults.clip,
        };
        SamplerOptions {
            steps,
            spacing: self.timestep_spacing,
            solver_order: self.solver_order,
            noise_levels: self.noise_levels,
            eta: self.eta,
            tolerance: self.tolerance,
            corrector_steps: self.corrector_steps,
            snr: self.snr,
            noise_in_last_step: self.noise_in_last_step,
            clip,
            ..defaults
        }
    }
}

/// Most Langevin steps before a step of `pc`.
const MOST_CORRECTIONS: usize = 1000;

/// A class for each image, all of the network's equally often, or all of so many that a guiding classifier tells.
pub(super) fn classes_in_turn(network: &dyn Network, told: usize, images: usize) -> Vec<u32> {
    let of_classifier = || (0..images).map(|image| (image * told / images) as u32).collect();
    network.classes_in_turn(images).unwrap_or_else(of_classifier)
}

/// Steps where the user says nothing.
const STEPS: usize = 50;

/// The model and how it draws, for commands that start from given images or noise.
#[derive(clap::Args)]
pub(super) struct SamplingArgs {
    #[command(flatten)]
    model: CheckpointArgs,
    /// PNG grid of the images
    #[arg(long, value_name = "FILE.png")]
    output: PathBuf,
    /// Number of steps; by default 50, or all timesteps of a model that has fewer
    #[arg(long, value_name = "N", value_parser = count_in(1..=MOST))]
    steps: Option<usize>,
    /// Decides all noise
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = count_u64_in(0..=u64::MAX))]
    pub(super) seed: u64,
    /// Class of all images; or one class for each image, separated by commas. By default none, where the model has a
    /// class for that
    #[arg(long, value_name = "K,...", alias = "class-labels")]
    class_label: Option<String>,
    #[command(flatten)]
    condition_image: ConditionImageArgs,
    #[command(flatten)]
    guidance: GuidanceArgs,
    /// Images denoised together
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = count_in(1..=MOST))]
    batch_size: usize,
    /// Images in a row of the grid
    #[arg(long, value_name = "N", value_parser = count_in(1..=MOST))]
    columns: Option<usize>,
    /// Also write the images as floats [N, C, H, W], unclipped
    #[arg(long, value_name = "FILE.npy")]
    save_npy: Option<PathBuf>,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

impl SamplingArgs {
    /// The model.
    pub(super) fn load(&self) -> anyhow::Result<Pipeline> {
        self.guidance.told(self.model.load()?)
    }

    /// Channels of the model's images, and their height and width.
    pub(super) fn image_form(&self, pipeline: &Pipeline) -> anyhow::Result<(usize, [usize; 2])> {
        let [height, width, channels] = pipeline.denoiser()?.network.image()?;
        Ok((channels, [height, width]))
    }

    /// What the library is asked for.
    pub(super) fn request(
        &self,
        pipeline: &Pipeline,
        sampler: &'static Sampler,
        num_images: usize,
    ) -> anyhow::Result<SampleRequest> {
        SampleRequest::check_memory(pipeline, num_images, 0)?;
        let labels: Option<Vec<u32>> =
            self.class_label.as_deref().map(|text| parse_list("--class-label", text)).transpose()?;
        let class_labels = match labels {
            Some(labels) if labels.len() == 1 => Some(vec![labels[0]; num_images]),
            Some(labels) => Some(labels),
            None => pipeline.denoiser()?.network.null_class().map(|none| vec![none; num_images]),
        };
        let images = self.condition_image.read(pipeline.denoiser()?.network.as_ref(), Some(num_images))?;
        let options = SamplerOptions {
            steps: Some(Respacing::Steps(
                self.steps.unwrap_or(STEPS.min(pipeline.scheduler.num_train_timesteps)),
            )),
            ..SamplerOptions::new(&pipeline.scheduler)
        };
        let request = SampleRequest {
            num_images,
            options,
            conditions: Conditions::of_classes(class_labels).and(condition(images, num_images)?),
            seed: self.seed,
            batch_size: self.batch_size,
            precision: self.precision.precision,
            guidance: self.guidance.guidance()?,
            ..SampleRequest::new(sampler, &pipeline.scheduler)
        };
        request.check(pipeline)?;
        Ok(request)
    }

    /// Opens the device, after a look at what is to be written.
    pub(super) async fn open(&self) -> anyhow::Result<Device> {
        check_outputs([Some(&self.output), self.save_npy.as_ref()])?;
        let device = self.device.open().await?;
        self.precision.warn(&device);
        Ok(device)
    }

    /// Writes the grid, in rows of `columns` unless the user says otherwise, and the floats.
    pub(super) fn write(&self, images: &Images, columns: Option<usize>) -> anyhow::Result<()> {
        write_grid(&self.output, images, self.columns.or(columns))?;
        match &self.save_npy {
            Some(path) => write_floats(path, images),
            None => Ok(()),
        }
    }
}

/// Says what to warn of in a sampler's choices that are no error.
pub(super) fn warn_of(request: &SampleRequest, pipeline: &Pipeline) -> anyhow::Result<()> {
    if let Some(warning) = request.sampler.warning(&pipeline.scheduler, &request.options)? {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

/// A progress bar for sampling.
#[derive(Default)]
pub(super) struct SamplingProgress(Option<Progress>);

impl SamplingProgress {
    /// Shows how far it is.
    pub(super) fn show(&mut self, state: SampleProgress) {
        self.0.get_or_insert_with(|| Progress::new(0, state.total as u64)).set(state.done as u64, "");
    }

    /// Ends the bar.
    pub(super) fn finish(&self) {
        if let Some(progress) = &self.0 {
            progress.finish();
        }
    }
}
