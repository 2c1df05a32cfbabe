//! A number times a tensor, plus a number.

use super::cpu::par_chunks;
use super::{Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, Word};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// `scale x + offset` of every element, for a tensor of any shape.
///
/// # Errors
/// None: any shape will do. The signature is the same for all ops.
pub fn affine(graph: &mut Graph, x: ValueId, scale: f32, offset: f32) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward { scale, offset }, &[x])
}

#[derive(Debug)]
struct Forward {
    scale: f32,
    offset: f32,
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "affine.forward"
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
        Ok(vec![Some(affine(graph, d_y, self.scale, 0.0)?)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let length = types.outputs[0].len();
        let single = |entry, count| {
            let params: Vec<(&'static str, Word)> =
                vec![("length", length.into()), ("scale", self.scale.into()), ("offset", self.offset.into())];
            Variant::single(entry, Grid::Invocations(count), params)
        };
        let vec4 = length.is_multiple_of(4).then(|| single("forward_vec4", length / 4));
        vec4.into_iter().chain([single("forward", length)]).collect()
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        for (y, &x) in y.data.iter_mut().zip(x.data) {
            *y = (f64::from(self.scale) * f64::from(x) + f64::from(self.offset)) as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        par_chunks(y.data, |first, y| {
            for (y, x) in y.iter_mut().zip(&x.data[first..]) {
                *y = self.scale * x + self.offset;
            }
        });
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let image = || Fill::normal([2, 16, 8, 64]);
    vec![
        Case::new("ragged", Forward { scale: -0.37, offset: 1.5 }, vec![Fill::normal([3, 5, 7])]),
        Case::new("ragged in fours", Forward { scale: 2.0, offset: -1.0 }, vec![Fill::normal([3, 5, 7, 4])]),
        Case::new("image", Forward { scale: std::f32::consts::FRAC_1_SQRT_2, offset: 0.0 }, vec![image()]),
    ]
}
