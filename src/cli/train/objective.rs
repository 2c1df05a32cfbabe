//! The flags of `train` that choose the diffusion process and what is minimised.

use std::path::PathBuf;

use anyhow::{Context, bail};
use ddpm_gpu::diffusion::{
    BetaSchedule, LossWeighting, PredictionType, ScheduleError, SchedulerConfig, VarianceType,
};
use ddpm_gpu::train::{LossType, Objective, TimestepSampling};

use crate::cli::one_of;

/// The diffusion process.
#[derive(clap::Args)]
pub(super) struct ProcessArgs {
    /// Noise schedule: linear, scaled_linear, cosine, sigmoid; or learned, between the ends of the linear one (Kingma et al.
    /// 2021), for which losses are read back in every step
    #[arg(long, alias = "noise-schedule", default_value = "linear", value_name = "NAME", value_parser = parse_schedule)]
    beta_schedule: NoiseSchedule,
    /// First beta of the schedules that have one
    #[arg(long, default_value_t = SchedulerConfig::default().beta_start, value_name = "X")]
    beta_start: f64,
    /// Last beta of the schedules that have one
    #[arg(long, default_value_t = SchedulerConfig::default().beta_end, value_name = "X")]
    beta_end: f64,
    /// A JSON file with a list of betas, one for each timestep, in place of a schedule by name
    #[arg(long, value_name = "FILE", conflicts_with_all = ["beta_schedule", "num_train_timesteps"])]
    trained_betas: Option<PathBuf>,
    /// Number of timesteps
    #[arg(long, default_value_t = SchedulerConfig::default().num_train_timesteps, value_name = "T")]
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

/// What is minimised.
#[derive(clap::Args)]
pub(super) struct ObjectiveArgs {
    /// What is minimised: simple, the error of the prediction (Ho et al. 2020); vlb, the variational bound; hybrid, the
    /// first for the mean and the second for the variance (Nichol and Dhariwal 2021)
    #[arg(long, default_value = "simple", value_name = "NAME", value_parser = |name: &str| one_of("objectives", &Objective::ALL, name))]
    pub(super) objective: Objective,
    /// How a prediction is compared with what it should be: mse, l1, huber
    #[arg(long, default_value = "mse", value_name = "NAME", value_parser = ["mse", "l1", "huber"])]
    loss_type: String,
    /// Where Huber's loss turns from a parabola into a line; 1 by default
    #[arg(long, value_name = "X")]
    huber_delta: Option<f32>,
    /// How much squared errors count at each noise level: uniform; snr or truncated-snr (Salimans and Ho 2022); min-snr
    /// (Hang et al. 2023); p2 (Choi et al. 2022). Converted to what the network predicts
    #[arg(long, default_value = "uniform", value_name = "NAME", value_parser = ["uniform", "snr", "truncated-snr", "min-snr", "p2"])]
    loss_weighting: String,
    /// The most that an error of the image counts with min-snr; 5 by default
    #[arg(long, value_name = "X")]
    min_snr_gamma: Option<f64>,
    /// How strongly p2 weights small noise down; 1 by default
    #[arg(long, value_name = "X")]
    p2_gamma: Option<f64>,
    /// What keeps the weight of p2 finite; 1 by default
    #[arg(long, value_name = "X")]
    p2_k: Option<f64>,
    /// How timesteps are drawn: uniform; importance, by the second moments of the losses (Nichol and Dhariwal 2021), for
    /// which losses are read back in every step; low-discrepancy, evenly spread over the batch (Kingma et al. 2021)
    #[arg(long, default_value = "uniform", value_name = "NAME", value_parser = |name: &str| one_of("samplers", &TimestepSampling::ALL, name))]
    pub(super) timestep_sampler: TimestepSampling,
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
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("{}: cannot be read", path.display()))?;
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

impl ObjectiveArgs {
    pub(super) fn loss_type(&self) -> anyhow::Result<LossType> {
        if self.huber_delta.is_some() && self.loss_type != "huber" {
            bail!("--huber-delta belongs to --loss-type huber; add that, or leave it out");
        }
        Ok(match self.loss_type.as_str() {
            "l1" => LossType::L1,
            "huber" => LossType::Huber { delta: self.huber_delta.unwrap_or(1.0) },
            _ => LossType::Mse,
        })
    }

    pub(super) fn loss_weighting(&self) -> anyhow::Result<LossWeighting> {
        for (flag, value, weighting) in [
            ("--min-snr-gamma", self.min_snr_gamma, "min-snr"),
            ("--p2-gamma", self.p2_gamma, "p2"),
            ("--p2-k", self.p2_k, "p2"),
        ] {
            if value.is_some() && self.loss_weighting != weighting {
                bail!("{flag} belongs to --loss-weighting {weighting}; add that, or leave it out");
            }
        }
        Ok(match self.loss_weighting.as_str() {
            "snr" => LossWeighting::Snr,
            "truncated-snr" => LossWeighting::TruncatedSnr,
            "min-snr" => LossWeighting::MinSnr { gamma: self.min_snr_gamma.unwrap_or(5.0) },
            "p2" => LossWeighting::P2 { gamma: self.p2_gamma.unwrap_or(1.0), k: self.p2_k.unwrap_or(1.0) },
            _ => LossWeighting::Uniform,
        })
    }
}
