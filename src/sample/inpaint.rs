//! Inpainting with a model that was not trained for it (Lugmayr et al. 2022, "RePaint").

use super::draw::init_noise;
use super::request::check;
use super::{Denoiser, Images, SampleError, SampleProgress, SampleRequest, check_finite};
use crate::device::Device;
use crate::diffusion::{Mixing, SchedulerConfig};
use crate::pipeline::Pipeline;
use crate::random::{Purpose, Stream, normals};
use crate::sampler::{Sampler, SamplerOptions, Step, Steps};

/// Moves of one run, which would take a tiny network days.
const MOST_MOVES: usize = 10_000_000;

/// What is to be painted, and how often.
#[derive(Clone, Debug)]
pub struct Inpainting {
    /// The images `[N, H, W, C]`.
    pub images: Images,
    /// 1 where a pixel is to be painted, 0 where it is known, `[N, H, W, C]`.
    pub mask: Vec<f32>,
    /// j of the paper: how many steps of noise a jump back adds.
    pub jump_length: usize,
    /// r of the paper: how often each stretch of `jump_length` steps is taken; 1 for no jumps.
    pub resample: usize,
}

/// The steps of a sampler that can go back: each evaluates the network once, at a whole timestep, and keeps nothing.
fn independent_steps(sampler: &Sampler, steps: Steps) -> Result<Vec<Step>, SampleError> {
    let is_independent =
        |step: &Step| step.timestep.is_some_and(|t| t.fract() == 0.0) && step.update.keep.is_empty();
    match steps {
        Steps::Fixed(steps)
            if steps.iter().all(is_independent)
                && steps.windows(2).all(|pair| pair[0].timestep > pair[1].timestep) =>
        {
            Ok(steps)
        }
        _ => Err(SampleError::Request(format!(
            "the sampler `{}` cannot go back to more noise; use ddpm or ddim",
            sampler.name
        ))),
    }
}

/// A move along the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    /// Denoise, from the level of this step.
    Denoise(usize),
    /// Add the noise that lies between the level that this step leads to and its own.
    Back(usize),
}

/// The moves through `steps` steps, numbered from the noisiest: the order of diffusers' `RePaintScheduler`.
fn moves(steps: usize, jump_length: usize, resample: usize) -> Vec<Move> {
    // Steps still to go, as the paper counts t; at every multiple of the jump's length there are jumps left.
    let mut jumps = vec![0; steps + 1];
    for at in (0..steps.saturating_sub(jump_length)).step_by(jump_length) {
        jumps[at] = resample - 1;
    }
    let mut moves = Vec::new();
    let mut left = steps;
    while left > 0 {
        moves.push(Move::Denoise(steps - left));
        left -= 1;
        if jumps[left] > 0 {
            jumps[left] -= 1;
            for _ in 0..jump_length {
                left += 1;
                moves.push(Move::Back(steps - left));
            }
        }
    }
    moves
}

/// The way through the process and back, and what is done to x on it beside the sampler's steps.
struct Path {
    steps: Vec<Step>,
    moves: Vec<Move>,
    /// alpha-bar before each step, and 1 after the last.
    levels: Vec<f64>,
}

impl Path {
    fn new(
        sampler: &Sampler,
        config: &SchedulerConfig,
        options: &SamplerOptions,
        jump_length: usize,
        resample: usize,
    ) -> Result<Self, SampleError> {
        let steps = independent_steps(sampler, sampler.start(config, options)?)?;
        let schedule = config.schedule().map_err(|error| SampleError::Sampler(error.into()))?;
        let timesteps = steps.iter().filter_map(|step| step.timestep);
        let levels = timesteps.map(|t| schedule.alphas_cumprod(t as usize)).chain([1.0]).collect();
        // Every jump is taken back, so that resampling doubles what it repeats.
        let most = resample.checked_mul(2 * steps.len());
        if most.is_none_or(|most| most > MOST_MOVES) {
            return Err(SampleError::Request(format!(
                "{} steps, each painted {resample} times, are too many: at most {MOST_MOVES} moves can be made, there \
                 and back",
                steps.len()
            )));
        }
        let moves = moves(steps.len(), jump_length, resample);
        Ok(Self { steps, moves, levels })
    }

