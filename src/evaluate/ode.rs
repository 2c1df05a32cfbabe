//! The likelihood by the probability-flow ODE (Song et al. 2021, "Score-Based Generative Modeling through SDEs", section
//! 4.3 and appendix D.2), with Hutchinson's estimate of the divergence.
//!
//! The noise level u = log sigma, with sigma^2 = (1 - abar) / abar, takes the place of time. With n = sqrt(1 - abar),
//!   dx/du = n (eps(x, u) - n x)
//! moves images along with the forward process without any noise, and along such a path
//!   d log p(x)/du = -div = -(n tr(d eps/dx) - n^2 D).
//! The trace is estimated by v . (d eps/dx) v with signs v drawn once for an image, by our own autograd. At the noisiest
//! timestep log p is that of the standard normal distribution; at the cleanest, x is the image itself scaled by the signal.

use std::f64::consts::{LN_2, TAU};

use serde::Serialize;

use super::dormand_prince::{StepTooSmall, Tolerance, integrate};
use super::network::Network;
use super::{Estimate, EvaluateError, EvaluateRequest};
use crate::device::Device;
use crate::diffusion::{Mixing, NoiseCurve, PredictionType, Schedule};
use crate::pipeline::Pipeline;
use crate::random::{Purpose, Stream};
use crate::sample::SampleError;
use crate::sampler::{SamplerError, TOLERANCES};

/// How exactly to integrate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OdeOptions {
    /// Error allowed in a step, relative and absolute; Song et al. take 1e-5.
    pub tolerance: f64,
}

impl Default for OdeOptions {
    fn default() -> Self {
        Self { tolerance: 1e-5 }
    }
}

/// The likelihood of a set of images by the ODE.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OdeResult {
    /// Bits per dimension of the 8-bit values, by uniform dequantisation.
    pub bits_per_dimension: Estimate,
    /// Passes through the network, there and back, of all batches together.
    pub evaluations: usize,
}

/// The likelihood of images as 8-bit values by the probability-flow ODE.
///
/// `progress` is called with the share that is done.
///
/// # Errors
/// [`EvaluateError`] for images that do not fit the model, or trouble on the device.
pub async fn ode_likelihood(
    device: &Device,
    pipeline: &Pipeline,
    request: &EvaluateRequest,
    options: OdeOptions,
    progress: &mut (dyn FnMut(f64) + Send),
) -> Result<OdeResult, EvaluateError> {
    if !TOLERANCES.contains(&options.tolerance) {
        return Err(SampleError::from(SamplerError::Tolerance { value: options.tolerance }).into());
    }
    let flow = Flow::new(&pipeline.scheduler.schedule()?, pipeline.scheduler.prediction_type)?;
    let mut network = Network::new(device, pipeline, request, true).await?;
    let batches = request.batches()?;
    let (mut bits, mut evaluations) = (Vec::new(), 0);
    for (index, batch) in batches.iter().enumerate() {
        network.start(batch)?;
        let elements = network.elements;
        let channels = network.channels;
        let uniform = |image: usize, purpose: Purpose| {
            let sample = (batch.first + image) as u32;
            Stream { seed: request.seed, step: 0, stream: purpose.into(), sample }
        };
        // (x + u) / 256 of a value of 0..=255, scaled to -1..1.
        let images: Vec<f64> = (0..batch.images.len())
            .map(|i| {
                let u = uniform(i / elements, Purpose::Dequantisation).uniform((i % elements) as u32);
                (255.0 * f64::from(batch.images[i]) - 1.0 + 2.0 * f64::from(u)) / 256.0
            })
            .collect();
        let probes: Vec<f32> = (0..batch.images.len())
            .map(|i| {
                let word = uniform(i / elements, Purpose::Probe).uniform((i % elements) as u32);
                if word < 0.5 { -1.0 } else { 1.0 }
            })
            .collect();
        let run = async |x: &[f32], timestep: f32, probes: &[f32]| {
            let (output, product) = network.output_and_product(x, timestep, probes).await?;
            let [channels, out_channels] = channels;
            let first = output.chunks_exact(out_channels).flat_map(|pixel| &pixel[..channels]);
            Ok::<_, EvaluateError>((first.copied().collect::<Vec<f32>>(), product))
        };
        let share = |done: f64| progress((index as f64 + done) / batches.len() as f64);
        let (log_likelihoods, count) =
            flow.log_likelihood(run, &images, &probes, elements, options.tolerance, share).await?;
        evaluations += count;
        // Bins of 2 / 256 in the units of the images.
        let bits_of = |nats: f64| -nats / (LN_2 * elements as f64) + 7.0;
        bits.extend(log_likelihoods.into_iter().map(bits_of));
    }
    let what = || "the likelihood by the probability-flow ODE".to_owned();
    Ok(OdeResult { bits_per_dimension: Estimate::of(&bits).check(what)?, evaluations })
}

