//! `ddpm-gpu noise`

use std::path::PathBuf;

use anyhow::bail;
use ddpm_gpu::diffusion::{BetaSchedule, SchedulerConfig};
use ddpm_gpu::image_size::in_words;
use ddpm_gpu::network::SampleSize;
use ddpm_gpu::sample::forward_process;

use super::bounds::{MOST_IMAGES, count_in, count_u64_in, parse_image_size};
use super::checkpoint::load_model;
use super::images::{SOURCES, check_outputs, read_images, write_floats, write_grid};
use super::parse_list;

/// Draw the forward process of an image: a strip with the image at chosen timesteps
#[derive(clap::Args)]
pub(super) struct Args {
    #[arg(value_name = "IMAGES", help = format!("The images, a row each: {SOURCES}"))]
    images: String,
    /// PNG of the strip
    #[arg(long, value_name = "FILE.png")]
    output: PathBuf,
    /// Timesteps, separated by commas; 0 has one step's noise. By default 0,50,100,200,300,400,600,999, and of a process of
    /// other length as far along
    #[arg(long, value_name = "T,...")]
    timesteps: Option<String>,
    /// Noise schedule: linear, scaled_linear, cosine, sigmoid; by default linear
    #[arg(long, value_name = "NAME", conflicts_with = "checkpoint")]
    beta_schedule: Option<BetaSchedule>,
    /// Take the noise schedule of this model
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Size of the images: WIDTHxHEIGHT, such as 64x32, or one number for a square; by default their own
    #[arg(long, value_name = "N|WxH", value_parser = parse_image_size)]
    image_size: Option<SampleSize>,
    /// At most so many images
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = count_in(1..=MOST_IMAGES))]
    num_images: usize,
    /// Decides the noise
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = count_u64_in(0..=u64::MAX))]
    seed: u64,
    /// Also write x_t as floats [N T, C, H, W], unclipped
    #[arg(long, value_name = "FILE.npy")]
    save_npy: Option<PathBuf>,
}

/// Timesteps of a process of 1000 where the user names none.
const TIMESTEPS: [usize; 8] = [0, 50, 100, 200, 300, 400, 600, 999];

/// Most numbers of a strip: 1 GiB.
const MOST_NUMBERS: usize = 1 << 28;

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let scheduler = match (&args.checkpoint, args.beta_schedule) {
        (Some(folder), _) => load_model(folder)?.scheduler,
        (None, Some(beta_schedule)) => SchedulerConfig { beta_schedule, ..SchedulerConfig::default() },
        (None, None) => SchedulerConfig::default(),
    };
    let schedule = scheduler.schedule()?;
    let last = schedule.num_train_timesteps() - 1;
    let timesteps: Vec<usize> = match &args.timesteps {
        Some(list) => parse_list("--timesteps", list)?,
        None => {
            let mut spread: Vec<usize> = TIMESTEPS.iter().map(|t| t * last / 999).collect();
            spread.dedup();
            spread
        }
    };
    if let Some(t) = timesteps.iter().find(|&&t| t > last) {
        bail!("--timesteps: there is no timestep {t}; the process has 0 to {last}");
    }
    let size = args.image_size.map(SampleSize::sides);
    let images = read_images(&args.images, None, size, args.num_images)?;
    check_outputs([Some(&args.output), args.save_npy.as_ref()])?;
    let numbers = images.data.len().checked_mul(timesteps.len());
    if numbers.is_none_or(|numbers| numbers > MOST_NUMBERS) {
        let [n, h, w, _] = images.shape;
        bail!(
            "{n} images of {} at {} timesteps are more than {MOST_NUMBERS} numbers: give fewer --timesteps or \
             --num-images, or a smaller --image-size",
            in_words([h, w]),
            timesteps.len()
        );
    }
    let noised = forward_process(&images, &schedule, &timesteps, args.seed);
    write_grid(&args.output, &noised, Some(timesteps.len()))?;
    match &args.save_npy {
        Some(path) => write_floats(path, &noised),
        None => Ok(()),
    }
}
