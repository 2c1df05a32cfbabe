//! Resampling by two with the filter 1 3 3 1.

use super::cpu::par_rows;
use super::{Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, Word, expect, expect_nhwc};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// Images `[N, 2H, 2W, C]` filtered and halved to `[N, H, W, C]` (Karras et al. 2019; diffusers' `downsample_2d` with the
/// kernel 1 3 3 1).
///
/// # Errors
/// [`GraphError::Shape`] for images of an odd height or width.
pub fn fir_downsample(graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    graph.apply_one(Down { scale: 1.0 / 64.0 }, &[x])
}

/// Images `[N, H, W, C]` doubled and filtered to `[N, 2H, 2W, C]` (diffusers' `upsample_2d` with the kernel 1 3 3 1).
///
/// # Errors
/// [`GraphError::Shape`] if `x` is not an image batch.
pub fn fir_upsample(graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    graph.apply_one(Up { scale: 1.0 / 16.0 }, &[x])
}

/// Weights of a coarse pixel's four fine pixels, the second and third of which lie in it.
const WEIGHTS: [f32; 4] = [1.0, 3.0, 3.0, 1.0];

#[derive(Debug)]
struct Down {
    scale: f32,
}

#[derive(Debug)]
struct Up {
    scale: f32,
}

/// The fine pixels that coarse pixel `i` of `size` is made of along an axis, and their weights.
fn fine_of(i: usize, size: usize) -> impl Iterator<Item = (usize, f32)> {
    let taps = WEIGHTS.into_iter().enumerate();
    taps.filter_map(move |(tap, weight)| {
        let at = (2 * i + tap).checked_sub(1)?;
        (at < 2 * size).then_some((at, weight))
    })
}

/// The coarse pixels that fine pixel `i` is made of along an axis: those that [`fine_of`] names it for.
fn coarse_of(i: usize, size: usize) -> impl Iterator<Item = (usize, f32)> {
    let around = (i / 2).saturating_sub(1)..(i / 2 + 2).min(size);
    around.filter_map(move |coarse| {
        let (_, weight) = fine_of(coarse, size).find(|&(at, _)| at == i)?;
        Some((coarse, weight))
    })
}

