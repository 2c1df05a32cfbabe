//! Noise schedules, and the posteriors that follow from them.

use std::f64::consts::FRAC_PI_2;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::PredictionType;
use crate::ops::vlb_loss::Coefficients;

/// Most timesteps of a process.
pub const MOST_TIMESTEPS: usize = 1_000_000;

/// How beta, the variance of the noise added in a step, grows over the steps; serde names are diffusers'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Betas evenly spaced (Ho et al. 2020, section 4).
    Linear,
    /// Square roots of betas evenly spaced (Rombach et al. 2022, latent diffusion).
    ScaledLinear,
    /// The cosine schedule (Nichol and Dhariwal 2021, equation 17); takes no start and end.
    SquaredcosCapV2,
    /// Betas along a sigmoid from -6 to 6 (Xu et al. 2022, GeoDiff), as diffusers has it.
    Sigmoid,
}

impl BetaSchedule {
    /// Every schedule.
    pub const ALL: &[BetaSchedule] =
        &[Self::Linear, Self::ScaledLinear, Self::SquaredcosCapV2, Self::Sigmoid];

    /// The name on the command line: diffusers' own, except `cosine` for `squaredcos_cap_v2`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::ScaledLinear => "scaled_linear",
            Self::SquaredcosCapV2 => "cosine",
            Self::Sigmoid => "sigmoid",
        }
    }

    /// The betas of `steps` training timesteps; `start` and `end` are diffusers' `beta_start` and `beta_end`.
    pub fn betas(self, steps: usize, start: f64, end: f64) -> Vec<f64> {
        match self {
            Self::Linear => linspace(start, end, steps).collect(),
            Self::ScaledLinear => linspace(start.sqrt(), end.sqrt(), steps).map(|root| root * root).collect(),
            Self::SquaredcosCapV2 => {
                // f(t) of equation 17; s = 0.008 keeps beta from vanishing near t = 0.
                let f = |t: usize| ((t as f64 / steps as f64 + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
                (0..steps).map(|t| (1.0 - f(t + 1) / f(t)).min(0.999)).collect()
            }
            Self::Sigmoid => {
                linspace(-6.0, 6.0, steps).map(|u| (end - start) / (1.0 + (-u).exp()) + start).collect()
            }
        }
    }
}

impl FromStr for BetaSchedule {
    type Err = ScheduleError;

    /// Reads the name of the command line or of diffusers.
    fn from_str(name: &str) -> Result<Self, ScheduleError> {
        if name == "squaredcos_cap_v2" {
            return Ok(Self::SquaredcosCapV2);
        }
        Self::ALL
            .iter()
            .copied()
            .find(|schedule| schedule.name() == name)
            .ok_or_else(|| ScheduleError::Unknown { name: name.to_owned() })
    }
}

/// `count` evenly spaced numbers, both ends included.
fn linspace(start: f64, end: f64, count: usize) -> impl Iterator<Item = f64> {
    let step = if count > 1 { (end - start) / (count - 1) as f64 } else { 0.0 };
    (0..count).map(move |i| if i > 0 && i == count - 1 { end } else { start + i as f64 * step })
}

/// Which variance the reverse process has (Ho et al. 2020, section 3.2); serde names are diffusers'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VarianceType {
    /// That of the posterior q(x_{t-1} | x_t, x_0), the smallest that can be right.
    #[default]
    FixedSmall,
    /// The same, written by diffusers by way of its logarithm.
    FixedSmallLog,
    /// That of the forward step, beta_t, the largest that can be right.
    FixedLarge,
    /// Between the two, in logarithms, by a number that the network gives for each element in a second half of its output
    /// channels (Nichol and Dhariwal 2021, equation 15).
    LearnedRange,
}

impl VarianceType {
    /// Channels that the network puts out for images of `channels`.
    pub fn output_channels(self, channels: usize) -> usize {
        if self == Self::LearnedRange { 2 * channels } else { channels }
    }
}

