//! GELU-gated linear unit: one half of the features times GELU of the other.

use super::cpu::par_rows;
use super::gelu::{Gelu, value_and_slope};
use super::{Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, Word, expect, expect_shape_like};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// `hidden gelu(gate)` for `x` `[..., 2 F]`, which holds `hidden` and then `gate`; gives `[..., F]` (Shazeer 2020).
///
/// # Errors
/// [`GraphError::Shape`] for an odd number of features.
pub fn geglu(graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward, &[x])
}

#[derive(Debug)]
struct Forward;

#[derive(Debug)]
struct Backward;

/// The shape of y, from the type of x.
fn y_shape(x: &TensorType) -> Result<Vec<usize>, String> {
    let features = x.shape.last().copied().unwrap_or(0);
    expect(features > 0 && features.is_multiple_of(2), || {
        format!("x must have an even number of features, hidden and gate; it has {features}")
    })?;
    let mut shape = x.shape.clone();
    shape.pop();
    shape.push(features / 2);
    Ok(shape)
}

/// The kernel that takes four features at a time, where there are a multiple of four, and the other.
fn variants([vec4, plain]: [&'static str; 2], y: &TensorType) -> Vec<Variant> {
    let params: Vec<(&'static str, Word)> =
        vec![("length", y.len().into()), ("features", y.channels().into())];
    let single = |entry, count| Variant::single(entry, Grid::Invocations(count), params.clone());
    let vec4 = y.channels().is_multiple_of(4).then(|| single(vec4, y.len() / 4));
    vec4.into_iter().chain([single(plain, y.len())]).collect()
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "geglu.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        Ok(vec![inputs[0].with_shape(y_shape(inputs[0])?)])
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
        variants(["forward_vec4", "forward"], &types.outputs[0])
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        let features = y.ty.channels();
        for (i, y) in y.data.iter_mut().enumerate() {
            let (row, f) = (i / features, i % features);
            let hidden = f64::from(x.data[row * 2 * features + f]);
            let gate = f64::from(x.data[row * 2 * features + features + f]);
            *y = (hidden * Gelu::Erf.reference(gate).0) as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        let features = y.ty.channels();
        par_rows(y.data, features, |first, rows| {
            let x = &x.data[first * 2 * features..];
            for (y, x) in rows.chunks_exact_mut(features).zip(x.chunks_exact(2 * features)) {
                let (hidden, gate) = x.split_at(features);
                for ((y, hidden), &gate) in y.iter_mut().zip(hidden).zip(gate) {
                    *y = hidden * value_and_slope(gate).0;
                }
            }
        });
    }
}

impl Op for Backward {
    fn name(&self) -> &'static str {
        "geglu.backward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x", "d_y"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_x"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_shape_like("d_y", inputs[1], &y_shape(inputs[0])?, inputs[0])?;
        Ok(vec![inputs[0].clone()])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        variants(["backward_vec4", "backward"], &types.inputs[1])
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x, d_y], [d_x]) = operands.split();
        let features = d_y.ty.channels();
        for (i, &d) in d_y.data.iter().enumerate() {
            let hidden = i / features * 2 * features + i % features;
            let gate = hidden + features;
            let (value, slope) = Gelu::Erf.reference(x.data[gate].into());
            d_x.data[hidden] = (f64::from(d) * value) as f32;
            d_x.data[gate] = (f64::from(d) * f64::from(x.data[hidden]) * slope) as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x, d_y], [d_x]) = operands.split();
        let features = d_y.ty.channels();
        par_rows(d_x.data, 2 * features, |first, rows| {
            let x = x.data[first * 2 * features..].chunks_exact(2 * features);
            let d_y = d_y.data[first * features..].chunks_exact(features);
            for ((d_x, x), d_y) in rows.chunks_exact_mut(2 * features).zip(x).zip(d_y) {
                let (hidden, gate) = x.split_at(features);
                let (d_hidden, d_gate) = d_x.split_at_mut(features);
                let sources = hidden.iter().zip(gate).zip(d_y);
                for ((d_hidden, d_gate), ((hidden, &gate), d)) in d_hidden.iter_mut().zip(d_gate).zip(sources)
                {
                    let (value, slope) = value_and_slope(gate);
                    *d_hidden = d * value;
                    *d_gate = d * hidden * slope;
                }
            }
        });
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, shape, std) in [
        ("ragged", vec![3, 5, 14], 1.0),
        ("ragged in fours", vec![3, 7, 24], 1.0),
        ("a row", vec![10], 1.0),
        ("wide range", vec![5, 3, 16], 30.0),
        ("feed-forward", vec![2, 64, 256], 1.0),
    ] {
        let x = Fill::Normal { shape: shape.clone(), mean: 0.0, std };
        let half: Vec<usize> = [&shape[..shape.len() - 1], &[shape[shape.len() - 1] / 2]].concat();
        cases.push(Case::new(name, Forward, vec![x.clone()]));
        cases.push(Case::new(name, Backward, vec![x, Fill::normal(half)]));
    }
    cases
}
