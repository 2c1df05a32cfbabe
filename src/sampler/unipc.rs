//! UniPC of second order (Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework", algorithms 1 and 2, with
//! B(h) = e^h - 1, there called B_2, for networks that predict x_0).
//!
//! The network's output at the predicted x serves twice: it corrects that x, then predicts the next one. So a step costs
//! one evaluation.

use super::{
    Choice, Combination, Guided, Level, Process, Sampler, SamplerError, Step, Steps, Update, X, X_0, history,
};

pub(super) const SAMPLER: Sampler = Sampler {
    name: "unipc",
    description: "UniPC (Zhao et al. 2023): second-order predictor and corrector, good with 5 to 20 steps",
    default_steps: Some(20),
    slots: 3,
    measures: false,
    inverts: false,
    guided: Guided::Eps,
    extrapolates: false,
    choices: &[Choice::Steps, Choice::Spacing, Choice::Strength],
    steps,
};

/// The last corrected x.
const CORRECTED: usize = 0;

/// The slot of the estimate of x_0 that step `i` made: the last two are kept.
fn estimate(i: usize) -> usize {
    1 + i % 2
}

/// The steps of diffusers' `UniPCMultistepScheduler`.
fn steps(process: &Process<'_>) -> Result<Steps, SamplerError> {
    let timesteps = process.multistep_timesteps()?;
    let levels = process.levels_to_image(&timesteps);
    let step = |i: usize| {
        // Algorithm 1, corrector: the step that led here is taken again, now that x_0 at its end is known.
        let x = if i == 0 { X } else { corrected(&levels, i) };

        // Algorithm 2, predictor: from the corrected x, with this x_0 and the one before.
        let next = Interval::new(&levels, i);
        let mut prediction = next.first_order(x, X_0);
        // The first step has no earlier x_0, and the last one, to the image itself, is of first order.
        if i > 0 && i + 2 < levels.len() {
            let slope = 1.0 / next.ratio(&levels, i) * (history(estimate(i - 1)) - X_0);
            prediction = prediction - next.weight * (0.5 * slope);
        }

        let update = Update::new(levels[i].x_0(), prediction).keep(CORRECTED, x).keep(estimate(i), X_0);
        Step::at(levels[i].timestep, update)
    };
    Ok(Steps::Fixed((0..timesteps.len()).map(step).collect()))
}

/// x at level `i`, from the corrected x at level `i - 1`, x_0 there and before, and x_0 at the predicted x.
fn corrected(levels: &[Level], i: usize) -> Combination {
    let last = Interval::new(levels, i - 1);
    let x_0 = history(estimate(i - 1));
    let first_order = last.first_order(history(CORRECTED), x_0);
    if i == 1 {
        return first_order - last.weight * (0.5 * (X_0 - x_0));
    }
    // Equation 10: the weights a of the two differences solve a_1 r^(k-1) + a_2 = b_k for k = 1, 2.
    let r = last.ratio(levels, i - 1);
    let [b_1, b_2] = last.b;
    let a_1 = (b_1 - b_2) / (1.0 - r);
    let a_2 = b_1 - a_1;
    let slope = 1.0 / r * (history(estimate(i - 2)) - x_0);
    first_order - last.weight * (a_1 * slope + a_2 * (X_0 - x_0))
}

/// One step in lambda = log(alpha / sigma), from level `i` to the next.
struct Interval {
    from: Level,
    to: Level,
    h: f64,
    /// alpha_t B(h).
    weight: f64,
    /// k! phi_{k+1}(-h) h / B(h) for k = 1, 2.
    b: [f64; 2],
}

impl Interval {
    fn new(levels: &[Level], i: usize) -> Self {
        let (from, to) = (levels[i], levels[i + 1]);
        let h = to.log_snr() - from.log_snr();
        let b = (-h).exp_m1();
        let phi_2 = b / -h - 1.0;
        let phi_3 = phi_2 / -h - 0.5;
        Self { from, to, h, weight: to.alpha() * b, b: [phi_2 / b, 2.0 * phi_3 / b] }
    }

    /// Equation 3: the step with a constant x_0, which solves the linear part of the ODE exactly.
    fn first_order(&self, x: Combination, x_0: Combination) -> Combination {
        self.to.sigma() / self.from.sigma() * x - self.weight * x_0
    }

    /// r: how far back the level before lies, in units of this step.
    fn ratio(&self, levels: &[Level], i: usize) -> f64 {
        (levels[i - 1].log_snr() - self.from.log_snr()) / self.h
    }
}
