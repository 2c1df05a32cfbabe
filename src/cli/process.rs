//! The flags that choose the diffusion process.

use std::path::PathBuf;

use anyhow::Context;
use ddpm_gpu::diffusion::{
    BetaSchedule, MOST_TIMESTEPS, PredictionType, ScheduleError, SchedulerConfig, VarianceType,
};
use ddpm_gpu::files::read_regular_text;

use super::bounds::{above_up_to, count_in, finite_in};
use super::one_of;

/// The diffusion process. What is left open is as it is in the model that a run starts from, or the default.
#[derive(clap::Args)]
pub(super) struct ProcessArgs {
    /// Noise schedule: linear, scaled_linear, cosine, sigmoid; or learned, between the ends of the linear one (Kingma
    /// et al. 2021), for which losses are read back in every step [default: linear]
    #[arg(long, alias = "noise-schedule", value_name = "NAME", value_parser = parse_schedule)]
    beta_schedule: Option<NoiseSchedule>,
    #[arg(long, value_name = "X", value_parser = finite_in(above_up_to(0.0, 1.0)), help = format!(
        "First beta of the schedules that have one [default: {}]",
        SchedulerConfig::default().beta_start
    ))]
    beta_start: Option<f64>,
    #[arg(long, value_name = "X", value_parser = finite_in(above_up_to(0.0, 1.0)), help = format!(
        "Last beta of the schedules that have one [default: {}]",
        SchedulerConfig::default().beta_end
    ))]
    beta_end: Option<f64>,
    /// A JSON file with a list of betas, one for each timestep, in place of a schedule by name
    #[arg(long, value_name = "FILE", conflicts_with_all = ["beta_schedule", "num_train_timesteps"])]
    trained_betas: Option<PathBuf>,
    #[arg(long, value_name = "T", value_parser = count_in(1..=MOST_TIMESTEPS), help = format!(
        "Number of timesteps [default: {}]",
        SchedulerConfig::default().num_train_timesteps
    ))]
    num_train_timesteps: Option<usize>,
    /// Change the schedule so that nothing of the image is left at the last timestep (Lin et al. 2023); needs
    /// --prediction-type v_prediction or sample
    #[arg(long, alias = "rescale-zero-snr")]
    rescale_betas_zero_snr: bool,
    /// What the network predicts: epsilon, the noise; sample, the image; or v_prediction [default: epsilon]
    #[arg(long, value_name = "NAME", value_parser = parse_prediction)]
    prediction_type: Option<PredictionType>,
    /// Variance of the reverse process when the ddpm sampler draws: fixed_small, fixed_large; or learned_range, for
    /// which the network has twice the output channels and which needs --objective hybrid or vlb [default: fixed_small]
    #[arg(long, alias = "variance", value_name = "NAME", value_parser = parse_variance)]
    variance_type: Option<VarianceType>,
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
        self.beta_schedule == Some(NoiseSchedule::Learned)
    }

    /// Whether the flags ask for a learned variance.
    pub(super) fn has_learned_variance(&self) -> bool {
        self.variance_type == Some(VarianceType::LearnedRange)
    }

    /// The process, checked: that of the model that a run starts from, or the default, with what the flags say of it.
    pub(super) fn scheduler(&self, of_model: Option<&SchedulerConfig>) -> anyhow::Result<SchedulerConfig> {
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
        let mut config = of_model.cloned().unwrap_or_default();
        let is_named = [self.beta_schedule.is_some(), self.beta_start.is_some(), self.beta_end.is_some()];
        if is_named.contains(&true) || self.num_train_timesteps.is_some() || trained_betas.is_some() {
            // Betas that the model lists are those of its own schedule.
            config.trained_betas = trained_betas;
        }
        let timesteps = config.trained_betas.as_ref().map(Vec::len).or(self.num_train_timesteps);
        config.num_train_timesteps = timesteps.unwrap_or(config.num_train_timesteps);
        config.beta_start = self.beta_start.unwrap_or(config.beta_start);
        config.beta_end = self.beta_end.unwrap_or(config.beta_end);
        config.beta_schedule = match self.beta_schedule {
            Some(NoiseSchedule::Fixed(schedule)) => schedule,
            Some(NoiseSchedule::Learned) => BetaSchedule::Linear,
            None => config.beta_schedule,
        };
        config.rescale_betas_zero_snr |= self.rescale_betas_zero_snr;
        config.prediction_type = self.prediction_type.unwrap_or(config.prediction_type);
        config.variance_type = self.variance_type.unwrap_or(config.variance_type);
        config.check()?;
        Ok(config)
    }
}
