//! Dropout, with a mask that is drawn again rather than stored.

use super::cpu::par_rows;
use super::philox::{elements_per_sample, expect_key, key_fill};
use super::{Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, expect};
use crate::graph::{Graph, GraphError, TensorType, ValueId};
use crate::random::{Purpose, Stream, StreamId};

/// Sets each element to zero with probability `p` and scales the others by `1 / (1 - p)`.
///
/// `key_step_sample` is the generator's u32 buffer `(seed low, seed high, step, number of the first sample)`.
///
/// # Errors
/// [`GraphError::Shape`] if the key is not four u32, or `p` is not in `[0, 1)`.
pub fn dropout(
    graph: &mut Graph,
    x: ValueId,
    key_step_sample: ValueId,
    p: f32,
) -> Result<ValueId, GraphError> {
    if p == 0.0 {
        return Ok(x);
    }
    let stream = graph.random_stream(Purpose::Dropout);
    graph.apply_one(Forward { stream, p }, &[x, key_step_sample])
}

#[derive(Clone, Debug)]
struct Forward {
    stream: StreamId,
    p: f32,
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "dropout.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x", "key_step_sample"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect(!inputs[0].is_empty(), || "x must not be empty".to_owned())?;
        expect_key(inputs[1])?;
        expect((0.0..1.0).contains(&self.p), || format!("the probability {} is not in [0, 1)", self.p))?;
        Ok(vec![inputs[0].clone()])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let d_y = call.d_output(graph, self)?;
        Ok(vec![Some(graph.apply_one(self.clone(), &[d_y, call.inputs[1]])?), None])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let x = &types.inputs[0];
        let (samples, elements) = (x.shape[0], elements_per_sample(x));
        let blocks = elements.div_ceil(4);
        let params = vec![
            ("samples", samples.into()),
            ("elements", elements.into()),
            ("blocks", blocks.into()),
            ("stream", self.stream.into()),
            ("probability", self.p.into()),
            ("scale", (1.0 / (1.0 - self.p)).into()),
        ];
        let vec4 = elements.is_multiple_of(4).then_some("forward_vec4");
        let grid = Grid::Invocations(samples * blocks);
        let entries = vec4.into_iter().chain(["forward"]);
        entries.map(|entry| Variant::single(entry, grid, params.clone())).collect()
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x, key], [y]) = operands.split();
        let elements = elements_per_sample(x.ty);
        for i in 0..x.data.len() {
            let (n, e) = (i / elements, i % elements);
            let keep = Stream::of_sample(key.u32(), self.stream, n).uniform(e as u32) >= self.p;
            y.data[i] = if keep { (f64::from(x.data[i]) / (1.0 - f64::from(self.p))) as f32 } else { 0.0 };
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x, key], [y]) = operands.split();
        let elements = elements_per_sample(x.ty);
        let scale = 1.0 / (1.0 - self.p);
        par_rows(y.data, elements, |first, rows| {
            for (row, y) in rows.chunks_exact_mut(elements).enumerate() {
                let n = first + row;
                let stream = Stream::of_sample(key.u32(), self.stream, n);
                let x = &x.data[n * elements..][..elements];
                for (block, (y, x)) in y.chunks_mut(4).zip(x.chunks(4)).enumerate() {
                    let drawn = stream.uniforms(block as u32);
                    for ((y, x), u) in y.iter_mut().zip(x).zip(drawn) {
                        *y = if u >= self.p { x * scale } else { 0.0 };
                    }
                }
            }
        });
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let op = |word, p| Forward { stream: StreamId::of_word(word), p };
    vec![
        Case::new("ragged", op(9, 0.1), vec![Fill::normal([3, 5, 7]), key_fill()]),
        Case::new("drops most", op(2, 0.9), vec![Fill::normal([2, 3, 5, 6]), key_fill()]),
        Case::new("ragged in fours", op(4, 0.5), vec![Fill::normal([3, 5, 7, 4]), key_fill()]),
        Case::new("image", op(1, 0.1), vec![Fill::normal([16, 16, 16, 32]), key_fill()]),
    ]
}
