//! DPM-Solver++ of second order, multistep (Lu et al. 2022, "DPM-Solver++", algorithm 2).
//!
//! lambda = log(alpha / sigma) takes the place of time. In it the linear part of the ODE is solved exactly. An integral
//! of x_0 is left, which is extrapolated from the last two estimates.

use super::{
    Choice, Combination, Guided, Level, Process, Sampler, SamplerError, Step, Steps, Update, X, X_0, history,
};

pub(super) const SAMPLER: Sampler = Sampler {
    name: "dpmpp_2m",
    description: "DPM-Solver++ 2M (Lu et al. 2022): second order without extra evaluations, good with 10 to 25 steps",
    default_steps: Some(25),
    slots: 1,
    measures: false,
    inverts: false,
    guided: Guided::Eps,
    extrapolates: false,
    choices: &[Choice::Steps, Choice::Spacing, Choice::Strength],
    steps,
};

/// The steps of diffusers' `DPMSolverMultistepScheduler` with `algorithm_type` "dpmsolver++".
fn steps(process: &Process<'_>) -> Result<Steps, SamplerError> {
    let timesteps = process.multistep_timesteps()?;
    let levels = process.levels_to_image(&timesteps);
    let step = |i: usize| {
        let (level, next) = (levels[i], levels[i + 1]);
        let h = next.log_snr() - level.log_snr();

        // Line 8: x_t = sigma_t / sigma_s x - alpha_t (e^-h - 1) D.
        let d = extrapolated(&levels, i);
        let x = next.sigma() / level.sigma() * X - next.alpha() * (-h).exp_m1() * d;

        Step::at(levels[i].timestep, Update::new(level.x_0(), x).keep(0, X_0))
    };
    Ok(Steps::Fixed((0..timesteps.len()).map(step).collect()))
}

/// D of lines 5 and 7: x_0 in the middle of step `i`, by the line through the last two estimates.
///
/// The first step has no earlier estimate, and the last one, to the image itself, no middle: h is infinite.
pub(super) fn extrapolated(levels: &[Level], i: usize) -> Combination {
    if i == 0 || i + 2 == levels.len() {
        return X_0;
    }
    let [before, now, next] = [i - 1, i, i + 1].map(|i| levels[i].log_snr());
    let r = (now - before) / (next - now);
    X_0 + 1.0 / (2.0 * r) * (X_0 - history(0))
}