/// The ODE of a diffusion process.
struct Flow {
    /// log sigma by timestep.
    curve: NoiseCurve,
    prediction_type: PredictionType,
}

impl Flow {
    fn new(schedule: &Schedule, prediction_type: PredictionType) -> Result<Self, EvaluateError> {
        if schedule.num_train_timesteps() < 2 {
            return Err(EvaluateError::Request(
                "the ODE needs a process of at least two timesteps".to_owned(),
            ));
        }
        Ok(Self { curve: NoiseCurve::new(schedule), prediction_type })
    }

    /// The logarithm of the density of each of `images` `[n, elements]`, in nats, and the number of evaluations.
    ///
    /// `network(x, timestep, probes)` gives the output and the product of the probes with its Jacobian, of x's shape.
    async fn log_likelihood<E: From<StepTooSmall>>(
        &self,
        mut network: impl AsyncFnMut(&[f32], f32, &[f32]) -> Result<(Vec<f32>, Vec<f32>), E>,
        images: &[f64],
        probes: &[f32],
        elements: usize,
        tolerance: f64,
        progress: impl FnMut(f64),
    ) -> Result<(Vec<f64>, usize), E> {
        let count = images.len() / elements;
        let ends = self.curve.ends();
        let alpha_cumprod = |log_sigma: f64| 1.0 / (1.0 + (2.0 * log_sigma).exp());
        let signal = |log_sigma: f64| Mixing::at(alpha_cumprod(log_sigma)).signal;
        // The images, and after them the integral of each image's divergence.
        let mut state: Vec<f64> = images.iter().map(|x| signal(ends[0]) * x).collect();
        state.resize(images.len() + count, 0.0);
        let slope = async |log_sigma: f64, state: &[f64]| {
            let x = &state[..images.len()];
            let abar = alpha_cumprod(log_sigma);
            let Mixing { noise, .. } = Mixing::at(abar);
            let [of_x, of_output] = self.prediction_type.eps_factors(abar);
            let single: Vec<f32> = x.iter().map(|&x| x as f32).collect();
            let (output, product) = network(&single, self.curve.timestep(log_sigma) as f32, probes).await?;
            let mut slope: Vec<f64> = x
                .iter()
                .zip(&output)
                .map(|(&x, &output)| noise * (of_x * x + of_output * f64::from(output) - noise * x))
                .collect();
            let pairs = product.chunks_exact(elements).zip(probes.chunks_exact(elements));
            slope.extend(pairs.map(|(product, probes)| {
                let trace: f64 = product.iter().zip(probes).map(|(&p, &v)| f64::from(p) * f64::from(v)).sum();
                let dimensions = elements as f64;
                noise * (of_x * dimensions + of_output * trace) - noise * noise * dimensions
            }));
            Ok::<_, E>(slope)
        };
        let tolerance = Tolerance { relative: tolerance, absolute: tolerance };
        let (state, counts) = integrate(slope, ends, state, tolerance, progress).await?;
        let (x, divergences) = state.split_at(images.len());
        let log_likelihoods = x.chunks_exact(elements).zip(divergences).map(|(x, divergence)| {
            let normal: f64 = x.iter().map(|x| -0.5 * (x * x + TAU.ln())).sum();
            normal + divergence + elements as f64 * signal(ends[0]).ln()
        });
        Ok((log_likelihoods.collect(), counts.evaluations))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::diffusion::{BetaSchedule, rescale_betas_zero_snr};
    use crate::random::normals;

    /// Numbers from N(m, s^2): the network is known, and so is the density of images with the noise of the first timestep.
    #[test]
    fn the_likelihood_of_a_gaussian_is_its_density() {
        let (mean, s2): (f64, f64) = (0.03, 0.05);
        let betas = BetaSchedule::Linear.betas(1000, 1e-4, 0.02);
        let schedule = |betas: &[f64]| Schedule::new(betas.to_vec()).unwrap();
        let usual = schedule(&betas);
        // Nothing of the image is left at the last timestep.
        let zero_snr = schedule(&rescale_betas_zero_snr(&betas));
        let (elements, count) = (6, 3);
        let stream = Stream { seed: 5, step: 0, stream: Purpose::Arbitrary.into(), sample: 0 };
        let images: Vec<f64> =
            normals(stream, elements * count).into_iter().map(|z| mean + s2.sqrt() * f64::from(z)).collect();
        let probes: Vec<f32> = (0..images.len()).map(|i| if i % 3 == 0 { -1.0 } else { 1.0 }).collect();
        for (schedule, prediction_type) in [
            (&usual, PredictionType::Epsilon),
            (&usual, PredictionType::Sample),
            (&usual, PredictionType::VPrediction),
            (&zero_snr, PredictionType::Sample),
            (&zero_snr, PredictionType::VPrediction),
        ] {
            let flow = Flow::new(schedule, prediction_type).unwrap();
            let network = async |x: &[f32], timestep: f32, probes: &[f32]| {
                // The noise level, from the timestep as the network is told it.
                let log_sigma = flow.curve.log_ratio(f64::from(timestep));
                let abar = 1.0 / (1.0 + (2.0 * log_sigma).exp());
                let (signal, noise) = (abar.sqrt(), (1.0 - abar).sqrt());
                let slope = noise / (abar * s2 + 1.0 - abar);
                let eps = |x: f64| slope * (x - signal * mean);
                // From eps to what the network says: linear in x and eps.
                let [of_x_start, of_eps] = prediction_type.target_factors(abar);
                let says = |x: f64| of_x_start * (x - noise * eps(x)) / signal + of_eps * eps(x);
                let d_says = of_x_start * (1.0 - noise * slope) / signal + of_eps * slope;
                let output = x.iter().map(|&x| says(f64::from(x)) as f32).collect();
                Ok::<_, StepTooSmall>((
                    output,
                    probes.iter().map(|&v| (d_says * f64::from(v)) as f32).collect(),
                ))
            };
            let run = flow.log_likelihood(network, &images, &probes, elements, 1e-5, |_| {});
            let (found, evaluations) = pollster::block_on(run).unwrap();
            // What is left of the image at T, a signal of 0.006, is taken for none: that leaves a small difference.
            let variance = s2 + (2.0 * flow.curve.ends()[0]).exp();
            for (found, image) in found.iter().zip(images.chunks_exact(elements)) {
                let expected: f64 = image
                    .iter()
                    .map(|x| -0.5 * ((x - mean).powi(2) / variance + (TAU * variance).ln()))
                    .sum();
                let limit = if schedule.has_zero_terminal_snr() { 5e-4 } else { 2e-3 };
                let off = (found - expected).abs();
                assert!(off < limit, "{prediction_type:?}: {found}, expected {expected}");
            }
            assert!(evaluations < 500, "{evaluations} evaluations");
        }
    }
}
