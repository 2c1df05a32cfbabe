//! The steps of a sampler, known beforehand or found on the way.

use std::fmt;

use super::{Measure, SamplerError, Update};

/// One step of the reverse process: the network is evaluated at x, then x and the values of the history change.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The timestep that the network is told, whole or not; `None` if it is not evaluated and its last output serves again.
    pub timestep: Option<f64>,
    /// What is measured between evaluation and update.
    pub measure: Option<Measure>,
    /// What becomes of x and of the values of the history.
    pub update: Update,
}

/// What a step has measured of one image.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// The size of [`Measure::value`].
    pub value: f64,
    /// The root of the mean square of the noise that the next update with noise will add, before its factor.
    pub noise: f64,
}

/// The steps of a sampler.
pub enum Steps {
    /// The same for all images, known beforehand.
    Fixed(Vec<Step>),
    /// Each image's own: they depend on the measurements of its earlier steps. For a number of images.
    Adaptive(Box<dyn Fn(usize) -> Box<dyn Adaptive> + Send>),
}

/// Steps that depend on what earlier steps have measured.
pub trait Adaptive: Send {
    /// The next step of each image, from the measurements of the last; `None` at the end.
    ///
    /// All of them evaluate the network, or none does.
    ///
    /// # Errors
    /// [`SamplerError::TooManySteps`]
    fn next(&mut self, measured: &[Measured]) -> Result<Option<Vec<Step>>, SamplerError>;

    /// The share of the way that is behind the slowest image, 1 at the end.
    fn progress(&self) -> f64;
}

/// A walk along the steps of a sampler, for one batch of images.
pub enum Run<'a> {
    /// Along known steps: those, and how many have been taken.
    Fixed(&'a [Step], usize),
    /// Along steps that are found on the way.
    Adaptive(Box<dyn Adaptive>),
}

impl Step {
    /// Evaluates the network at a timestep, then updates.
    pub fn at(timestep: f64, update: Update) -> Self {
        Self { timestep: Some(timestep), measure: None, update }
    }

    /// Updates with the network's last output.
    pub fn again(update: Update) -> Self {
        Self { timestep: None, measure: None, update }
    }

    /// The same, which also measures.
    pub fn measuring(self, measure: Measure) -> Self {
        Self { measure: Some(measure), ..self }
    }
}

impl Steps {
    /// Begins with a batch of images.
    pub fn run(&self, images: usize) -> Run<'_> {
        match self {
            Self::Fixed(steps) => Run::Fixed(steps, 0),
            Self::Adaptive(start) => Run::Adaptive(start(images)),
        }
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(steps) => f.debug_tuple("Fixed").field(steps).finish(),
            Self::Adaptive(_) => f.write_str("Adaptive"),
        }
    }
}

impl Run<'_> {
    /// The next step, one for all images or one for each, from the measurements of the last; `None` at the end.
    ///
    /// # Errors
    /// [`SamplerError::TooManySteps`]
    pub fn next(&mut self, measured: &[Measured]) -> Result<Option<Vec<Step>>, SamplerError> {
        match self {
            Self::Fixed(steps, done) => {
                let step = steps.get(*done).cloned();
                *done += usize::from(step.is_some());
                Ok(step.map(|step| vec![step]))
            }
            Self::Adaptive(adaptive) => adaptive.next(measured),
        }
    }

    /// Number of steps, or 100 for the way of steps that are found as it goes.
    pub fn total(&self) -> usize {
        match self {
            Self::Fixed(steps, _) => steps.len(),
            Self::Adaptive(_) => 100,
        }
    }

    /// The share of the steps that has been taken, 1 at the end.
    pub fn progress(&self) -> f64 {
        match self {
            Self::Fixed(steps, done) => *done as f64 / steps.len().max(1) as f64,
            Self::Adaptive(adaptive) => adaptive.progress(),
        }
    }
}
