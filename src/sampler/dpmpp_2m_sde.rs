//! SDE-DPM-Solver++ of second order, multistep (Lu et al. 2022, "DPM-Solver++", section 5 and appendix B): the same
//! extrapolation of x_0 as the ODE solver in `dpmpp_2m.rs`, for the reverse SDE.

use super::dpmpp_2m::extrapolated;
use super::{Choice, Guided, Process, Sampler, SamplerError, Step, Steps, Update, X, X_0};

pub(super) const SAMPLER: Sampler = Sampler {
    name: "dpmpp_2m_sde",
    description: "SDE-DPM-Solver++ 2M (Lu et al. 2022): the same with fresh noise in every step",
    default_steps: Some(25),
    slots: 1,
    measures: false,
    inverts: false,
    guided: Guided::Eps,
    extrapolates: false,
    choices: &[Choice::Steps, Choice::Spacing, Choice::Strength],
    steps,
};

/// The steps of diffusers' `DPMSolverMultistepScheduler` with `algorithm_type` "sde-dpmsolver++".
fn steps(process: &Process<'_>) -> Result<Steps, SamplerError> {
    let timesteps = process.multistep_timesteps()?;
    let levels = process.levels_to_image(&timesteps);
    let step = |i: usize| {
        let (level, next) = (levels[i], levels[i + 1]);
        let h = next.log_snr() - level.log_snr();

        // Half of the way to x_0 is the ODE's; the SDE goes as far again, and adds as much noise as it takes away.
        let share = -(-2.0 * h).exp_m1();
        let x =
            next.sigma() / level.sigma() * (-h).exp() * X + next.alpha() * share * extrapolated(&levels, i);

        let update = Update::new(level.x_0(), x).noise(next.sigma() * share.sqrt()).keep(0, X_0);
        Step::at(levels[i].timestep, update)
    };
    Ok(Steps::Fixed((0..timesteps.len()).map(step).collect()))
}
