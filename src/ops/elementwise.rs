//! Functions of each element alone, with their derivatives: what such ops have in common.
//!
//! `silu.rs` writes the same out, as an example of an op.

use std::fmt::{self, Debug, Formatter};

use super::cpu::par_chunks;
use super::{GradientCall, Op, Operands, Types, Variant, expect_like};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// A function of a number.
pub(super) struct Function {
    /// Names of the two ops: the function, and its gradient.
    pub(super) names: [&'static str; 2],
    /// As in [`Op::tolerance`], of both.
    pub(super) tolerance: f32,
    /// The function and its derivative, as in their definition.
    pub(super) definition: fn(f64) -> (f64, f64),
    /// Writes the function of x to y.
    pub(super) forward: fn(x: &[f32], y: &mut [f32]),
    /// Writes d_y times the derivative at x to d_x.
    pub(super) backward: fn(x: &[f32], d_y: &[f32], d_x: &mut [f32]),
}

impl Function {
    /// Appends it, of every element of x.
    pub(super) fn build(&'static self, graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
        graph.apply_one(Forward(self), &[x])
    }
}

impl Debug for Function {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.names[0])
    }
}

/// The function. `kernels/<op>.wgsl` has it as `forward` and `forward_vec4`.
#[derive(Debug)]
pub(super) struct Forward(pub(super) &'static Function);

/// Its gradient, `backward` and `backward_vec4`.
#[derive(Debug)]
pub(super) struct Backward(pub(super) &'static Function);

impl Op for Forward {
    fn name(&self) -> &'static str {
        self.0.names[0]
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        Ok(vec![inputs[0].clone()])
    }
    fn is_cheap(&self) -> bool {
        true
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let d_y = call.d_output(graph, self)?;
        Ok(vec![Some(graph.apply_one(Backward(self.0), &[call.inputs[0], d_y])?)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        Variant::in_fours(["forward_vec4", "forward"], types.outputs[0].len())
    }
    fn tolerance(&self) -> f32 {
        self.0.tolerance
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        for (y, &x) in y.data.iter_mut().zip(x.data) {
            *y = (self.0.definition)(x.into()).0 as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        par_chunks(y.data, |first, y| (self.0.forward)(&x.data[first..], y));
    }
}

impl Op for Backward {
    fn name(&self) -> &'static str {
        self.0.names[1]
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x", "d_y"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_x"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_like("d_y", inputs[1], inputs[0])?;
        Ok(vec![inputs[0].clone()])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        Variant::in_fours(["backward_vec4", "backward"], types.outputs[0].len())
    }
    fn tolerance(&self) -> f32 {
        self.0.tolerance
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x, d_y], [d_x]) = operands.split();
        for ((d_x, &x), &d_y) in d_x.data.iter_mut().zip(x.data).zip(d_y.data) {
            *d_x = (f64::from(d_y) * (self.0.definition)(x.into()).1) as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x, d_y], [d_x]) = operands.split();
        par_chunks(d_x.data, |first, d_x| (self.0.backward)(&x.data[first..], &d_y.data[first..], d_x));
    }
}
