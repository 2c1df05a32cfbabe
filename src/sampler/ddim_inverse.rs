//! Deterministic inversion: from an image to the noise that `ddim` makes it of (Song, Meng and Ermon 2021, "Denoising
//! Diffusion Implicit Models", section 4.3).

use super::{Choice, Guided, Process, Sampler, SamplerError, Step, Steps, Update, X_0};
use crate::diffusion::PredictionType;

pub(super) const SAMPLER: Sampler = Sampler {
    name: "ddim_inverse",
    description: "the other way round: from images to the noise that `ddim` makes them of (Song et al. 2021, section 4.3)",
    default_steps: Some(50),
    slots: 0,
    measures: false,
    inverts: true,
    guided: Guided::Eps,
    extrapolates: false,
    choices: &[Choice::Steps, Choice::Spacing, Choice::Strength],
    steps,
};

/// The steps of diffusers' `DDIMInverseScheduler`.
fn steps(process: &Process<'_>) -> Result<Steps, SamplerError> {
    let mut timesteps = process.timesteps()?;
    timesteps.reverse();
    let stride = process.even_stride()?;
    // Of the image itself a network that predicts x_0 says nothing about eps.
    let is_known =
        process.config.set_alpha_to_one && process.config.prediction_type != PredictionType::Sample;
    let first = if is_known { process.image() } else { process.level(0) };

    let step = |&t: &usize| {
        // The network is told the timestep that the step leads to, where its output hardly differs.
        let level = t.checked_sub(stride).map_or(first, |t| process.level(t));
        let next = process.level(t);
        // Equation 12 without noise, read from left to right.
        let x = next.alpha() * X_0 + next.sigma() * level.eps_of_output();
        Step::at(t as f64, Update::new(level.x_0(), x))
    };
    Ok(Steps::Fixed(timesteps.iter().map(step).collect()))
}
