//! What a sampler asks of one step: linear combinations, written as in the papers.

use std::ops::{Add, Mul, Sub};

use super::{HEADER, MAX_SLOTS, coefficients_length};

/// A linear combination of what a step has at hand: `0.5 * X_0 + 0.2 * X - history(1)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Combination {
    /// Factor of the estimate of x_0, clamped if the run clamps.
    pub x_0: f64,
    /// Factor of x, at which the network was evaluated.
    pub x: f64,
    /// Factor of the network's output as it is.
    pub output: f64,
    /// Factors of the values that earlier steps kept.
    pub history: [f64; MAX_SLOTS],
}

/// Nothing.
const ZERO: Combination = Combination { x_0: 0.0, x: 0.0, output: 0.0, history: [0.0; MAX_SLOTS] };

/// The estimate of x_0.
pub const X_0: Combination = Combination { x_0: 1.0, ..ZERO };

/// The point at which the network was evaluated.
pub const X: Combination = Combination { x: 1.0, ..ZERO };

/// The network's output.
pub const OUTPUT: Combination = Combination { output: 1.0, ..ZERO };

/// What an earlier step kept in a slot, from 0 to [`MAX_SLOTS`] - 1.
///
/// # Panics
/// If there is no such slot.
pub const fn history(slot: usize) -> Combination {
    let mut combination = ZERO;
    combination.history[slot] = 1.0;
    combination
}

impl Add for Combination {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            x_0: self.x_0 + other.x_0,
            x: self.x + other.x,
            output: self.output + other.output,
            history: std::array::from_fn(|slot| self.history[slot] + other.history[slot]),
        }
    }
}

impl Sub for Combination {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -1.0 * other
    }
}

impl Mul<Combination> for f64 {
    type Output = Combination;
    fn mul(self, of: Combination) -> Combination {
        Combination {
            x_0: self * of.x_0,
            x: self * of.x,
            output: self * of.output,
            history: of.history.map(|factor| self * factor),
        }
    }
}

impl Combination {
    /// Its value, where x_0, x and the output are `now` and the values of the history are `history`.
    pub fn value(&self, now: [f64; 3], history: &[f64]) -> f64 {
        let [x_0, x, output] = now;
        let of_history: f64 = self.history.iter().zip(history).map(|(factor, value)| factor * value).sum();
        self.x_0 * x_0 + self.x * x + self.output * output + of_history
    }
}

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

    /// One row of the `coefficients` that [`reverse_step`](super::reverse_step()) reads.
    pub fn coefficients(&self, slots: usize) -> Vec<f32> {
        let mut numbers = vec![0.0; coefficients_length(slots)];
        let rows =
            || std::iter::once((0, &self.x)).chain(self.keep.iter().map(|(slot, row)| (1 + slot, row)));
        let is_read = |slot: &usize| rows().any(|(_, row)| row.history[*slot] != 0.0);
        let reads: u32 = (0..slots).filter(is_read).map(|slot| 1 << slot).sum();
        let [of_x, of_output] = self.x_0;
        numbers[..HEADER].copy_from_slice(&[of_x, of_output, self.sigma, self.log_range, f64::from(reads)]);
        for (index, row) in rows() {
            let at = HEADER + index * (4 + slots);
            numbers[at..at + 4].copy_from_slice(&[1.0, row.x_0, row.x, row.output]);
            numbers[at + 4..at + 4 + slots].copy_from_slice(&row.history[..slots]);
        }
        numbers.into_iter().map(|number| number as f32).collect()
    }
}
