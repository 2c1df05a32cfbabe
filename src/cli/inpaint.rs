//! `ddpm-gpu inpaint`

use anyhow::bail;
use ddpm_gpu::diffusion::MOST_TIMESTEPS;
use ddpm_gpu::sample::{Inpainting, inpaint};
use ddpm_gpu::sampler;

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
    /// What to paint: white is painted, black stays as it is. An image file for all images, or as many masks as images;
    /// an .npy array of 0 and 1, of -1 and 1 or of 0 and 255; a mask of 0 and 1 in an image file counts as black and
    /// white
    #[arg(long, value_name = "MASK")]
    mask: String,
    /// How many steps a jump back goes
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = count_in(1..=MOST_TIMESTEPS))]
    jump_length: usize,
    /// How often each stretch of that length is painted; 1 for once, without jumps. The time grows in proportion
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = count_in(1..=MOST_TIMESTEPS))]
    resample: usize,
    /// How to sample: ddpm or ddim, whatever the model's scheduler config says, since the steps of other samplers
    /// cannot go back to more noise
    #[arg(long, default_value = "ddpm", value_name = "NAME")]
    sampler: String,
}

/// The least share that the lightest pixel of a mask has: darker ones would paint next to nothing.
const LEAST_SHARE: f32 = 0.25;

/// How much of each pixel is to be painted, from 0 to 1, of masks in -1..1.
fn shares(source: &str, masks: &[f32]) -> anyhow::Result<Vec<f32>> {
    let mut shares: Vec<f32> = masks.iter().map(|value| ((value + 1.0) / 2.0).clamp(0.0, 1.0)).collect();
    let lightest = shares.iter().copied().fold(0.0, f32::max);
    // A file of 8 or 16 bits whose numbers are 0 and 1; resizing may overshoot by a tenth.
    let one = [1.0 / 65535.0, 1.0 / 255.0].into_iter().find(|one| (0.5 * one..1.1 * one).contains(&lightest));
    match one {
        Some(one) => {
            eprintln!("{source}: the numbers of the mask are 0 and 1; 1 is taken as white");
            shares.iter_mut().for_each(|share| *share = (255.0 * *share / one).round().min(255.0) / 255.0);
        }
        None if lightest == 0.0 => {
            bail!("{source}: the mask is black, which paints nothing; make white what is to be painted")
        }
        None if lightest < LEAST_SHARE => {
            let grey = (255.0 * lightest).round();
            bail!(
                "{source}: the lightest pixel of the mask is {grey} of 255, which paints next to nothing; make white \
                 (255) what is to be painted"
            )
        }
        None => {}
    }
    Ok(shares)
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
    let shares = shares(&args.mask, &masks.data)?;
    let shares = shares.iter().cycle().take(count * size[0] * size[1]);
    let mask = shares.flat_map(|&share| vec![share; channels]).collect();
    let request = sampling.request(&pipeline, sampler::by_name(&args.sampler)?, count)?;
    let device = sampling.open().await?;
    let inpainting = Inpainting { images, mask, jump_length: args.jump_length, resample: args.resample };
    let mut progress = SamplingProgress::default();
    let images =
        inpaint(&device, &pipeline, &inpainting, &request, &mut |state| progress.show(state)).await?;
    progress.finish();
    sampling.write(&images, None)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn masks_of_0_and_1_are_black_and_white() {
        let of = |bits: f32, values: &[f32]| -> Vec<f32> {
            values.iter().map(|value| 2.0 * (value / bits) - 1.0).collect()
        };
        assert_eq!(shares("m", &of(255.0, &[0.0, 255.0])).unwrap(), [0.0, 1.0]);
        for bits in [255.0, 65535.0] {
            let found = shares("m", &of(bits, &[0.0, 1.0, 0.0])).unwrap();
            assert!(found.iter().zip([0.0, 1.0, 0.0]).all(|(a, b)| (a - b).abs() < 0.01), "{found:?}");
        }
        // a soft mask stays soft
        assert_eq!(shares("m", &[-1.0, 0.0, 1.0]).unwrap(), [0.0, 0.5, 1.0]);
        let message = |values: &[f32]| shares("mask.png", &of(255.0, values)).unwrap_err().to_string();
        assert!(message(&[0.0, 0.0]).contains("mask.png: the mask is black"));
        assert!(message(&[0.0, 5.0]).contains("5 of 255"));
    }
}
