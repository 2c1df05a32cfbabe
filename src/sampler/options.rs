//! The options of sampling, and the errors of options that do not fit.

use thiserror::Error;

use super::{ALL, Sampler, TOLERANCES};
use crate::diffusion::{
    ConfigError, LevelSpacing, Respacing, ScheduleError, SchedulerConfig, Thresholding, TimestepSpacing,
    TimestepsError,
};

/// What a user may choose about sampling. What is `None` is left to the sampler.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Number of steps, 1..=T, or which timesteps to visit.
    pub steps: Option<Respacing>,
    /// How these are spaced, if not as the config says.
    pub spacing: Option<TimestepSpacing>,
    /// Share of the way to go, above 0 and up to 1: sampling begins that far from the image, as in image-to-image.
    pub strength: f64,
    /// The order of a method that has several, 1 to 3.
    pub solver_order: Option<usize>,
    /// Where the levels of noise lie between the first and the last.
    pub noise_levels: Option<LevelSpacing>,
    /// Noise of `ddim`, 0 for none up to 1 for as much as `ddpm` has.
    pub eta: Option<f64>,
    /// Error that `ode` allows in a step, absolute and relative.
    pub tolerance: Option<f64>,
    /// Langevin steps of `pc` before each step of its predictor.
    pub corrector_steps: Option<usize>,
    /// Signal-to-noise ratio of these.
    pub snr: Option<f64>,
    /// Whether ancestral steps add noise in the last step too where its timestep is not 0, as diffusers does.
    pub noise_in_last_step: bool,
    /// What becomes of estimates of x_0 beyond the range of images.
    pub clip: Clip,
}

impl SamplerOptions {
    /// What the sampler and the model's config say themselves.
    pub fn new(config: &SchedulerConfig) -> Self {
        let clip = if config.clip_sample { Clip::Clamp(config.clip_sample_range) } else { Clip::None };
        Self {
            steps: None,
            spacing: None,
            strength: 1.0,
            solver_order: None,
            noise_levels: None,
            eta: None,
            tolerance: None,
            corrector_steps: None,
            snr: None,
            noise_in_last_step: false,
            clip: match config.thresholding() {
                Ok(Some(Thresholding { ratio, max })) => Clip::Dynamic { ratio, max },
                // A config is checked when it is read.
                Ok(None) | Err(_) => clip,
            },
        }
    }
}

/// What becomes of an estimate of x_0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip {
    /// It stays as it is.
    None,
    /// It is clamped to minus this value up to this value.
    Clamp(f64),
    /// Dynamic thresholding (Saharia et al. 2022, "Imagen", section 2.3): it is clamped to s, then divided by s, the
    /// quantile at `ratio` of its absolute values within the image, but at least 1.
    Dynamic {
        /// Which quantile, from 0 to 1.
        ratio: f64,
        /// The largest s.
        max: f64,
    },
}

/// An option that some samplers have and others do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// `steps`
    Steps,
    /// `spacing`
    Spacing,
    /// `strength`, below 1.
    Strength,
    /// `solver_order`
    SolverOrder,
    /// `noise_levels`
    NoiseLevels,
    /// `eta`
    Eta,
    /// `tolerance`
    Tolerance,
    /// `corrector_steps`
    CorrectorSteps,
    /// `snr`
    Snr,
    /// `noise_in_last_step`
    NoiseInLastStep,
}

impl Choice {
    /// Every option.
    pub const ALL: &[Self] = &[
        Self::Steps,
        Self::Spacing,
        Self::Strength,
        Self::SolverOrder,
        Self::NoiseLevels,
        Self::Eta,
        Self::Tolerance,
        Self::CorrectorSteps,
        Self::Snr,
        Self::NoiseInLastStep,
    ];

