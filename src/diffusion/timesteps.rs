//! Which training timesteps a sampler visits when it takes fewer steps than there are.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How the visited timesteps are spaced (Lin et al. 2023, table 2); serde names are diffusers'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// Multiples of T / steps from 0 on: the last timestep is visited, the first is not.
    #[default]
    Leading,
    /// Multiples of T / steps down from T - 1: the noisiest timestep is visited.
    Trailing,
    /// Evenly from 0 to T - 1, both visited.
    Linspace,
}

/// Steps that cannot be taken.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TimestepsError {
    /// No step, or more steps than the model has timesteps.
    #[error("cannot sample in {steps} steps: this model takes from 1 to {num_train_timesteps}")]
    Steps {
        /// The steps asked for.
        steps: usize,
        /// T.
        num_train_timesteps: usize,
    },
    /// `steps_offset` shifts a timestep past the last.
    #[error(
        "with {steps} steps, `steps_offset` = {steps_offset} in the scheduler config leads past the last of the \
         {num_train_timesteps} timesteps: take fewer steps or lower the offset"
    )]
    Offset {
        /// The steps asked for.
        steps: usize,
        /// The offset.
        steps_offset: usize,
        /// T.
        num_train_timesteps: usize,
    },
}

impl TimestepSpacing {
    /// The timesteps to visit, falling, `[steps]`: those of diffusers' `set_timesteps`, rounded as NumPy rounds.
    ///
    /// As there, `steps_offset` is added with leading spacing only.
    ///
    /// # Errors
    /// [`TimestepsError`] if `steps` is not in 1..=`num_train_timesteps`, or if the offset leads out of range.
    pub fn timesteps(
        self,
        num_train_timesteps: usize,
        steps: usize,
        steps_offset: usize,
    ) -> Result<Vec<usize>, TimestepsError> {
        if steps == 0 || steps > num_train_timesteps {
            return Err(TimestepsError::Steps { steps, num_train_timesteps });
        }
        let (total, count) = (num_train_timesteps as f64, steps as f64);
        match self {
            Self::Leading => {
                let ratio = num_train_timesteps / steps;
                let last = (ratio * (steps - 1)).checked_add(steps_offset);
                if last.is_none_or(|last| last >= num_train_timesteps) {
                    return Err(TimestepsError::Offset { steps, steps_offset, num_train_timesteps });
                }
                Ok((0..steps).rev().map(|i| i * ratio + steps_offset).collect())
            }
            Self::Trailing => {
                // `np.arange(T, 0, -T / steps)` steps by the difference of its first two numbers, which is not
                // quite -T / steps: it decides which way some halves are rounded. It can also yield one number
                // too many, near 0, which diffusers turns into a timestep of -1; that one is left out here.
                let delta = (total - total / count) - total;
                Ok((0..steps).map(|i| (total + i as f64 * delta).round_ties_even() as usize - 1).collect())
            }
            Self::Linspace => {
                let ratio = if steps > 1 { (total - 1.0) / (count - 1.0) } else { 0.0 };
                Ok((0..steps).rev().map(|i| (i as f64 * ratio).round_ties_even() as usize).collect())
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_steps_falls_within_range() {
        for total in [1, 2, 7, 50, 999, 1000] {
            for spacing in [TimestepSpacing::Leading, TimestepSpacing::Trailing, TimestepSpacing::Linspace] {
                for steps in 1..=total {
                    let found = spacing.timesteps(total, steps, 0).unwrap();
                    assert_eq!(found.len(), steps);
                    assert!(found[0] < total, "{spacing:?} {total} {steps}");
                    assert!(found.windows(2).all(|pair| pair[0] > pair[1]), "{spacing:?} {total} {steps}");
                }
                let all: Vec<usize> = (0..total).rev().collect();
                assert_eq!(spacing.timesteps(total, total, 0).unwrap(), all, "{spacing:?}");
            }
        }
    }

    /// Numbers from NumPy 2: halves that the inexact step of `arange` rounds the other way.
    #[test]
    fn trailing_rounds_as_numpy() {
        let found = TimestepSpacing::Trailing.timesteps(50, 12, 0).unwrap();
        assert_eq!(found, [49, 45, 41, 37, 32, 28, 24, 20, 16, 12, 7, 3]);
        // Here `arange` yields a thirtieth number, which diffusers makes a timestep of -1.
        assert_eq!(TimestepSpacing::Trailing.timesteps(50, 29, 0).unwrap().last(), Some(&1));
    }

    #[test]
    fn refuses_what_cannot_be_visited() {
        let refused =
            |steps, offset| TimestepSpacing::Leading.timesteps(10, steps, offset).unwrap_err().to_string();
        assert_eq!(refused(0, 0), "cannot sample in 0 steps: this model takes from 1 to 10");
        assert_eq!(refused(11, 0), "cannot sample in 11 steps: this model takes from 1 to 10");
        assert!(refused(10, 1).contains("`steps_offset` = 1"));
        assert!(refused(2, usize::MAX).contains("past the last"));
        assert_eq!(TimestepSpacing::Leading.timesteps(10, 5, 1), Ok(vec![9, 7, 5, 3, 1]));
        assert_eq!(TimestepSpacing::Trailing.timesteps(10, 5, 1), Ok(vec![9, 7, 5, 3, 1]));
    }
}
