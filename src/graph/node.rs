//! What a graph is made of: values, parameters and calls of ops.

use std::sync::Arc;

use super::TensorType;
use super::plan::BufferRole;
use crate::ops::Op;

/// Names a value of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(super) usize);

/// Where the contents of a value live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Written by the host before a run.
    Input,
    /// Keeps its contents from run to run.
    State(BufferRole),
    /// A range of a one-dimensional state value, `offset` elements in.
    Slice {
        /// The state value.
        of: ValueId,
        /// First element.
        offset: usize,
    },
    /// Lives from the node that writes it to the last node that reads it.
    Activation,
}

/// One tensor of a graph.
#[derive(Clone, Debug)]
pub struct Value {
    /// Module path and tensor name, for messages.
    pub name: String,
    /// Shape and element type.
    pub ty: TensorType,
    /// Where it lives.
    pub storage: Storage,
}

/// One call of an op.
#[derive(Clone, Debug)]
pub struct Node {
    /// The operation.
    pub op: Arc<dyn Op>,
    /// Its inputs, in the op's order.
    pub inputs: Vec<ValueId>,
    /// Its outputs, in the op's order; for an op that updates in place, values that existed before.
    pub outputs: Vec<ValueId>,
    /// Module path, such as `down_blocks.1.resnets.0.conv1`.
    pub path: String,
    /// The part of a run that it belongs to.
    pub phase: Phase,
    /// The segment that it lies in, if it lies in one; see [`Graph::segment`](super::Graph::segment).
    pub segment: Option<Segment>,
}

/// A part of a run: the nodes of a phase can be told from the others, and run apart from them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// What a network computes of its inputs, and the gradients of it.
    #[default]
    Evaluation,
    /// What a loss makes of it.
    Loss,
    /// What moves the weights.
    Optimizer,
    /// What makes the next x of a network's output.
    ReverseStep,
}

impl Phase {
    /// The first part of the module path of its nodes; none where a network says where they are.
    pub(super) fn scope(self) -> Option<&'static str> {
        match self {
            Self::Evaluation => None,
            Self::Loss => Some("loss"),
            Self::Optimizer => Some("optimizer"),
            Self::ReverseStep => Some("reverse_step"),
        }
    }
}

/// Names a part of a network that gradient checkpointing may compute twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment(pub(super) usize);

/// How the initial contents of a parameter are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// Uniform in `[-bound, bound]`.
    Uniform {
        /// Half-width of the interval.
        bound: f32,
    },
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f32,
    },
}

/// How a parameter lies in its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// As in the graph.
    #[default]
    Same,
    /// The kernels of a convolution: `[O, KH, KW, I]` in the graph, `[O, I, KH, KW]` in files.
    Convolution,
    /// A matrix `[O, I]`, which older files have as the kernels of a 1x1 convolution, `[O, I, 1, 1]`.
    Projection,
}

/// A tensor of a model's file.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// The tensor's name in its file.
    pub name: String,
    /// The name that older files have for it.
    pub former_name: Option<String>,
    /// How it lies there.
    pub layout: Layout,
    /// Its value in the graph.
    pub value: ValueId,
    /// Initial contents.
    pub init: Init,
    /// Whether training changes it. One that is not trained has no gradient, no moments and no average.
    pub is_trained: bool,
}
