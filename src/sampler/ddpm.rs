//! Ancestral sampling (Ho, Jain and Abbeel 2020, "Denoising Diffusion Probabilistic Models", algorithm 2).

use super::{Choice, Process, Sampler, SamplerError, Step, Steps};
use crate::diffusion::{Posterior, VarianceType};
use crate::ops::reverse_step::{Update, X, X_0};

pub(super) const SAMPLER: Sampler = Sampler {
    name: "ddpm",
    description: "ancestral sampling (Ho et al. 2020): fresh noise in every step, best with many steps",
    default_steps: None,
    slots: 0,
    measures: false,
    choices: &[Choice::Steps],
    steps,
};

/// The steps of diffusers' `DDPMScheduler`.
fn steps(process: &Process<'_>) -> Result<Steps, SamplerError> {
    let timesteps = process.timesteps()?;
    let step = |(i, &t): (usize, &usize)| {
        // The next timestep visited; after the last one lies the image itself.
        let level = process.level(t);
        let next = timesteps.get(i + 1).map_or(process.image(), |&next| process.level(next));

        // The mean is that of q(x_{t-1} | x_t, x_0), with the estimate of x_0 (equation 15) for x_0 (equation 7).
        let posterior = Posterior::between(level.alpha_cumprod, next.alpha_cumprod);
        let mean = posterior.mean_of_x_start * X_0 + posterior.mean_of_x_t * X;

        // Section 3.2: sigma_t^2 is the posterior's variance or beta_t. No noise is added at t = 0 (algorithm 2,
        // line 3). With `steps_offset` the last timestep is not 0, and diffusers' 1e-20 shows.
        let variance = match process.config.variance_type {
            VarianceType::FixedSmall | VarianceType::FixedSmallLog => posterior.variance.max(1e-20),
            VarianceType::FixedLarge => posterior.beta,
        };
        let sigma = if t > 0 { variance.sqrt() } else { 0.0 };

        Step::at(t as f64, Update::new(level.x_0(), mean).noise(sigma))
    };
    Ok(Steps::Fixed(timesteps.iter().enumerate().map(step).collect()))
}
