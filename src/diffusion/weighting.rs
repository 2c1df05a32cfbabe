//! How much the loss of each noise level counts.
//!
//! A weighting is published for one kind of prediction. Here each is a factor of the squared error of x_0, which is
//! converted to the squared error of the model's own prediction.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{PredictionType, Schedule};

/// How much the squared error at a noise level counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossWeighting {
    /// The same at every noise level, for the error of the prediction itself (Ho et al. 2020, equation 14).
    #[default]
    Uniform,
    /// The error of x_0 by the signal-to-noise ratio, which is the error of eps by 1 (Salimans and Ho 2022, section 4).
    Snr,
    /// The error of x_0 by the ratio, but by no less than 1 (Salimans and Ho 2022, section 4).
    TruncatedSnr,
    /// The error of x_0 by the ratio, but by no more than `gamma` (Hang et al. 2023, section 3.4).
    MinSnr {
        /// The most that an error of x_0 counts; the paper's is 5.
        gamma: f64,
    },
    /// The error of eps by 1 / (k + ratio)^gamma (Choi et al. 2022, equation 8).
    P2 {
        /// How strongly small noise is weighted down; the paper's is 1 or 0.5.
        gamma: f64,
        /// What keeps the weight finite; the paper's is 1.
        k: f64,
    },
}

/// A weighting that trains nothing.
#[derive(Clone, Copy, Debug, Error, PartialEq)]
pub enum WeightingError {
    /// Hardly any error counts.
    #[error(
        "the loss weighting leaves no timestep a weight above {most:.0e}, so that no error of the network counts: take \
         a gamma nearer to 1 or 0.5, and a k nearer to 1"
    )]
    Vanishes {
        /// The largest weight.
        most: f64,
    },
    /// A weight that the loss cannot be multiplied by.
    #[error(
        "the loss weighting gives timestep {t} the weight {weight:.0e}, which is beyond the range of f32: take a gamma \
         nearer to 1 or 0.5, and a k nearer to 1"
    )]
    Overflows {
        /// The timestep.
        t: usize,
        /// Its weight.
        weight: f64,
    },
}

/// With smaller gradients an optimiser that divides by their size, and by 1e-8 beside it, hardly moves.
const LEAST_WEIGHT: f64 = 1e-6;

impl PredictionType {
    /// The squared error of the prediction over the squared error of x_0, at the signal-to-noise ratio `snr`.
    fn squared_error_of_x_start(self, snr: f64) -> f64 {
        match self {
            Self::Epsilon => snr,
            Self::Sample => 1.0,
            Self::VPrediction => snr + 1.0,
        }
    }
}

impl LossWeighting {
    /// The factor of the network's squared error where alphas_cumprod\[t\] is `alpha_cumprod`.
    pub fn weight(self, alpha_cumprod: f64, prediction_type: PredictionType) -> f64 {
        let snr = alpha_cumprod / (1.0 - alpha_cumprod);
        let of_x_start = match self {
            Self::Uniform => return 1.0,
            Self::Snr => snr,
            Self::TruncatedSnr => snr.max(1.0),
            Self::MinSnr { gamma } => snr.min(gamma),
            Self::P2 { gamma, k } => snr / (k + snr).powf(gamma),
        };
        of_x_start / prediction_type.squared_error_of_x_start(snr)
    }

