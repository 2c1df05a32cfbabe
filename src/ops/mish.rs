//! Mish activation: `y = x tanh(softplus(x))`.

use super::cpu::{exp, vector_functions};
use super::elementwise::{Backward, Forward, Function};
use super::{Case, Fill};
use crate::graph::{Graph, GraphError, ValueId};

/// `x tanh(log(1 + exp(x)))` of every element (Misra 2019).
///
/// # Errors
/// None: any shape will do. The signature is the same for all ops.
pub fn mish(graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    MISH.build(graph, x)
}

static MISH: Function = Function {
    names: ["mish.forward", "mish.backward"],
    tolerance: 2e-6,
    definition: |x| {
        let tanh = (x.max(0.0) + (-x.abs()).exp().ln_1p()).tanh();
        let sigmoid = 1.0 / (1.0 + (-x).exp());
        (x * tanh, tanh + x * sigmoid * (1.0 - tanh * tanh))
    },
    forward,
    backward,
};

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
        Case::new("wide range", Forward(&MISH), vec![wide()]),
        Case::new("ragged in fours", Forward(&MISH), vec![fours()]),
        Case::new("image", Forward(&MISH), vec![Fill::normal([2, 16, 8, 64])]),
        Case::new("wide range", Backward(&MISH), vec![wide(), Fill::normal([3, 5, 7])]),
        Case::new("ragged in fours", Backward(&MISH), vec![fours(), fours()]),
        Case::new("far below zero", Forward(&MISH), vec![below()]),
        Case::new("far above zero", Forward(&MISH), vec![above()]),
        Case::new("far below zero", Backward(&MISH), vec![below(), of_below()]),
        Case::new("far above zero", Backward(&MISH), vec![above(), of_above()]),
        Case::new("image", Backward(&MISH), vec![Fill::normal([2, 16, 8, 64]), Fill::normal([2, 16, 8, 64])]),
    ]
}
