//! Pseudo numerical methods (Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models on Manifolds"): `pndm`, which
//! warms up by Runge-Kutta steps (the paper's F-PNDM, algorithm 2), and `plms`, which warms up by lower orders of the same
//! linear multistep method (Rombach et al. 2022).

use super::{
    Choice, Clip, Combination, Guided, Level, OUTPUT, Process, Sampler, SamplerError, Step, Steps, Update, X,
    history,
};
use crate::diffusion::PredictionType;

pub(super) const PNDM: Sampler = Sampler {
    name: "pndm",
    description: "pseudo linear multistep method after three Runge-Kutta steps (Liu et al. 2022): N steps cost N + 9 evaluations",
    default_steps: Some(50),
    slots: 5,
    measures: false,
    inverts: false,
    guided: Guided::Eps,
    extrapolates: true,
    choices: &[Choice::Steps, Choice::Spacing, Choice::Strength],
    steps: pndm,
};

pub(super) const PLMS: Sampler = Sampler {
    name: "plms",
    description: "the same without Runge-Kutta steps, as in latent diffusion (Rombach et al. 2022): N + 1 evaluations",
    slots: 4,
    steps: plms,
    ..PNDM
};

/// Where the x lies that a Runge-Kutta step began at, and the sum of its slopes; the slots before hold earlier slopes.
const BEGIN: usize = 3;
const SUM: usize = 4;

/// What the methods combine, as diffusers' `PNDMScheduler` does: eps, or v where the network predicts v.
///
/// The second is diffusers' choice, and makes the methods ones of first order: a v belongs to its level, and eps made of the
/// v of several levels and one x is off by as much as these differ. Where x_0 is clipped, eps is combined in any case.
#[derive(Clone, Copy)]
struct Slopes {
    are_v: bool,
}

impl Slopes {
    /// `begin` is the noisiest timestep: a step from there takes the image's share for a divisor.
    fn of(process: &Process<'_>, begin: usize, sampler: &'static str) -> Result<Self, SamplerError> {
        if process.level(begin).alpha_cumprod == 0.0 {
            return Err(SamplerError::ZeroSnr { sampler });
        }
        let predicts_v = process.config.prediction_type == PredictionType::VPrediction;
        Ok(Self { are_v: predicts_v && process.options.clip == Clip::None })
    }

    /// The slope that the network says at a level.
    fn now(self, level: Level) -> Combination {
        if self.are_v { OUTPUT } else { level.eps() }
    }

    /// phi of equation 11: `x` of one level brought to another along a slope.
    fn transfer(self, x: Combination, slope: Combination, from: Level, to: Level) -> Combination {
        let eps = if self.are_v { from.alpha() * slope + from.sigma() * x } else { slope };
        let scale = to.alpha() / from.alpha();
        scale * x + (to.sigma() - scale * from.sigma()) * eps
    }
}

/// The slopes of the last three steps, the newest first.
fn earlier(step: usize) -> [Combination; 3] {
    [1, 2, 3].map(|back| history((step + 3 - back) % 3))
}

/// The level of a timestep that may lie before 0.
fn level_or_last(process: &Process<'_>, t: Option<usize>) -> Level {
    match t {
        Some(t) => process.level(t),
        None if process.config.set_alpha_to_one => process.image(),
        None => process.level(0),
    }
}

