//! Ancestral sampling (Ho, Jain and Abbeel 2020, "Denoising Diffusion Probabilistic Models", algorithm 2).

use super::{Choice, Guided, Process, Sampler, SamplerError, Step, Steps, Update, X, X_0};
use crate::diffusion::{Posterior, VarianceType};

pub(super) const SAMPLER: Sampler = Sampler {
    name: "ddpm",
    description: "ancestral sampling (Ho et al. 2020): fresh noise in every step, best with many steps",
    default_steps: None,
    slots: 0,
    measures: false,
    inverts: false,
    guided: Guided::Mean,
    extrapolates: false,
    choices: &[Choice::Steps, Choice::Spacing, Choice::Strength, Choice::NoiseInLastStep],
    steps,
};

/// The steps of diffusers' `DDPMScheduler`, except that the last one adds no noise to the finished image at any
/// timestep.
pub(super) fn steps(process: &Process<'_>) -> Result<Steps, SamplerError> {
    let timesteps = process.timesteps()?;
    let step = |(i, &t): (usize, &usize)| {
        // The next timestep visited; after the last one lies the image itself.
        let level = process.level(t);
        let next = timesteps.get(i + 1).map_or(process.image(), |&next| process.level(next));

        // The mean is that of q(x_{t-1} | x_t, x_0), with the estimate of x_0 (equation 15) for x_0 (equation 7).
        let posterior = Posterior::between(level.alpha_cumprod, next.alpha_cumprod);
        let mean = posterior.mean_of_x_start * X_0 + posterior.mean_of_x_t * X;

        // Section 3.2: sigma_t^2 is the posterior's variance or beta_t, or learned between the two (Nichol and Dhariwal
        // 2021, equation 15); diffusers keeps it from 0, which only shows where the last step has noise.
        let (small, large) = (posterior.variance.max(1e-20), posterior.beta);
        let (variance, log_range) = match process.config.variance_type {
            VarianceType::FixedSmall | VarianceType::FixedSmallLog => (small, 0.0),
            VarianceType::FixedLarge => (large, 0.0),
            VarianceType::LearnedRange => ((small * large).sqrt(), (large / small).ln() / 4.0),
        };
        let update = Update::new(level.x_0(), mean);
        // No noise is added in the last step (algorithm 2, line 3, where it is t = 1). diffusers asks whether t > 0,
        // and adds noise to the image where trailing spacing or `steps_offset` let the last timestep be another.
        let is_noisy = if process.options.noise_in_last_step { t > 0 } else { i + 1 < timesteps.len() };
        let update = if is_noisy { Update { sigma: variance.sqrt(), log_range, ..update } } else { update };

        Step::at(level.timestep, update)
    };
    Ok(Steps::Fixed(timesteps.iter().enumerate().map(step).collect()))
}
