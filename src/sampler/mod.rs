//! Samplers: which timesteps to visit, and what each step does with x_t and the network's output.
//!
//! A sampler is plain f64 arithmetic that turns a process and a number of steps into the coefficients of
//! [`reverse_step`](mod@crate::ops::reverse_step); running the network is its caller's work. Adding one takes one file
//! and one line in [`ALL`].

mod ddim;
mod ddpm;

use thiserror::Error;

use crate::diffusion::{ScheduleError, SchedulerConfig, TimestepsError};
use crate::ops::reverse_step::Coefficients;

/// One step of the reverse process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The timestep that the network is told.
    pub timestep: usize,
    /// What leads from x_t and the network's output to the next x_t.
    pub coefficients: Coefficients,
}

/// What a user may choose about sampling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Number of steps, 1..=T.
    pub steps: usize,
    /// Noise of DDIM, 0 for none up to 1 for as much as DDPM has.
    pub eta: f64,
}

/// A method of sampling.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    /// The name on the command line.
    pub name: &'static str,
    /// One line for `--help`.
    pub description: &'static str,
    /// The steps from noise to image, in the order in which they are taken.
    pub steps: fn(&SchedulerConfig, &SamplerOptions) -> Result<Vec<Step>, SamplerError>,
}

/// Every sampler.
pub const ALL: &[Sampler] = &[ddpm::SAMPLER, ddim::SAMPLER];

/// The sampler of that name.
///
/// # Errors
/// [`SamplerError::Unknown`], which lists the names there are.
pub fn by_name(name: &str) -> Result<&'static Sampler, SamplerError> {
    ALL.iter().find(|sampler| sampler.name == name).ok_or_else(|| {
        let known: Vec<&str> = ALL.iter().map(|sampler| sampler.name).collect();
        SamplerError::Unknown { name: name.to_owned(), known: known.join(", ") }
    })
}

/// Sampling that cannot be done as asked.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum SamplerError {
    /// No sampler has this name.
    #[error("there is no sampler `{name}`; the samplers are: {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A number of steps that the process does not have.
    #[error(transparent)]
    Timesteps(#[from] TimestepsError),
    /// A process that cannot be sampled from.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// An eta out of range.
    #[error("eta is {0}; it must be from 0 (no noise) to 1 (the noise of DDPM)")]
    EtaRange(f64),
    /// An eta for a sampler that has none.
    #[error(
        "the sampler `{sampler}` takes no eta (it was given {eta}); leave it out, or use the sampler `ddim`"
    )]
    EtaUnused {
        /// The sampler.
        sampler: &'static str,
        /// The eta given.
        eta: f64,
    },
}

#[cfg(test)]
mod tests;
