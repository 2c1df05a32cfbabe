//! The terms of the variational bound (Ho et al. 2020, equation 5).

use super::{PredictionType, Schedule, VarianceType};
use crate::normal::Nats;

/// What one term of the bound is made of; see `kernels/vlb_loss.wgsl` for the formula.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoundCoefficients {
    /// Factor of (what the network should say - what it says) in (the posterior's mean - the model's).
    pub mean_of_output: f64,
    /// Logarithm of the posterior's variance.
    pub log_variance: f64,
    /// Logarithm of the model's variance where the network says v = -1 and v = 1; the second holds for a network that
    /// says nothing of the variance.
    pub model_log_variance: [f64; 2],
    /// Whether this is the decoder's term, that of t = 0.
    pub is_decoder: bool,
}

impl BoundCoefficients {
    /// A row of the `coefficients` `[N, 5]` of [`vlb_loss`](mod@crate::ops::vlb_loss).
    pub fn to_array(&self) -> [f32; 5] {
        let [low, high] = self.model_log_variance;
        let is_decoder = f64::from(u8::from(self.is_decoder));
        [self.mean_of_output, self.log_variance, low, high, is_decoder].map(|value| value as f32)
    }

    /// Logarithm of the model's variance for what the network says of it (Nichol and Dhariwal 2021, equation 15).
    pub fn log_variance_of(&self, v: Option<f64>) -> f64 {
        let [low, high] = self.model_log_variance;
        v.map_or(high, |v| low + 0.5 * (v + 1.0) * (high - low))
    }

    /// The share of an element whose image is `x_start`, where the model's mean is `difference` below the posterior's.
    pub fn term(&self, x_start: f64, difference: f64, log_variance: f64) -> Nats {
        if self.is_decoder {
            Nats::of_value(x_start, difference, log_variance)
        } else {
            Nats::divergence(self.log_variance, log_variance, difference)
        }
    }
}

impl Schedule {
    /// The term of one timestep.
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
    ) -> BoundCoefficients {
        // With a single timestep there is no t = 1.
        let variance_at = |t: usize| {
            if t < self.num_train_timesteps() { self.posterior(t).variance } else { self.betas()[0] }
        };
        let log_variance = variance_at(t.max(1)).ln();
        let model_log_variance = match variance_type {
            VarianceType::FixedSmall | VarianceType::FixedSmallLog => [log_variance; 2],
            VarianceType::FixedLarge if t == 0 => [log_variance; 2],
            VarianceType::FixedLarge => [self.betas()[t].ln(); 2],
            VarianceType::LearnedRange => [log_variance, self.betas()[t].ln()],
        };
        // The means differ by what the two say of x_0, and what they say of x_0 by what the network says.
        let [_, x_start_of_output] = prediction_type.x_start_factors(self.alphas_cumprod(t));
        BoundCoefficients {
            mean_of_output: self.posterior(t).mean_of_x_start * x_start_of_output,
            log_variance,
            model_log_variance,
            is_decoder: t == 0,
        }
    }
}
