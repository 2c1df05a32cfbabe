//! Implicit sampling (Song, Meng and Ermon 2021, "Denoising Diffusion Implicit Models").
//!
//! The paper's alpha_t is alpha-bar here.

use super::{Sampler, SamplerError, SamplerOptions, Step};
use crate::diffusion::{Posterior, SchedulerConfig};
use crate::ops::reverse_step::Coefficients;

pub(super) const SAMPLER: Sampler = Sampler {
    name: "ddim",
    description: "implicit sampling (Song et al. 2021): without noise unless --eta is given, good with 20 to 100 steps",
    steps,
};

/// The steps of diffusers' `DDIMScheduler`, with `use_clipped_model_output` false.
fn steps(config: &SchedulerConfig, options: &SamplerOptions) -> Result<Vec<Step>, SamplerError> {
    let eta = options.eta;
    if !(0.0..=1.0).contains(&eta) {
        return Err(SamplerError::EtaRange(eta));
    }
    let schedule = config.schedule()?;
    let timesteps = config.timesteps(options.steps)?;
    let stride = config.num_train_timesteps / options.steps;
    let final_alpha_cumprod = if config.set_alpha_to_one { 1.0 } else { schedule.alphas_cumprod(0) };

    let step = |&t: &usize| {
        // One stride back, which with linspace spacing need not be the next timestep visited: as diffusers has it.
        let alpha_cumprod = schedule.alphas_cumprod(t);
        let alpha_cumprod_prev = match t.checked_sub(stride) {
            Some(prev) => schedule.alphas_cumprod(prev),
            None => final_alpha_cumprod,
        };

        // "predicted x_0" (the first term of equation 12), clamped to the range of images, and the noise, which
        // stays what the network says even where x_0 is clamped.
        let x_0 = config.prediction_type.x_start_factors(alpha_cumprod);
        let limit = config.clip_limit();
        let [eps_of_x_t, eps_of_output] = config.prediction_type.eps_factors(alpha_cumprod);

        // Equation 16: eta times the standard deviation that DDPM's posterior has.
        let variance = Posterior::between(alpha_cumprod, alpha_cumprod_prev).variance;
        let sigma = eta * variance.sqrt();

        // Equation 12: x_0 scaled to the next timestep, "direction pointing to x_t", random noise. Rounding may
        // leave a trifle below zero under the root.
        let direction = (1.0 - alpha_cumprod_prev - sigma * sigma).max(0.0).sqrt();
        let x_prev = [alpha_cumprod_prev.sqrt(), direction * eps_of_x_t, direction * eps_of_output];

        Step { timestep: t, coefficients: Coefficients { x_0, limit, x_prev, sigma } }
    };
    Ok(timesteps.iter().map(step).collect())
}