/// The steps of diffusers' `PNDMScheduler` with `skip_prk_steps`.
fn plms(process: &Process<'_>) -> Result<Steps, SamplerError> {
    let timesteps = process.timesteps()?;
    let stride = process.even_stride()?;
    let slopes = Slopes::of(process, timesteps[0], PLMS.name)?;
    let mut steps = Vec::new();
    for (i, &t) in timesteps.iter().enumerate() {
        let now = slopes.now(process.level(t));
        if i == 1 {
            // The first step is taken again with the mean of the slopes at both its ends (the improved Euler method);
            // its end is then visited once more.
            let begin = process.level((t + stride).min(process.config.num_train_timesteps - 1));
            let x = slopes.transfer(history(BEGIN), 0.5 * (now + history(0)), begin, process.level(t));
            steps.push(Step::at(t as f64, Update::new(process.level(t).x_0(), x)));
        }
        let [e_1, e_2, e_3] = earlier(i);
        // Adams-Bashforth, of the order that the slopes known so far allow: equation 12 with four of them.
        let slope = match i {
            0 => now,
            1 => 1.5 * now - 0.5 * e_1,
            2 => 1.0 / 12.0 * (23.0 * now - 16.0 * e_1 + 5.0 * e_2),
            _ => adams_bashforth(now, [e_1, e_2, e_3]),
        };
        let next = level_or_last(process, t.checked_sub(stride));
        let x = slopes.transfer(X, slope, process.level(t), next);
        let update = Update::new(process.level(t).x_0(), x).keep(i % 3, now);
        steps.push(Step::at(t as f64, if i == 0 { update.keep(BEGIN, X) } else { update }));
    }
    Ok(Steps::Fixed(steps))
}

/// The steps of diffusers' `PNDMScheduler` without `skip_prk_steps`.
fn pndm(process: &Process<'_>) -> Result<Steps, SamplerError> {
    let timesteps = process.timesteps()?;
    if timesteps.len() < 4 {
        return Err(SamplerError::FewSteps { sampler: PNDM.name, steps: timesteps.len(), least: 4 });
    }
    let stride = process.even_stride()?;
    let slopes = Slopes::of(process, timesteps[0], PNDM.name)?;
    let mut steps = Vec::new();
    for i in 0..3 {
        // Equation 13, the classical Runge-Kutta method with phi for its steps: slopes at the beginning, twice in the
        // middle and at the end, weighted 1, 2, 2, 1.
        let (t, end) = (timesteps[i], timesteps[i + 1]);
        let middle = end + stride / 2;
        let [from, half, to] = [t, middle, end].map(|t| process.level(t));
        let [e_1, e_2, e_4] = [from, half, to].map(|level| slopes.now(level));

        // diffusers counts half a stride from where it stands.
        let first_half = process.level(t - stride / 2);
        let x = slopes.transfer(X, e_1, from, first_half);
        let update = Update::new(from.x_0(), x).keep(i, e_1).keep(BEGIN, X).keep(SUM, 1.0 / 6.0 * e_1);
        steps.push(Step::at(t as f64, update));

        let x = slopes.transfer(history(BEGIN), e_2, from, half);
        let update = Update::new(half.x_0(), x).keep(SUM, history(SUM) + 1.0 / 3.0 * e_2);
        steps.push(Step::at(middle as f64, update));

        let second_half = process.level(middle - stride / 2);
        let x = slopes.transfer(history(BEGIN), e_2, from, second_half);
        let update = Update::new(half.x_0(), x).keep(SUM, history(SUM) + 1.0 / 3.0 * e_2);
        steps.push(Step::at(middle as f64, update));

        let x = slopes.transfer(history(BEGIN), history(SUM) + 1.0 / 6.0 * e_4, from, to);
        steps.push(Step::at(end as f64, Update::new(to.x_0(), x)));
    }
    for (i, &t) in timesteps.iter().enumerate().skip(3) {
        // Equation 12, the linear multistep method with phi for its steps.
        let level = process.level(t);
        let now = slopes.now(level);
        let next = level_or_last(process, t.checked_sub(stride));
        let x = slopes.transfer(X, adams_bashforth(now, earlier(i)), level, next);
        steps.push(Step::at(t as f64, Update::new(level.x_0(), x).keep(i % 3, now)));
    }
    Ok(Steps::Fixed(steps))
}

/// The Adams-Bashforth method of fourth order.
fn adams_bashforth(now: Combination, [e_1, e_2, e_3]: [Combination; 3]) -> Combination {
    1.0 / 24.0 * (55.0 * now - 59.0 * e_1 + 37.0 * e_2 - 9.0 * e_3)
}
