//! Implicit sampling (Song, Meng and Ermon 2021, "Denoising Diffusion Implicit Models").
//!
//! The paper's alpha_t is alpha-bar here.

use super::{Choice, Guided, Process, Sampler, SamplerError, Step, Steps, Update, X_0};
use crate::diffusion::Posterior;

pub(super) const SAMPLER: Sampler = Sampler {
    name: "ddim",
    description: "implicit sampling (Song et al. 2021): without noise unless eta is above 0, good with 20 to 100 steps",
    default_steps: Some(50),
    slots: 0,
    measures: false,
    inverts: false,
    guided: Guided::Eps,
    extrapolates: false,
    choices: &[Choice::Steps, Choice::Spacing, Choice::Strength, Choice::Eta],
    steps,
};

/// The steps of diffusers' `DDIMScheduler` with `use_clipped_model_output`, and of improved-diffusion. A step takes eps
/// from x and the clipped x_0, rather than from the network: the network's eps would carry the clipped part on from
/// step to step.
fn steps(process: &Process<'_>) -> Result<Steps, SamplerError> {
    let eta = process.options.eta.unwrap_or(0.0);
    if !(0.0..=1.0).contains(&eta) {
        return Err(SamplerError::EtaRange(eta));
    }
    let timesteps = process.timesteps()?;
    let stride = process.stride();
    let last = if process.config.set_alpha_to_one { process.image() } else { process.level(0) };

    let step = |(i, &t): (usize, &usize)| {
        // One stride back, which with linspace spacing need not be the next timestep visited: as diffusers has it.
        let level = process.level(t);
        let next = match stride {
            Some(stride) => t.checked_sub(stride),
            None => timesteps.get(i + 1).copied(),
        };
        let next = next.map_or(last, |next| process.level(next));

        // Equation 16: eta times the standard deviation that DDPM's posterior has.
        let variance = Posterior::between(level.alpha_cumprod, next.alpha_cumprod).variance;
        let sigma = eta * variance.sqrt();

        // Equation 12: "predicted x_0" scaled to the next timestep, "direction pointing to x_t", random noise.
        // Rounding may leave what is under the root slightly below zero.
        let direction = (1.0 - next.alpha_cumprod - sigma * sigma).max(0.0).sqrt();
        let x = next.alpha() * X_0 + direction * level.eps();

        Step::at(t as f64, Update::new(level.x_0(), x).noise(sigma))
    };
    Ok(Steps::Fixed(timesteps.iter().enumerate().map(step).collect()))
}
