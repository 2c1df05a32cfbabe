//! Addition of two tensors, or of one row per sample to an image.

use super::cpu::{par_chunks, par_rows};
use super::{
    Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, Word, expect_like, expect_nhwc,
    expect_shape,
};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// `a + b`, where `b` has the shape of `a`, or is `[N, C]` for an `a` of `[N, H, W, C]`.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn add(graph: &mut Graph, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
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

fn params(length: usize, pixels: usize, channels: usize) -> Vec<(&'static str, Word)> {
    vec![("length", length.into()), ("pixels", pixels.into()), ("channels", channels.into())]
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "add.forward"
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
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let d_y = call.d_output(graph, self)?;
        Ok(vec![Some(d_y), Some(d_y)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let length = types.outputs[0].len();
        let single =
            |entry, invocations| Variant::single(entry, Grid::Invocations(invocations), params(length, 1, 1));
        let vec4 = length.is_multiple_of(4).then(|| single("forward_vec4", length.div_ceil(16)));
        vec4.into_iter().chain([single("forward", length)]).collect()
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([a, b], [y]) = operands.split();
        for ((y, a), b) in y.data.iter_mut().zip(a.data).zip(b.data) {
            *y = a + b;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([a, b], [y]) = operands.split();
        par_chunks(y.data, |first, y| {
            for ((y, a), b) in y.iter_mut().zip(&a.data[first..]).zip(&b.data[first..]) {
                *y = a + b;
            }
        });
    }
}

impl Op for ForwardBroadcast {
    fn name(&self) -> &'static str {
        "add.forward_broadcast"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["a", "row"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [n, _, _, c] = expect_nhwc("a", inputs[0])?;
        expect_shape("row", inputs[1], &[n, c])?;
        Ok(vec![inputs[0].clone()])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let d_y = call.d_output(graph, self)?;
        let d_row = match call.needs[1] {
            true => Some(graph.apply_one(BackwardBroadcast, &[d_y])?),
            false => None,
        };
        Ok(vec![Some(d_y), d_row])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let [n, h, w, c] = super::dims(&types.outputs[0]);
        let length = types.outputs[0].len();
        let single = |entry, invocations| {
            Variant::single(entry, Grid::Invocations(invocations), params(length, h * w, c))
        };
        let vec4 = c.is_multiple_of(4).then(|| n * (h * w).div_ceil(ROWS) * c / 4);
        let vec4 = vec4.map(|invocations| single("forward_broadcast_vec4", invocations));
        vec4.into_iter().chain([single("forward_broadcast", length)]).collect()
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([a, row], [y]) = operands.split();
        let [n, h, w, c] = super::dims(a.ty);
        for n in 0..n {
            for p in 0..h * w {
                for c_i in 0..c {
                    let i = (n * h * w + p) * c + c_i;
                    y.data[i] = a.data[i] + row.data[n * c + c_i];
                }
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([a, row], [y]) = operands.split();
        let [_, h, w, c] = super::dims(a.ty);
        par_rows(y.data, c, |first, rows| {
            for (y, pixel) in rows.chunks_exact_mut(c).zip(first..) {
                let row = &row.data[pixel / (h * w) * c..][..c];
                for ((y, a), added) in y.iter_mut().zip(&a.data[pixel * c..]).zip(row) {
                    *y = a + added;
                }
            }
        });
    }
}

impl Op for BackwardBroadcast {
    fn name(&self) -> &'static str {
        "add.backward_broadcast"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["d_y"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_row"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [n, _, _, c] = expect_nhwc("d_y", inputs[0])?;
        Ok(vec![TensorType::f32([n, c])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let [_, h, w, c] = super::dims(&types.inputs[0]);
        let length = types.outputs[0].len();
        vec![Variant::single("backward_broadcast", Grid::Invocations(length), params(length, h * w, c))]
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([d_y], [d_row]) = operands.split();
        let [n, h, w, c] = super::dims(d_y.ty);
        for n in 0..n {
            for c_i in 0..c {
                let sum: f64 = (0..h * w).map(|p| f64::from(d_y.data[(n * h * w + p) * c + c_i])).sum();
                d_row.data[n * c + c_i] = sum as f32;
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([d_y], [d_row]) = operands.split();
        let [_, h, w, c] = super::dims(d_y.ty);
        par_rows(d_row.data, c, |first, rows| {
            for (n, sums) in rows.chunks_exact_mut(c).enumerate() {
                sums.fill(0.0);
                for pixel in d_y.data[(first + n) * h * w * c..][..h * w * c].chunks_exact(c) {
                    for (sum, d) in sums.iter_mut().zip(pixel) {
                        *sum += d;
                    }
                }
            }
        });
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let image = || Fill::normal([2, 5, 3, 12]);
    let real = || Fill::normal([4, 16, 8, 64]);
    vec![
        Case::new("ragged", Forward, vec![Fill::normal([3, 7]), Fill::normal([3, 7])]),
        Case::new("ragged, in fours", Forward, vec![Fill::normal([3, 4, 29]), Fill::normal([3, 4, 29])]),
        Case::new("image", Forward, vec![real(), real()]),
        Case::new("U-Net S", Forward, vec![Fill::normal([16, 16, 16, 32]), Fill::normal([16, 16, 16, 32])]),
        Case::new("ragged", ForwardBroadcast, vec![Fill::normal([3, 2, 5, 7]), Fill::normal([3, 7])]),
        Case::new("ragged, in fours", ForwardBroadcast, vec![image(), Fill::normal([2, 12])]),
        Case::new(
            "one pixel over",
            ForwardBroadcast,
            vec![Fill::normal([2, 17, 1, 12]), Fill::normal([2, 12])],
        ),
        Case::new("image", ForwardBroadcast, vec![real(), Fill::normal([4, 64])]),
        Case::new("ragged", BackwardBroadcast, vec![image()]),
        Case::new("image", BackwardBroadcast, vec![real()]),
    ]
}
