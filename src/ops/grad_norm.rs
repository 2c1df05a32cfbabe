//! Global gradient norm and the factor that clips it.

use super::cpu::vectorized;
use super::{Case, Fill, Grid, Op, Operands, Pass, Requirements, Types, Variant, Word, expect, expect_shape};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// `previous + sum of squares` of a packed gradient buffer `[L]`; `previous` is `[1]`.
///
/// # Errors
/// [`GraphError::Shape`] unless L is a multiple of 4, as packed buffers are.
pub fn sum_squares(graph: &mut Graph, gradients: ValueId, previous: ValueId) -> Result<ValueId, GraphError> {
    graph.apply_one(SumSquares, &[gradients, previous])
}

/// The norm and the factor that keeps it within `max_norm`, as `[2]`, from the sum of squares `[1]`. The factor is 0, which
/// [`super::adamw`] takes for a step to skip, where the sum is not finite, and in all steps after that: `skipped` `[1]`
/// counts them.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn clip(graph: &mut Graph, sum: ValueId, skipped: ValueId, max_norm: f32) -> Result<ValueId, GraphError> {
    graph.apply_one(Clip { max_norm }, &[sum, skipped])
}

/// Adds 1 to `skipped` `[1]` if `norm_and_scale` `[2]` of [`clip`] says that the step is skipped.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn count_skipped(graph: &mut Graph, norm_and_scale: ValueId, skipped: ValueId) -> Result<(), GraphError> {
    graph.update(CountSkipped, &[norm_and_scale], &[skipped])
}

#[derive(Debug)]
struct SumSquares;

#[derive(Debug)]
struct Clip {
    max_norm: f32,
}

#[derive(Debug)]
struct CountSkipped;

/// Elements that one workgroup of the first pass sums: 64 invocations of 16 vec4.
const ELEMENTS_PER_PARTIAL: usize = 64 * 16 * 4;

fn params(length: usize, max_norm: f32) -> Vec<(&'static str, Word)> {
    let partials = length.div_ceil(ELEMENTS_PER_PARTIAL);
    vec![("length", length.into()), ("partials", partials.into()), ("max_norm", max_norm.into())]
}

impl Op for SumSquares {
    fn name(&self) -> &'static str {
        "grad_norm.sum_squares"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["gradients", "previous"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["total"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let length = inputs[0].len();
        expect(length.is_multiple_of(4), || "the number of gradients must be a multiple of 4".to_owned())?;
        expect_shape("previous", inputs[1], &[1])?;
        Ok(vec![TensorType::f32([1])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let length = types.inputs[0].len();
        let partials = length.div_ceil(ELEMENTS_PER_PARTIAL);
        vec![Variant {
            name: "sum_squares",
            requires: Requirements::default(),
            scratch: vec![("partial", partials)],
            passes: vec![
                Pass::new("sum_squares_partial", Grid::Workgroups(partials), params(length, 0.0)),
                Pass::new("sum_squares", Grid::Workgroups(1), params(length, 0.0)),
            ],
        }]
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([gradients, previous], [total]) = operands.split();
        let squares: f64 = gradients.data.iter().map(|&g| f64::from(g) * f64::from(g)).sum();
        total.data[0] = (f64::from(previous.data[0]) + squares) as f32;
    }
    fn compute(&self, operands: Operands<'_>) {
        use rayon::prelude::*;
        let ([gradients, previous], [total]) = operands.split();
        let partial: Vec<f64> = gradients
            .data
            .par_chunks(ELEMENTS_PER_PARTIAL)
            .map(|chunk| {
                let mut lanes = [0.0f32; 16];
                vectorized(|| {
                    for values in chunk.chunks(16) {
                        for (lane, g) in lanes.iter_mut().zip(values) {
                            *lane += g * g;
                        }
                    }
                });
                lanes.iter().map(|&lane| f64::from(lane)).sum()
            })
            .collect();
        total.data[0] = (f64::from(previous.data[0]) + partial.iter().sum::<f64>()) as f32;
    }
}

impl Op for Clip {
    fn name(&self) -> &'static str {
        "grad_norm.clip"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["sum", "skipped"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["norm_and_scale"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_shape("sum", inputs[0], &[1])?;
        expect_shape("skipped", inputs[1], &[1])?;
        Ok(vec![TensorType::f32([2])])
    }
    fn variants(&self, _types: Types<'_>) -> Vec<Variant> {
        vec![Variant::single("clip", Grid::Workgroups(1), params(0, self.max_norm))]
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([sum, skipped], [norm_and_scale]) = operands.split();
        let norm = f64::from(sum.data[0]).sqrt();
        norm_and_scale.data[0] = norm as f32;
        norm_and_scale.data[1] = match sum.data[0].is_finite() && skipped.data[0] == 0.0 {
            true => (f64::from(self.max_norm) / (norm + 1e-6)).min(1.0) as f32,
            false => 0.0,
        };
    }
}

impl Op for CountSkipped {
    fn name(&self) -> &'static str {
        "grad_norm.count_skipped"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["clipped"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["count"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_shape("clipped", inputs[0], &[2])?;
        Ok(vec![TensorType::f32([1])])
    }
    fn updates_in_place(&self) -> bool {
        true
    }
    fn variants(&self, _types: Types<'_>) -> Vec<Variant> {
        vec![Variant::single("count_skipped", Grid::Workgroups(1), params(0, 0.0))]
    }
    fn tolerance(&self) -> f32 {
        0.0
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([clipped], [count]) = operands.split();
        count.data[0] += f32::from(u8::from(clipped.data[1] == 0.0));
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let previous = || Fill::floats([3.5]);
    let clip = |name: &str, sum: f32, skipped: f32| {
        Case::new(name, Clip { max_norm: 1.0 }, vec![Fill::floats([sum]), Fill::floats([skipped])])
    };
    let count = |name: &str, factor: f32| Case {
        targets: vec![Fill::floats([2.0])],
        ..Case::new(name, CountSkipped, vec![Fill::floats([4.0, factor])])
    };
    vec![
        Case::new("less than a workgroup", SumSquares, vec![Fill::normal([12]), previous()]),
        Case::new("ragged", SumSquares, vec![Fill::normal([3 * ELEMENTS_PER_PARTIAL + 20]), previous()]),
        Case::new("whole workgroups", SumSquares, vec![Fill::normal([2 * ELEMENTS_PER_PARTIAL]), previous()]),
        Case::new(
            "more partial sums than invocations",
            SumSquares,
            vec![Fill::normal([701_345 / 4 * 4]), previous()],
        ),
        Case::new(
            "a square that overflows",
            SumSquares,
            vec![Fill::floats([0.5, 1e30, 2.0, 1.0]), previous()],
        ),
        Case::new("no number", SumSquares, vec![Fill::floats([0.5, 1.0, f32::NAN, 1.0]), previous()]),
        clip("clipped", 30.0, 0.0),
        clip("within the norm", 0.2, 0.0),
        clip("no gradient", 0.0, 0.0),
        clip("overflow", f32::INFINITY, 0.0),
        clip("no number", f32::NAN, 0.0),
        clip("almost an overflow", f32::MAX, 0.0),
        clip("after an overflow", 30.0, 3.0),
        count("a step like others", 0.5),
        count("a step that is skipped", 0.0),
    ]
}
