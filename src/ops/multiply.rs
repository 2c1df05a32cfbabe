//! Multiplication of two tensors, or of a tensor by one row per sample.

use super::cpu::{par_chunks, par_rows};
use super::{
    Case, Cost, Fill, GradientCall, Grid, Op, Operands, Types, Variant, Word, expect, expect_like,
    expect_shape,
};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// `a b`, where `b` has the shape of `a`, or is an f32 `[N, C]` for an `a` of `[N, ..., C]`: a gate of each channel.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn multiply(graph: &mut Graph, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
    if graph.ty(a).shape.len() > graph.ty(b).shape.len() {
        graph.apply_one(ForwardBroadcast, &[a, b])
    } else {
        graph.apply_one(Forward, &[a, b])
    }
}

#[derive(Debug)]
struct Forward;

#[derive(Debug)]
struct ForwardBroadcast;

#[derive(Debug)]
struct BackwardBroadcast;

/// Pixels of one invocation of `forward_broadcast_vec4`; `ROWS` of the kernel.
const ROWS: usize = 16;

/// Sizes of `[N, ..., C]`: samples, rows of a sample, channels.
fn sizes(a: &TensorType) -> [usize; 3] {
    let (n, c) = (a.shape[0], a.channels());
    [n, a.rows() / n, c]
}

/// Checks `[N, ..., C]`, and gives `[N, C]`.
fn expect_rows(a: &TensorType) -> Result<[usize; 2], String> {
    expect(a.shape.len() > 2 && !a.is_empty(), || "a must be [N, ..., C]".to_owned())?;
    Ok([a.shape[0], a.channels()])
}

fn params(length: usize, pixels: usize, channels: usize) -> Vec<(&'static str, Word)> {
    vec![("length", length.into()), ("pixels", pixels.into()), ("channels", channels.into())]
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "multiply.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["a", "b"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_like("b", inputs[1], inputs[0])?;
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
        let (a, b) = (call.inputs[0], call.inputs[1]);
        let d_a = match call.needs[0] {
            true => Some(graph.apply_one(Self, &[d_y, b])?),
            false => None,
        };
        let d_b = match call.needs[1] {
            true => Some(graph.apply_one(Self, &[d_y, a])?),
            false => None,
        };
        Ok(vec![d_a, d_b])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let length = types.outputs[0].len();
        let single =
            |entry, invocations| Variant::single(entry, Grid::Invocations(invocations), params(length, 1, 1));
        let vec4 = length.is_multiple_of(4).then(|| single("forward_vec4", length / 4));
        vec4.into_iter().chain([single("forward", length)]).collect()
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([a, b], [y]) = operands.split();
        for (i, y) in y.data.iter_mut().enumerate() {
            *y = (f64::from(a.data[i]) * f64::from(b.data[i])) as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([a, b], [y]) = operands.split();
        par_chunks(y.data, |first, y| {
            for ((y, a), b) in y.iter_mut().zip(&a.data[first..]).zip(&b.data[first..]) {
                *y = a * b;
            }
        });
    }
}

