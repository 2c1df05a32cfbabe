//! Mish activation: `y = x tanh(softplus(x))`.

use super::cpu::{exp, par_chunks, vector_functions};
use super::{Case, Fill, GradientCall, Op, Operands, Types, Variant, expect_like};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// `x tanh(log(1 + exp(x)))` of every element (Misra 2019).
///
/// # Errors
/// None: any shape will do. The signature is the same for all ops.
pub fn mish(graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward, &[x])
}

#[derive(Debug)]
struct Forward;

#[derive(Debug)]
struct Backward;

/// `tanh(log(1 + exp(x)))` and the derivative of x times it.
///
/// With `e = exp(-|x|)` of at most 1 the hyperbolic tangent is `(1 + 2 e) / (1 + 2 e + 2 e^2)` for x above zero and
/// `(e^2 + 2 e) / (e^2 + 2 e + 2)` below: no step overflows or cancels.
#[inline(always)]
fn tanh_and_slope(x: f32) -> (f32, f32) {
    let e = exp(-x.abs());
    let (over, under, sigmoid) = if x > 0.0 {
        (2.0f32.mul_add(e, 1.0), (2.0 * e).mul_add(e, 2.0f32.mul_add(e, 1.0)), 1.0 / (1.0 + e))
    } else {
        (e * (e + 2.0), e.mul_add(e + 2.0, 2.0), e / (1.0 + e))
    };
    let tanh = over / under;
    // 1 - tanh^2 without cancelling
    let rest = (under - over) * (under + over) / (under * under);
    (tanh, (x * rest).mul_add(sigmoid, tanh))
}

vector_functions! {
    fn forward(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            // Below -100 the product is less than the smallest number of normal precision.
            *y = if x < -100.0 { 0.0 } else { x * tanh_and_slope(x).0 };
        }
    }

    fn backward(x: &[f32], d_y: &[f32], d_x: &mut [f32]) {
        for ((d_x, &x), &d_y) in d_x.iter_mut().zip(x).zip(d_y) {
            *d_x = if x < -100.0 { 0.0 } else { d_y * tanh_and_slope(x).1 };
        }
    }
}

/// What [`tanh_and_slope`] computes, in f64 as in the definition.
fn definition(x: f64) -> (f64, f64) {
    let softplus = x.max(0.0) + (-x.abs()).exp().ln_1p();
    let tanh = softplus.tanh();
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    (tanh, tanh + x * sigmoid * (1.0 - tanh * tanh))
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "mish.forward"
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
            *y = (f64::from(x) * definition(x.into()).0) as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        par_chunks(y.data, |first, y| forward(&x.data[first..], y));
    }
}

impl Op for Backward {
    fn name(&self) -> &'static str {
        "mish.backward"
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
            *d_x = (f64::from(d_y) * definition(x.into()).1) as f32;
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
