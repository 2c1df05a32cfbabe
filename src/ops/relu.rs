//! Rectified linear unit: `y = max(x, 0)`.

use super::cpu::par_chunks;
use super::{Case, Fill, GradientCall, Op, Operands, Types, Variant, expect_like};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// `max(x, 0)` of every element (Nair and Hinton 2010); the slope at 0 is 0, as in PyTorch.
///
/// # Errors
/// None: any shape will do. The signature is the same for all ops.
pub fn relu(graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward, &[x])
}

#[derive(Debug)]
struct Forward;

#[derive(Debug)]
struct Backward;

impl Op for Forward {
    fn name(&self) -> &'static str {
        "relu.forward"
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
        Ok(vec![Some(graph.apply_one(Backward, &[call.inputs[0], d_y])?)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        Variant::in_fours(["forward_vec4", "forward"], types.outputs[0].len())
    }
    fn tolerance(&self) -> f32 {
        0.0
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        for (y, &x) in y.data.iter_mut().zip(x.data) {
            *y = if x <= 0.0 { 0.0 } else { x };
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        par_chunks(y.data, |first, y| {
            for (y, &x) in y.iter_mut().zip(&x.data[first..]) {
                *y = if x <= 0.0 { 0.0 } else { x };
            }
        });
    }
}

impl Op for Backward {
    fn name(&self) -> &'static str {
        "relu.backward"
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
        0.0
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x, d_y], [d_x]) = operands.split();
        for ((d_x, &x), &d_y) in d_x.data.iter_mut().zip(x.data).zip(d_y.data) {
            *d_x = if x <= 0.0 { 0.0 } else { d_y };
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x, d_y], [d_x]) = operands.split();
        par_chunks(d_x.data, |first, d_x| {
            for ((d_x, &x), &d_y) in d_x.iter_mut().zip(&x.data[first..]).zip(&d_y.data[first..]) {
                *d_x = if x <= 0.0 { 0.0 } else { d_y };
            }
        });
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    // None so near to 0 that a finite difference reaches over it.
    let away = |shape: Vec<usize>| {
        let count: usize = shape.iter().product();
        let data = (0..count as u32).map(|i| ((i * 37 % 83) as f32 - 40.5) / 20.0).collect();
        Fill::Floats { shape, data }
    };
    let fours = || away(vec![3, 5, 7, 4]);
    let edge = || Fill::floats([0.0, -0.0, 1e-30, -1e-30, 1e30, -1e30]);
    vec![
        Case::new("ragged", Forward, vec![away(vec![3, 5, 7])]),
        Case::new("ragged in fours", Forward, vec![fours()]),
        Case::new("image", Forward, vec![away(vec![2, 16, 8, 64])]),
        Case::new("ragged", Backward, vec![away(vec![3, 5, 7]), Fill::normal([3, 5, 7])]),
        Case::new("ragged in fours", Backward, vec![fours(), fours()]),
        Case::new("around zero", Backward, vec![edge(), Fill::normal([6])]),
        Case::new("image", Backward, vec![Fill::normal([2, 16, 8, 64]), Fill::normal([2, 16, 8, 64])]),
    ]
}
