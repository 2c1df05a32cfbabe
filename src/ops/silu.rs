//! SiLU activation: `y = x sigmoid(x)`.

use super::cpu::{par_chunks, sigmoid, vector_functions};
use super::{Case, Fill, GradientCall, Op, Operands, Types, Variant, expect_like};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// SiLU of every element (Elfwing et al. 2017).
///
/// # Errors
/// None: any shape will do. The signature is the same for all ops.
pub fn silu(graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward, &[x])
}

#[derive(Debug)]
struct Forward;

#[derive(Debug)]
struct Backward;

vector_functions! {
    fn forward(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * sigmoid(x);
        }
    }

    fn backward(x: &[f32], d_y: &[f32], d_x: &mut [f32]) {
        for ((d_x, &x), &d_y) in d_x.iter_mut().zip(x).zip(d_y) {
            let sigmoid = sigmoid(x);
            *d_x = d_y * sigmoid * (1.0 + x * (1.0 - sigmoid));
        }
    }
}

/// `sigmoid(x)` and the derivative of `x sigmoid(x)`.
pub(super) fn sigmoid_and_slope(x: f64) -> (f64, f64) {
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    (sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid)))
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "silu.forward"
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
    fn reference(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        for (y, &x) in y.data.iter_mut().zip(x.data) {
            *y = (f64::from(x) * sigmoid_and_slope(f64::from(x)).0) as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        par_chunks(y.data, |first, y| forward(&x.data[first..], y));
    }
}

impl Op for Backward {
    fn name(&self) -> &'static str {
        "silu.backward"
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
    fn reference(&self, operands: Operands<'_>) {
        let ([x, d_y], [d_x]) = operands.split();
        for ((d_x, &x), &d_y) in d_x.data.iter_mut().zip(x.data).zip(d_y.data) {
            *d_x = (f64::from(d_y) * sigmoid_and_slope(f64::from(x)).1) as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x, d_y], [d_x]) = operands.split();
        par_chunks(d_x.data, |first, d_x| backward(&x.data[first..], &d_y.data[first..], d_x));
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let wide = || Fill::Normal { shape: vec![3, 5, 7], mean: 0.0, std: 20.0 };
    let fours = || Fill::normal([3, 5, 7, 4]);
    // Where exp(-x) overflows or vanishes. Above zero the result is x itself, which would hide all others.
    let below = [-1.28, -20.0, -87.0, -88.0, -88.8, -100.0, -104.0, -1000.0, -1e4, -1e30, f32::MIN, -0.0];
    let below = || Fill::floats(below);
    let above = || Fill::floats([20.0, 88.8, 100.0, 1000.0, 1e20, 1e30, 1e37, 1e38]);
    let of_below = || Fill::Uniform { shape: vec![12], low: 0.5, high: 1.0 };
    let of_above = || Fill::Uniform { shape: vec![8], low: 0.5, high: 1.0 };
    vec![
        Case::new("wide range", Forward, vec![wide()]),
        Case::new("ragged in fours", Forward, vec![fours()]),
        Case::new("image", Forward, vec![Fill::normal([2, 16, 8, 64])]),
        Case::new("wide range", Backward, vec![wide(), Fill::normal([3, 5, 7])]),
        Case::new("ragged in fours", Backward, vec![fours(), fours()]),
        Case::new("far below zero", Forward, vec![below()]),
        Case::new("far above zero", Forward, vec![above()]),
        Case::new("far below zero", Backward, vec![below(), of_below()]),
        Case::new("far above zero", Backward, vec![above(), of_above()]),
        Case::new("image", Backward, vec![Fill::normal([2, 16, 8, 64]), Fill::normal([2, 16, 8, 64])]),
    ]
}
