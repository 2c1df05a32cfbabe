//! Scale and shift of every channel by one row per sample.

use super::cpu::par_rows;
use super::{
    Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, Word, expect_like, expect_nhwc,
    expect_shape,
};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// `x (1 + scale) + shift`, where `scale_shift` is `[N, 2C]` for an `x` of `[N, H, W, C]`, scale first.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn scale_shift(graph: &mut Graph, x: ValueId, scale_shift: ValueId) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward, &[x, scale_shift])
}

#[derive(Debug)]
struct Forward;

#[derive(Debug)]
struct BackwardInput;

#[derive(Debug)]
struct BackwardScaleShift;

fn params(length: usize, image: &TensorType) -> Vec<(&'static str, Word)> {
    let [_, h, w, c] = super::dims(image);
    vec![("length", length.into()), ("pixels", (h * w).into()), ("channels", c.into())]
}

/// Pixels of one invocation of a `_vec4` kernel; `ROWS` of the kernel.
const ROWS: usize = 16;

/// The kernel that takes four channels at a time, where they are a multiple of four, and the other.
fn variants([vec4, plain]: [&'static str; 2], image: &TensorType) -> Vec<Variant> {
    let [n, h, w, c] = super::dims(image);
    let single = |entry, count| Variant::single(entry, Grid::Invocations(count), params(image.len(), image));
    let vec4 = c.is_multiple_of(4).then(|| single(vec4, n * (h * w).div_ceil(ROWS) * c / 4));
    vec4.into_iter().chain([single(plain, image.len())]).collect()
}

/// The rows of scales and of shifts of sample `n`.
fn halves(scale_shift: &[f32], n: usize, c: usize) -> (&[f32], &[f32]) {
    scale_shift[2 * n * c..][..2 * c].split_at(c)
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "scale_shift.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x", "scale_shift"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [n, _, _, c] = expect_nhwc("x", inputs[0])?;
        expect_shape("scale_shift", inputs[1], &[n, 2 * c])?;
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
        let d_x = match call.needs[0] {
            true => Some(graph.apply_one(BackwardInput, &[call.inputs[1], d_y])?),
            false => None,
        };
        let d_scale_shift = match call.needs[1] {
            true => Some(graph.apply_one(BackwardScaleShift, &[call.inputs[0], d_y])?),
            false => None,
        };
        Ok(vec![d_x, d_scale_shift])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        variants(["forward_vec4", "forward"], &types.outputs[0])
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x, scale_shift], [y]) = operands.split();
        let [n, h, w, c] = super::dims(x.ty);
        for n in 0..n {
            for p in 0..h * w {
                for c_i in 0..c {
                    let i = (n * h * w + p) * c + c_i;
                    let scale = f64::from(scale_shift.data[n * 2 * c + c_i]);
                    let shift = f64::from(scale_shift.data[n * 2 * c + c + c_i]);
                    y.data[i] = (f64::from(x.data[i]) * (1.0 + scale) + shift) as f32;
                }
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x, scale_shift], [y]) = operands.split();
        let [_, h, w, c] = super::dims(x.ty);
        par_rows(y.data, c, |first, rows| {
            for (row, y) in rows.chunks_exact_mut(c).enumerate() {
                let pixel = first + row;
                let (scale, shift) = halves(scale_shift.data, pixel / (h * w), c);
                let x = &x.data[pixel * c..][..c];
                for (((y, x), scale), shift) in y.iter_mut().zip(x).zip(scale).zip(shift) {
                    *y = x * (1.0 + scale) + shift;
                }
            }
        });
    }
}

