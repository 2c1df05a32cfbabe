//! The process that a model was trained for (`create_gaussian_diffusion`).

use super::settings::NoiseSchedule;
use super::understood::Understood;
use crate::diffusion::{
    BetaSchedule, ConfigError, PredictionType, SchedulerConfig, TimestepSpacing, VarianceType,
};

/// Their steps are spread as "linspace" has it, and estimates of x_0 are clamped.
pub(super) fn scheduler(understood: &Understood) -> Result<SchedulerConfig, ConfigError> {
    // The betas of Ho et al. are those of T = 1000, stretched over other numbers of steps.
    let defaults = SchedulerConfig::default();
    let scale = defaults.num_train_timesteps as f64 / understood.steps as f64;
    let config = SchedulerConfig {
        num_train_timesteps: understood.steps,
        beta_start: scale * defaults.beta_start,
        beta_end: scale * defaults.beta_end,
        beta_schedule: match understood.schedule {
            NoiseSchedule::Linear => BetaSchedule::Linear,
            NoiseSchedule::Cosine => BetaSchedule::SquaredcosCapV2,
        },
        variance_type: match (understood.learn_sigma, understood.sigma_small) {
            (true, _) => VarianceType::LearnedRange,
            (false, false) => VarianceType::FixedLarge,
            (false, true) => VarianceType::FixedSmall,
        },
        prediction_type: match understood.predict_xstart {
            true => PredictionType::Sample,
            false => PredictionType::Epsilon,
        },
        clip_sample: true,
        timestep_spacing: TimestepSpacing::Linspace,
        ..defaults
    };
    config.check()?;
    Ok(config)
}
