//! Static graphs of tensor operations: values, nodes, the reverse walk, recomputation and the plan.
//!
//! A [`Graph`] is built once per (model, batch shape). [`gradients`] appends the reverse pass to the same graph,
//! and a [`Plan`] turns it into an ordered list of dispatches over buffers that are shared by lifetime.

mod autograd;
mod offsets;
mod plan;
mod recompute;

use std::fmt;
use std::sync::Arc;

pub use autograd::gradients;
pub use plan::{BufferRole, MemoryReport, Peak, Place, Plan, PlannedNode};
pub use recompute::{recompute_cheap, recompute_segments};

use crate::ops::Op;
use crate::random::{Numbering, Purpose, StreamId, StreamIds};

/// Element type of a tensor in memory. Arithmetic on floats is in 32 bits for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 16-bit float (IEEE half precision): activations only.
    F16,
    /// 32-bit unsigned integer: class labels, generator keys.
    U32,
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 => 2,
        }
    }
}

/// Shape and element type of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Sizes, outermost first; images are `[N, H, W, C]`.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: DType,
}

impl TensorType {
    /// A float tensor of the given shape.
    pub fn f32(shape: impl Into<Vec<usize>>) -> Self {
        Self { shape: shape.into(), dtype: DType::F32 }
    }

    /// A tensor of 16-bit floats of the given shape.
    pub fn f16(shape: impl Into<Vec<usize>>) -> Self {
        Self { shape: shape.into(), dtype: DType::F16 }
    }

    /// The same element type in another shape.
    pub fn with_shape(&self, shape: impl Into<Vec<usize>>) -> Self {
        Self { shape: shape.into(), dtype: self.dtype }
    }

    /// An unsigned integer tensor of the given shape.
    pub fn u32(shape: impl Into<Vec<usize>>) -> Self {
        Self { shape: shape.into(), dtype: DType::U32 }
    }

    /// Number of elements; `usize::MAX` where there are more.
    pub fn len(&self) -> usize {
        self.shape.iter().fold(1, |len: usize, &size| len.saturating_mul(size))
    }

    /// Whether the tensor has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size in bytes, a multiple of 4 as WebGPU binds and copies.
    pub fn bytes(&self) -> usize {
        let bytes = self.dtype.bytes().saturating_mul(self.len());
        bytes.checked_next_multiple_of(4).unwrap_or(usize::MAX)
    }

    /// The last size: the channels of an NHWC image, the features of a matrix; 1 for a scalar.
    pub fn channels(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The product of all sizes but the last: the pixels of an NHWC batch, the rows of a matrix.
    pub fn rows(&self) -> usize {
        self.len().checked_div(self.channels()).unwrap_or(0)
    }
}

impl fmt::Display for TensorType {
    /// `[2, 3]` for floats as they usually are, `[2, 3] f16` for others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dtype {
            DType::F32 => write!(f, "{:?}", self.shape),
            DType::F16 => write!(f, "{:?} f16", self.shape),
            DType::U32 => write!(f, "{:?} u32", self.shape),
        }
    }
}

/// Names a value of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(usize);

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
    /// The segment that it lies in, if it lies in one; see [`Graph::segment`].
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
    fn scope(self) -> Option<&'static str> {
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
pub struct Segment(usize);

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

/// A trained tensor.
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
}

/// A graph that cannot be built: an op that does not fit its operands.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// An op was given operands of the wrong shape.
    #[error("{path}: {op} cannot take {operands}: {reason}")]
    Shape {
        /// Module path.
        path: String,
        /// Name of the op.
        op: &'static str,
        /// The operands' names and shapes.
        operands: String,
        /// What was expected.
        reason: String,
    },
    /// A gradient was asked for through an op that has none.
    #[error("{path}: {op} has no gradient rule, but a gradient through it was asked for")]
    NoGradient {
        /// Module path.
        path: String,
        /// Name of the op.
        op: &'static str,
    },
    /// A gradient rule broke its contract.
    #[error("{path}: the gradient rule of {op} {fault}; this is a bug in that op")]
    GradientRule {
        /// Module path.
        path: String,
        /// Name of the op.
        op: &'static str,
        /// What it did.
        fault: String,
    },
    /// A tensor is larger than any machine's memory.
    #[error(
        "{path}: {op} cannot take or give {operand}: it has more than 2^{} elements; make the batch, the images or the \
         model smaller",
        MAX_ELEMENTS.ilog2()
    )]
    TooLarge {
        /// Module path.
        path: String,
        /// Name of the op.
        op: &'static str,
        /// The operand's name and shape.
        operand: String,
    },
    /// A value cannot be packed into a flat state value.
    #[error("{name}: cannot be packed into a flat buffer: {reason}")]
    Pack {
        /// Name of the value.
        name: String,
        /// Why not.
        reason: String,
    },
}

/// A static program over tensors.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    values: Vec<Value>,
    nodes: Vec<Node>,
    parameters: Vec<Parameter>,
    scope: Vec<String>,
    phase: Phase,
    segment: Option<Segment>,
    segments: usize,
    streams: StreamIds,
}

