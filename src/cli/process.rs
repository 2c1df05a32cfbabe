//! The flags that choose the diffusion process.

use std::path::PathBuf;

use anyhow::Context;
use ddpm_gpu::diffusion::{
    BetaSchedule, MOST_TIMESTEPS, PredictionType, ScheduleError, SchedulerConfig, VarianceType,
};
use ddpm_gpu::files::read_regular_text;

use super::bounds::{above_up_to, count_in, finite_in};
use super::one_of;

/// The diffusion process.
#[derive(clap::Args)]
pub(super) struct ProcessArgs {
    /// Noise schedule: linear, scaled_linear, cosine, sigmoid; or learned, between the ends of the linear one (Kingma et al.
    /// 2021), for which losses are read back in every step
    #[arg(long, alias = "noise-schedule", default_value = "linear", value_name = "NAME", value_parser = parse_schedule)]
    beta_schedule: NoiseSchedule,
    /// First beta of the schedules that have one
    #[arg(long, default_value_t = SchedulerConfig::default().beta_start, value_name = "X")]
    #[arg(value_parser = finite_in(above_up_to(0.0, 1.0)))]
    beta_start: f64,
    /// Last beta of the schedules that have one
    #[arg(long, default_value_t = SchedulerConfig::default().beta_end, value_name = "X")]
    #[arg(value_parser = finite_in(above_up_to(0.0, 1.0)))]
    beta_end: f64,
    /// A JSON file with a list of betas, one for each timestep, in place of a schedule by name
    #[arg(long, value_name = "FILE", conflicts_with_all = ["beta_schedule", "num_train_timesteps"])]
    trained_betas: Option<PathBuf>,
    /// Number of timesteps
    #[arg(long, default_value_t = SchedulerConfig::default().num_train_timesteps, value_name = "T")]
    #[arg(value_parser = count_in(1..=MOST_TIMESTEPS))]
    num_train_timesteps: usize,
    /// Change the schedule so that nothing of the image is left at the last timestep (Lin et al. 2023); needs
    /// --prediction-type v_prediction or sample
    #[arg(long, alias = "rescale-zero-snr")]
    rescale_betas_zero_snr: bool,
    /// What the network predicts: epsilon, the noise; sample, the image; or v_prediction
    #[arg(long, default_value = "epsilon", value_name = "NAME", value_parser = parse_prediction)]
    prediction_type: PredictionType,
    /// Variance of the reverse process when the ddpm sampler draws: fixed_small, fixed_large; or learned_range, for which
    /// the network has twice the output channels and which needs --objective hybrid or vlb
    #[arg(long, alias = "variance", default_value = "fixed_small", value_name = "NAME", value_parser = parse_variance)]
    pub(super) variance_type: VarianceType,
}

/// A noise schedule by the name of its flag.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NoiseSchedule {
    Fixed(BetaSchedule),
    Learned,
}

fn parse_schedule(name: &str) -> Result<NoiseSchedule, String> {
    match name {
        "learned" => Ok(NoiseSchedule::Learned),
        _ => name.parse().map(NoiseSchedule::Fixed).map_err(|error: ScheduleError| error.to_string()),
    }
}

fn parse_prediction(name: &str) -> Result<PredictionType, String> {
    let known = [
        ("epsilon", PredictionType::Epsilon),
        ("sample", PredictionType::Sample),
        ("v_prediction", PredictionType::VPrediction),
    ];
    one_of("predictions", &known, &name.replace('-', "_"))
}

fn parse_variance(name: &str) -> Result<VarianceType, String> {
    let known = [
        ("fixed_small", VarianceType::FixedSmall),
        ("fixed_large", VarianceType::FixedLarge),
        ("learned_range", VarianceType::LearnedRange),
    ];
    one_of("variances", &known, &name.replace('-', "_"))
}

impl ProcessArgs {
    /// Whether the noise schedule is learned.
    pub(super) fn is_learned(&self) -> bool {
        self.beta_schedule == NoiseSchedule::Learned
    }

    /// The process, checked.
    pub(super) fn scheduler(&self) -> anyhow::Result<SchedulerConfig> {
        let trained_betas: Option<Vec<f64>> = match &self.trained_betas {
            None => None,
            Some(path) => {
                let text =
                    read_regular_text(path).with_context(|| format!("{}: cannot be read", path.display()))?;
                let betas = serde_json::from_str(&text).with_context(|| {
                    format!("{}: expected a list of numbers, such as [0.0001, 0.02]", path.display())
                })?;
                Some(betas)
            }
        };
        let config = SchedulerConfig {
            num_train_timesteps: trained_betas.as_ref().map_or(self.num_train_timesteps, Vec::len),
            beta_start: self.beta_start,
            beta_end: self.beta_end,
            beta_schedule: match self.beta_schedule {
                NoiseSchedule::Fixed(schedule) => schedule,
                NoiseSchedule::Learned => BetaSchedule::Linear,
            },
            trained_betas,
            rescale_betas_zero_snr: self.rescale_betas_zero_snr,
            prediction_type: self.prediction_type,
            variance_type: self.variance_type,
            ..SchedulerConfig::default()
        };
        config.check()?;
        Ok(config)
    }
}
