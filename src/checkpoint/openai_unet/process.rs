//! The process that a model was trained for (`create_gaussian_diffusion`).

use serde_json::json;

use super::settings::NoiseSchedule;
use super::understood::Understood;
use crate::diffusion::SchedulerConfig;

/// Their steps are spread as "linspace" has it, and estimates of x_0 are clamped.
pub(super) fn scheduler(understood: &Understood) -> Result<SchedulerConfig, serde_json::Error> {
    // Betas of Ho et al. for T = 1000, stretched over other numbers of steps.
    let scale = 1000.0 / understood.steps as f64;
    serde_json::from_value(json!({
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": understood.steps,
        "beta_start": scale * 0.0001,
        "beta_end": scale * 0.02,
        "beta_schedule": match understood.schedule {
            NoiseSchedule::Linear => "linear",
            NoiseSchedule::Cosine => "squaredcos_cap_v2",
        },
        "variance_type": match (understood.learn_sigma, understood.sigma_small) {
            (true, _) => "learned_range",
            (false, false) => "fixed_large",
            (false, true) => "fixed_small",
        },
        "prediction_type": if understood.predict_xstart { "sample" } else { "epsilon" },
        "clip_sample": true,
        "timestep_spacing": "linspace",
    }))
}
