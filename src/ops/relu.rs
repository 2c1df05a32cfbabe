//! Rectified linear unit: `y = max(x, 0)`.

use super::cpu::vector_functions;
use super::elementwise::{Backward, Forward, Function};
use super::{Case, Fill};
use crate::graph::{Graph, GraphError, ValueId};

/// `max(x, 0)` of every element (Nair and Hinton 2010); the slope at 0 is 0, as in PyTorch.
///
/// # Errors
/// None: any shape will do. The signature is the same for all ops.
pub fn relu(graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    RELU.build(graph, x)
}

static RELU: Function = Function {
    names: ["relu.forward", "relu.backward"],
    tolerance: 0.0,
    definition: |x| if x <= 0.0 { (0.0, 0.0) } else { (x, 1.0) },
    forward,
    backward,
};

vector_functions! {
    fn forward(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = if x <= 0.0 { 0.0 } else { x };
        }
    }

    fn backward(x: &[f32], d_y: &[f32], d_x: &mut [f32]) {
        for ((d_x, &x), &d_y) in d_x.iter_mut().zip(x).zip(d_y) {
            *d_x = if x <= 0.0 { 0.0 } else { d_y };
        }
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
        Case::new("ragged", Forward(&RELU), vec![away(vec![3, 5, 7])]),
        Case::new("ragged in fours", Forward(&RELU), vec![fours()]),
        Case::new("image", Forward(&RELU), vec![away(vec![2, 16, 8, 64])]),
        Case::new("ragged", Backward(&RELU), vec![away(vec![3, 5, 7]), Fill::normal([3, 5, 7])]),
        Case::new("ragged in fours", Backward(&RELU), vec![fours(), fours()]),
        Case::new("around zero", Backward(&RELU), vec![edge(), Fill::normal([6])]),
        Case::new("image", Backward(&RELU), vec![Fill::normal([2, 16, 8, 64]), Fill::normal([2, 16, 8, 64])]),
    ]
}