    /// Whether any timestep of a process counts, and none more than f32 can say.
    ///
    /// # Errors
    /// [`WeightingError`]
    pub fn check(self, schedule: &Schedule, prediction_type: PredictionType) -> Result<(), WeightingError> {
        let mut most: f64 = 0.0;
        for (t, &alpha_cumprod) in schedule.all_alphas_cumprod().iter().enumerate() {
            let weight = self.weight(alpha_cumprod, prediction_type);
            if !(weight as f32).is_finite() {
                return Err(WeightingError::Overflows { t, weight });
            }
            most = most.max(weight);
        }
        if most < LEAST_WEIGHT { Err(WeightingError::Vanishes { most }) } else { Ok(()) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LEVELS: [f64; 5] = [0.9999, 0.9, 0.5, 0.02, 4e-5];

    /// The formulas of diffusers' training scripts (`--snr_gamma`), which have eps and v only.
    #[test]
    fn min_snr_is_that_of_diffusers() {
        for abar in LEVELS {
            let snr = abar / (1.0 - abar);
            let weight = |kind| LossWeighting::MinSnr { gamma: 5.0 }.weight(abar, kind);
            assert!((weight(PredictionType::Epsilon) - snr.min(5.0) / snr).abs() < 1e-12);
            assert!((weight(PredictionType::VPrediction) - snr.min(5.0) / (snr + 1.0)).abs() < 1e-12);
            assert!((weight(PredictionType::Sample) - snr.min(5.0)).abs() < 1e-12);
        }
    }

    /// lucidrains' `p2_loss_weight`, for eps; and the table of Salimans and Ho's section 4.
    #[test]
    fn the_others_are_those_of_their_papers() {
        for abar in LEVELS {
            let snr = abar / (1.0 - abar);
            let near = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-12, "{abar}");
            let p2 = LossWeighting::P2 { gamma: 0.5, k: 1.0 };
            near(p2.weight(abar, PredictionType::Epsilon), (1.0 + abar / (1.0 - abar)).powf(-0.5));
            near(LossWeighting::Snr.weight(abar, PredictionType::Epsilon), 1.0);
            near(LossWeighting::Snr.weight(abar, PredictionType::Sample), snr);
            near(LossWeighting::TruncatedSnr.weight(abar, PredictionType::Sample), snr.max(1.0));
            // ||v - v^||^2 = (SNR + 1) ||x - x^||^2
            near(
                LossWeighting::TruncatedSnr.weight(abar, PredictionType::VPrediction),
                snr.max(1.0) / (snr + 1.0),
            );
        }
    }

    /// Whatever the network predicts, the same error of x_0 costs the same.
    #[test]
    fn weightings_agree_on_what_an_error_costs() {
        let kinds = [PredictionType::Epsilon, PredictionType::Sample, PredictionType::VPrediction];
        for weighting in [
            LossWeighting::Snr,
            LossWeighting::TruncatedSnr,
            LossWeighting::MinSnr { gamma: 5.0 },
            LossWeighting::P2 { gamma: 1.0, k: 1.0 },
        ] {
            for abar in LEVELS {
                let costs = kinds.map(|kind| {
                    // An output that is off by 1 moves x_0 by its factor; one that moves x_0 by 1 is off by the inverse.
                    let [_, of_output] = kind.x_start_factors(abar);
                    weighting.weight(abar, kind) / of_output.powi(2)
                });
                assert!(
                    costs.iter().all(|cost| (cost / costs[1] - 1.0).abs() < 1e-9),
                    "{weighting:?} {abar}"
                );
            }
        }
    }

    #[test]
    fn weightings_that_train_nothing_are_refused() {
        let schedule = Schedule::new(crate::diffusion::BetaSchedule::Linear.betas(1000, 1e-4, 0.02)).unwrap();
        let check = |gamma, k| LossWeighting::P2 { gamma, k }.check(&schedule, PredictionType::Epsilon);
        for gamma in [0.0, 0.5, 1.0, 5.0] {
            assert_eq!(check(gamma, 1.0), Ok(()));
        }
        assert_eq!(check(1e30, 1.0), Err(WeightingError::Vanishes { most: 0.0 }));
        assert!(matches!(check(1.0, 1e30), Err(WeightingError::Vanishes { .. })));
        assert!(matches!(check(20.0, 1e-9), Err(WeightingError::Overflows { .. })));
        for kind in [PredictionType::Epsilon, PredictionType::Sample, PredictionType::VPrediction] {
            for weighting in [
                LossWeighting::Uniform,
                LossWeighting::Snr,
                LossWeighting::TruncatedSnr,
                LossWeighting::MinSnr { gamma: 5.0 },
            ] {
                assert_eq!(weighting.check(&schedule, kind), Ok(()), "{weighting:?} {kind:?}");
            }
        }
    }

    #[test]
    fn without_any_signal_weights_are_finite() {
        for weighting in
            [LossWeighting::Snr, LossWeighting::MinSnr { gamma: 5.0 }, LossWeighting::TruncatedSnr]
        {
            for kind in [PredictionType::Sample, PredictionType::VPrediction] {
                assert!(weighting.weight(0.0, kind).is_finite(), "{weighting:?} {kind:?}");
            }
        }
    }
}
