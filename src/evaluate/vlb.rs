//! The variational bound, term by term (Ho et al. 2020, equation 5).

use std::f64::consts::LN_2;

use rayon::prelude::*;
use serde::Serialize;

use super::network::Network;
use super::{Estimate, EvaluateError, EvaluateRequest};
use crate::device::Device;
use crate::diffusion::{BoundCoefficients, Mixing, Schedule, SchedulerConfig, VarianceType};
use crate::pipeline::Pipeline;
use crate::random::{Purpose, Stream, normals};

/// The bound on a set of images, in bits per dimension.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VlbResult {
    /// The sum of all terms.
    pub total: Estimate,
    /// L_T, what x_T still says of the image: no weight of the network changes it.
    pub prior: Estimate,
    /// L_{t-1} for timesteps 1..T, `[T - 1]`: the divergence of the model's step from the posterior.
    pub divergences: Vec<Estimate>,
    /// L_0, the discrete decoder.
    pub decoder: Estimate,
}

/// The variational bound on the likelihood of images as 8-bit values, with one draw of noise for each image and timestep.
///
/// As in Nichol and Dhariwal 2021, estimates of x_0 are clamped where the scheduler config says so. `progress` is called
/// with the passes done and their total.
///
/// # Errors
/// [`EvaluateError`] for images that do not fit the model, or trouble on the device.
pub async fn variational_bound(
    device: &Device,
    pipeline: &Pipeline,
    request: &EvaluateRequest,
    progress: &mut (dyn FnMut(usize, usize) + Send),
) -> Result<VlbResult, EvaluateError> {
    let schedule = pipeline.scheduler.schedule()?;
    let timesteps = schedule.num_train_timesteps();
    let mut network = Network::new(device, pipeline, request, false).await?;
    let batches = request.batches()?;
    let total = batches.len() * timesteps;
    let mut sums = Terms { timesteps, prior: Vec::new(), terms: vec![Vec::new(); timesteps] };
    let mut done = 0;
    for batch in &batches {
        network.start(batch)?;
        let elements = network.elements;
        let channels = network.channels;
        sums.prior.extend(batch.images.chunks_exact(elements).map(|image| prior_bits(&schedule, image)));
        for t in 0..timesteps {
            let mixing = Mixing::at(schedule.alphas_cumprod(t));
            let x_t: Vec<f32> = (0..batch.count)
                .into_par_iter()
                .flat_map_iter(|n| {
                    let sample = (batch.first + n) as u32;
                    let stream = Purpose::Bound.into();
                    let stream = Stream { seed: request.seed, step: t as u32, stream, sample };
                    let image = &batch.images[n * elements..][..elements];
                    mixing.mix(image, &normals(stream, elements))
                })
                .collect();
            let output = network.output(&x_t, t as f32).await?;
            let term = Term::new(&pipeline.scheduler, &schedule, t, channels);
            let row = elements / channels[0] * channels[1];
            let images = batch.images.par_chunks_exact(elements).zip(x_t.par_chunks_exact(elements));
            let bits = images.zip(output.par_chunks_exact(row));
            sums.terms[t].par_extend(bits.map(|((image, x_t), output)| term.bits(image, x_t, output)));
            done += 1;
            progress(done, total);
        }
    }
    sums.result()
}

/// Bits per dimension of each image.
struct Terms {
    timesteps: usize,
    prior: Vec<f64>,
    /// Of each timestep.
    terms: Vec<Vec<f64>>,
}

impl Terms {
    fn result(&self) -> Result<VlbResult, EvaluateError> {
        let total: Vec<f64> = (0..self.prior.len())
            .map(|image| self.prior[image] + self.terms.iter().map(|term| term[image]).sum::<f64>())
            .collect();
        let term = |t: usize| {
            let what = || format!("the term of timestep {t} in the variational bound");
            Estimate::of(&self.terms[t]).check(what)
        };
        Ok(VlbResult {
            prior: Estimate::of(&self.prior).check(|| "L_T of the variational bound".to_owned())?,
            divergences: (1..self.timesteps).map(term).collect::<Result<_, _>>()?,
            decoder: term(0)?,
            total: Estimate::of(&total).check(|| "the variational bound".to_owned())?,
        })
    }
}

/// L_T of an image: the divergence of q(x_T | x_0) from the standard normal distribution, in bits per dimension.
fn prior_bits(schedule: &Schedule, image: &[f32]) -> f64 {
    let alpha_cumprod = schedule.alphas_cumprod(schedule.num_train_timesteps() - 1);
    let variance = 1.0 - alpha_cumprod;
    let squares: f64 = image.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / image.len() as f64;
    0.5 * (alpha_cumprod * squares + variance - 1.0 - variance.ln()) / LN_2
}

