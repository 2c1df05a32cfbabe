//! The forward process in a graph: images, noised on the device to timesteps that the host names.

use crate::device::{DeviceError, Executor};
use crate::graph::{Graph, GraphError, TensorType, ValueId};
use crate::ops::q_sample;
use crate::random::Stream;

/// The part of a graph that noises images, and what the host writes for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noised {
    /// Images `[N, H, W, C]`.
    pub(crate) x_start: ValueId,
    /// Rows of factors for q_sample, `[N, 4]`.
    coefficients: ValueId,
    /// The generator's key `[4]`.
    pub(crate) key_step_sample: ValueId,
    /// The noised images `[N, H, W, C]`.
    pub(crate) x_t: ValueId,
    /// What a denoiser is to predict of them, by the factors.
    pub(crate) target: ValueId,
}

impl Noised {
    /// Appends the forward process of images `[H, W, C]`, `batch` of them.
    pub(crate) fn build(graph: &mut Graph, batch: usize, [h, w, c]: [usize; 3]) -> Result<Self, GraphError> {
        let x_start = graph.input("x_start", TensorType::f32([batch, h, w, c]));
        let coefficients = graph.input("coefficients", TensorType::f32([batch, 4]));
        let key_step_sample = graph.input("key_step_sample", TensorType::u32([4]));
        let (x_t, target) =
            graph.scoped("q_sample", |graph| q_sample(graph, x_start, coefficients, key_step_sample))?;
        Ok(Self { x_start, coefficients, key_step_sample, x_t, target })
    }

    /// Sets the images, the factors of each, and the noise that `stream` names.
    pub(crate) fn write(
        &self,
        executor: &mut Executor,
        images: &[f32],
        factors: impl Iterator<Item = [f64; 4]>,
        stream: Stream,
    ) -> Result<(), DeviceError> {
        let factors: Vec<f32> = factors.flatten().map(|factor| factor as f32).collect();
        executor.write(self.x_start, images)?;
        executor.write(self.coefficients, &factors)?;
        executor.write(self.key_step_sample, &stream.key_step_sample())
    }
}
