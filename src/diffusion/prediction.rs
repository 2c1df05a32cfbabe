//! What the network's output stands for, and how to turn one reading into another.
//!
//! x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps (Ho et al. 2020, equation 4), with abar short for alphas_cumprod\[t\],
//! ties the three together: from x_t and any one of x_0, eps and v, the others follow exactly.

use serde::{Deserialize, Serialize};

use super::Mixing;

/// What the network predicts; serde names are diffusers'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise (Ho et al. 2020, equation 14).
    #[default]
    Epsilon,
    /// The image.
    Sample,
    /// v = sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans and Ho 2022, section 4).
    VPrediction,
}

impl PredictionType {
    /// Factors of x_t and of the network's output in x_0, where alphas_cumprod\[t\] is `alpha_cumprod`.
    pub fn x_start_factors(self, alpha_cumprod: f64) -> [f64; 2] {
        let Mixing { signal, noise } = Mixing::at(alpha_cumprod);
        match self {
            Self::Epsilon => [1.0 / signal, -noise / signal],
            Self::Sample => [0.0, 1.0],
            Self::VPrediction => [signal, -noise],
        }
    }

    /// Factors of x_t and of the network's output in eps.
    pub fn eps_factors(self, alpha_cumprod: f64) -> [f64; 2] {
        let Mixing { signal, noise } = Mixing::at(alpha_cumprod);
        match self {
            Self::Epsilon => [0.0, 1.0],
            Self::Sample => [1.0 / noise, -signal / noise],
            Self::VPrediction => [noise, signal],
        }
    }

    /// Factors of x_start and of eps in the network's target.
    pub fn target_factors(self, alpha_cumprod: f64) -> [f64; 2] {
        let Mixing { signal, noise } = Mixing::at(alpha_cumprod);
        match self {
            Self::Epsilon => [0.0, 1.0],
            Self::Sample => [1.0, 0.0],
            Self::VPrediction => [-noise, signal],
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Every reading gives back the x_0 and eps that x_t was made of.
    #[test]
    fn conversions_are_exact() {
        let (x_start, eps) = (0.37, -1.91);
        for abar in [0.9999, 0.7, 0.25, 4e-5] {
            let Mixing { signal, noise } = Mixing::at(abar);
            let x_t = signal * x_start + noise * eps;
            for kind in [PredictionType::Epsilon, PredictionType::Sample, PredictionType::VPrediction] {
                let mix = |[a, b]: [f64; 2], x: f64, y: f64| a * x + b * y;
                let output = mix(kind.target_factors(abar), x_start, eps);
                let found_x = mix(kind.x_start_factors(abar), x_t, output);
                let found_eps = mix(kind.eps_factors(abar), x_t, output);
                assert!((found_x - x_start).abs() < 1e-12, "{kind:?} at {abar}: x_0 {found_x}");
                assert!((found_eps - eps).abs() < 1e-12, "{kind:?} at {abar}: eps {found_eps}");
            }
        }
    }

    #[test]
    fn names_are_those_of_diffusers() {
        let names = serde_json::to_string(&[
            PredictionType::Epsilon,
            PredictionType::Sample,
            PredictionType::VPrediction,
        ]);
        assert_eq!(names.unwrap(), r#"["epsilon","sample","v_prediction"]"#);
    }
}
