//! DEIS in log(rho) (Zhang and Chen 2023, "Fast Sampling of Diffusion Models with Exponential Integrator", section 4):
//! a linear multistep method for x / alpha, with rho = sigma / alpha for time.
//!
//! There the ODE is d(x / alpha) = eps d rho. The last values of eps are joined by a polynomial in log(rho), whose
//! integral over the step is exact.

use super::dpm_solver::orders_of_steps;
use super::process::Told;
use super::{
    Choice, Combination, Guided, Level, Process, Sampler, SamplerError, Step, Steps, Update, X, history,
};

pub(super) const SAMPLER: Sampler = Sampler {
    name: "deis",
    description: "DEIS in log(rho) (Zhang and Chen 2023): second order without extra evaluations, good with 10 to 25 steps",
    default_steps: Some(25),
    slots: 2,
    measures: false,
    inverts: false,
    guided: Guided::Eps,
    extrapolates: true,
    choices: &[Choice::Steps, Choice::Spacing, Choice::Strength, Choice::SolverOrder, Choice::NoiseLevels],
    steps,
};

/// The steps of diffusers' `DEISMultistepScheduler`.
fn steps(process: &Process<'_>) -> Result<Steps, SamplerError> {
    let levels = process.multistep_levels(Told::Rounded)?;
    let orders = orders_of_steps(process, process.order(), &levels);
    let step = |(i, &order): (usize, &usize)| {
        let (level, next) = (levels[i], levels[i + 1]);
        let eps = [level.eps(), history((i + 1) % 2), history((i + 2) % 2)];
        let weights = weights(&levels[i + 1 - order..=i], next);
        let integral =
            weights.iter().zip(eps).fold(Combination::default(), |sum, (&weight, eps)| sum + weight * eps);
        let x = next.alpha() * (1.0 / level.alpha() * X + integral);
        Step::at(level.timestep, Update::new(level.x_0(), x).keep(i % 2, level.eps()))
    };
    Ok(Steps::Fixed(orders.iter().enumerate().map(step).collect()))
}

/// The integrals over rho, from the last of `known` levels to `next`, of the Lagrange polynomials in log(rho) through
/// the known levels; that of the last level first (equation 15).
fn weights(known: &[Level], next: Level) -> Vec<f64> {
    let logs: Vec<f64> = known.iter().rev().map(|level| level.ratio().ln()).collect();
    let (from, to) = (logs[0], next.ratio().ln());
    // Where nothing is left of the noise, the logarithm is infinite, and the integral of 1 is all that is asked for.
    let power = |rho: f64, log: f64, exponent: usize| match exponent {
        0 => rho,
        // Of log(rho) and of its square.
        1 => rho * (log - 1.0),
        _ => rho * (log * log - 2.0 * log + 2.0),
    };
    let integral = |exponent| power(next.ratio(), to, exponent) - power(from.exp(), from, exponent);
    let weight = |i: usize| {
        let others: Vec<f64> = (0..logs.len()).filter(|&j| j != i).map(|j| logs[j]).collect();
        let scale: f64 = others.iter().map(|other| logs[i] - other).product();
        let sum = match others[..] {
            [] => integral(0),
            [a] => integral(1) - a * integral(0),
            [a, b, ..] => integral(2) - (a + b) * integral(1) + a * b * integral(0),
        };
        sum / scale
    };
    (0..logs.len()).map(weight).collect()
}
