//! What an op says of itself.

use std::fmt::Debug;

use super::{Operands, Variant};
use crate::graph::{DType, Graph, GraphError, TensorType, ValueId};

/// One entry point of an op: a kernel that takes tensors and writes tensors.
///
/// Names of inputs and outputs are the names of the WGSL bindings.
pub trait Op: Debug + Send + Sync {
    /// Op and entry point, such as `conv2d.backward_weight`.
    fn name(&self) -> &'static str;

    /// Names of the inputs, in order.
    fn inputs(&self) -> &'static [&'static str];

    /// Names of the outputs, in order.
    fn outputs(&self) -> &'static [&'static str];

    /// Shape rule: types of the outputs.
    ///
    /// # Errors
    /// What was expected of the operands, as a clause that follows "cannot take ...:".
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String>;

    /// Whether the outputs are values that existed before and are rewritten in place.
    fn updates_in_place(&self) -> bool {
        false
    }

    /// Whether a second call costs next to nothing beside a training step: one pass over memory, hardly any arithmetic.
    ///
    /// The reverse pass then calls the op again rather than keeping its results
    /// ([`recompute_cheap`](crate::graph::recompute_cheap)).
    fn is_cheap(&self) -> bool {
        false
    }

    /// Gradient rule: appends nodes that compute the gradient of each input that needs one.
    ///
    /// # Errors
    /// [`GraphError::NoGradient`] unless the op is differentiable.
    fn gradient(
        &self,
        graph: &mut Graph,
        _call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(GraphError::NoGradient { path: graph.path(), op: self.name() })
    }

    /// The kernels that can do this call on a GPU, the one that runs anywhere last.
    fn variants(&self, types: Types<'_>) -> Vec<Variant>;

    /// Bytes moved and floating point operations of one call, at least.
    fn cost(&self, types: Types<'_>) -> Cost {
        let bytes = types.inputs.iter().chain(types.outputs).map(TensorType::bytes).sum();
        let flops = types.outputs.iter().map(TensorType::len).sum();
        Cost { bytes, flops }
    }

    /// Largest error allowed, relative to the largest magnitude of the output tensor.
    fn tolerance(&self) -> f32 {
        2e-6
    }

    /// The reference: loops that can be checked by eye, accumulating in f64.
    fn reference(&self, operands: Operands<'_>);

    /// What the CPU executor runs.
    fn compute(&self, operands: Operands<'_>) {
        self.reference(operands);
    }
}

/// Types of a call's operands.
#[derive(Clone, Copy, Debug)]
pub struct Types<'a> {
    /// Types of the inputs.
    pub inputs: &'a [TensorType],
    /// Types of the outputs.
    pub outputs: &'a [TensorType],
}

/// What one call costs, at least.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Bytes read and written, each tensor once.
    pub bytes: usize,
    /// Floating point operations; a multiply-add is two.
    pub flops: usize,
}

/// A call to differentiate.
#[derive(Clone, Copy, Debug)]
pub struct GradientCall<'a> {
    /// The call's inputs.
    pub inputs: &'a [ValueId],
    /// The call's outputs.
    pub outputs: &'a [ValueId],
    /// Gradients of the outputs; `None` for an output that the loss does not depend on.
    pub d_outputs: &'a [Option<ValueId>],
    /// Which inputs need a gradient.
    pub needs: &'a [bool],
}

impl Types<'_> {
    /// How the call stores activations: F16 if any operand is F16.
    pub fn activation(&self) -> DType {
        let is_f16 = self.inputs.iter().chain(self.outputs).any(|ty| ty.dtype == DType::F16);
        if is_f16 { DType::F16 } else { DType::F32 }
    }
}

impl GradientCall<'_> {
    /// The gradient of the first output, for ops that have one differentiable output.
    ///
    /// # Errors
    /// [`GraphError::GradientRule`] where the loss depends on another output alone.
    pub fn d_output(&self, graph: &Graph, op: &dyn Op) -> Result<ValueId, GraphError> {
        self.d_outputs[0].ok_or_else(|| GraphError::GradientRule {
            path: graph.path(),
            op: op.name(),
            fault: "was asked for the gradient through an output that has none".to_owned(),
        })
    }
}
