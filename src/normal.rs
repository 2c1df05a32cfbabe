//! Normal distributions, in f64: the divergence of one from another, and the probability that one gives to the bin of an
//! 8-bit value; with derivatives.

use std::f64::consts::{FRAC_1_SQRT_2, TAU};

/// Half the distance of two neighbouring 8-bit values, scaled to -1..1.
const HALF_BIN: f64 = 1.0 / 255.0;

/// A number of nats, and its derivatives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nats {
    /// The number.
    pub nats: f64,
    /// Its derivative by the difference of the means.
    pub d_difference: f64,
    /// Its derivative by the logarithm of the model's variance.
    pub d_log_variance: f64,
}

impl Nats {
    /// The divergence of a normal distribution with this variance from that of a model, whose mean is `difference` below.
    pub(crate) fn divergence(log_variance: f64, model_log_variance: f64, difference: f64) -> Self {
        let excess = log_variance - model_log_variance;
        let inverse = (-model_log_variance).exp();
        let square = difference.powi(2) * inverse;
        Self {
            nats: 0.5 * (excess.exp() - excess - 1.0 + square),
            d_difference: difference * inverse,
            d_log_variance: 0.5 * (1.0 - excess.exp() - square),
        }
    }

    /// What the 8-bit value of `x_start` costs under a model whose mean is `difference` below it: minus the logarithm of
    /// its bin's probability.
    pub(crate) fn of_value(x_start: f64, difference: f64, model_log_variance: f64) -> Self {
        let bin = Bin::of(x_start, difference, model_log_variance);
        Self {
            nats: -bin.log_likelihood,
            d_difference: -bin.d_difference,
            d_log_variance: -bin.d_log_variance,
        }
    }
}

/// The logarithm of a bin's probability, and its derivatives.
struct Bin {
    /// In nats.
    log_likelihood: f64,
    /// By the value minus the mean.
    d_difference: f64,
    /// By the logarithm of the variance.
    d_log_variance: f64,
}

impl Bin {
    /// The bin of `x_start` in a normal distribution (Ho et al. 2020, equation 13): `difference` is x_start minus the
    /// mean. The bins of -1 and 1 reach to infinity.
    fn of(x_start: f64, difference: f64, log_variance: f64) -> Self {
        let inverse = (-0.5 * log_variance).exp();
        if HALF_BIN * inverse < 1e-5 && x_start.abs() <= 0.999 {
            // The density in the middle of the bin. The error is of second order in the width.
            let middle = difference * inverse;
            return Self {
                log_likelihood: (2.0 * HALF_BIN * inverse).ln() - 0.5 * middle * middle - 0.5 * TAU.ln(),
                d_difference: -middle * inverse,
                d_log_variance: 0.5 * (middle * middle - 1.0),
            };
        }
        let lower = if x_start < -0.999 { f64::NEG_INFINITY } else { (difference - HALF_BIN) * inverse };
        let upper = if x_start > 0.999 { f64::INFINITY } else { (difference + HALF_BIN) * inverse };
        let log_likelihood = log_cdf_between(lower, upper);
        // The density at an end as a share of the probability, and that times where the end is.
        let at = |end: f64| {
            let share = (-0.5 * end * end - 0.5 * TAU.ln() - log_likelihood).exp();
            if end.is_finite() { [share, share * end] } else { [0.0, 0.0] }
        };
        let ([low, low_end], [up, up_end]) = (at(lower), at(upper));
        Self { log_likelihood, d_difference: (up - low) * inverse, d_log_variance: 0.5 * (low_end - up_end) }
    }
}

/// log(Phi(upper) - Phi(lower)), exact in the tails too.
fn log_cdf_between(lower: f64, upper: f64) -> f64 {
    // Phi(-z) = 1 - Phi(z): in the left tail nothing cancels.
    let (lower, upper) = if lower + upper > 0.0 { (-upper, -lower) } else { (lower, upper) };
    let near = log_cdf(upper);
    if lower == f64::NEG_INFINITY { near } else { near + (-(log_cdf(lower) - near).exp_m1()).ln() }
}

