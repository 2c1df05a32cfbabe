//! Division of every sample by a number of its own.

use super::cpu::par_rows;
use super::{Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, expect, expect_shape};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// `x / divisor[n]` for each sample n: x `[N, ...]` and an f32 divisor `[N]`, which gets no gradient.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn divide(graph: &mut Graph, x: ValueId, divisor: ValueId) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward, &[x, divisor])
}

#[derive(Debug)]
struct Forward;

impl Op for Forward {
    fn name(&self) -> &'static str {
        "divide.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x", "divisor"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect(inputs[0].shape.len() > 1 && !inputs[0].is_empty(), || "x must be [N, ...]".to_owned())?;
        expect_shape("divisor", inputs[1], &inputs[0].shape[..1])?;
        Ok(vec![inputs[0].clone()])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        if call.needs[1] {
            return Err(GraphError::NoGradient { path: graph.path(), op: self.name() });
        }
        let d_y = call.d_output(graph, self)?;
        Ok(vec![Some(divide(graph, d_y, call.inputs[1])?), None])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let y = &types.outputs[0];
        let params = vec![("length", y.len().into()), ("elements", (y.len() / y.shape[0]).into())];
        vec![Variant::single("forward", Grid::Invocations(y.len()), params)]
    }
    fn tolerance(&self) -> f32 {
        1e-6
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x, divisor], [y]) = operands.split();
        let elements = x.data.len() / divisor.data.len();
        for (i, (y, x)) in y.data.iter_mut().zip(x.data).enumerate() {
            *y = (f64::from(*x) / f64::from(divisor.data[i / elements])) as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x, divisor], [y]) = operands.split();
        let elements = x.data.len() / divisor.data.len();
        par_rows(y.data, elements, |first, rows| {
            let samples =
                rows.chunks_exact_mut(elements).zip(x.data[first * elements..].chunks_exact(elements));
            for ((y, x), divisor) in samples.zip(&divisor.data[first..]) {
                y.iter_mut().zip(x).for_each(|(y, x)| *y = x / divisor);
            }
        });
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let ragged = || vec![Fill::normal([3, 5, 2, 7]), Fill::floats([0.02, -3.5, 700.0])];
    vec![
        Case::new("ragged", Forward, ragged()),
        Case::new(
            "image",
            Forward,
            vec![Fill::normal([4, 16, 8, 3]), Fill::floats([0.01, 1.0, 50.0, 1348.0])],
        ),
    ]
}