/// Betas changed so that nothing of the image is left at the last timestep (Lin et al. 2023, algorithm 1).
///
/// The square roots of alphas_cumprod are shifted and scaled: the first stays, the last becomes 0, and the last beta 1.
pub fn rescale_betas_zero_snr(betas: &[f64]) -> Vec<f64> {
    let mut product = 1.0;
    let roots: Vec<f64> = betas
        .iter()
        .map(|beta| {
            product *= 1.0 - beta;
            f64::sqrt(product)
        })
        .collect();
    let (Some(&first), Some(&last)) = (roots.first(), roots.last()) else { return Vec::new() };
    // With a single timestep the first is the last: it becomes 0.
    let scale = if first > last { first / (first - last) } else { 1.0 };
    let mut before = 1.0;
    roots
        .iter()
        .map(|root| {
            let alpha_cumprod = ((root - last) * scale).powi(2);
            let beta = 1.0 - alpha_cumprod / before;
            before = alpha_cumprod;
            beta
        })
        .collect()
}

/// A schedule that cannot be used.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum ScheduleError {
    /// No schedule has this name.
    #[error(
        "there is no noise schedule `{name}`; the schedules are linear, scaled_linear, cosine (also written \
         squaredcos_cap_v2) and sigmoid"
    )]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// No timestep, or more than memory should be spent on.
    #[error("num_train_timesteps is {0}; it must be from 1 to {MOST_TIMESTEPS}")]
    Length(usize),
    /// A beta out of range.
    #[error(
        "the noise schedule has beta {beta} at timestep {t}; betas must lie strictly between 0 and 1 (the last may be 1): \
         check beta_start, beta_end and trained_betas"
    )]
    Beta {
        /// The timestep, from 0.
        t: usize,
        /// Its beta.
        beta: f64,
    },
    /// Betas that are fine one by one, and whose product is not.
    #[error(
        "the noise schedule leaves a share {alpha_cumprod} of the image's variance at timestep {t}, which f64 \
         cannot tell from all or nothing: choose betas nearer to the usual 0.0001 to 0.02"
    )]
    AlphaCumprod {
        /// The timestep, from 0.
        t: usize,
        /// The product of 1 - beta up to it.
        alpha_cumprod: f64,
    },
}

/// The betas of every training timestep, and the products that all formulas are written in.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    betas: Vec<f64>,
    alphas_cumprod: Vec<f64>,
}

impl Schedule {
    /// Checks the betas and multiplies them up.
    ///
    /// # Errors
    /// [`ScheduleError`] if there are none or too many, or if one is not strictly between 0 and 1; the last may be 1, so
    /// that nothing of the image is left.
    pub fn new(betas: Vec<f64>) -> Result<Self, ScheduleError> {
        Self::check_length(betas.len())?;
        let mut product = 1.0;
        let mut alphas_cumprod = Vec::with_capacity(betas.len());
        for (t, &beta) in betas.iter().enumerate() {
            // NaN fails the first test, as it should.
            let is_zero_snr = beta == 1.0 && t > 0 && t + 1 == betas.len();
            if !(beta > 0.0 && (beta < 1.0 || is_zero_snr)) {
                return Err(ScheduleError::Beta { t, beta });
            }
            product *= 1.0 - beta;
            if !((product > 0.0 || is_zero_snr) && product < 1.0) {
                return Err(ScheduleError::AlphaCumprod { t, alpha_cumprod: product });
            }
            alphas_cumprod.push(product);
        }
        Ok(Self { betas, alphas_cumprod })
    }

    /// Whether a schedule may have so many timesteps.
    pub(super) fn check_length(steps: usize) -> Result<(), ScheduleError> {
        if (1..=MOST_TIMESTEPS).contains(&steps) { Ok(()) } else { Err(ScheduleError::Length(steps)) }
    }

    /// T, the number of training timesteps.
    pub fn num_train_timesteps(&self) -> usize {
        self.betas.len()
    }

    /// Every beta_t, `[T]`.
    pub fn betas(&self) -> &[f64] {
        &self.betas
    }

    /// Product of 1 - beta_s for s up to and including `t`: the share of the image's variance left in x_t.
    ///
    /// # Panics
    /// If `t` is not below T.
    pub fn alphas_cumprod(&self, t: usize) -> f64 {
        self.alphas_cumprod[t]
    }

    /// Share of the image's variance that is left after `steps` steps of noise: 1 after none.
    ///
    /// # Panics
    /// If `steps` is above T.
    pub fn alphas_cumprod_after(&self, steps: usize) -> f64 {
        steps.checked_sub(1).map_or(1.0, |t| self.alphas_cumprod[t])
    }

