//! Random Fourier features of noise levels.

use super::{Case, Fill, Grid, Op, Operands, Types, Variant, expect};
use crate::graph::{DType, Graph, GraphError, TensorType, ValueId};

/// Sines, then cosines, of `2 pi log(t) weight` for `timesteps` `[N]` above 0 and `weight` `[F]`: `[N, 2F]`, as
/// diffusers' `GaussianFourierProjection` with `log` (Song et al. 2021). Neither operand gets a gradient.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn fourier_embedding(
    graph: &mut Graph,
    timesteps: ValueId,
    weight: ValueId,
) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward, &[timesteps, weight])
}

#[derive(Debug)]
struct Forward;

impl Op for Forward {
    fn name(&self) -> &'static str {
        "fourier_embedding.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["timesteps", "weight"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        for (name, ty) in self.inputs().iter().zip(inputs) {
            expect(ty.shape.len() == 1 && ty.dtype == DType::F32, || {
                format!("{name} must be f32, of one axis")
            })?;
        }
        Ok(vec![TensorType::f32([inputs[0].len(), 2 * inputs[1].len()])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let length = types.outputs[0].len();
        let params = vec![("length", length.into()), ("features", types.inputs[1].len().into())];
        vec![Variant::single("forward", Grid::Invocations(length), params)]
    }
    fn tolerance(&self) -> f32 {
        // log(t) and its product with a weight are rounded to f32; see the kernel.
        1e-3
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([timesteps, weight], [y]) = operands.split();
        let features = weight.data.len();
        for (i, y) in y.data.iter_mut().enumerate() {
            let (n, column) = (i / (2 * features), i % (2 * features));
            let turns = f64::from(timesteps.data[n]).ln() * f64::from(weight.data[column % features]);
            let angle = std::f64::consts::TAU * turns;
            *y = if column < features { angle.sin() } else { angle.cos() } as f32;
        }
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let weight = |features: usize, std| Fill::Normal { shape: vec![features], mean: 0.0, std };
    vec![
        Case::new("narrow", Forward, vec![Fill::floats([0.01, 1.0, 0.5, 2.0, 999.0]), weight(7, 1.0)]),
        Case::new("ncsnpp", Forward, vec![Fill::floats([0.01, 0.3, 17.5, 1348.0]), weight(128, 16.0)]),
    ]
}
