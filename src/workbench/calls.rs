//! The calls that a training step of a model makes, with the contents that their operands have there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::WorkbenchError;
use crate::conditions::{Condition, Conditions, Numbers};
use crate::data::Batch;
use crate::device::{Device, Executor};
use crate::diffusion::SchedulerConfig;
use crate::graph::PlannedNode;
use crate::network::{Element, Input, Network};
use crate::ops::{Case, Cost, Types};
use crate::random::{Purpose, Stream, normals};
use crate::train::{Denoise, TrainError, TrainOptions, Trainer};

/// Which calls of a training step to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Of each op the call that takes most arithmetic, or moves most.
    Largest,
    /// One of each op, setting and shape.
    All,
}

/// A call of a model's training step.
#[derive(Clone, Debug)]
pub struct ModelCall {
    /// The call, named by the path of its first module.
    pub case: Case,
    /// How many calls in the step have its op, settings and shapes.
    pub count: usize,
}

/// The training of a network, as the workbench looks into it.
pub(super) fn denoise(network: &Arc<dyn Network>) -> Result<Denoise, TrainError> {
    Denoise::new(network.clone(), SchedulerConfig::default())
}

/// Images of noise in a model's shape, with all classes in turn.
///
/// # Errors
/// [`WorkbenchError::Model`] for a model without a size.
pub fn random_batch(network: &dyn Network, batch_size: usize) -> Result<Batch, WorkbenchError> {
    let length = batch_size * network.image()?.iter().product::<usize>();
    let stream = Stream { seed: 1, step: 0, stream: Purpose::Arbitrary.into(), sample: 0 };
    let images = normals(stream, length);
    let labels = network
        .classes()
        .map(|(classes, _)| (0..batch_size).map(|image| (image % classes.max(1)) as u32).collect());
    let mut conditions = Conditions::of_classes(labels);
    let is_class = |input: &&Input| matches!(input.element, Element::Class { .. });
    for input in network.conditions()?.iter().filter(|input| !is_class(input)) {
        let elements: usize = input.shape.iter().product();
        let numbers = normals(Stream { sample: 1, ..stream }, batch_size * elements);
        if let Some(condition) = Condition::new(elements, Numbers::Floats(numbers)) {
            conditions = conditions.with(input.name, condition);
        }
    }
    Ok(Batch { images, conditions })
}

/// Runs a training step of a model with fresh weights on random images by the CPU executor, and gives the calls whose
/// op's name `wanted` accepts.
///
/// # Errors
/// [`WorkbenchError`] for a model that cannot be trained.
pub async fn model_calls(
    network: &Arc<dyn Network>,
    options: TrainOptions,
    extent: Extent,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Vec<ModelCall>, WorkbenchError> {
    let batch_size = options.batch_size;
    let mut trainer = Trainer::new(&Device::Cpu, denoise(network)?, options, None).await?;
    let batch = random_batch(network.as_ref(), batch_size)?;
    let kind = |node: &PlannedNode| format!("{:?} {:?} {:?}", node.node.op, node.inputs, node.outputs);
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut largest: BTreeMap<&str, ((usize, usize), String)> = BTreeMap::new();
    for node in &trainer.plan().nodes {
        let op = node.node.op.as_ref();
        *counts.entry(kind(node)).or_default() += 1;
        let Cost { bytes, flops } = op.cost(Types { inputs: &node.inputs, outputs: &node.outputs });
        let entry = largest.entry(op.name()).or_default();
        if entry.0 < (flops, bytes) {
            *entry = ((flops, bytes), kind(node));
        }
    }
    // The first call of each kind; contents of the others differ, but not in a way that matters to a kernel.
    let mut taken: HashMap<String, usize> = HashMap::new();
    for (index, node) in trainer.plan().nodes.iter().enumerate() {
        let is_wanted = wanted(node.node.op.name())
            && (extent == Extent::All || largest[node.node.op.name()].1 == kind(node));
        if is_wanted {
            taken.entry(kind(node)).or_insert(index);
        }
    }
    let first: HashMap<usize, usize> = taken.iter().map(|(kind, &index)| (index, counts[kind])).collect();
    let Executor::Cpu(executor) = trainer.prepare_step(&batch)? else {
        unreachable!("the CPU executor was asked for")
    };
    let counts: Vec<usize> =
        (0..executor.plan().nodes.len()).filter_map(|index| first.get(&index).copied()).collect();
    let cases = executor.run_capturing(|index, _| first.contains_key(&index));
    Ok(cases.zip(counts).map(|(case, count)| ModelCall { case, count }).collect())
}
