//! Heun's method on the noise levels of Karras et al. 2022 ("Elucidating the Design Space of Diffusion-Based Generative
//! Models", algorithm 1).
//!
//! The paper's x is x / alpha here, and its sigma is sigma / alpha.

use super::{Choice, Guided, Process, Sampler, SamplerError, Step, Steps, Update, X, X_0, euler, history};
use crate::diffusion::LevelSpacing;

pub(super) const SAMPLER: Sampler = Sampler {
    name: "heun",
    description: "Heun's method on the noise levels of Karras et al. 2022: second order, two evaluations a step, 10 to 20 steps",
    default_steps: Some(18),
    slots: 1,
    measures: false,
    inverts: false,
    guided: Guided::Eps,
    extrapolates: false,
    choices: &[Choice::Steps, Choice::Spacing, Choice::Strength, Choice::NoiseLevels],
    steps,
};

/// The steps of diffusers' `HeunDiscreteScheduler`; on Karras's levels, unless the model's config says otherwise. Both
/// halves of a step are listed.
fn steps(process: &Process<'_>) -> Result<Steps, SamplerError> {
    let levels = process.ratio_levels(LevelSpacing::Karras)?;
    let mut steps: Vec<Step> = euler::beginning(process, &levels).into_iter().collect();
    for (i, pair) in levels.windows(2).enumerate() {
        let (level, next) = (pair[0], pair[1]);
        let dt = next.ratio() - level.ratio();

        // Lines 4 and 5: an Euler step along d = (x - x_0) / sigma. Half of it is kept.
        let x = 1.0 / level.alpha() * X;
        let d = 1.0 / level.ratio() * (x - X_0);
        let euler = Update::new(level.x_0(), next.alpha() * (x + dt * d));
        steps.push(Step::at(level.timestep, euler.keep(0, next.alpha() * (x + dt / 2.0 * d))));

        // Lines 6 to 8: the other half along d' at the end of that step, except where sigma has become 0.
        if i + 2 < levels.len() {
            let d = 1.0 / next.ratio() * (1.0 / next.alpha() * X - X_0);
            let corrected = Update::new(next.x_0(), history(0) + next.alpha() * dt / 2.0 * d);
            steps.push(Step::at(next.timestep, corrected));
        }
    }
    Ok(Steps::Fixed(steps))
}
