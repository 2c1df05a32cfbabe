//! Linear combinations of what a step has at hand, written as in the papers.

use std::ops::{Add, Mul, Sub};

use crate::ops::reverse_step::{Factors, MAX_SLOTS};

/// A linear combination of what a step has at hand: `0.5 * X_0 + 0.2 * X - history(1)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Combination {
    /// Factor of the estimate of x_0, clamped if the run clamps.
    pub x_0: f64,
    /// Factor of x, at which the network was evaluated.
    pub x: f64,
    /// Factor of the network's output as it is.
    pub output: f64,
    /// Factors of the values of the history.
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

/// What an earlier step stored in a slot of the history, from 0 to [`MAX_SLOTS`] - 1.
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
    /// As the kernels have it.
    pub(super) fn factors(&self) -> Factors {
        let mut factors = [0.0; 3 + MAX_SLOTS];
        factors[..3].copy_from_slice(&[self.x_0, self.x, self.output]);
        factors[3..].copy_from_slice(&self.history);
        factors
    }

    /// Its value, where x_0, x and the output are `now` and the values of the history are `history`.
    pub fn value(&self, now: [f64; 3], history: &[f64]) -> f64 {
        let [x_0, x, output] = now;
        let of_history: f64 = self.history.iter().zip(history).map(|(factor, value)| factor * value).sum();
        self.x_0 * x_0 + self.x * x + self.output * output + of_history
    }
}
