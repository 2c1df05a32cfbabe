//! The mathematics of denoising diffusion: schedules, posteriors, parameterisations, timesteps.
//!
//! Plain f64 on the host: no GPU, no files, no clocks. Names are those of Ho et al. 2020 and of diffusers:
//! x_0 or `x_start` is an image, x_t the same after t steps of noise, `eps` the noise, and
//! `alphas_cumprod[t]` the paper's alpha-bar, counted from 0 as in code and not from 1 as in the paper.

mod bound;
mod config;
pub(crate) mod dormand_prince;
mod learned_schedule;
mod method;
mod noise;
mod prediction;
mod schedule;
mod scheduler_class;
mod timesteps;
mod weighting;

pub use bound::BoundCoefficients;
pub use config::{ConfigError, SchedulerConfig, Thresholding};
pub use learned_schedule::LearnedSchedule;
pub use method::{LevelSpacing, Method, Slope, Solver};
pub use noise::{Mixing, NoiseCurve};
pub use prediction::PredictionType;
pub use schedule::{
    BetaSchedule, MOST_TIMESTEPS, Posterior, Schedule, ScheduleError, VarianceType, rescale_betas_zero_snr,
};
pub use scheduler_class::{CLASSES as SCHEDULER_CLASSES, SchedulerClass};
pub use timesteps::{Respacing, TimestepSpacing, TimestepsError};
pub use weighting::{LossWeighting, WeightingError};
