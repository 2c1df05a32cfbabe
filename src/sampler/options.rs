//! What a user may choose about sampling, and what is refused.

use thiserror::Error;

use super::{ALL, Sampler};
use crate::diffusion::{ScheduleError, SchedulerConfig, TimestepsError};

/// What a user may choose about sampling. What is `None` is left to the sampler.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Number of steps, 1..=T.
    pub steps: Option<usize>,
    /// Noise of DDIM, 0 for none up to 1 for as much as DDPM has.
    pub eta: Option<f64>,
    /// What becomes of estimates of x_0 beyond the range of images.
    pub clip: Clip,
}

impl SamplerOptions {
    /// What the sampler and the model's config say themselves.
    pub fn new(config: &SchedulerConfig) -> Self {
        let clip = if config.clip_sample { Clip::Clamp(config.clip_sample_range) } else { Clip::None };
        Self { steps: None, eta: None, clip }
    }
}

/// What becomes of an estimate of x_0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip {
    /// It stays as it is.
    None,
    /// It is clamped to minus this value up to this value.
    Clamp(f64),
}

/// An option that some samplers have and others do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// `--steps`
    Steps,
    /// `--eta`
    Eta,
}

impl Choice {
    /// Every option.
    pub const ALL: &[Self] = &[Self::Steps, Self::Eta];

    /// The option on the command line.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Steps => "--steps",
            Self::Eta => "--eta",
        }
    }

    /// Whether the user has chosen.
    pub fn is_given(self, options: &SamplerOptions) -> bool {
        match self {
            Self::Steps => options.steps.is_some(),
            Self::Eta => options.eta.is_some(),
        }
    }
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
    /// An option for a sampler that does not have it.
    #[error("the sampler `{sampler}` takes no {flag}; leave it out, or use a sampler that does: {known}")]
    Unused {
        /// The sampler.
        sampler: &'static str,
        /// The option.
        flag: &'static str,
        /// The samplers that have it.
        known: String,
    },
}

impl SamplerError {
    pub(super) fn unused(sampler: &Sampler, choice: Choice) -> Self {
        let heeding = ALL.iter().filter(|other| other.choices.contains(&choice)).map(|other| other.name);
        let known = heeding.collect::<Vec<_>>().join(", ");
        Self::Unused { sampler: sampler.name, flag: choice.flag(), known }
    }
}
