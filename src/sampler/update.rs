//! What a sampler asks of one step: what becomes of x and of the values of the history, and what is measured.

use super::combination::{Combination, X};
use crate::ops::reverse_step::StepRow;
use crate::ops::step_norms::MeasureRow;

/// What one step does with x and with the values of the history; all that it reads is as it was before.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Factors of x and of the network's output in the estimate of x_0, before it is clamped.
    pub x_0: [f64; 2],
    /// The next x, without its noise.
    pub x: Combination,
    /// Standard deviation of the noise that is added to it.
    pub sigma: f64,
    /// With learned variance: v in -1..1, the second half of the network's output, changes the standard deviation to
    /// `sigma * exp(log_range * v)`; 0 elsewhere.
    pub log_range: f64,
    /// Values to keep for later steps, by slot.
    pub keep: Vec<(usize, Combination)>,
}

impl Update {
    /// A step without noise that keeps nothing.
    pub fn new(x_0: [f64; 2], x: Combination) -> Self {
        Self { x_0, x, sigma: 0.0, log_range: 0.0, keep: Vec::new() }
    }

    /// A step that changes nothing.
    pub fn none() -> Self {
        Self::new([0.0, 0.0], X)
    }

    /// The same with this noise.
    pub fn noise(self, sigma: f64) -> Self {
        Self { sigma, ..self }
    }

    /// The same, which also keeps a value.
    pub fn keep(mut self, slot: usize, value: Combination) -> Self {
        self.keep.push((slot, value));
        self
    }

    /// One row of the `coefficients` that [`reverse_step`](mod@crate::ops::reverse_step) reads.
    pub fn coefficients(&self, slots: usize) -> Vec<f32> {
        let history = self.keep.iter().map(|(slot, value)| (*slot, value.factors())).collect();
        let Self { x_0, sigma, log_range, .. } = *self;
        StepRow { x_0, sigma, log_range, x: self.x.factors(), history }.to_vec(slots)
    }
}

/// What is measured of one image: the root of the mean over its elements of
/// `(value / (absolute + relative max(|x|, |beside|)))^2`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    /// Factors of x and of the network's output in the estimate of x_0, before it is clamped.
    pub x_0: [f64; 2],
    /// What is measured.
    pub value: Combination,
    /// What is compared with x.
    pub beside: Combination,
    /// The absolute tolerance.
    pub absolute: f64,
    /// The relative tolerance.
    pub relative: f64,
    /// Whether the noise of the next update with noise is measured, too.
    pub noise: bool,
}

impl Measure {
    /// The root of the mean square of `value`, and of the noise that follows.
    pub fn norms(x_0: [f64; 2], value: Combination) -> Self {
        Self { x_0, value, beside: X, absolute: 1.0, relative: 0.0, noise: true }
    }

    /// One row of the `measures` that [`step_norms`](mod@crate::ops::step_norms) reads.
    pub fn to_row(&self, slots: usize) -> Vec<f32> {
        let Self { x_0, absolute, relative, noise, .. } = *self;
        let (value, beside) = (self.value.factors(), self.beside.factors());
        MeasureRow { x_0, value, beside, absolute, relative, noise }.to_vec(slots)
    }
}
