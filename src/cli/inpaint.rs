//! `ddpm-gpu inpaint`

use anyhow::bail;
use ddpm_gpu::diffusion::MOST_TIMESTEPS;
use ddpm_gpu::sample::{Inpainting, inpaint};

use super::bounds::{MOST_IMAGES, count_in};
use super::images::{SOURCES, read_images};
use super::sampling::{SamplingArgs, SamplingProgress};

/// Paint parts of given images with a model that was not trained for it (RePaint, Lugmayr et al. 2022)
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    sampling: SamplingArgs,
    #[arg(long, value_name = "IMAGES", help = format!("The images: {SOURCES}"))]
    images: String,
    /// At most so many images
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = count_in(1..=MOST_IMAGES))]
    num_images: usize,
    /// What to paint: white (1) is painted, black (-1) stays as it is. A PNG file for all images, or as many masks as images
    #[arg(long, value_name = "MASK")]
    mask: String,
    /// How many steps a jump back goes
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = count_in(1..=MOST_TIMESTEPS))]
    jump_length: usize,
    /// How often each stretch of that length is painted; 1 for once, without jumps. The time grows in proportion
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = count_in(1..=MOST_TIMESTEPS))]
    resample: usize,
    /// How to sample: ddpm or ddim
    #[arg(long, default_value = "ddpm", value_name = "NAME")]
    sampler: String,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let sampling = &args.sampling;
    let pipeline = sampling.load()?;
    let (channels, size) = sampling.image_form(&pipeline)?;
    let images = read_images(&args.images, Some(channels), Some(size), args.num_images)?;
    let count = images.shape[0];
    let masks = read_images(&args.mask, Some(1), Some(size), usize::MAX)?;
    if masks.shape[0] != 1 && masks.shape[0] != count {
        bail!("--mask has {} masks for {count} images; give one, or one for each image", masks.shape[0]);
    }
    let shares = masks.data.iter().cycle().take(count * size * size);
    let mask = shares.flat_map(|value| vec![((value + 1.0) / 2.0).clamp(0.0, 1.0); channels]).collect();
    let request = sampling.request(&pipeline, &args.sampler, count)?;
    let device = sampling.open().await?;
    let inpainting = Inpainting { images, mask, jump_length: args.jump_length, resample: args.resample };
    let mut progress = SamplingProgress::default();
    let images =
        inpaint(&device, &pipeline, &inpainting, &request, &mut |state| progress.show(state)).await?;
    progress.finish();
    sampling.write(&images, None)
}