impl Op for BackwardInput {
    fn name(&self) -> &'static str {
        "scale_shift.backward_input"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["scale_shift", "d_y"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_x"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [n, _, _, c] = expect_nhwc("d_y", inputs[1])?;
        expect_shape("scale_shift", inputs[0], &[n, 2 * c])?;
        Ok(vec![inputs[1].clone()])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        variants(["backward_input_vec4", "backward_input"], &types.outputs[0])
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([scale_shift, d_y], [d_x]) = operands.split();
        let [n, h, w, c] = super::dims(d_y.ty);
        for n in 0..n {
            for p in 0..h * w {
                for c_i in 0..c {
                    let i = (n * h * w + p) * c + c_i;
                    let scale = f64::from(scale_shift.data[n * 2 * c + c_i]);
                    d_x.data[i] = (f64::from(d_y.data[i]) * (1.0 + scale)) as f32;
                }
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([scale_shift, d_y], [d_x]) = operands.split();
        let [_, h, w, c] = super::dims(d_y.ty);
        par_rows(d_x.data, c, |first, rows| {
            for (row, d_x) in rows.chunks_exact_mut(c).enumerate() {
                let pixel = first + row;
                let (scale, _) = halves(scale_shift.data, pixel / (h * w), c);
                for ((d_x, d_y), scale) in d_x.iter_mut().zip(&d_y.data[pixel * c..]).zip(scale) {
                    *d_x = d_y * (1.0 + scale);
                }
            }
        });
    }
}

impl Op for BackwardScaleShift {
    fn name(&self) -> &'static str {
        "scale_shift.backward_scale_shift"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x", "d_y"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_scale_shift"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [n, _, _, c] = expect_nhwc("x", inputs[0])?;
        expect_like("d_y", inputs[1], inputs[0])?;
        Ok(vec![TensorType::f32([n, 2 * c])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let length = types.outputs[0].len() / 2;
        let params = params(length, &types.inputs[0]);
        vec![Variant::single("backward_scale_shift", Grid::Invocations(length), params)]
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x, d_y], [d_scale_shift]) = operands.split();
        let [n, h, w, c] = super::dims(x.ty);
        for n in 0..n {
            for c_i in 0..c {
                let (mut d_scale, mut d_shift) = (0.0, 0.0);
                for p in 0..h * w {
                    let i = (n * h * w + p) * c + c_i;
                    d_scale += f64::from(d_y.data[i]) * f64::from(x.data[i]);
                    d_shift += f64::from(d_y.data[i]);
                }
                d_scale_shift.data[n * 2 * c + c_i] = d_scale as f32;
                d_scale_shift.data[n * 2 * c + c + c_i] = d_shift as f32;
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x, d_y], [d_scale_shift]) = operands.split();
        let [_, h, w, c] = super::dims(x.ty);
        par_rows(d_scale_shift.data, 2 * c, |first, rows| {
            for (row, sums) in rows.chunks_exact_mut(2 * c).enumerate() {
                let sample = (first + row) * h * w * c..(first + row + 1) * h * w * c;
                let (d_scale, d_shift) = sums.split_at_mut(c);
                d_scale.fill(0.0);
                d_shift.fill(0.0);
                let (x, d_y) = (&x.data[sample.clone()], &d_y.data[sample]);
                for (x, d_y) in x.chunks_exact(c).zip(d_y.chunks_exact(c)) {
                    for (((d_scale, d_shift), x), d_y) in
                        d_scale.iter_mut().zip(d_shift.iter_mut()).zip(x).zip(d_y)
                    {
                        *d_scale += d_y * x;
                        *d_shift += d_y;
                    }
                }
            }
        });
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let ragged = || Fill::normal([3, 5, 2, 7]);
    let real = || Fill::normal([4, 16, 8, 64]);
    vec![
        Case::new("ragged", Forward, vec![ragged(), Fill::normal([3, 14])]),
        Case::new("ragged in fours", Forward, vec![Fill::normal([3, 7, 5, 8]), Fill::normal([3, 16])]),
        Case::new("image", Forward, vec![real(), Fill::normal([4, 128])]),
        Case::new("ragged", BackwardInput, vec![Fill::normal([3, 14]), ragged()]),
        Case::new("image", BackwardInput, vec![Fill::normal([4, 128]), real()]),
        Case::new("ragged", BackwardScaleShift, vec![ragged(), ragged()]),
        Case::new("image", BackwardScaleShift, vec![real(), real()]),
    ]
}
