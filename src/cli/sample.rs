//! `ddpm-gpu sample`

use std::path::PathBuf;

use anyhow::{Context, bail};
use ddpm_gpu::conditions::{CLASS_LABELS, CONDITION_IMAGE, Conditions};
use ddpm_gpu::diffusion::{MOST_TIMESTEPS, Respacing};
use ddpm_gpu::image_size::image_in_words;
use ddpm_gpu::output::{
    FrameTimes, Grid, GridOptions, columns_for, nhwc_to_nchw, tile, write_animation, write_npy,
};
use ddpm_gpu::pipeline::Pipeline;
use ddpm_gpu::sample::{Guidance, Images, LowResolution, SampleRequest, sample};
use ddpm_gpu::sampler::{self, SamplerOptions};

use super::bounds::{MOST, MOST_IMAGES, count_in, count_u64_in};
use super::checkpoint::{CheckpointArgs, load_model};
use super::condition_image::{ConditionImageArgs, condition};
use super::images::{SOURCES, check_outputs, read_floats, read_images, wrote_grid};
use super::sampling::{
    GuidanceArgs, SamplerArgs, SamplingProgress, classes_in_turn, sampler_or_default, warn_of,
};
use super::{DeviceArgs, PrecisionArgs, parse_list};

/// Draw images with a trained model
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: CheckpointArgs,
    /// PNG grid of the images
    #[arg(long, value_name = "FILE.png")]
    output: PathBuf,
    /// Number of images; by default 16, or 8 for each class
    #[arg(long, value_name = "N", value_parser = count_in(1..=MOST_IMAGES))]
    num_images: Option<usize>,
    /// Images in a row of the grid
    #[arg(long, value_name = "N", value_parser = count_in(1..=MOST))]
    columns: Option<usize>,
    #[arg(long, value_name = "NAME", help = sampler_help())]
    sampler: Option<String>,
    /// Number of steps; or which timesteps, as in improved-diffusion: ddimN, or the steps in each of equal sections. By
    /// default all timesteps for ddpm, 250 for pc, 50 or fewer for others
    #[arg(long, value_name = "N|ddimN|A,B,C")]
    steps: Option<Respacing>,
    #[command(flatten)]
    options: SamplerArgs,
    /// Decides all noise; image i is the same however many are drawn, up to rounding
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = count_u64_in(0..=u64::MAX))]
    seed: u64,
    /// Class of all images; or one class for each image, separated by commas. By default all classes take equal turns
    #[arg(long, value_name = "K,...", alias = "class-labels")]
    class_label: Option<String>,
    /// Images denoised together
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = count_in(1..=MOST))]
    batch_size: usize,
    #[command(flatten)]
    guidance: GuidanceArgs,
    #[arg(long, value_name = "IMAGES", help = format!(
        "The images that a super-resolution model is to enlarge: {SOURCES}"
    ))]
    low_resolution: Option<String>,
    #[command(flatten)]
    condition_image: ConditionImageArgs,
    /// Enlarge what is drawn with this super-resolution model; may be given several times, from small to large. The
    /// images keep their classes, and guidance does not reach these models
    #[arg(long, value_name = "DIR", conflicts_with_all = ["low_resolution", "animate"])]
    then: Vec<PathBuf>,
    /// Steps of noise on the images to be enlarged; by default none on those of --low-resolution, and with --then half
    /// of what the model was trained with
    #[arg(long, value_name = "N", value_parser = count_in(0..=MOST_TIMESTEPS))]
    noise_augmentation: Option<usize>,
    /// Start from this x_T, floats [N, C, H, W], rather than from drawn noise; with ddim_inverse, from these images
    #[arg(long, value_name = "x_T.npy")]
    init_noise: Option<PathBuf>,
    /// Also write the images as floats [N, C, H, W], unclipped
    #[arg(long, value_name = "FILE.npy")]
    save_npy: Option<PathBuf>,
    /// Also write the reverse process as an animated PNG
    #[arg(long, value_name = "FILE.png")]
    animate: Option<PathBuf>,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

fn sampler_help() -> String {
    format!(
        "How to sample; by default as the class and the keys of the model's scheduler config say, which is ddim for the \
         DDPMScheduler that training writes:\n{}\n",
        sampler::help()
    )
}

