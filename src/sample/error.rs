//! Why images cannot be drawn.

use crate::device::DeviceError;
use crate::graph::GraphError;
use crate::memory::TooLarge;
use crate::network::{ModelError, WeightsError};
use crate::pipeline::PipelineError;
use crate::sampler::SamplerError;
use crate::setting::SettingError;

/// Sampling that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The request does not fit the model.
    #[error("{0}")]
    Request(String),
    /// A setting makes no sense or does not fit the model.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The sampler cannot do what it is asked to.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// The device cannot go on.
    #[error(transparent)]
    Device(#[from] DeviceError),
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
    /// Numbers that are not finite.
    #[error(
        "{what} came out with NaN or infinity: look for such numbers in the weights and in what was given, for images far \
         beyond -1..1, and, with activations of 16 bits, for values above 65504"
    )]
    NotFinite {
        /// Which result.
        what: String,
    },
    /// The host has no memory for the images.
    #[error("{0}; draw fewer images at a time")]
    Memory(#[from] TooLarge),
}

/// Refuses results that are not finite; `what` names them, given the number of the first image that is wrong.
pub(super) fn check_finite(
    data: &[f32],
    elements: usize,
    what: impl Fn(usize) -> String,
) -> Result<(), SampleError> {
    match data.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(SampleError::NotFinite { what: what(at / elements.max(1)) }),
        None => Ok(()),
    }
}
