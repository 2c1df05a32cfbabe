//! The same elements under another shape.

use super::cpu::par_chunks;
use super::{Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, expect};
use crate::graph::{DType, Graph, GraphError, TensorType, ValueId};

/// The elements of `x` in their order, as a tensor of `shape`, which must have as many.
///
/// # Errors
/// [`GraphError::Shape`] for another number of elements, or integers.
pub fn reshape(graph: &mut Graph, x: ValueId, shape: impl Into<Vec<usize>>) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward { shape: shape.into() }, &[x])
}

#[derive(Debug)]
struct Forward {
    shape: Vec<usize>,
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "reshape.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let y = inputs[0].with_shape(self.shape.clone());
        expect(inputs[0].dtype != DType::U32, || "x must be floats".to_owned())?;
        expect(y.len() == inputs[0].len(), || {
            format!("{:?} has {} elements, x has {}", self.shape, y.len(), inputs[0].len())
        })?;
        Ok(vec![y])
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
        let shape = graph.ty(call.inputs[0]).shape.clone();
        Ok(vec![Some(reshape(graph, d_y, shape)?)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let length = types.outputs[0].len();
        let single =
            |entry, count| Variant::single(entry, Grid::Invocations(count), vec![("length", length.into())]);
        let vec4 = length.is_multiple_of(4).then(|| single("forward_vec4", length / 4));
        vec4.into_iter().chain([single("forward", length)]).collect()
    }
    fn tolerance(&self) -> f32 {
        0.0
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        y.data.copy_from_slice(x.data);
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        par_chunks(y.data, |first, y| y.copy_from_slice(&x.data[first..][..y.len()]));
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let call = |name, from: &[usize], to: &[usize]| {
        Case::new(name, Forward { shape: to.to_vec() }, vec![Fill::normal(from)])
    };
    vec![
        call("ragged", &[3, 5, 7], &[7, 15]),
        call("in fours", &[2, 3, 4, 5], &[2, 12, 5]),
        call("pixels to tokens", &[2, 16, 8, 64], &[2, 128, 64]),
    ]
}