    /// After a step, replaces the known pixels in `x` by those of the image, noised as far.
    fn keep_known(&self, step: usize, x: &mut [f32], known: &[f32], mask: &[f32], noise: &[f32]) {
        let noised = Mixing::at(self.levels[step + 1]).mix(known, noise);
        for ((x, known), mask) in x.iter_mut().zip(noised).zip(mask) {
            if *mask == 0.0 {
                *x = known;
            } else if *mask != 1.0 {
                *x = mask * *x + (1.0 - mask) * known;
            }
        }
    }

    /// x with the noise that leads back to before a step: q(x_t | x_s) for s < t, whose signal is less by the root of the
    /// ratio.
    fn back(&self, step: usize, x: &[f32], noise: &[f32]) -> Vec<f32> {
        Mixing::at(self.levels[step] / self.levels[step + 1]).mix(x, noise)
    }
}

/// Paints the masked pixels of images, so that they fit the known ones; known pixels come out as they were.
///
/// After each step the known pixels are replaced by those of the image, noised as far (equation 8); jumps back in
/// between let the painted ones adapt to them (section 4.2). The sampler must be one whose steps keep nothing, ddpm or
/// ddim.
///
/// # Errors
/// [`SampleError`] for a request that does not fit the model, or trouble on the device.
pub async fn inpaint(
    device: &Device,
    pipeline: &Pipeline,
    inpainting: &Inpainting,
    request: &SampleRequest,
    progress: &mut (dyn FnMut(SampleProgress) + Send),
) -> Result<Images, SampleError> {
    let Inpainting { images, mask, jump_length, resample } = inpainting;
    let request =
        SampleRequest { num_images: images.shape[0], init_noise: Some(images.clone()), ..request.clone() };
    if *jump_length == 0 || *resample == 0 || mask.len() != images.data.len() {
        return Err(SampleError::Request(
            "the jump length and the number of times must be at least 1, and the mask as large as the images"
                .to_owned(),
        ));
    }
    check(pipeline, &request)?;
    let path = Path::new(request.sampler, &pipeline.scheduler, &request.options, *jump_length, *resample)?;

    let (count, seed) = (images.shape[0], request.seed);
    let batch = request.batch_size.min(count);
    let elements = images.data.len() / count;
    let (sampler, clip) = (request.sampler, request.options.clip);
    let mut denoiser =
        Denoiser::new(device, pipeline, batch, request.precision, sampler, clip, &request.guidance).await?;
    let conditions = request.told(pipeline)?;
    let total = path.moves.len() * count.div_ceil(batch);
    let mut done = 0;
    let mut data = Vec::with_capacity(images.data.len());
    for first in (0..count).step_by(batch) {
        let here = batch.min(count - first);
        let range = first * elements..(first + here) * elements;
        let (known, mask) = (&images.data[range.clone()], &mask[range]);
        // All numbers of one move: those of image i depend on the seed, the move and i.
        let noise = |purpose: Purpose, step: usize| -> Vec<f32> {
            let stream = purpose.into();
            let of_image = |image: usize| Stream { seed, step: step as u32, stream, sample: image as u32 };
            (first..first + here).flat_map(|image| normals(of_image(image), elements)).collect()
        };
        let mut x = init_noise(seed, first, here, elements);
        x.resize(batch * elements, 0.0);
        denoiser.start(&x, &conditions.rows(first..first + here).resized(batch))?;
        for (number, &next) in path.moves.iter().enumerate() {
            match next {
                Move::Denoise(step) => {
                    denoiser.step(&path.steps[step..=step], seed, first as u32)?;
                    let mut x = denoiser.images().await?;
                    path.keep_known(step, &mut x, known, mask, &noise(Purpose::KnownPixels, number));
                    denoiser.set_images(&x)?;
                }
                Move::Back(step) => {
                    let mut x = denoiser.images().await?;
                    let noisier = path.back(step, &x[..here * elements], &noise(Purpose::StepBack, number));
                    x[..here * elements].copy_from_slice(&noisier);
                    denoiser.set_images(&x)?;
                }
            }
            done += 1;
            progress(SampleProgress { done, total });
        }
        let images = denoiser.images().await?;
        let images = &images[..here * elements];
        check_finite(images, elements, |image| format!("image {} of {count}", first + image + 1))?;
        data.extend_from_slice(images);
    }
    Ok(Images { shape: images.shape, data })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use serde_json::{Map, Value};

    use super::*;
    use crate::diffusion::Respacing;
    use crate::golden::Golden;
    use crate::workbench::Walk;

    /// The positions that diffusers' `RePaintScheduler` visits; a step back visits the one above.
    fn positions(steps: usize, jump_length: usize, resample: usize) -> Vec<usize> {
        let position = |next: Move| match next {
            Move::Denoise(step) => steps - 1 - step,
            Move::Back(step) => steps - step,
        };
        moves(steps, jump_length, resample).into_iter().map(position).collect()
    }

    /// `RePaintScheduler(num_train_timesteps=N).set_timesteps(N, jump_length, jump_n_sample)`, whose timesteps are then
    /// the positions themselves.
    #[test]
    fn moves_are_those_of_diffusers() {
        assert_eq!(
            positions(10, 3, 2),
            [9, 8, 7, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0]
        );
        assert_eq!(
            positions(8, 2, 3),
            [7, 6, 5, 4, 5, 6, 5, 4, 5, 6, 5, 4, 3, 2, 3, 4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0]
        );
        assert_eq!(positions(4, 10, 5), [3, 2, 1, 0]);
        assert_eq!(positions(5, 2, 1), [4, 3, 2, 1, 0]);
    }

    #[test]
    fn every_move_starts_where_the_last_one_ended() {
        for (steps, jump_length, resample) in [(10, 3, 2), (8, 2, 3), (50, 10, 10), (7, 1, 4)] {
            let mut level = 0;
            for next in moves(steps, jump_length, resample) {
                match next {
                    Move::Denoise(step) => {
                        assert_eq!(step, level);
                        level += 1;
                    }
                    Move::Back(step) => {
                        level -= 1;
                        assert_eq!(step, level);
                    }
                }
            }
            assert_eq!(level, steps);
        }
    }

    /// `tools/oracle/repaint.py`: x after every move of diffusers' `RePaintScheduler`, with the same noise.
    ///
    /// Where its jumps go back by several timesteps at once, diffusers adds the betas of the timesteps above instead:
    /// there is nothing to compare then.
    #[test]
    fn trajectories_are_those_of_diffusers() {
        let file = Golden::read("repaint");
        let cases = file.cases();
        let (x_t, known, mask) = (file.floats("x_T"), file.floats("image"), file.floats("mask"));
        let noise = file.floats("noise");
        let to_f64 = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
        let mut jumps = 0;
        for (name, case) in &cases {
            let config: Map<String, Value> = case["config"].as_object().unwrap().clone();
            let config = SchedulerConfig::try_from(config).unwrap();
            let number = |key: &str| case[key].as_u64().unwrap() as usize;
            let options = SamplerOptions {
                steps: Some(Respacing::Steps(number("steps"))),
                eta: case["eta"].as_f64(),
                ..SamplerOptions::new(&config)
            };
            let ddim = crate::sampler::by_name("ddim").unwrap();
            let path =
                Path::new(ddim, &config, &options, number("jump_length"), number("jump_n_sample")).unwrap();
            let mut walk = Walk::new(to_f64(&x_t), options.clip);
            let mut network = |x: &[f64], t: f64| x.iter().map(|x| (0.7 * x + 0.1 * t).tanh()).collect();
            let trajectory = file.floats(&format!("{name}.trajectory"));
            assert_eq!(trajectory.len(), path.moves.len() * x_t.len(), "{name}: the number of moves");
            let rows = noise.chunks(x_t.len()).zip(trajectory.chunks(x_t.len()));
            for (number, (&next, (noise, expected))) in path.moves.iter().zip(rows).enumerate() {
                let x: Vec<f32> = match next {
                    Move::Denoise(step) => {
                        walk.take(&path.steps[step], &mut network, &to_f64(noise));
                        let mut x: Vec<f32> = walk.x.iter().map(|&x| x as f32).collect();
                        path.keep_known(step, &mut x, &known, &mask, noise);
                        x
                    }
                    Move::Back(step) => {
                        jumps += 1;
                        let x: Vec<f32> = walk.x.iter().map(|&x| x as f32).collect();
                        path.back(step, &x, noise)
                    }
                };
                let largest = expected.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                let off = x.iter().zip(expected).fold(0.0f32, |off, (a, b)| off.max((a - b).abs()));
                assert!(off < 1e-4 * largest, "{name}, move {number}, {next:?}: {off:.1e} of {largest}");
                walk.x = to_f64(&x);
            }
        }
        assert!(cases.len() == 14 && jumps > 100, "{} cases, {jumps} moves back", cases.len());
    }
}
