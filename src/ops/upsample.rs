//! Nearest-neighbour upsampling by two.

use super::cpu::par_rows;
use super::{Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, Word, expect, expect_nhwc};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// Every pixel four times: `[N, H, W, C]` becomes `[N, 2H, 2W, C]`.
///
/// # Errors
/// [`GraphError::Shape`] if `x` is not an image batch.
pub fn upsample(graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward, &[x])
}

#[derive(Debug)]
struct Forward;

#[derive(Debug)]
struct Backward;

/// The kernel that takes four channels for one element, where they are a multiple of four, and the other; by the type of
/// the smaller image.
fn variants([vec4, plain]: [&'static str; 2], small: &TensorType) -> Vec<Variant> {
    let [_, _, w, c] = super::dims(small);
    let single = |entry, width: usize| {
        let length = small.len() / width;
        let params: Vec<(&'static str, Word)> =
            vec![("length", length.into()), ("width", w.into()), ("channels", (c / width).into())];
        Variant::single(entry, Grid::Invocations(length), params)
    };
    let vec4 = c.is_multiple_of(4).then(|| single(vec4, 4));
    vec4.into_iter().chain([single(plain, 1)]).collect()
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "upsample.forward"
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
        Ok(vec![Some(graph.apply_one(Backward, &[d_y])?)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        variants(["forward_vec4", "forward"], &types.inputs[0])
    }
    fn tolerance(&self) -> f32 {
        0.0
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        let [n, h, w, c] = super::dims(y.ty);
        for n in 0..n {
            for i in 0..h {
                for j in 0..w {
                    for c_i in 0..c {
                        y.data[((n * h + i) * w + j) * c + c_i] =
                            x.data[((n * (h / 2) + i / 2) * (w / 2) + j / 2) * c + c_i];
                    }
                }
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        let [_, _, w, c] = super::dims(x.ty);
        par_rows(y.data, 2 * w * c, |first, rows| {
            for (row, y) in rows.chunks_exact_mut(2 * w * c).enumerate() {
                let x = x.data[(first + row) / 2 * w * c..].chunks_exact(c);
                for (y, x) in y.chunks_exact_mut(2 * c).zip(x) {
                    y[..c].copy_from_slice(x);
                    y[c..].copy_from_slice(x);
                }
            }
        });
    }
}

impl Op for Backward {
    fn name(&self) -> &'static str {
        "upsample.backward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["d_y"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_x"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [n, h, w, c] = expect_nhwc("d_y", inputs[0])?;
        expect(h % 2 == 0 && w % 2 == 0, || "height and width of d_y must be even".to_owned())?;
        Ok(vec![inputs[0].with_shape([n, h / 2, w / 2, c])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        variants(["backward_vec4", "backward"], &types.outputs[0])
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([d_y], [d_x]) = operands.split();
        let [n, h, w, c] = super::dims(d_x.ty);
        for n in 0..n {
            for i in 0..h {
                for j in 0..w {
                    for c_i in 0..c {
                        let mut sum = 0.0;
                        for (i, j) in
                            [(2 * i, 2 * j), (2 * i, 2 * j + 1), (2 * i + 1, 2 * j), (2 * i + 1, 2 * j + 1)]
                        {
                            sum += f64::from(d_y.data[((n * 2 * h + i) * 2 * w + j) * c + c_i]);
                        }
                        d_x.data[((n * h + i) * w + j) * c + c_i] = sum as f32;
                    }
                }
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([d_y], [d_x]) = operands.split();
        let [_, _, w, c] = super::dims(d_x.ty);
        par_rows(d_x.data, w * c, |first, rows| {
            for (row, d_x) in rows.chunks_exact_mut(w * c).enumerate() {
                let (upper, lower) = d_y.data[(first + row) * 4 * w * c..][..4 * w * c].split_at(2 * w * c);
                let pairs = upper.chunks_exact(2 * c).zip(lower.chunks_exact(2 * c));
                for (d_x, (upper, lower)) in d_x.chunks_exact_mut(c).zip(pairs) {
                    let upper = upper[..c].iter().zip(&upper[c..]);
                    let lower = lower[..c].iter().zip(&lower[c..]);
                    for ((d_x, (a, b)), (c, d)) in d_x.iter_mut().zip(upper).zip(lower) {
                        *d_x = (a + b) + (c + d);
                    }
                }
            }
        });
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("ragged", Forward, vec![Fill::normal([2, 5, 3, 7])]),
        Case::new("ragged, in fours", Forward, vec![Fill::normal([2, 5, 3, 12])]),
        Case::new("one pixel", Forward, vec![Fill::normal([3, 1, 1, 5])]),
        Case::new("image", Forward, vec![Fill::normal([4, 16, 8, 64])]),
        Case::new("ragged", Backward, vec![Fill::normal([2, 10, 6, 7])]),
        Case::new("ragged, in fours", Backward, vec![Fill::normal([2, 10, 6, 12])]),
        Case::new("one pixel", Backward, vec![Fill::normal([3, 2, 2, 5])]),
        Case::new("image", Backward, vec![Fill::normal([4, 32, 16, 64])]),
    ]
}