/// How one timestep's term follows from the network's output.
struct Term {
    coefficients: BoundCoefficients,
    mean_of_x_start: f64,
    x_start_factors: [f64; 2],
    limit: f64,
    learns_variance: bool,
    channels: [usize; 2],
}

impl Term {
    fn new(scheduler: &SchedulerConfig, schedule: &Schedule, t: usize, channels: [usize; 2]) -> Self {
        Self {
            coefficients: schedule.vlb_coefficients(t, scheduler.prediction_type, scheduler.variance_type),
            mean_of_x_start: schedule.posterior(t).mean_of_x_start,
            x_start_factors: scheduler.prediction_type.x_start_factors(schedule.alphas_cumprod(t)),
            limit: scheduler.clip_limit(),
            learns_variance: scheduler.variance_type == VarianceType::LearnedRange,
            channels,
        }
    }

    /// Bits per dimension of an image `[H, W, C]`, from x_t `[H, W, C]` and the output `[H, W, out_channels]`.
    fn bits(&self, image: &[f32], x_t: &[f32], output: &[f32]) -> f64 {
        let [channels, out_channels] = self.channels;
        let [of_x_t, of_output] = self.x_start_factors;
        let pixels = image.chunks_exact(channels).zip(x_t.chunks_exact(channels));
        let mut nats = 0.0;
        for ((image, x_t), output) in pixels.zip(output.chunks_exact(out_channels)) {
            for c in 0..channels {
                let x_start = f64::from(image[c]);
                let predicted = of_x_t * f64::from(x_t[c]) + of_output * f64::from(output[c]);
                let difference = self.mean_of_x_start * (x_start - predicted.clamp(-self.limit, self.limit));
                let v = self.learns_variance.then(|| f64::from(output[channels + c]));
                let log_variance = self.coefficients.log_variance_of(v);
                nats += self.coefficients.term(x_start, difference, log_variance).nats;
            }
        }
        nats / (LN_2 * image.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{BetaSchedule, PredictionType};

    /// Images of numbers from N(0, s^2) and the best network there is: the bound is that of the chain's closed form, in
    /// bits, and never below the entropy of the 8-bit values.
    #[test]
    fn the_bound_of_a_gaussian_is_its_entropy() {
        let s2: f64 = 0.04;
        let scheduler = SchedulerConfig {
            num_train_timesteps: 200,
            beta_schedule: BetaSchedule::SquaredcosCapV2,
            variance_type: VarianceType::LearnedRange,
            prediction_type: PredictionType::Epsilon,
            clip_sample: false,
            ..SchedulerConfig::default()
        };
        let Ok(schedule) = scheduler.schedule() else { unreachable!("the schedule is valid") };
        let elements = 50_000;
        let draw =
            |step: u32| normals(Stream { seed: 4, step, stream: Purpose::Bound.into(), sample: 0 }, elements);
        // Rounded to 8 bits.
        let value =
            |z: f32| ((f64::from(z) * s2.sqrt() + 1.0) * 127.5).round().clamp(0.0, 255.0) / 127.5 - 1.0;
        let image: Vec<f32> = draw(0).into_iter().map(|z| value(z) as f32).collect();
        let mut total = prior_bits(&schedule, &image);
        for t in 0..200 {
            let abar = schedule.alphas_cumprod(t);
            let mixing = Mixing::at(abar);
            let x_t = mixing.mix(&image, &draw(1 + t as u32));
            // The best eps, and the best variance as the network would say it.
            let of_x_start = 1.0 / (1.0 / s2 + abar / (1.0 - abar));
            let posterior = schedule.posterior(t);
            let k = schedule.vlb_coefficients(t, scheduler.prediction_type, scheduler.variance_type);
            let [low, high] = k.model_log_variance;
            let best = (posterior.variance + posterior.mean_of_x_start.powi(2) * of_x_start).ln();
            let v = if high > low { (2.0 * (best - low) / (high - low) - 1.0).clamp(-1.0, 1.0) } else { 0.0 };
            let output: Vec<f32> = x_t
                .iter()
                .flat_map(|&x| [mixing.noise * f64::from(x) / (abar * s2 + 1.0 - abar), v].map(|x| x as f32))
                .collect();
            total += Term::new(&scheduler, &schedule, t, [1, 2]).bits(&image, &x_t, &output);
        }
        // Differential entropy, in bins of 2 / 255.
        let entropy =
            0.5 * (std::f64::consts::TAU * std::f64::consts::E * s2).log2() - (2.0f64 / 255.0).log2();
        assert!((total - entropy).abs() < 0.02 * entropy, "{total} bits, the entropy is {entropy}");
        assert!(total > entropy - 0.02, "{total} bits are below the entropy {entropy}");
    }
}
