//! How likely a model finds images: bits per dimension, from the variational bound and from the probability-flow ODE. How good
//! the images are that it draws: a classifier's accuracy, the Frechet distance, precision and recall.

mod accuracy;
mod dormand_prince;
mod features;
mod frechet;
mod network;
mod ode;
mod precision_recall;
mod quality;
mod sweep;
mod vlb;

pub use accuracy::accuracy;
pub use dormand_prince::StepTooSmall;
pub use ode::{OdeOptions, OdeResult, ode_likelihood};
pub use quality::{Evaluator, Quality};
pub use sweep::{Sweep, SweepEvent, Trial, TrialOutcome};
pub use vlb::{VlbResult, variational_bound};

use std::sync::Arc;

use crate::conditions::Conditions;
use crate::data::{Batch, DataError, Dataset};
use crate::device::DeviceError;
use crate::diffusion::ScheduleError;
use crate::graph::GraphError;
use crate::network::{ModelError, WeightsError};
use crate::pipeline::PipelineError;
use crate::sample::SampleError;
use crate::setting::SettingError;

/// An evaluation that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// The request does not fit the model.
    #[error("{0}")]
    Request(String),
    /// A setting does not fit the model.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// Numbers that are not finite.
    #[error(
        "{what} is NaN or infinite: look for such numbers in the weights and in the images, and for a model whose \
         output is beyond all bounds"
    )]
    NotFinite {
        /// Which result.
        what: String,
    },
    /// The ODE cannot be integrated.
    #[error(transparent)]
    Ode(#[from] StepTooSmall),
    /// Images cannot be drawn.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The device cannot go on.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The noise schedule makes no sense.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The graph cannot be built.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The pipeline is not for that.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The weights are of another model.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// Which images to evaluate, and how.
#[derive(Clone)]
pub struct EvaluateRequest {
    /// The images.
    pub dataset: Arc<dyn Dataset>,
    /// How many of them, from the first on.
    pub num_images: usize,
    /// Images that go through the network together.
    pub batch_size: usize,
    /// Decides noise, dequantisation and probes; those of an image do not depend on the batch it is in.
    pub seed: u64,
}

/// A mean over images.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error, from how much the images differ.
    pub standard_error: f64,
}

impl Estimate {
    fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let variance = if count > 1.0 { squares / (count - 1.0) } else { 0.0 };
        Self { mean, standard_error: (variance / count).sqrt() }
    }

    /// Refuses a mean that is no number; `what` names it.
    fn check(self, what: impl FnOnce() -> String) -> Result<Self, EvaluateError> {
        let is_finite = self.mean.is_finite() && self.standard_error.is_finite();
        if is_finite { Ok(self) } else { Err(EvaluateError::NotFinite { what: what() }) }
    }
}

/// Consecutive images of a data set.
struct ImageBatch {
    /// Index of the first.
    first: usize,
    count: usize,
    /// `[N, H, W, C]` in -1..1
    images: Vec<f32>,
    /// What is known of them, such as their classes.
    conditions: Conditions,
}

impl EvaluateRequest {
    /// Reads the images that are evaluated, batch by batch.
    fn batches(&self) -> Result<Vec<ImageBatch>, EvaluateError> {
        let total = self.num_images.min(self.dataset.len());
        let mut batches = Vec::new();
        for first in (0..total).step_by(self.batch_size) {
            let count = self.batch_size.min(total - first);
            let Batch { images, conditions } = Batch::read(&*self.dataset, first..first + count)?;
            batches.push(ImageBatch { first, count, images, conditions });
        }
        Ok(batches)
    }
}