    /// Every product, `[T]`.
    pub fn all_alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// The posterior q(x_{t-1} | x_t, x_0) of one training timestep; before t = 0 lies the image itself.
    ///
    /// # Panics
    /// If `t` is not below T.
    pub fn posterior(&self, t: usize) -> Posterior {
        Posterior::between(self.alphas_cumprod[t], t.checked_sub(1).map_or(1.0, |t| self.alphas_cumprod[t]))
    }

    /// Whether nothing of the image is left at the last timestep.
    pub fn has_zero_terminal_snr(&self) -> bool {
        self.alphas_cumprod.last() == Some(&0.0)
    }

    /// One row of the `coefficients` of [`vlb_loss`](mod@crate::ops::vlb_loss): the term of the variational bound of one
    /// timestep (Ho et al. 2020, equation 5).
    ///
    /// At t = 0 the posterior has no variance; that of t = 1 stands in for its logarithm, as in Ho et al.'s code.
    ///
    /// # Panics
    /// If `t` is not below T.
    pub fn vlb_coefficients(
        &self,
        t: usize,
        prediction_type: PredictionType,
        variance_type: VarianceType,
    ) -> Coefficients {
        // With a single timestep there is no t = 1.
        let variance_at =
            |t: usize| if t < self.betas.len() { self.posterior(t).variance } else { self.betas[0] };
        let log_variance = variance_at(t.max(1)).ln();
        let model_log_variance = match variance_type {
            VarianceType::FixedSmall | VarianceType::FixedSmallLog => [log_variance; 2],
            VarianceType::FixedLarge if t == 0 => [log_variance; 2],
            VarianceType::FixedLarge => [self.betas[t].ln(); 2],
            VarianceType::LearnedRange => [log_variance, self.betas[t].ln()],
        };
        // The means differ in proportion to their estimates of x_0, and these in proportion to the prediction.
        let [_, x_start_of_output] = prediction_type.x_start_factors(self.alphas_cumprod[t]);
        Coefficients {
            mean_of_output: self.posterior(t).mean_of_x_start * x_start_of_output,
            log_variance,
            model_log_variance,
            is_decoder: t == 0,
        }
    }

    /// One row of the `coefficients` of [`q_sample`](crate::ops::q_sample::q_sample).
    ///
    /// The factors of x_start and eps in x_t (Ho et al. 2020, equation 4), then those in the network's target.
    ///
    /// # Panics
    /// If `t` is not below T.
    pub fn q_sample_coefficients(&self, t: usize, prediction_type: PredictionType) -> [f64; 4] {
        let alpha_cumprod = self.alphas_cumprod[t];
        let [of_x_start, of_eps] = prediction_type.target_factors(alpha_cumprod);
        [alpha_cumprod.sqrt(), (1.0 - alpha_cumprod).sqrt(), of_x_start, of_eps]
    }
}

/// The posterior q(x_s | x_t, x_0) for s < t, a normal distribution (Ho et al. 2020, equations 6 and 7).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Posterior {
    /// Variance of the forward step from x_s to x_t: beta_t where s = t - 1.
    pub beta: f64,
    /// Factor of x_0 in the mean.
    pub mean_of_x_start: f64,
    /// Factor of x_t in the mean.
    pub mean_of_x_t: f64,
    /// The variance.
    pub variance: f64,
}

impl Posterior {
    /// From alpha-bar at t and at s; at s it is 1 where x_s is the image itself.
    ///
    /// Equation 7 is written for neighbouring timesteps; a sampler that skips some has the same chain with
    /// alpha_t = alpha-bar_t / alpha-bar_s.
    pub fn between(alpha_cumprod: f64, alpha_cumprod_prev: f64) -> Self {
        let alpha = alpha_cumprod / alpha_cumprod_prev;
        let beta = 1.0 - alpha;
        let left = (1.0 - alpha_cumprod_prev) / (1.0 - alpha_cumprod);
        Self {
            beta,
            mean_of_x_start: alpha_cumprod_prev.sqrt() * beta / (1.0 - alpha_cumprod),
            mean_of_x_t: alpha.sqrt() * left,
            variance: left * beta,
        }
    }
}

#[cfg(test)]
mod tests;
