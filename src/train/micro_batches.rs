//! Gradient accumulation: a step in several runs of the graph, each over a part of the batch.
//!
//! The host divides the weights of the losses by the number of micro-batches, so that gradients and losses of all of them
//! need only be added up. The part of the plan that moves the weights runs with the last one.

use crate::device::{DeviceError, Executor};
use crate::graph::{BufferRole, Graph, GraphError, Phase, TensorType, ValueId};
use crate::ops::micro_batch;

/// The micro-batches of a step. With a single one the graph is what it would be without.
#[derive(Clone, Copy, Debug)]
pub(super) struct MicroBatches {
    count: usize,
    /// Which of them runs `[1]`, where there are several.
    number: Option<ValueId>,
}

impl MicroBatches {
    pub(super) fn new(graph: &mut Graph, count: usize) -> Self {
        let number = (count > 1).then(|| graph.input("micro_batch", TensorType::u32([1])));
        Self { count, number }
    }

    /// The packed gradients of all micro-batches, from those of one.
    pub(super) fn sum(&self, graph: &mut Graph, gradients: Vec<ValueId>) -> Result<Vec<ValueId>, GraphError> {
        let Some(number) = self.number else { return Ok(gradients) };
        let sum = |&gradients: &ValueId| {
            let sum = graph.state("gradient_sum", graph.ty(gradients).clone(), BufferRole::Gradients);
            micro_batch::add(graph, gradients, number, sum)?;
            Ok(sum)
        };
        gradients.iter().map(sum).collect()
    }

    /// The numbers `[count N]` of all micro-batches, from those `[N]` of one.
    pub(super) fn gather(&self, graph: &mut Graph, part: ValueId) -> Result<ValueId, GraphError> {
        let Some(number) = self.number else { return Ok(part) };
        let length = self.count * graph.ty(part).len();
        let all = graph.state("micro_batches", TensorType::f32([length]), BufferRole::Inputs);
        micro_batch::gather(graph, part, number, all, self.count)?;
        Ok(all)
    }

    /// Says which micro-batch is the next to run.
    pub(super) fn begin(&self, executor: &mut Executor, index: usize) -> Result<(), DeviceError> {
        self.number.map_or(Ok(()), |number| executor.write(number, &[index as u32]))
    }

    /// Runs micro-batch `index`, whose inputs are written, unless it is the last: that is to be run by [`Executor::run`].
    pub(super) fn run_unless_last(&self, executor: &mut Executor, index: usize) -> Result<(), DeviceError> {
        self.begin(executor, index)?;
        if index + 1 < self.count { executor.run_nodes(0..first_of_optimizer(executor)) } else { Ok(()) }
    }
}

/// Number of the first node that moves the weights.
pub(super) fn first_of_optimizer(executor: &Executor) -> usize {
    let nodes = &executor.plan().nodes;
    nodes.iter().position(|planned| planned.node.phase == Phase::Optimizer).unwrap_or(nodes.len())
}
