//! Ancestral sampling (Ho, Jain and Abbeel 2020, "Denoising Diffusion Probabilistic Models", algorithm 2).

use super::{Sampler, SamplerError, SamplerOptions, Step};
use crate::diffusion::{Posterior, SchedulerConfig, VarianceType};
use crate::ops::reverse_step::Coefficients;

pub(super) const SAMPLER: Sampler = Sampler {
    name: "ddpm",
    description: "ancestral sampling (Ho et al. 2020): fresh noise in every step, best with many steps",
    steps,
};

/// The steps of diffusers' `DDPMScheduler`.
fn steps(config: &SchedulerConfig, options: &SamplerOptions) -> Result<Vec<Step>, SamplerError> {
    if options.eta != 0.0 {
        return Err(SamplerError::EtaUnused { sampler: SAMPLER.name, eta: options.eta });
    }
    let schedule = config.schedule()?;
    let timesteps = config.timesteps(options.steps)?;

    let step = |(i, &t): (usize, &usize)| {
        // The next timestep visited; after the last one lies the image itself, with alpha-bar 1.
        let alpha_cumprod = schedule.alphas_cumprod(t);
        let alpha_cumprod_prev = timesteps.get(i + 1).map_or(1.0, |&prev| schedule.alphas_cumprod(prev));

        // The estimate of x_0 (equation 15), clamped to the range of images.
        let x_0 = config.prediction_type.x_start_factors(alpha_cumprod);
        let limit = config.clip_limit();

        // The mean is that of q(x_{t-1} | x_t, x_0), with the estimate for x_0 (equation 7).
        let posterior = Posterior::between(alpha_cumprod, alpha_cumprod_prev);
        let x_prev = [posterior.mean_of_x_start, posterior.mean_of_x_t, 0.0];

        // Section 3.2: sigma_t^2 is the posterior's variance or beta_t. No noise is added at t = 0 (algorithm 2,
        // line 3). With `steps_offset` the last timestep is not 0, and diffusers' 1e-20 shows.
        let variance = match config.variance_type {
            VarianceType::FixedSmall | VarianceType::FixedSmallLog => posterior.variance.max(1e-20),
            VarianceType::FixedLarge | VarianceType::LearnedRange => posterior.beta,
        };
        let sigma = if t > 0 { variance.sqrt() } else { 0.0 };

        Step { timestep: t, coefficients: Coefficients { x_0, limit, x_prev, sigma } }
    };
    Ok(timesteps.iter().enumerate().map(step).collect())
}