/// The kernel that takes four channels for one element, where they are a multiple of four, and the other.
fn variants(
    [vec4, plain]: [&'static str; 2],
    coarse: &TensorType,
    length: usize,
    scale: f32,
) -> Vec<Variant> {
    let [_, h, w, c] = super::dims(coarse);
    let single = |entry, wide: usize| {
        let params: Vec<(&'static str, Word)> = vec![
            ("length", (length / wide).into()),
            ("height", h.into()),
            ("width", w.into()),
            ("channels", (c / wide).into()),
            ("scale", scale.into()),
        ];
        Variant::single(entry, Grid::Invocations(length / wide), params)
    };
    let vec4 = c.is_multiple_of(4).then(|| single(vec4, 4));
    vec4.into_iter().chain([single(plain, 1)]).collect()
}

/// Each pixel of y as the weighted sum of the pixels of x that `sources` names along height and along width.
fn filter<I: Iterator<Item = (usize, f32)>>(
    operands: Operands<'_>,
    scale: f32,
    sources: impl Fn(usize, usize) -> I + Sync,
    coarse: [usize; 2],
) {
    let ([x], [y]) = operands.split();
    let [_, h, w, c] = super::dims(y.ty);
    let [_, x_h, x_w, _] = super::dims(x.ty);
    par_rows(y.data, w * c, |first, rows| {
        for (y, row) in rows.chunks_exact_mut(w * c).zip(first..) {
            let image = row / h * x_h;
            for (y, column) in y.chunks_exact_mut(c).zip(0..) {
                y.fill(0.0);
                for (line, of_row) in sources(row % h, coarse[0]) {
                    for (at, of_column) in sources(column, coarse[1]) {
                        let weight = scale * of_row * of_column;
                        let x = &x.data[((image + line) * x_w + at) * c..];
                        y.iter_mut().zip(x).for_each(|(y, x)| *y += weight * x);
                    }
                }
            }
        }
    });
}

/// The filter along an axis as a matrix `[coarse, fine]`, from its definition: the four fine pixels of coarse pixel i begin at
/// 2 i - 1, and what lies beyond the edges is left out.
fn matrix(size: usize) -> Vec<Vec<f64>> {
    let row = |i: usize| {
        let mut padded = vec![0.0; 2 * size + 2];
        padded[2 * i..2 * i + 4].copy_from_slice(&WEIGHTS.map(f64::from));
        padded[1..=2 * size].to_vec()
    };
    (0..size).map(row).collect()
}

/// A matrix with rows for columns.
fn transposed(matrix: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let columns = matrix.first().map_or(0, Vec::len);
    (0..columns).map(|column| matrix.iter().map(|row| row[column]).collect()).collect()
}

/// Images times a matrix along height, `[h, x_h]`, and one along width, `[w, x_w]`, in f64.
fn multiply(operands: Operands<'_>, scale: f32, rows: &[Vec<f64>], columns: &[Vec<f64>]) {
    let ([x], [y]) = operands.split();
    let [_, h, w, c] = super::dims(y.ty);
    let [_, x_h, x_w, _] = super::dims(x.ty);
    for (i, y) in y.data.iter_mut().enumerate() {
        let (n, row, column, channel) = (i / (h * w * c), i / (w * c) % h, i / c % w, i % c);
        let mut sum = 0.0;
        for (a, of_row) in rows[row].iter().enumerate() {
            for (b, of_column) in columns[column].iter().enumerate() {
                sum += of_row * of_column * f64::from(x.data[((n * x_h + a) * x_w + b) * c + channel]);
            }
        }
        *y = (f64::from(scale) * sum) as f32;
    }
}

impl Op for Down {
    fn name(&self) -> &'static str {
        "fir.down"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [n, h, w, c] = expect_nhwc("x", inputs[0])?;
        expect(h % 2 == 0 && w % 2 == 0, || "height and width of x must be even".to_owned())?;
        Ok(vec![inputs[0].with_shape([n, h / 2, w / 2, c])])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let d_y = call.d_output(graph, self)?;
        Ok(vec![Some(graph.apply_one(Up { scale: self.scale }, &[d_y])?)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        variants(["down_vec4", "down"], &types.outputs[0], types.outputs[0].len(), self.scale)
    }
    fn reference(&self, operands: Operands<'_>) {
        let [_, h, w, _] = super::dims(operands.outputs[0].ty);
        multiply(operands, self.scale, &matrix(h), &matrix(w));
    }
    fn compute(&self, operands: Operands<'_>) {
        let [_, h, w, _] = super::dims(operands.outputs[0].ty);
        filter(operands, self.scale, fine_of, [h, w]);
    }
}

impl Op for Up {
    fn name(&self) -> &'static str {
        "fir.up"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [n, h, w, c] = expect_nhwc("x", inputs[0])?;
        Ok(vec![inputs[0].with_shape([n, 2 * h, 2 * w, c])])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let d_y = call.d_output(graph, self)?;
        Ok(vec![Some(graph.apply_one(Down { scale: self.scale }, &[d_y])?)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        variants(["up_vec4", "up"], &types.inputs[0], types.outputs[0].len(), self.scale)
    }
    fn reference(&self, operands: Operands<'_>) {
        let [_, h, w, _] = super::dims(operands.inputs[0].ty);
        multiply(operands, self.scale, &transposed(&matrix(h)), &transposed(&matrix(w)));
    }
    fn compute(&self, operands: Operands<'_>) {
        let [_, h, w, _] = super::dims(operands.inputs[0].ty);
        filter(operands, self.scale, coarse_of, [h, w]);
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let down = || Down { scale: 1.0 / 64.0 };
    let up = || Up { scale: 1.0 / 16.0 };
    vec![
        Case::new("ragged", down(), vec![Fill::normal([2, 10, 6, 7])]),
        Case::new("ragged, in fours", down(), vec![Fill::normal([2, 6, 10, 12])]),
        Case::new("one pixel", down(), vec![Fill::normal([3, 2, 2, 5])]),
        Case::new("another scale", Down { scale: 1.0 / 16.0 }, vec![Fill::normal([2, 4, 6, 3])]),
        Case::new("image", down(), vec![Fill::normal([4, 32, 16, 64])]),
        Case::new("ragged", up(), vec![Fill::normal([2, 5, 3, 7])]),
        Case::new("ragged, in fours", up(), vec![Fill::normal([2, 3, 5, 12])]),
        Case::new("one pixel", up(), vec![Fill::normal([3, 1, 1, 5])]),
        Case::new("another scale", Up { scale: 1.0 / 64.0 }, vec![Fill::normal([2, 2, 3, 3])]),
        Case::new("image", up(), vec![Fill::normal([4, 16, 8, 64])]),
    ]
}
