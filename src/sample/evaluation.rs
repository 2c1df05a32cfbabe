//! The network as samplers see it: x and a timestep in, its output out.
//!
//! What changes the output whatever the sampler (guidance, say) belongs here: the sampler only sees the value that
//! [`Evaluation::output`] names.

use super::SampleError;
use crate::device::{DeviceError, Executor};
use crate::graph::{Graph, TensorType, ValueId};
use crate::model::{Precision, UNetConfig, UNetInputs};

/// The part of a graph that evaluates the network at x.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evaluation {
    /// What the network says, `[N, H, W, out_channels]`.
    pub(super) output: ValueId,
    timesteps: ValueId,
    class_labels: Option<ValueId>,
}

impl Evaluation {
    /// Appends the network that `config` describes, applied to `x` `[N, H, W, C]`.
    pub(super) fn build(
        graph: &mut Graph,
        config: &UNetConfig,
        precision: Precision,
        x: ValueId,
    ) -> Result<Self, SampleError> {
        let batch = graph.ty(x).shape[0];
        let timesteps = graph.input("timesteps", TensorType::f32([batch]));
        let labels = |_| graph.input("class_labels", TensorType::u32([batch]));
        let class_labels = config.num_class_embeds.map(labels);
        let inputs = UNetInputs { sample: x, timesteps, class_labels, key_step_sample: None };
        let output = precision.unet(graph, config, inputs)?;
        Ok(Self { output, timesteps, class_labels })
    }

    /// Sets the classes `[N]` of the batch.
    pub(super) fn start(
        self,
        executor: &mut Executor,
        class_labels: Option<&[u32]>,
    ) -> Result<(), DeviceError> {
        match (self.class_labels, class_labels) {
            (Some(id), Some(labels)) => executor.write(id, labels),
            _ => Ok(()),
        }
    }

    /// Sets the timesteps `[N]` of the next run.
    pub(super) fn set_timesteps(self, executor: &mut Executor, timesteps: &[f32]) -> Result<(), DeviceError> {
        executor.write(self.timesteps, timesteps)
    }
}