/// log Phi(z).
fn log_cdf(z: f64) -> f64 {
    if z > -30.0 {
        return (0.5 * libm::erfc(-z * FRAC_1_SQRT_2)).ln();
    }
    // erfc leaves the range of f64 further out; there its asymptotic series is exact.
    let w = 1.0 / (z * z);
    let series = -w * (1.0 - w * (3.0 - w * (15.0 - w * 105.0)));
    -0.5 * z * z - 0.5 * TAU.ln() - (-z).ln() + series.ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of torch.special.log_ndtr.
    #[test]
    fn log_cdf_is_that_of_pytorch() {
        for (z, expected) in [
            (0.0, -std::f64::consts::LN_2),
            (1.5, -0.069_143_455_612_233_98),
            (-5.0, -15.064_998_393_988_727),
            (-20.0, -203.917_155_371_097_3),
            (-29.9, -451.322_912_458_528_7),
            (-40.0, -804.608_442_013_754_7),
        ] {
            let found = log_cdf(z);
            assert!((found - expected).abs() < 1e-12 * f64::max(1.0, -expected), "{z}: {found}");
        }
    }

    #[test]
    fn the_bins_of_all_values_add_up_to_one() {
        for (mean, log_variance) in [(0.3, -9.0), (-0.98, -2.0), (1.7, 0.5)] {
            let total: f64 = (0..256)
                .map(|value| f64::from(value) / 127.5 - 1.0)
                .map(|x| Bin::of(x, x - mean, log_variance).log_likelihood.exp())
                .sum();
            assert!((total - 1.0).abs() < 1e-12, "{mean} {log_variance}: {total}");
        }
    }

    #[test]
    fn derivatives_are_those_of_differences() {
        for (x, difference, log_variance) in [
            (0.2, 0.03, -8.0),
            (-1.0, -0.2, -3.0),
            (1.0, 0.4, -7.5),
            (0.5, -9.0, -9.0),
            (0.5, 1e-5, 0.0),
            (0.5, 3e3, 16.0),
        ] {
            let bin = Bin::of(x, difference, log_variance);
            let step = 1e-5;
            let by = |d: f64, l: f64| Bin::of(x, difference + d, log_variance + l).log_likelihood;
            for (found, expected) in [
                (bin.d_difference, (by(step, 0.0) - by(-step, 0.0)) / (2.0 * step)),
                (bin.d_log_variance, (by(0.0, step) - by(0.0, -step)) / (2.0 * step)),
            ] {
                let off = (found - expected).abs() / expected.abs().max(1.0);
                assert!(off < 1e-5, "{x} {difference} {log_variance}: {found}, expected {expected}");
            }
        }
    }

    /// Against the integral of p (log p - log q), and differences of it.
    #[test]
    fn the_divergence_is_its_integral() {
        let integral = |log_variance: f64, model_log_variance: f64, difference: f64| {
            let log_density = |x: f64, mean: f64, log_variance: f64| {
                -0.5 * ((x - mean).powi(2) * (-log_variance).exp() + log_variance + TAU.ln())
            };
            let (count, width) = (20_000, 20.0 * (0.5 * log_variance).exp());
            let at = |i: i32| {
                let x = width * (f64::from(i) / f64::from(count) - 0.5);
                let log_p = log_density(x, 0.0, log_variance);
                log_p.exp() * (log_p - log_density(x, -difference, model_log_variance))
            };
            (0..=count).map(at).sum::<f64>() * width / f64::from(count)
        };
        for (log_variance, model, difference) in [(-2.0, -1.0, 0.3), (0.5, -0.5, -1.1), (-4.0, -4.0, 0.0)] {
            let found = Nats::divergence(log_variance, model, difference);
            let step = 1e-4;
            let by = |d: f64, l: f64| integral(log_variance, model + l, difference + d);
            for (found, expected) in [
                (found.nats, by(0.0, 0.0)),
                (found.d_difference, (by(step, 0.0) - by(-step, 0.0)) / (2.0 * step)),
                (found.d_log_variance, (by(0.0, step) - by(0.0, -step)) / (2.0 * step)),
            ] {
                assert!(
                    (found - expected).abs() < 1e-6,
                    "{log_variance} {model}: {found}, expected {expected}"
                );
            }
        }
    }
}
