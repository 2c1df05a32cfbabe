//! `ddpm-gpu image-to-image`

use ddpm_gpu::sample::image_to_image;

use super::bounds::{MOST_IMAGES, above_up_to, count_in, finite_in};
use super::images::{SOURCES, read_images};
use super::sampling::{SamplingArgs, SamplingProgress, sampler_or_default, warn_of};

/// Draw given images anew: noise them part of the way and denoise them (SDEdit, Meng et al. 2022)
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    sampling: SamplingArgs,
    #[arg(long, value_name = "IMAGES", help = format!("What to start from: {SOURCES}"))]
    images: String,
    /// At most so many images
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = count_in(1..=MOST_IMAGES))]
    num_images: usize,
    /// How far to noise them, above 0 (hardly) to 1 (little is left of them)
    #[arg(long, default_value_t = 0.5, value_name = "X", value_parser = finite_in(above_up_to(0.0, 1.0)))]
    strength: f64,
    /// How to sample, as in `sample`; by default as the model's scheduler config says
    #[arg(long, value_name = "NAME")]
    sampler: Option<String>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let sampling = &args.sampling;
    let pipeline = sampling.load()?;
    let (channels, size) = sampling.image_form(&pipeline)?;
    let images = read_images(&args.images, Some(channels), Some(size), args.num_images)?;
    let sampler = sampler_or_default(args.sampler.as_deref(), &pipeline)?;
    let mut request = sampling.request(&pipeline, sampler, images.shape[0])?;
    request.options.strength = args.strength;
    // A strength that leaves no step is found before a device is opened or a file is written.
    warn_of(&request, &pipeline)?;
    let device = sampling.open().await?;
    let mut progress = SamplingProgress::default();
    let sampled = image_to_image(&device, &pipeline, &images, &request, &mut |state| {
        progress.show(state);
    })
    .await?;
    progress.finish();
    sampling.write(&sampled.images, None)
}
