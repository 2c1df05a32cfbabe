//! Static graphs of tensor operations: values, nodes, the reverse walk, recomputation and the plan.
//!
//! A [`Graph`] is built once per (model, batch shape). [`gradients`] appends the reverse pass to the same graph,
//! and a [`Plan`] turns it into an ordered list of dispatches over buffers that are shared by lifetime.

mod autograd;
mod error;
mod low_rank;
mod node;
mod offsets;
mod pack;
mod plan;
mod recompute;
mod tensor;

use std::sync::Arc;

pub use autograd::gradients;
pub use error::GraphError;
pub use low_rank::LowRank;
pub use node::{Init, Layout, Node, Parameter, Phase, Segment, Storage, Value, ValueId};
pub use plan::{BufferRole, MemoryReport, Peak, Place, Plan, PlannedNode};
pub use recompute::{recompute_cheap, recompute_segments};
pub use tensor::{DType, TensorType};

use crate::ops::Op;
use crate::random::{Numbering, Purpose, StreamId, StreamIds};

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
    low_rank: Option<Arc<LowRank>>,
}

/// No tensor has more elements, so that what is computed of sizes does not overflow.
const MAX_ELEMENTS: usize = match 1_usize.checked_shl(48) {
    Some(elements) => elements,
    // With addresses of 32 bits.
    None => 1 << 30,
};

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

    /// The tensors of the model's file, in the order in which they were declared.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Those that training changes.
    pub fn trained_parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().filter(|parameter| parameter.is_trained)
    }

    /// Those that training leaves as they are.
    pub fn fixed_parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().filter(|parameter| !parameter.is_trained)
    }

    /// Takes the parameters out of training whose names in the file match.
    pub fn freeze(&mut self, matches: impl Fn(&str) -> bool) {
        for parameter in self.parameters.iter_mut().filter(|parameter| matches(&parameter.name)) {
            parameter.is_trained = false;
        }
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

    /// As [`Graph::parameter`], for a tensor that is never trained, such as the frequencies of a Fourier embedding.
    pub fn fixed_parameter(&mut self, name: &str, shape: impl Into<Vec<usize>>, init: Init) -> ValueId {
        let value = self.parameter(name, shape, init);
        if let Some(parameter) = self.parameters.last_mut() {
            parameter.is_trained = false;
        }
        value
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
        self.parameters.push(Parameter { name, former_name, layout, value, init, is_trained: true });
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
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
