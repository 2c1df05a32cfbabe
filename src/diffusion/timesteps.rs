//! Which training timesteps a sampler visits when it takes fewer steps than there are.

use std::fmt;
use std::str::FromStr;

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
    /// More steps than leave the last step a timestep of its own.
    #[error(
        "cannot sample in {steps} steps: with {spacing} spacing the last step takes a timestep of its own, and this \
         model's {num_train_timesteps} leave from 1 to {most}; trailing spacing allows one more",
        spacing = spacing.name()
    )]
    LastStep {
        /// The steps asked for.
        steps: usize,
        /// The spacing.
        spacing: TimestepSpacing,
        /// The most steps.
        most: usize,
        /// T.
        num_train_timesteps: usize,
    },
    /// A respacing that the process does not have.
    #[error("cannot sample at the timesteps `{respacing}`: {reason}")]
    Respacing {
        /// The respacing.
        respacing: String,
        /// Why not.
        reason: String,
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
    /// Every spacing.
    pub const ALL: &[Self] = &[Self::Leading, Self::Trailing, Self::Linspace];

    /// The name on the command line and in diffusers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Leading => "leading",
            Self::Trailing => "trailing",
            Self::Linspace => "linspace",
        }
    }

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

impl TimestepSpacing {
    /// As [`TimestepSpacing::timesteps`], for samplers whose last step leads from the last timestep visited to the image
    /// itself: with leading and linspace spacing that one lies a stride away from 0.
    ///
    /// Those of `set_timesteps` of diffusers' `DPMSolverMultistepScheduler` and `UniPCMultistepScheduler`.
    ///
    /// # Errors
    /// [`TimestepsError`] if so many steps cannot be told apart, or if the offset leads out of range.
    pub fn multistep_timesteps(
        self,
        num_train_timesteps: usize,
        steps: usize,
        steps_offset: usize,
    ) -> Result<Vec<usize>, TimestepsError> {
        if self == Self::Trailing {
            return self.timesteps(num_train_timesteps, steps, steps_offset);
        }
        if num_train_timesteps == 1 || steps == 0 || steps > num_train_timesteps {
            // With a single timestep, one step leads to the image.
            return self.timesteps(num_train_timesteps, steps, steps_offset);
        }
        let most = num_train_timesteps - 1;
        if steps > most {
            return Err(TimestepsError::LastStep { steps, spacing: self, most, num_train_timesteps });
        }
        // One more than the steps to take; the last, 0, is left out.
        let mut timesteps = self.timesteps(num_train_timesteps, steps + 1, steps_offset)?;
        timesteps.pop();
        Ok(timesteps)
    }
}

impl FromStr for TimestepSpacing {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().copied().find(|spacing| spacing.name() == name);
        found.ok_or_else(|| "the spacings are leading, trailing and linspace".to_owned())
    }
}

/// How many timesteps are visited, or which: improved-diffusion's `timestep_respacing`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Respacing {
    /// So many, spaced as [`TimestepSpacing`] says.
    Steps(usize),
    /// So many multiples of a whole number from 0 on: improved-diffusion's `ddimN`.
    Ddim(usize),
    /// So many in each of equal sections of the timesteps, the first section next to the image: `10,15,20`.
    Sections(Vec<usize>),
}

impl Respacing {
    /// The timesteps of a list, falling; for a number of steps, that of one section.
    ///
    /// As improved-diffusion's `space_timesteps` (Nichol and Dhariwal 2021, section 4), rounded as Python rounds.
    ///
    /// # Errors
    /// [`TimestepsError::Respacing`] if there are no such timesteps.
    pub fn list(&self, num_train_timesteps: usize) -> Result<Vec<usize>, TimestepsError> {
        let refused = |reason: String| TimestepsError::Respacing { respacing: self.to_string(), reason };
        let mut timesteps = match self {
            Self::Steps(count) => return Self::Sections(vec![*count]).list(num_train_timesteps),
            Self::Ddim(count) => {
                let strides = 1..num_train_timesteps;
                let stride =
                    strides.into_iter().find(|stride| num_train_timesteps.div_ceil(*stride) == *count);
                let stride = stride.ok_or_else(|| {
                    refused(format!("no whole stride visits {count} of {num_train_timesteps} timesteps"))
                })?;
                (0..num_train_timesteps).step_by(stride).collect()
            }
            Self::Sections(counts) if counts.is_empty() => {
                return Err(refused("it has no section".to_owned()));
            }
            Self::Sections(counts) => {
                let (size, extra) = (num_train_timesteps / counts.len(), num_train_timesteps % counts.len());
                let (mut timesteps, mut first) = (Vec::new(), 0);
                for (section, &count) in counts.iter().enumerate() {
                    let size = size + usize::from(section < extra);
                    if count > size || count == 0 {
                        return Err(refused(format!(
                            "a section of {size} timesteps has no {count} to visit"
                        )));
                    }
                    let stride = if count > 1 { (size - 1) as f64 / (count - 1) as f64 } else { 1.0 };
                    // Added up as there: what rounding leaves decides which way some halves go.
                    let mut offset = 0.0_f64;
                    for _ in 0..count {
                        timesteps.push(first + offset.round_ties_even() as usize);
                        offset += stride;
                    }
                    first += size;
                }
                timesteps
            }
        };
        timesteps.reverse();
        Ok(timesteps)
    }
}

