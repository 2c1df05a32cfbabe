//! Euler's method on the noise levels of Karras et al. 2022 ("Elucidating the Design Space of Diffusion-Based
//! Generative Models", algorithm 1 without its correction).
//!
//! The paper's x is x / alpha here, and its sigma is sigma / alpha.

use super::{Choice, Guided, Level, Process, Sampler, SamplerError, Step, Steps, Update, X, X_0};
use crate::diffusion::LevelSpacing;

pub(super) const SAMPLER: Sampler = Sampler {
    name: "euler",
    description: "Euler's method on the noise levels of Karras et al. 2022: first order, 20 to 50 steps",
    default_steps: Some(50),
    slots: 0,
    measures: false,
    inverts: false,
    guided: Guided::Eps,
    extrapolates: false,
    choices: &[Choice::Steps, Choice::Spacing, Choice::Strength, Choice::NoiseLevels],
    steps,
};

/// The steps of diffusers' `EulerDiscreteScheduler`; on Karras's levels, unless the model's config says otherwise.
fn steps(process: &Process<'_>) -> Result<Steps, SamplerError> {
    let levels = process.ratio_levels(LevelSpacing::Karras)?;
    let step = |i: usize| {
        let (level, next) = (levels[i], levels[i + 1]);
        // dx / dsigma = (x - x_0) / sigma (equation 3), so x goes its share of the way to x_0.
        let left = next.ratio() / level.ratio();
        let x = next.alpha() * (left / level.alpha() * X + (1.0 - left) * X_0);
        Step::at(level.timestep, Update::new(level.x_0(), x))
    };
    let steps = (0..levels.len() - 1).map(step);
    Ok(Steps::Fixed(beginning(process, &levels).into_iter().chain(steps).collect()))
}

/// A step before the first, where x_T is to be the noise of the first level alone: see
/// [`Solver::scales_noise`](crate::diffusion::Solver::scales_noise).
pub(super) fn beginning(process: &Process<'_>, levels: &[Level]) -> Option<Step> {
    process.noise_at(levels[0]).map(|factor| Step::again(Update::new([0.0, 0.0], factor * X)))
}