    /// Its field in [`SamplerOptions`].
    pub fn field(self) -> &'static str {
        match self {
            Self::Steps => "steps",
            Self::Spacing => "spacing",
            Self::Strength => "strength",
            Self::SolverOrder => "solver_order",
            Self::NoiseLevels => "noise_levels",
            Self::Eta => "eta",
            Self::Tolerance => "tolerance",
            Self::CorrectorSteps => "corrector_steps",
            Self::Snr => "snr",
            Self::NoiseInLastStep => "noise_in_last_step",
        }
    }

    /// Whether the user has chosen.
    pub fn is_given(self, options: &SamplerOptions) -> bool {
        match self {
            Self::Steps => options.steps.is_some(),
            Self::Spacing => options.spacing.is_some(),
            Self::Strength => options.strength != 1.0,
            Self::SolverOrder => options.solver_order.is_some(),
            Self::NoiseLevels => options.noise_levels.is_some(),
            Self::Eta => options.eta.is_some(),
            Self::Tolerance => options.tolerance.is_some(),
            Self::CorrectorSteps => options.corrector_steps.is_some(),
            Self::Snr => options.snr.is_some(),
            Self::NoiseInLastStep => options.noise_in_last_step,
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
    /// A config that cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Too few timesteps with as much of the image as `lambda_min_clipped` asks for.
    #[error(
        "cannot sample in {steps} steps: `lambda_min_clipped` = {lambda_min} in the scheduler config leaves {left} of the \
         timesteps, and one of them to end at; take fewer steps or lower it"
    )]
    Clipped {
        /// The steps asked for.
        steps: usize,
        /// The least log(alpha / sigma).
        lambda_min: f64,
        /// The timesteps that have it.
        left: usize,
    },
    /// An order that the method does not have.
    #[error("the solver order is {order}; for the sampler `{sampler}` it must be from 1 to {most}")]
    Order {
        /// The sampler.
        sampler: &'static str,
        /// The order.
        order: usize,
        /// The highest that it has.
        most: usize,
    },
    /// An eta out of range.
    #[error("eta is {0}; it must be from 0 (no noise) to 1 (the noise of DDPM)")]
    EtaRange(f64),
    /// A number that must be positive.
    #[error("`{field}` is {value}; it must be above 0")]
    NotPositive {
        /// Its field in [`SamplerOptions`].
        field: &'static str,
        /// Its value.
        value: f64,
    },
    /// A strength out of range.
    #[error("the strength is {0}; it must be above 0 and at most 1")]
    Strength(f64),
    /// A strength of less than a step.
    #[error(
        "a strength of {strength} leaves none of {steps} steps to take: take at least {least} steps, or a larger \
         strength"
    )]
    NoStep {
        /// The strength.
        strength: f64,
        /// All steps.
        steps: usize,
        /// So many would leave one.
        least: usize,
    },
    /// A tolerance that nothing can be held to.
    #[error("the tolerance is {value}; it must be from {} to {}", TOLERANCES.start(), TOLERANCES.end())]
    Tolerance {
        /// The tolerance.
        value: f64,
    },
    /// Steps that become shorter and shorter.
    #[error(
        "after {evaluations} evaluations of the network the ODE is {share:.0} % solved: its steps are too short to go \
         on, as where the rounding of the network's arithmetic is larger than the tolerance of {tolerance}; give a \
         larger one"
    )]
    TooManySteps {
        /// Evaluations of the network.
        evaluations: usize,
        /// How far it is, in percent.
        share: f64,
        /// The tolerance.
        tolerance: f64,
    },
    /// A quantile out of range.
    #[error("the quantile of dynamic thresholding is {0}; it must be above 0 and at most 1")]
    Quantile(f64),
    /// The sampler divides by the share of the image in x_t, and nothing is left.
    #[error(
        "{sampler} cannot begin where nothing of the image is left, as this model's zero-terminal-SNR schedule does; use \
         ddim, or leading spacing of the timesteps"
    )]
    ZeroSnr {
        /// The sampler.
        sampler: &'static str,
    },
    /// Fewer steps than the method needs.
    #[error(
        "the sampler `{sampler}` takes at least {least} steps, not {steps}; use more steps or the sampler `plms`"
    )]
    FewSteps {
        /// The sampler.
        sampler: &'static str,
        /// The steps asked for.
        steps: usize,
        /// The steps that it needs.
        least: usize,
    },
    /// Listed timesteps and a spacing.
    #[error("`{0}` says which timesteps to visit, so a spacing has nothing to say: leave one of them out")]
    SpacingOfList(String),
    /// Listed timesteps for a sampler that takes even ones.
    #[error(
        "the sampler `{sampler}` spaces its timesteps itself and cannot visit `{steps}`; give a number of steps"
    )]
    Uneven {
        /// The sampler.
        sampler: &'static str,
        /// The timesteps asked for.
        steps: String,
    },
    /// An option for a sampler that does not have it.
    #[error("the sampler `{sampler}` takes no `{field}`; leave it out, or use a sampler that does: {known}")]
    Unused {
        /// The sampler.
        sampler: &'static str,
        /// Its field in [`SamplerOptions`].
        field: &'static str,
        /// The samplers that have it.
        known: String,
    },
}

impl SamplerError {
    pub(super) fn unused(sampler: &Sampler, choice: Choice) -> Self {
        let heeding = ALL.iter().filter(|other| other.choices.contains(&choice)).map(|other| other.name);
        let known = heeding.collect::<Vec<_>>().join(", ");
        Self::Unused { sampler: sampler.name, field: choice.field(), known }
    }
}
