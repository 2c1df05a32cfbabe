//! The DPM solvers: DPM-Solver (Lu et al. 2022, "DPM-Solver"), which predicts eps, and DPM-Solver++ (Lu et al. 2022,
//! "DPM-Solver++"), which predicts x_0, also for the reverse SDE (section 5 and appendix B there).
//!
//! lambda = log(alpha / sigma) takes the place of time. In it the linear part of the ODE is solved exactly. An integral
//! of the prediction D is left, whose slopes are taken from several of its values: in multistep methods from those of
//! the last steps (DPM-Solver++, algorithm 2), in single-step methods from those within a step (DPM-Solver, algorithms
//! 1 and 2).

use super::process::Told;
use super::{
    Choice, Combination, Guided, Level, Process, Sampler, SamplerError, Step, Steps, Update, X, X_0, history,
};
use crate::diffusion::Slope;

pub(super) const DPMPP_2M: Sampler = Sampler {
    name: "dpmpp_2m",
    description: "DPM-Solver++ (Lu et al. 2022): second order, 2M, without extra evaluations, good with 10 to 25 steps",
    default_steps: Some(25),
    slots: 2,
    measures: false,
    inverts: false,
    guided: Guided::Eps,
    extrapolates: false,
    choices: &[Choice::Steps, Choice::Spacing, Choice::Strength, Choice::SolverOrder, Choice::NoiseLevels],
    steps: |process| multistep(process, Prediction::X0),
};

pub(super) const DPMPP_2M_SDE: Sampler = Sampler {
    name: "dpmpp_2m_sde",
    description: "SDE-DPM-Solver++ (Lu et al. 2022): the same with fresh noise in every step",
    steps: |process| multistep(process, Prediction::X0WithNoise),
    ..DPMPP_2M
};

pub(super) const DPM_2M: Sampler = Sampler {
    name: "dpm_2m",
    extrapolates: true,
    description: "DPM-Solver (Lu et al. 2022), multistep: as dpmpp_2m, of eps rather than x_0",
    steps: |process| multistep(process, Prediction::Eps),
    ..DPMPP_2M
};

pub(super) const DPMPP_2S: Sampler = Sampler {
    name: "dpmpp_2s",
    description: "DPM-Solver++ 2S (Lu et al. 2022): in single steps of two evaluations, which the number of steps counts",
    slots: 3,
    steps: |process| single_steps(process, Prediction::X0),
    ..DPMPP_2M
};

pub(super) const DPM_2S: Sampler = Sampler {
    name: "dpm_2s",
    extrapolates: true,
    description: "DPM-Solver (Lu et al. 2022), DPM-Solver-2: as dpmpp_2s, of eps rather than x_0",
    steps: |process| single_steps(process, Prediction::Eps),
    ..DPMPP_2S
};

/// With fewer steps, diffusers' `lower_order_final` lowers the order of the last ones.
const FEW_STEPS: usize = 15;

/// What the methods predict.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prediction {
    Eps,
    X0,
    X0WithNoise,
}

impl Prediction {
    /// Its value at the level where the network has been evaluated.
    fn now(self, level: Level) -> Combination {
        if self == Self::Eps { level.eps() } else { X_0 }
    }
}

/// A step from one level to another: the factors of x, and of D and its first and second slope in lambda, each by its
/// integral. The noise has this standard deviation.
struct Integrals {
    of_x: f64,
    of_d: f64,
    of_slope: f64,
    of_second: f64,
    noise: f64,
}

impl Integrals {
    fn new(prediction: Prediction, from: Level, to: Level) -> Self {
        let h = to.log_snr() - from.log_snr();
        let (alpha, sigma) = (to.alpha(), to.sigma());
        // phi_2 and phi_3 of u, as the integrals of the slopes have them.
        let phi_2 = |u: f64| u.exp_m1() / u - 1.0;
        let phi_3 = |u: f64| (u.exp_m1() - u) / (u * u) - 0.5;
        match prediction {
            Prediction::X0 => Self {
                of_x: sigma / from.sigma(),
                of_d: -alpha * (-h).exp_m1(),
                of_slope: -alpha * phi_2(-h),
                of_second: -alpha * phi_3(-h),
                noise: 0.0,
            },
            Prediction::Eps => Self {
                of_x: alpha / from.alpha(),
                // sigma (e^h - 1), which is a number where sigma has become 0 too.
                of_d: sigma - alpha * from.ratio(),
                of_slope: -sigma * phi_2(h),
                of_second: -sigma * phi_3(h),
                noise: 0.0,
            },
            // Half of the way to x_0 is the ODE's; the SDE goes as far again, and adds as much noise as it takes away.
            Prediction::X0WithNoise => {
                let share = -(-2.0 * h).exp_m1();
                Self {
                    of_x: sigma / from.sigma() * (-h).exp(),
                    of_d: alpha * share,
                    of_slope: -alpha * phi_2(-2.0 * h),
                    of_second: -alpha * phi_3(-2.0 * h),
                    noise: sigma * share.sqrt(),
                }
            }
        }
    }

    /// The step of first order.
    fn first(&self, x: Combination, d: Combination) -> Combination {
        self.of_x * x + self.of_d * d
    }

    /// The step of second order; the slope is weighted as `solver_type` says.
    fn second(&self, kind: Slope, x: Combination, d: Combination, slope: Combination) -> Combination {
        let of_slope = match kind {
            Slope::Midpoint => 0.5 * self.of_d,
            Slope::Heun => self.of_slope,
        };
        self.first(x, d) + of_slope * slope
    }

