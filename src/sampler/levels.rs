//! Levels of noise between two others.

use crate::diffusion::LevelSpacing;

/// Values of sigma / alpha, falling from the larger of two to the smaller, `[count]`.
///
/// The ends are those of the levels; a single value is the larger end. [`LevelSpacing::Timesteps`] says nothing of
/// levels in between, which are then evenly spaced.
pub(super) fn between(spacing: LevelSpacing, [least, most]: [f64; 2], count: usize) -> Vec<f64> {
    /// The exponent of Karras et al. 2022.
    const RHO: f64 = 7.0;
    let value = |i: usize| {
        let share = i as f64 / (count - 1).max(1) as f64;
        let even = |f: fn(f64) -> f64| f(most) + share * (f(least) - f(most));
        match spacing {
            LevelSpacing::Timesteps => even(|ratio| ratio),
            LevelSpacing::Karras => even(|ratio| ratio.powf(1.0 / RHO)).powf(RHO),
            LevelSpacing::Exponential | LevelSpacing::Lu => even(f64::ln).exp(),
            LevelSpacing::Beta => least + beta_quantile(1.0 - share) * (most - least),
        }
    };
    (0..count).map(value).collect()
}

/// Both parameters of the beta distribution of diffusers' `use_beta_sigmas`.
const BETA: f64 = 0.6;
/// The beta function B(0.6, 0.6), by SciPy.
const BETA_FUNCTION: f64 = 2.415_344_208_002_472_3;

/// The quantile of the symmetric beta distribution with parameters [`BETA`], by bisection.
fn beta_quantile(probability: f64) -> f64 {
    if probability > 0.5 {
        return 1.0 - beta_quantile(1.0 - probability);
    }
    let (mut low, mut high) = (0.0, 0.5);
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        if beta_cumulative(middle) < probability { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// The distribution function of that beta distribution, for x up to 1/2: x^a (1 - x)^b / (a B(a, b)) times
/// F(a + b, 1; a + 1; x) (Abramowitz and Stegun 1964, 26.5.23 by 15.3.3), whose terms fall by half or more.
fn beta_cumulative(x: f64) -> f64 {
    let mut term = (x * (1.0 - x)).powf(BETA) / (BETA * BETA_FUNCTION);
    let mut sum = 0.0;
    let mut n = 0.0;
    while term > sum * 1e-17 {
        sum += term;
        term *= (2.0 * BETA + n) / (BETA + 1.0 + n) * x;
        n += 1.0;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scipy.stats.beta.ppf(p, 0.6, 0.6)`
    #[test]
    fn quantiles_are_those_of_scipy() {
        for (probability, expected) in [
            (0.0, 0.0),
            (1e-3, 1.855873851745199e-05),
            (0.1, 0.03958440558878085),
            (0.37, 0.3227940020973615),
            (0.5, 0.5),
            (0.8, 0.8770782495416671),
            (0.999, 0.9999814412614826),
            (1.0, 1.0),
        ] {
            let found = beta_quantile(probability);
            assert!((found - expected).abs() < 1e-12, "{probability}: {found}, expected {expected}");
        }
    }

    #[test]
    fn levels_fall_from_end_to_end() {
        for &spacing in LevelSpacing::ALL {
            for count in [2, 3, 10, 101] {
                let levels = between(spacing, [0.01, 157.0], count);
                assert!(levels.windows(2).all(|pair| pair[0] > pair[1]), "{spacing:?}: {levels:?}");
                assert!((levels[0] - 157.0).abs() < 1e-9 && (levels[count - 1] - 0.01).abs() < 1e-12);
            }
            assert!((between(spacing, [0.01, 157.0], 1)[0] - 157.0).abs() < 1e-9, "{spacing:?}");
        }
    }
}