/// Frames of an animation: more make large files and show no more.
const FRAMES: usize = 40;

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let pipeline = args.guidance.told(args.model.load()?)?;
    let request = request(&args, &pipeline)?;
    // Wrong options are found before a device is opened or a file is written.
    request.check(&pipeline)?;
    warn_of(&request, &pipeline)?;
    let mut stages = stages(&args, &pipeline, &request)?;
    check_outputs([Some(&args.output), args.save_npy.as_ref(), args.animate.as_ref()])?;
    let device = args.device.open().await?;
    args.precision.warn(&device);
    let mut progress = SamplingProgress::default();
    let mut sampled = sample(&device, &pipeline, &request, &mut |state| progress.show(state)).await?;
    progress.finish();
    for (model, request) in &mut stages {
        let mut progress = SamplingProgress::default();
        if let Some(low) = &mut request.low_resolution {
            low.images = sampled.images;
        }
        sampled = sample(&device, model, request, &mut |state| progress.show(state)).await?;
        progress.finish();
    }
    let channels = sampled.images.shape[3];
    let per_class = request.conditions.class_labels().is_some() && args.class_label.is_none();
    let classes = pipeline.denoiser()?.network.num_classes().unwrap_or(1);
    let columns = args
        .columns
        .or_else(|| per_class.then(|| columns_for(request.num_images.div_ceil(classes), channels)));
    let grid = |images: &Images| -> anyhow::Result<Grid> {
        Ok(tile(&images.data, images.shape, &GridOptions { columns, ..GridOptions::default() })?)
    };
    grid(&sampled.images)?.write_png(&args.output)?;
    wrote_grid(&args.output, channels);
    if let Some(path) = &args.save_npy {
        let [n, h, w, c] = sampled.images.shape;
        write_npy(path, [n, c, h, w], &nhwc_to_nchw(&sampled.images.data, sampled.images.shape))?;
        eprintln!("wrote {}", path.display());
    }
    if let Some(path) = &args.animate {
        let frames = sampled.frames.iter().map(grid).collect::<anyhow::Result<Vec<Grid>>>()?;
        write_animation(path, &frames, FrameTimes::default())?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}

fn request(args: &Args, pipeline: &Pipeline) -> anyhow::Result<SampleRequest> {
    let sampler = sampler_or_default(args.sampler.as_deref(), pipeline)?;
    let network = &pipeline.denoiser()?.network;
    let [height, width, channels] = network.image()?;
    let size = [height, width];
    let init_noise = match &args.init_noise {
        None => None,
        // A sampler that leads from images to noise starts from images.
        Some(path) if sampler.inverts => {
            let limit = args.num_images.unwrap_or(usize::MAX);
            let source = path.to_str().context("--init-noise: the path is not UTF-8; rename the file")?;
            Some(read_images(source, Some(channels), Some(size), limit)?)
        }
        Some(path) => Some(read_floats(path)?),
    };
    let labels: Option<Vec<u32>> =
        args.class_label.as_deref().map(|text| parse_list("--class-label", text)).transpose()?;
    let guidance = args.guidance.guidance()?;
    let low_resolution = low_resolution(args, pipeline)?;
    let condition_images = args.condition_image.read(network.as_ref(), args.num_images)?;
    // The classes of an unconditional model are those of the classifier that guides it.
    let classes = match (&guidance.classifier, &low_resolution) {
        (Some((classifier, _)), None) => Some(classifier.classifier()?.network.classes_told()?),
        _ => network.num_classes(),
    };
    let default_images = match (&init_noise, &labels, classes) {
        _ if low_resolution.is_some() => low_resolution.as_ref().map_or(0, |low| low.images.shape[0]),
        (Some(noise), ..) => noise.shape[0],
        _ if condition_images.as_ref().is_some_and(|images| images.shape[0] > 1) => {
            condition_images.as_ref().map_or(0, |images| images.shape[0])
        }
        (None, Some(labels), _) if labels.len() > 1 => labels.len(),
        (None, None, Some(classes)) => 8 * classes,
        _ => 16,
    };
    let num_images = args.num_images.unwrap_or(default_images);
    let frames = if args.animate.is_some() { FRAMES } else { 0 };
    SampleRequest::check_memory(pipeline, num_images, frames)?;
    let class_labels = match (labels, classes) {
        // Which classes given images have is not known.
        (None, Some(_)) if low_resolution.is_some() => {
            network.null_class().map(|none| vec![none; num_images])
        }
        (Some(labels), _) if labels.len() == 1 => Some(vec![labels[0]; num_images]),
        (Some(labels), _) if labels.len() == num_images => Some(labels),
        (Some(labels), _) => {
            bail!(
                "--class-label has {} classes for {num_images} images; give one class, or one for each image",
                labels.len()
            )
        }
        (None, Some(classes)) => Some(classes_in_turn(network.as_ref(), classes, num_images)),
        (None, None) => None,
    };
    Ok(SampleRequest {
        num_images,
        options: args.options.options(&pipeline.scheduler, args.steps.clone()),
        conditions: Conditions::of_classes(class_labels).and(condition(condition_images, num_images)?),
        seed: args.seed,
        batch_size: args.batch_size,
        precision: args.precision.precision,
        init_noise,
        guidance,
        low_resolution,
        frames,
        ..SampleRequest::new(sampler, &pipeline.scheduler)
    })
}

