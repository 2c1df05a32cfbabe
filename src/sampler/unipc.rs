//! UniPC (Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework", algorithms 1 and 2, for networks that
//! predict x_0).
//!
//! The network's output at the predicted x serves twice: it corrects that x, then predicts the next one. So a step
//! costs one evaluation.

use super::process::Told;
use super::{
    Choice, Combination, Guided, Level, Process, Sampler, SamplerError, Step, Steps, Update, X, X_0, history,
};

pub(super) const SAMPLER: Sampler = Sampler {
    name: "unipc",
    description: "UniPC (Zhao et al. 2023): predictor and corrector of second order, good with 5 to 20 steps",
    default_steps: Some(20),
    slots: 4,
    measures: false,
    inverts: false,
    guided: Guided::Eps,
    extrapolates: false,
    choices: &[Choice::Steps, Choice::Spacing, Choice::Strength, Choice::SolverOrder, Choice::NoiseLevels],
    steps,
};

/// The last corrected x.
const CORRECTED: usize = 0;

/// The slot of the estimate of x_0 that step `i` made: the last three are kept.
fn estimate(i: usize) -> usize {
    1 + i % 3
}

/// The steps of diffusers' `UniPCMultistepScheduler`.
fn steps(process: &Process<'_>) -> Result<Steps, SamplerError> {
    let levels = process.multistep_levels(Told::Rounded)?;
    let steps = levels.len() - 1;
    let ends_at_image = levels[steps].is_image();
    let order = |i: usize| {
        let most = process.order();
        let is_lowered = process.solver.lower_order_final || (ends_at_image && i + 1 == steps);
        most.min(i + 1).min(if is_lowered { steps - i } else { most })
    };
    let step = |i: usize| {
        // Algorithm 1, corrector: the step that led here is taken again, now that x_0 at its end is known.
        let is_corrected = i > 0 && !process.solver.uncorrected.contains(&(i - 1));
        let x = if is_corrected { corrected(process, &levels, i, order(i - 1)) } else { X };

        // Algorithm 2, predictor: from the corrected x, with this x_0 and those before.
        let update =
            |next: Combination| Update::new(levels[i].x_0(), next).keep(CORRECTED, x).keep(estimate(i), X_0);
        if levels[i].is_at(levels[i + 1]) {
            return Step::at(levels[i].timestep, update(x));
        }
        let next = Interval::new(process, &levels, i);
        let mut prediction = next.first_order(x, X_0);
        // With a single slope the authors take a half for its weight, whatever the interval.
        let weights = match order(i) {
            1 => Vec::new(),
            2 => vec![0.5],
            order => next.weights(&next.ratios(&levels, order)),
        };
        for (back, weight) in weights.iter().enumerate() {
            let slope = 1.0 / next.ratio(&levels, back + 1) * (history(estimate(i - back - 1)) - X_0);
            prediction = prediction - next.weight * (*weight * slope);
        }
        Step::at(levels[i].timestep, update(prediction))
    };
    Ok(Steps::Fixed((0..steps).map(step).collect()))
}

/// x at level `i`, from the corrected x at level `i - 1`, x_0 there and before, and x_0 at the predicted x.
fn corrected(process: &Process<'_>, levels: &[Level], i: usize, order: usize) -> Combination {
    let last = Interval::new(process, levels, i - 1);
    let x_0 = history(estimate(i - 1));
    let mut ratios = last.ratios(levels, order);
    ratios.push(1.0);
    let weights = if order == 1 { vec![0.5] } else { last.weights(&ratios) };
    let mut x = last.first_order(history(CORRECTED), x_0);
    for (back, (weight, ratio)) in weights.iter().zip(&ratios).enumerate() {
        let other = if back + 1 == order { X_0 } else { history(estimate(i + 3 - back - 2)) };
        x = x - last.weight * (weight / ratio * (other - x_0));
    }
    x
}

/// One step in lambda = log(alpha / sigma), from level `i` to the next.
struct Interval {
    i: usize,
    from: Level,
    to: Level,
    h: f64,
    /// alpha_t (e^-h - 1).
    of_x_0: f64,
    /// alpha_t B(h).
    weight: f64,
    /// k! phi_{k+1}(-h) h / B(h) for k = 1, 2, 3.
    b: [f64; 3],
}

impl Interval {
    fn new(process: &Process<'_>, levels: &[Level], i: usize) -> Self {
        let (from, to) = (levels[i], levels[i + 1]);
        let h = to.log_snr() - from.log_snr();
        let e = (-h).exp_m1();
        let b_of_h = if process.solver.is_bh1 { -h } else { e };
        let phi_2 = e / -h - 1.0;
        let phi_3 = phi_2 / -h - 0.5;
        let phi_4 = phi_3 / -h - 1.0 / 6.0;
        let b = [phi_2, 2.0 * phi_3, 6.0 * phi_4].map(|phi| phi / b_of_h);
        Self { i, from, to, h, of_x_0: to.alpha() * e, weight: to.alpha() * b_of_h, b }
    }

    /// Equation 3: the step with a constant x_0, which solves the linear part of the ODE exactly.
    fn first_order(&self, x: Combination, x_0: Combination) -> Combination {
        self.to.sigma() / self.from.sigma() * x - self.of_x_0 * x_0
    }

    /// r: how far back the level that many steps before lies, in units of this step.
    fn ratio(&self, levels: &[Level], back: usize) -> f64 {
        (levels[self.i - back].log_snr() - self.from.log_snr()) / self.h
    }

    /// r of the levels that a method of this order looks back to.
    fn ratios(&self, levels: &[Level], order: usize) -> Vec<f64> {
        (1..order).map(|back| self.ratio(levels, back)).collect()
    }

    /// Equation 10: the weights a of the slopes to the levels at these r solve sum_m a_m r_m^(k-1) = b_k for
    /// k = 1, 2 and so on.
    fn weights(&self, ratios: &[f64]) -> Vec<f64> {
        let weight = |m: usize| {
            // The polynomial that is 1 at r_m and 0 at the others, with b_k for r^(k-1).
            let others: Vec<f64> = (0..ratios.len()).filter(|&n| n != m).map(|n| ratios[n]).collect();
            let scale: f64 = others.iter().map(|other| ratios[m] - other).product();
            let [one, r, square] = self.b;
            let sum = match others[..] {
                [] => one,
                [p] => r - p * one,
                [p, q, ..] => square - (p + q) * r + p * q * one,
            };
            sum / scale
        };
        (0..ratios.len()).map(weight).collect()
    }
}