impl FromStr for Respacing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<usize>().ok();
        let found = match text.strip_prefix("ddim") {
            Some(count) => number(count).map(Self::Ddim),
            None if text.contains(',') => {
                text.split(',').map(number).collect::<Option<Vec<usize>>>().map(Self::Sections)
            }
            None => number(text).map(Self::Steps),
        };
        found.ok_or_else(|| {
            "it is a number of steps (50), ddim and a number (ddim50), or the steps of equal sections (10,15,20)"
                .to_owned()
        })
    }
}

impl fmt::Display for Respacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(count) => write!(f, "{count}"),
            Self::Ddim(count) => write!(f, "ddim{count}"),
            Self::Sections(counts) => {
                f.write_str(&counts.iter().map(usize::to_string).collect::<Vec<_>>().join(","))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Numbers of improved-diffusion's `space_timesteps`, which gives sets.
    #[test]
    fn respacing_is_that_of_improved_diffusion() {
        let list = |text: &str, total| text.parse::<Respacing>().unwrap().list(total).unwrap();
        assert_eq!(list("ddim5", 20), [16, 12, 8, 4, 0]);
        assert_eq!(list("3,2", 11), [10, 6, 5, 2, 0]);
        assert_eq!(list("10,15,20", 300).len(), 45);
        assert_eq!(list("10,15,20", 300)[..4], [299, 294, 289, 283]);
        assert_eq!(list("1,1", 10), [5, 0]);
        assert_eq!(list("4", 10), [9, 6, 3, 0]);
        // Here 99 / 14, added up seven times, is less than 49.5.
        assert_eq!(list("15", 100)[7..9], [49, 42]);
        let refused = |text: &str| text.parse::<Respacing>().unwrap().list(10).unwrap_err().to_string();
        assert!(refused("ddim7").contains("no whole stride visits 7 of 10"));
        assert!(refused("3,9").contains("a section of 5 timesteps has no 9"));
        assert!("ddim".parse::<Respacing>().is_err() && "3,x".parse::<Respacing>().is_err());
    }

    #[test]
    fn multistep_timesteps_stay_away_from_0() {
        let spaced = |spacing: TimestepSpacing| spacing.multistep_timesteps(1000, 4, 0).unwrap();
        assert_eq!(spaced(TimestepSpacing::Leading), [800, 600, 400, 200]);
        assert_eq!(spaced(TimestepSpacing::Linspace), [999, 749, 500, 250]);
        assert_eq!(spaced(TimestepSpacing::Trailing), [999, 749, 499, 249]);
        let refused = TimestepSpacing::Linspace.multistep_timesteps(10, 10, 0).unwrap_err().to_string();
        for words in
            ["in 10 steps", "linspace spacing", "10 leave from 1 to 9", "trailing spacing allows one more"]
        {
            assert!(refused.contains(words), "{refused}");
        }
        let refused = TimestepSpacing::Leading.multistep_timesteps(10, 11, 0).unwrap_err().to_string();
        assert_eq!(refused, "cannot sample in 11 steps: this model takes from 1 to 10");
    }

    /// As `set_timesteps(1)` of diffusers' multistep schedulers with `num_train_timesteps=1`.
    #[test]
    fn a_single_timestep_is_visited_once() {
        for &spacing in TimestepSpacing::ALL {
            assert_eq!(spacing.multistep_timesteps(1, 1, 0), Ok(vec![0]), "{spacing:?}");
            let refused = spacing.multistep_timesteps(1, 2, 0).unwrap_err().to_string();
            assert_eq!(refused, "cannot sample in 2 steps: this model takes from 1 to 1");
        }
    }

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