/// The images to be enlarged, where there are any.
fn low_resolution(args: &Args, pipeline: &Pipeline) -> anyhow::Result<Option<LowResolution>> {
    let Some(source) = &args.low_resolution else {
        if args.noise_augmentation.is_some() && args.then.is_empty() {
            bail!(
                "--noise-augmentation noises images to be enlarged; give them by --low-resolution, or a model by --then"
            );
        }
        return Ok(None);
    };
    let network = &pipeline.denoiser()?.network;
    let Some(model) = network.super_resolution() else {
        bail!("--low-resolution: {} is no super-resolution model", args.model.checkpoint.display());
    };
    let [_, _, channels] = network.image()?;
    let limit = args.num_images.unwrap_or(64);
    let images = read_images(source, Some(channels), Some(model.low_size.sides()), limit)?;
    Ok(Some(LowResolution { images, augmentation: args.noise_augmentation.unwrap_or(0) }))
}

/// The models of --then, and what each is asked for but for the images that it enlarges.
fn stages(
    args: &Args,
    pipeline: &Pipeline,
    request: &SampleRequest,
) -> anyhow::Result<Vec<(Pipeline, SampleRequest)>> {
    let [height, width, channels] = pipeline.denoiser()?.network.image()?;
    let mut size = [height, width];
    let mut stages = Vec::new();
    for folder in &args.then {
        let next = load_model(folder).with_context(|| format!("--then {}", folder.display()))?;
        let network = next.denoiser()?.network.clone();
        let [next_height, next_width, next_channels] = network.image()?;
        let Some(model) = network.super_resolution() else {
            bail!("--then: {} is no super-resolution model", folder.display());
        };
        let low = model.low_size.sides();
        if size != low || channels != next_channels {
            bail!(
                "--then: {} enlarges images of {}; those before it are {}",
                folder.display(),
                image_in_words([low[0], low[1], next_channels]),
                image_in_words([size[0], size[1], channels])
            );
        }
        // Filled in when the images are there.
        let images = Images { shape: [request.num_images, low[0], low[1], channels], data: Vec::new() };
        let augmentation = args.noise_augmentation.unwrap_or(model.augmentation / 2);
        let next_request = SampleRequest {
            sampler: match &args.sampler {
                Some(_) => request.sampler,
                None => sampler_or_default(None, &next)?,
            },
            conditions: match network.takes(CLASS_LABELS) {
                true => request.conditions.clone().without(CONDITION_IMAGE),
                false => request.conditions.clone().without(CLASS_LABELS).without(CONDITION_IMAGE),
            },
            low_resolution: Some(LowResolution { images, augmentation }),
            init_noise: None,
            guidance: Guidance::default(),
            options: SamplerOptions {
                clip: SamplerOptions::new(&next.scheduler).clip,
                ..request.options.clone()
            },
            ..request.clone()
        };
        // All of it now: an error after the stages before would come too late.
        let context = || format!("--then {}", folder.display());
        next_request.check(&next).with_context(context)?;
        next_request.sampler.start(&next.scheduler, &next_request.options).with_context(context)?;
        let most = next.scheduler.num_train_timesteps;
        if augmentation > most {
            bail!(
                "--then {}: the noise augmentation is {augmentation}; the process has {most} steps",
                folder.display()
            );
        }
        warn_of(&next_request, &next).with_context(context)?;
        size = [next_height, next_width];
        stages.push((next, next_request));
    }
    Ok(stages)
}
