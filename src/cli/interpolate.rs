//! `ddpm-gpu interpolate`

use anyhow::bail;
use ddpm_gpu::conditions::Conditions;
use ddpm_gpu::sample::{Images, SampleRequest, invert, noise_of_seed, sample, slerp};
use ddpm_gpu::sampler;

use super::bounds::{MOST_IMAGES, count_in};
use super::images::{SOURCES, read_images};
use super::parse_list;
use super::sampling::{SamplingArgs, SamplingProgress};

/// Draw what lies between two seeds or two images, spherically in the noise that ddim starts from
///
/// The sampler is ddim, whatever the model's scheduler config says: it is the one whose inversion finds the noise of an
/// image.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("ends").required(true))]
pub(super) struct Args {
    #[command(flatten)]
    sampling: SamplingArgs,
    /// The seeds of both ends: `sample --sampler ddim --num-images 1 --seed A` draws the first
    #[arg(long, value_name = "A,B", group = "ends")]
    seeds: Option<String>,
    #[arg(long, value_name = "IMAGES", group = "ends", help = format!(
        "The images at both ends, whose noise is found by ddim's inversion: {SOURCES}; the first two of them"
    ))]
    images: Option<String>,
    /// Number of images, both ends included
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = count_in(2..=MOST_IMAGES))]
    frames: usize,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let sampling = &args.sampling;
    let pipeline = sampling.load()?;
    let (channels, size) = sampling.image_form(&pipeline)?;
    let frames = args.frames;
    let request = sampling.request(&pipeline, sampler::by_name("ddim")?, frames)?;
    let mut progress = SamplingProgress::default();
    let given = match (&args.seeds, &args.images) {
        (Some(seeds), _) => {
            let seeds: Vec<u64> = parse_list("--seeds", seeds)?;
            let [from, to] = seeds[..] else { bail!("--seeds has {} seeds; give two", seeds.len()) };
            Ok([noise_of_seed(&pipeline, from)?, noise_of_seed(&pipeline, to)?])
        }
        (None, Some(images)) => {
            let images = read_images(images, Some(channels), Some(size), 2)?;
            if images.shape[0] != 2 {
                bail!("--images has {} image; give two", images.shape[0]);
            }
            Err(images)
        }
        (None, None) => bail!("give --seeds or --images"),
    };
    let device = sampling.open().await?;
    let [from, to] = match given {
        Ok(noise) => noise,
        Err(images) => {
            // The ends have the classes of the first and of the last image.
            let ends = [0, frames - 1].map(|image| request.conditions.rows(image..image + 1));
            let of_ends = SampleRequest { conditions: Conditions::stack(ends), ..request.clone() };
            let noise =
                invert(&device, &pipeline, &images, &of_ends, &mut |state| progress.show(state)).await?;
            let [_, h, w, c] = noise.shape;
            let end = |data: &[f32]| Images { shape: [1, h, w, c], data: data.to_vec() };
            let (first, second) = noise.data.split_at(h * w * c);
            [end(first), end(second)]
        }
    };
    let request = SampleRequest { init_noise: Some(slerp(&from, &to, frames)), ..request };
    let mut progress = SamplingProgress::default();
    let sampled = sample(&device, &pipeline, &request, &mut |state| progress.show(state)).await?;
    progress.finish();
    sampling.write(&sampled.images, Some(frames))
}