/// Flat buffers stay within WebGPU's default limit of 128 MiB a binding.
const MAX_PACKED_ELEMENTS: usize = 128 * 1024 * 1024 / 4;

/// The most elements of a tensor, so that arithmetic on sizes does not overflow.
const MAX_ELEMENTS: usize = 1 << 48;

/// WebGPU wants storage bindings at multiples of 256 bytes.
const PACK_ALIGNMENT: usize = 256 / 4;

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty graph whose random nodes have streams of this numbering.
    pub fn with_numbering(numbering: Numbering) -> Self {
        Self { streams: StreamIds::new(numbering), ..Self::default() }
    }

    /// All nodes, in the order in which they run.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The value named by `id`.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0]
    }

    /// Shape and element type of a value.
    pub fn ty(&self, id: ValueId) -> &TensorType {
        &self.values[id.0].ty
    }

    /// All values with their names.
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(index, value)| (ValueId(index), value))
    }

    /// The trained tensors, in the order in which they were declared.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The current module path, such as `down_blocks.1.resnets.0`.
    pub fn path(&self) -> String {
        self.scope.join(".")
    }

    /// Runs `build` with `name` appended to the module path.
    pub fn scoped<T>(&mut self, name: impl Into<String>, build: impl FnOnce(&mut Self) -> T) -> T {
        self.scope.push(name.into());
        let result = build(self);
        self.scope.pop();
        result
    }

    /// Runs `build`, whose nodes are of this phase.
    pub fn in_phase<T>(&mut self, phase: Phase, build: impl FnOnce(&mut Self) -> T) -> T {
        let outer = (self.phase, self.scope.len());
        self.phase = phase;
        self.scope.extend(phase.scope().map(str::to_owned));
        let result = build(self);
        self.phase = outer.0;
        self.scope.truncate(outer.1);
        result
    }

    /// Runs `build`, whose nodes are a segment of a network, such as a residual block: with gradient checkpointing,
    /// only what enters and leaves it is kept for the reverse pass.
    pub fn segment<T>(&mut self, build: impl FnOnce(&mut Self) -> T) -> T {
        self.segments += 1;
        let outer = self.segment.replace(Segment(self.segments));
        let result = build(self);
        self.segment = outer;
        result
    }

    fn node(&self, op: Arc<dyn Op>, inputs: Vec<ValueId>, outputs: Vec<ValueId>) -> Node {
        Node { op, inputs, outputs, path: self.path(), phase: self.phase, segment: self.segment }
    }

    /// The stream of the next node that draws random numbers for `purpose`, different from every other node's.
    pub fn random_stream(&mut self, purpose: Purpose) -> StreamId {
        self.streams.next(purpose)
    }

    fn push(&mut self, name: &str, ty: TensorType, storage: Storage) -> ValueId {
        let mut path = self.path();
        if !path.is_empty() {
            path.push('.');
        }
        self.values.push(Value { name: path + name, ty, storage });
        ValueId(self.values.len() - 1)
    }

    /// A value that the host writes before a run.
    pub fn input(&mut self, name: &str, ty: TensorType) -> ValueId {
        self.push(name, ty, Storage::Input)
    }

    /// A value that keeps its contents from run to run; zero at first.
    pub fn state(&mut self, name: &str, ty: TensorType, role: BufferRole) -> ValueId {
        self.push(name, ty, Storage::State(role))
    }

    /// A trained tensor called `name` within the current module path, which lies in its file as in the graph.
    pub fn parameter(&mut self, name: &str, shape: impl Into<Vec<usize>>, init: Init) -> ValueId {
        self.parameter_in_file(name, shape, init, Layout::Same, None)
    }

    /// As [`Graph::parameter`], with the layout that it has in its file, and its whole name in older ones.
    pub fn parameter_in_file(
        &mut self,
        name: &str,
        shape: impl Into<Vec<usize>>,
        init: Init,
        layout: Layout,
        former_name: Option<String>,
    ) -> ValueId {
        let value = self.state(name, TensorType::f32(shape), BufferRole::Weights);
        let name = self.value(value).name.clone();
        self.parameters.push(Parameter { name, former_name, layout, value, init });
        value
    }

    /// Appends a call of `op` and returns its outputs.
    ///
    /// # Errors
    /// [`GraphError::Shape`] where the op does not fit the inputs, [`GraphError::TooLarge`].
    pub fn apply(&mut self, op: impl Op + 'static, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
        self.apply_dyn(Arc::new(op), inputs)
    }

    /// As [`Graph::apply`], for an op behind a pointer.
    ///
    /// # Errors
    /// [`GraphError::Shape`] where the op does not fit the inputs.
    pub fn apply_dyn(&mut self, op: Arc<dyn Op>, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
        let types = self.output_types(op.as_ref(), inputs)?;
        let outputs: Vec<ValueId> = types
            .into_iter()
            .zip(op.outputs())
            .map(|(ty, name)| self.push(name, ty, Storage::Activation))
            .collect();
        self.nodes.push(self.node(op, inputs.to_vec(), outputs.clone()));
        Ok(outputs)
    }

    /// Appends a call of an op with a single output and returns it.
    ///
    /// # Errors
    /// [`GraphError::Shape`] where the op does not fit the inputs.
    pub fn apply_one(&mut self, op: impl Op + 'static, inputs: &[ValueId]) -> Result<ValueId, GraphError> {
        Ok(self.apply(op, inputs)?[0])
    }

    /// Appends a call of an op that rewrites `targets` in place.
    ///
    /// # Errors
    /// [`GraphError::Shape`] where the op fits neither the inputs nor the targets.
    pub fn update(
        &mut self,
        op: impl Op + 'static,
        inputs: &[ValueId],
        targets: &[ValueId],
    ) -> Result<(), GraphError> {
        let types = self.output_types(&op, inputs)?;
        for ((ty, &target), name) in types.iter().zip(targets).zip(op.outputs()) {
            if ty != self.ty(target) {
                let reason = format!("{name} must be {ty}, it is {}", self.ty(target));
                return Err(self.shape_error(&op, inputs, reason));
            }
        }
        self.nodes.push(self.node(Arc::new(op), inputs.to_vec(), targets.to_vec()));
        Ok(())
    }

    fn output_types(&self, op: &dyn Op, inputs: &[ValueId]) -> Result<Vec<TensorType>, GraphError> {
        let types: Vec<&TensorType> = inputs.iter().map(|&id| self.ty(id)).collect();
        if types.len() != op.inputs().len() {
            let reason = format!("it takes {} operands", op.inputs().len());
            return Err(self.shape_error(op, inputs, reason));
        }
        self.check_sizes(op, op.inputs().iter().zip(types.iter().copied()))?;
        let outputs = op.output_types(&types).map_err(|reason| self.shape_error(op, inputs, reason))?;
        self.check_sizes(op, op.outputs().iter().zip(&outputs))?;
        Ok(outputs)
    }

    fn check_sizes<'a>(
        &self,
        op: &dyn Op,
        mut operands: impl Iterator<Item = (&'a &'static str, &'a TensorType)>,
    ) -> Result<(), GraphError> {
        match operands.find(|(_, ty)| ty.len() > MAX_ELEMENTS) {
            None => Ok(()),
            Some((name, ty)) => {
                let operand = format!("{name} {ty}");
                Err(GraphError::TooLarge { path: self.path(), op: op.name(), operand })
            }
        }
    }

    fn shape_error(&self, op: &dyn Op, inputs: &[ValueId], reason: String) -> GraphError {
        let operands = op
            .inputs()
            .iter()
            .zip(inputs)
            .map(|(name, &id)| format!("{name} {}", self.ty(id)))
            .collect::<Vec<_>>()
            .join(", ");
        GraphError::Shape { path: self.path(), op: op.name(), operands, reason }
    }

    /// Moves a value to another place, such as a range of a state value.
    pub fn set_storage(&mut self, value: ValueId, storage: Storage) {
        self.values[value.0].storage = storage;
    }

    /// Packs values end to end into as few flat state values as WebGPU's binding limit allows.
    ///
    /// The values become slices of the flat ones, so that one dispatch can walk all of them. Packing two lists of
    /// the same shapes gives the same offsets: that is how weights, gradients and moments line up.
    ///
    /// # Errors
    /// [`GraphError::Pack`] for a value that is already a slice or an input, or is over the limit by itself.
    pub fn pack(
        &mut self,
        name: &str,
        values: &[ValueId],
        role: BufferRole,
    ) -> Result<Vec<ValueId>, GraphError> {
        let mut lengths = vec![0];
        let mut slices = Vec::new();
        for &id in values {
            let value = self.value(id);
            let fault = match value.storage {
                Storage::Slice { .. } => Some("it is part of another one already".to_owned()),
                Storage::Input => Some("it is an input".to_owned()),
                _ if value.ty.dtype != DType::F32 => Some("its elements are not f32".to_owned()),
                _ if value.ty.len() > MAX_PACKED_ELEMENTS => {
                    Some(format!("its shape {:?} takes more than 128 MiB", value.ty.shape))
                }
                _ => None,
            };
            if let Some(reason) = fault {
                return Err(GraphError::Pack { name: value.name.clone(), reason });
            }
            let padded = value.ty.len().next_multiple_of(PACK_ALIGNMENT);
            let last = lengths.len() - 1;
            if lengths[last] + padded > MAX_PACKED_ELEMENTS {
                lengths.push(0);
            }
            let last = lengths.len() - 1;
            slices.push((last, lengths[last]));
            lengths[last] += padded;
        }
        let flat: Vec<ValueId> =
            lengths.iter().map(|&length| self.state(name, TensorType::f32([length]), role)).collect();
        for (&id, (index, offset)) in values.iter().zip(slices) {
            self.set_storage(id, Storage::Slice { of: flat[index], offset });
        }
        Ok(flat)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