    /// The step of third order.
    fn third(&self, x: Combination, d: Combination, slope: Combination, second: Combination) -> Combination {
        self.first(x, d) + self.of_slope * slope + self.of_second * second
    }
}

/// The steps of diffusers' `DPMSolverMultistepScheduler`.
fn multistep(process: &Process<'_>, prediction: Prediction) -> Result<Steps, SamplerError> {
    let order = process.order();
    if prediction == Prediction::X0WithNoise && order > 2 {
        return Err(SamplerError::Order { sampler: DPMPP_2M_SDE.name, order, most: 2 });
    }
    let levels = process.multistep_levels(Told::Multistep)?;
    let orders = orders_of_steps(process, order, &levels);
    let step = |(i, &order): (usize, &usize)| {
        let (level, next) = (levels[i], levels[i + 1]);
        let now = prediction.now(level);
        let update = |x: Combination| Update::new(level.x_0(), x).keep(i % 2, now);
        if level.is_at(next) {
            return Step::at(level.timestep, update(X));
        }
        let integrals = Integrals::new(prediction, level, next);
        let h = next.log_snr() - level.log_snr();
        // The slope between two earlier values, in units of this step; `r` says how far they lie apart.
        let r = |back: usize| (levels[i - back].log_snr() - levels[i - back - 1].log_snr()) / h;
        let [one, two] = [1, 2].map(|back| history((i + back) % 2));
        let x = match order {
            1 => integrals.first(X, now),
            // Lines 5 to 8, where the slope is that of the midpoint.
            2 => integrals.second(process.solver.slope, X, now, 1.0 / r(0) * (now - one)),
            _ => {
                let (newer, older) = (1.0 / r(0) * (now - one), 1.0 / r(1) * (one - two));
                let second = 1.0 / (r(0) + r(1)) * (newer - older);
                integrals.third(X, now, newer + r(0) * second, second)
            }
        };
        Step::at(level.timestep, update(x).noise(integrals.noise))
    };
    Ok(Steps::Fixed(orders.iter().enumerate().map(step).collect()))
}

/// The order of each step of a multistep method: no more than there are values of D, and in the last steps as the
/// solver's choices say. The last step to the image itself has no middle, since h is infinite.
pub(super) fn orders_of_steps(process: &Process<'_>, order: usize, levels: &[Level]) -> Vec<usize> {
    let steps = levels.len() - 1;
    let ends_at_image = levels[steps].is_image();
    let is_lowered = process.solver.lower_order_final && steps < FEW_STEPS;
    let order_of = |i: usize| {
        let most = match steps - i {
            1 if ends_at_image || is_lowered || process.solver.euler_at_final => 1,
            2 if is_lowered => 2,
            _ => order,
        };
        order.min(i + 1).min(most)
    };
    (0..steps).map(order_of).collect()
}

/// The slot of the x that a step of several evaluations begins at.
const BEGIN: usize = 2;

/// The steps of diffusers' `DPMSolverSinglestepScheduler`: each evaluation is one of those that `steps` counts, and a
/// step of second order takes two of them.
fn single_steps(process: &Process<'_>, prediction: Prediction) -> Result<Steps, SamplerError> {
    let levels = process.multistep_levels(Told::Rounded)?;
    let order = process.order();
    let orders = orders_of_evaluations(process, order, &levels);
    let step = |(i, &order): (usize, &usize)| {
        let (level, next) = (levels[i], levels[i + 1]);
        let now = prediction.now(level);
        let begin = levels[i + 1 - order];
        let x = if order == 1 { X } else { history(BEGIN) };
        let integrals = Integrals::new(prediction, begin, next);
        let h = next.log_snr() - begin.log_snr();
        let r = |level: Level| (level.log_snr() - begin.log_snr()) / h;
        let [one, two] = [1, 2].map(|back| history((i + back) % 2));
        let x = match order {
            _ if begin.is_at(next) => x,
            1 => integrals.first(x, now),
            2 => integrals.second(process.solver.slope, x, one, 1.0 / r(level) * (now - one)),
            _ => {
                let [near, far] = [levels[i - 1], level].map(r);
                let (to_near, to_far) = (1.0 / near * (one - two), 1.0 / far * (now - two));
                match process.solver.slope {
                    Slope::Midpoint => integrals.third(x, two, to_far, 0.0 * two),
                    Slope::Heun => {
                        let slope = 1.0 / (far - near) * (far * to_near - near * to_far);
                        integrals.third(x, two, slope, 2.0 / (far - near) * (to_far - to_near))
                    }
                }
            }
        };
        let update = Update::new(level.x_0(), x).keep(i % 2, now);
        Step::at(level.timestep, if order == 1 { update.keep(BEGIN, X) } else { update })
    };
    Ok(Steps::Fixed(orders.iter().enumerate().map(step).collect()))
}

/// By which order each evaluation leads on from the beginning of its step: 1, 2 and so on, over and over; the last may
/// be of first order, from where it stands.
fn orders_of_evaluations(process: &Process<'_>, order: usize, levels: &[Level]) -> Vec<usize> {
    let evaluations = levels.len() - 1;
    let ends_at_image = levels[evaluations].is_image();
    let is_lowered = process.solver.lower_order_final || !evaluations.is_multiple_of(order);
    let mut orders: Vec<usize> = (0..evaluations).map(|i| 1 + i % order).collect();
    if let Some(last) = orders.last_mut()
        && (ends_at_image || (is_lowered && *last == order))
    {
        *last = 1;
    }
    orders
}
