//! Ancestral sampling on the noise levels of Karras et al. 2022, as in k-diffusion: an Euler step to less noise than
//! the next level has, then as much fresh noise as is missing.
//!
//! The paper's x is x / alpha here, and its sigma is sigma / alpha.

use super::{Choice, Guided, Level, Process, Sampler, SamplerError, Step, Steps, Update, X, X_0, euler};
use crate::diffusion::LevelSpacing;

pub(super) const SAMPLER: Sampler = Sampler {
    name: "euler_ancestral",
    description: "Euler's method with fresh noise in every step (k-diffusion): first order, 20 to 50 steps",
    default_steps: Some(50),
    slots: 0,
    measures: false,
    inverts: false,
    guided: Guided::Eps,
    extrapolates: false,
    choices: &[Choice::Steps, Choice::Spacing, Choice::Strength, Choice::NoiseLevels],
    steps,
};

/// The steps of diffusers' `EulerAncestralDiscreteScheduler`.
fn steps(process: &Process<'_>) -> Result<Steps, SamplerError> {
    let levels = process.ratio_levels(LevelSpacing::Timesteps)?;
    let step = |pair: &[Level]| {
        let (level, next) = (pair[0], pair[1]);
        let (from, to) = (level.ratio(), next.ratio());
        // The posterior's variance of x_0 plus noise of `to`, given the same with noise of `from`.
        let up = to * ((from * from - to * to) / (from * from)).max(0.0).sqrt();
        let down = (to * to - up * up).max(0.0).sqrt();
        let left = down / from;
        let x = next.alpha() * (left / level.alpha() * X + (1.0 - left) * X_0);
        Step::at(level.timestep, Update::new(level.x_0(), x).noise(next.alpha() * up))
    };
    Ok(Steps::Fixed(
        euler::beginning(process, &levels).into_iter().chain(levels.windows(2).map(step)).collect(),
    ))
}
