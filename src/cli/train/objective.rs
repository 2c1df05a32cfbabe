//! The flags of `train` that choose what is minimised.

use anyhow::bail;
use ddpm_gpu::diffusion::LossWeighting;
use ddpm_gpu::train::{LossType, Objective, TimestepSampling};

use crate::cli::bounds::{above_up_to, finite_f32_in, finite_in};
use crate::cli::one_of;

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
    #[arg(long, value_name = "X", value_parser = finite_f32_in(above_up_to(0.0, 1e9)))]
    huber_delta: Option<f32>,
    /// How much squared errors count at each noise level: uniform; snr or truncated-snr (Salimans and Ho 2022); min-snr
    /// (Hang et al. 2023); p2 (Choi et al. 2022). Converted to what the network predicts
    #[arg(long, default_value = "uniform", value_name = "NAME", value_parser = ["uniform", "snr", "truncated-snr", "min-snr", "p2"])]
    loss_weighting: String,
    /// The most that an error of the image counts with min-snr; 5 by default
    #[arg(long, value_name = "X", value_parser = finite_in(above_up_to(0.0, 1e9)))]
    min_snr_gamma: Option<f64>,
    /// How strongly p2 weights small noise down; 1 by default
    #[arg(long, value_name = "X", value_parser = finite_in(0.0..=10.0))]
    p2_gamma: Option<f64>,
    /// What keeps the weight of p2 finite; 1 by default
    #[arg(long, value_name = "X", value_parser = finite_in(above_up_to(0.0, 1e9)))]
    p2_k: Option<f64>,
    /// How timesteps are drawn: uniform; importance, by the second moments of the losses (Nichol and Dhariwal 2021), for
    /// which losses are read back in every step; low-discrepancy, evenly spread over the batch (Kingma et al. 2021)
    #[arg(long, default_value = "uniform", value_name = "NAME", value_parser = |name: &str| one_of("samplers", &TimestepSampling::ALL, name))]
    pub(super) timestep_sampler: TimestepSampling,
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
