//! Euler's method on the noise levels of Karras et al. 2022 ("Elucidating the Design Space of Diffusion-Based Generative
//! Models", algorithm 1 without its correction).
//!
//! The paper's x is x / alpha here, and its sigma is sigma / alpha.

use super::{Choice, Guided, Process, Sampler, SamplerError, Step, Steps, Update, X, X_0};

pub(super) const SAMPLER: Sampler = Sampler {
    name: "euler",
    description: "Euler's method on the noise levels of Karras et al. 2022: first order, 20 to 50 steps",
    default_steps: Some(50),
    slots: 0,
    measures: false,
    inverts: false,
    guided: Guided::Eps,
    extrapolates: false,
    choices: &[Choice::Steps, Choice::Spacing, Choice::Strength],
    steps,
};

/// The steps of diffusers' `EulerDiscreteScheduler` with `use_karras_sigmas`.
fn steps(process: &Process<'_>) -> Result<Steps, SamplerError> {
    let levels = process.karras_levels()?;
    let step = |i: usize| {
        let (level, next) = (levels[i], levels[i + 1]);
        // dx / dsigma = (x - x_0) / sigma (equation 3), so x goes its share of the way to x_0.
        let left = next.ratio() / level.ratio();
        let x = next.alpha() * (left / level.alpha() * X + (1.0 - left) * X_0);
        Step::at(level.timestep, Update::new(level.x_0(), x))
    };
    Ok(Steps::Fixed((0..levels.len() - 1).map(step).collect()))
}