impl Op for ForwardBroadcast {
    fn name(&self) -> &'static str {
        "multiply.forward_broadcast"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["a", "row"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_shape("row", inputs[1], &expect_rows(inputs[0])?)?;
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
        let (a, row) = (call.inputs[0], call.inputs[1]);
        let d_a = match call.needs[0] {
            true => Some(graph.apply_one(Self, &[d_y, row])?),
            false => None,
        };
        let d_row = match call.needs[1] {
            true => Some(graph.apply_one(BackwardBroadcast, &[a, d_y])?),
            false => None,
        };
        Ok(vec![d_a, d_row])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let [n, pixels, c] = sizes(&types.outputs[0]);
        let length = types.outputs[0].len();
        let single = |entry, invocations| {
            Variant::single(entry, Grid::Invocations(invocations), params(length, pixels, c))
        };
        let vec4 = c.is_multiple_of(4).then(|| n * pixels.div_ceil(ROWS) * c / 4);
        let vec4 = vec4.map(|invocations| single("forward_broadcast_vec4", invocations));
        vec4.into_iter().chain([single("forward_broadcast", length)]).collect()
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([a, row], [y]) = operands.split();
        let [n, pixels, c] = sizes(a.ty);
        for n in 0..n {
            for p in 0..pixels {
                for c_i in 0..c {
                    let i = (n * pixels + p) * c + c_i;
                    y.data[i] = (f64::from(a.data[i]) * f64::from(row.data[n * c + c_i])) as f32;
                }
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([a, row], [y]) = operands.split();
        let [_, pixels, c] = sizes(a.ty);
        par_rows(y.data, c, |first, rows| {
            for (y, pixel) in rows.chunks_exact_mut(c).zip(first..) {
                let row = &row.data[pixel / pixels * c..][..c];
                for ((y, a), gate) in y.iter_mut().zip(&a.data[pixel * c..]).zip(row) {
                    *y = a * gate;
                }
            }
        });
    }
}

impl Op for BackwardBroadcast {
    fn name(&self) -> &'static str {
        "multiply.backward_broadcast"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["a", "d_y"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_row"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let row = expect_rows(inputs[0])?;
        expect_like("d_y", inputs[1], inputs[0])?;
        Ok(vec![TensorType::f32(row)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let [_, pixels, c] = sizes(&types.inputs[0]);
        let length = types.outputs[0].len();
        vec![Variant::single("backward_broadcast", Grid::Invocations(length), params(length, pixels, c))]
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        let bytes = types.inputs.iter().chain(types.outputs).map(TensorType::bytes).sum();
        Cost { bytes, flops: 2 * types.inputs[0].len() }
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([a, d_y], [d_row]) = operands.split();
        let [n, pixels, c] = sizes(a.ty);
        for n in 0..n {
            for c_i in 0..c {
                let at = |p: usize| (n * pixels + p) * c + c_i;
                let sum: f64 =
                    (0..pixels).map(|p| f64::from(a.data[at(p)]) * f64::from(d_y.data[at(p)])).sum();
                d_row.data[n * c + c_i] = sum as f32;
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([a, d_y], [d_row]) = operands.split();
        let [_, pixels, c] = sizes(a.ty);
        par_rows(d_row.data, c, |first, rows| {
            for (n, sums) in rows.chunks_exact_mut(c).enumerate() {
                sums.fill(0.0);
                let sample = (first + n) * pixels * c..(first + n + 1) * pixels * c;
                let (a, d_y) = (&a.data[sample.clone()], &d_y.data[sample]);
                for (a, d_y) in a.chunks_exact(c).zip(d_y.chunks_exact(c)) {
                    for ((sum, a), d) in sums.iter_mut().zip(a).zip(d_y) {
                        *sum += a * d;
                    }
                }
            }
        });
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let tokens = || Fill::normal([3, 37, 10]);
    let image = || Fill::normal([2, 5, 3, 12]);
    let real = || Fill::normal([4, 16, 8, 64]);
    vec![
        Case::new("ragged", Forward, vec![Fill::normal([3, 7]), Fill::normal([3, 7])]),
        Case::new("ragged, in fours", Forward, vec![Fill::normal([3, 4, 29]), Fill::normal([3, 4, 29])]),
        Case::new("image", Forward, vec![real(), real()]),
        Case::new("ragged tokens", ForwardBroadcast, vec![tokens(), Fill::normal([3, 10])]),
        Case::new("ragged, in fours", ForwardBroadcast, vec![image(), Fill::normal([2, 12])]),
        Case::new(
            "one pixel over",
            ForwardBroadcast,
            vec![Fill::normal([2, 17, 1, 12]), Fill::normal([2, 12])],
        ),
        Case::new("image", ForwardBroadcast, vec![real(), Fill::normal([4, 64])]),
        Case::new("ragged tokens", BackwardBroadcast, vec![tokens(), tokens()]),
        Case::new("large offset", BackwardBroadcast, vec![Fill::offset([2, 5, 3, 12]), image()]),
        Case::new("image", BackwardBroadcast, vec![real(), real()]),
    ]
}
