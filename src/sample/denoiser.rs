//! A model prepared to take denoising steps on one device.

use super::{SampleError, prepare_with_weights};
use crate::checkpoint::Pipeline;
use crate::device::{Device, DeviceError, Executor};
use crate::graph::{BufferRole, Graph, TensorType, ValueId};
use crate::model::{Precision, UNetInputs};
use crate::ops::philox::Stream;
use crate::ops::reverse_step;
use crate::sampler::Step;

/// The network and the reverse step as one plan; x_t stays on the device between steps.
pub struct Denoiser {
    executor: Executor,
    batch: usize,
    x: ValueId,
    timesteps: ValueId,
    class_labels: Option<ValueId>,
    coefficients: ValueId,
    key_step_sample: ValueId,
}

impl Denoiser {
    /// Prepares `pipeline` on `device` for batches of `batch` images, with activations of `precision`.
    ///
    /// # Errors
    /// [`SampleError`] for a model that cannot be built or does not fit the device.
    pub async fn new(
        device: &Device,
        pipeline: &Pipeline,
        batch: usize,
        precision: Precision,
    ) -> Result<Self, SampleError> {
        let config = &pipeline.unet;
        let [height, width] = config.image_size()?;
        let mut graph = Graph::new();
        let x =
            graph.state("x", TensorType::f32([batch, height, width, config.in_channels]), BufferRole::Inputs);
        let timesteps = graph.input("timesteps", TensorType::f32([batch]));
        let class_labels =
            config.num_class_embeds.map(|_| graph.input("class_labels", TensorType::u32([batch])));
        let coefficients = graph.input("coefficients", TensorType::f32([7]));
        let key_step_sample = graph.input("key_step_sample", TensorType::u32([4]));
        let inputs = UNetInputs { sample: x, timesteps, class_labels, key_step_sample: None };
        let output = precision.unet(&mut graph, config, inputs)?;
        graph
            .scoped("reverse_step", |graph| reverse_step(graph, x, output, coefficients, key_step_sample))?;
        let executor = prepare_with_weights(device, &graph, pipeline, x).await?;
        Ok(Self { executor, batch, x, timesteps, class_labels, coefficients, key_step_sample })
    }

    /// Sets x_T `[N, H, W, C]` and the classes `[N]`.
    ///
    /// # Errors
    /// [`DeviceError`] for contents of another length.
    pub fn start(&mut self, x_t: &[f32], class_labels: Option<&[u32]>) -> Result<(), DeviceError> {
        self.executor.write(self.x, x_t)?;
        match (self.class_labels, class_labels) {
            (Some(id), Some(labels)) => self.executor.write(id, labels),
            _ => Ok(()),
        }
    }

    /// Takes one step; `stream` names the noise of the batch's first image.
    ///
    /// # Errors
    /// [`DeviceError`], also for trouble in earlier steps.
    pub fn step(&mut self, step: &Step, stream: Stream) -> Result<(), DeviceError> {
        self.executor.write(self.timesteps, &vec![step.timestep as f32; self.batch])?;
        self.executor.write(self.coefficients, &step.coefficients.to_array())?;
        self.executor.write(self.key_step_sample, &stream.key_step_sample())?;
        self.executor.run()
    }

    /// x_t as it stands, `[N, H, W, C]`.
    ///
    /// # Errors
    /// [`DeviceError`]
    pub async fn images(&mut self) -> Result<Vec<f32>, DeviceError> {
        self.executor.read(self.x).await
    }
}
