//! Average pooling: the mean of every channel over an image's pixels, or over those of windows that slide over it.

mod window;

pub use window::average_pool_window;

use super::cpu::par_rows;
use super::{Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, Word, expect, expect_nhwc};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// The mean over pixels: `[N, H, W, C]` becomes `[N, C]`.
///
/// # Errors
/// [`GraphError::Shape`] if `x` is not an image batch.
pub fn average_pool(graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward, &[x])
}

#[derive(Debug)]
struct Forward;

#[derive(Debug)]
struct Backward {
    height: usize,
    width: usize,
}

/// `length` of the output; `x` is the type of the images.
fn variant(entry: &'static str, length: usize, x: &TensorType) -> Vec<Variant> {
    let [_, h, w, c] = super::dims(x);
    let mut params: Vec<(&'static str, Word)> =
        vec![("length", length.into()), ("pixels", (h * w).into()), ("channels", c.into())];
    params.extend(window::NO_WINDOW.map(|name| (name, 0u32.into())));
    vec![Variant::single(entry, Grid::Invocations(length), params)]
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "average_pool.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [n, h, w, c] = expect_nhwc("x", inputs[0])?;
        expect(h * w > 0, || "x must have pixels".to_owned())?;
        Ok(vec![inputs[0].with_shape([n, c])])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let d_y = call.d_output(graph, self)?;
        let [_, height, width, _] = super::dims(graph.ty(call.inputs[0]));
        Ok(vec![Some(graph.apply_one(Backward { height, width }, &[d_y])?)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        variant("forward", types.outputs[0].len(), &types.inputs[0])
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        let [n, h, w, c] = super::dims(x.ty);
        for n in 0..n {
            for c_i in 0..c {
                let sum: f64 = (0..h * w).map(|p| f64::from(x.data[(n * h * w + p) * c + c_i])).sum();
                y.data[n * c + c_i] = (sum / (h * w) as f64) as f32;
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        let [_, h, w, c] = super::dims(x.ty);
        par_rows(y.data, c, |first, rows| {
            for (n, means) in rows.chunks_exact_mut(c).enumerate() {
                means.fill(0.0);
                for pixel in x.data[(first + n) * h * w * c..][..h * w * c].chunks_exact(c) {
                    for (mean, x) in means.iter_mut().zip(pixel) {
                        *mean += x;
                    }
                }
                for mean in means {
                    *mean /= (h * w) as f32;
                }
            }
        });
    }
}

impl Op for Backward {
    fn name(&self) -> &'static str {
        "average_pool.backward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["d_y"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_x"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect(inputs[0].shape.len() == 2, || "d_y must be [N, C]".to_owned())?;
        let [n, c] = super::dims(inputs[0]);
        Ok(vec![inputs[0].with_shape([n, self.height, self.width, c])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        variant("backward", types.outputs[0].len(), &types.outputs[0])
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([d_y], [d_x]) = operands.split();
        let [_, h, w, c] = super::dims(d_x.ty);
        for (i, d) in d_x.data.iter_mut().enumerate() {
            let n = i / (h * w * c);
            *d = (f64::from(d_y.data[n * c + i % c]) / (h * w) as f64) as f32;
        }
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("ragged", Forward, vec![Fill::normal([3, 2, 5, 7])]),
        Case::new("large offset", Forward, vec![Fill::offset([2, 5, 3, 12])]),
        Case::new("image", Forward, vec![Fill::normal([4, 16, 8, 64])]),
        Case::new("ragged", Backward { height: 2, width: 5 }, vec![Fill::normal([3, 7])]),
        Case::new("image", Backward { height: 16, width: 8 }, vec![Fill::normal([4, 64])]),
    ];
    cases.extend(window::cases());
    cases
}
