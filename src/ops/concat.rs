//! Concatenation of two images along the channels.

use super::cpu::par_rows;
use super::{Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, Word, expect};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// The channels of `a`, then those of `b`: `[N, H, W, A]` and `[N, H, W, B]` give `[N, H, W, A + B]`.
///
/// # Errors
/// [`GraphError::Shape`] if the sizes other than the channels differ.
pub fn concat(graph: &mut Graph, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward, &[a, b])
}

#[derive(Debug)]
struct Forward;

/// Channels `first .. first + count`.
#[derive(Debug)]
struct Split {
    first: usize,
    count: usize,
}

fn params(length: usize, channels: usize, first: usize, count: usize) -> Vec<(&'static str, Word)> {
    vec![
        ("length", length.into()),
        ("channels", channels.into()),
        ("first", first.into()),
        ("count", count.into()),
    ]
}

/// Rows of one invocation of a `_vec4` kernel; `ROWS` of the kernel.
const ROWS: usize = 16;

/// The kernel that moves four channels at a time, where all of `in_fours` are multiples of four, and the other.
fn variants(
    [vec4, plain]: [&'static str; 2],
    output: &TensorType,
    params: Vec<(&'static str, Word)>,
    in_fours: [usize; 3],
) -> Vec<Variant> {
    let quads = output.channels() / 4 * output.rows().div_ceil(ROWS);
    let plain = Variant::single(plain, Grid::Invocations(output.len()), params.clone());
    let fours = in_fours.iter().all(|count| count.is_multiple_of(4));
    let vec4 = fours.then(|| Variant::single(vec4, Grid::Invocations(quads), params));
    vec4.into_iter().chain([plain]).collect()
}

/// `ty` with another number of channels.
fn with_channels(ty: &TensorType, channels: usize) -> TensorType {
    let mut shape = ty.shape.clone();
    if let Some(last) = shape.last_mut() {
        *last = channels;
    }
    ty.with_shape(shape)
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "concat.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["a", "b"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let (a, b) = (inputs[0], inputs[1]);
        let fits = !a.shape.is_empty() && with_channels(b, a.channels()) == *a;
        expect(fits, || "a and b may differ in their channels only".to_owned())?;
        Ok(vec![with_channels(a, a.channels() + b.channels())])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let d_y = call.d_output(graph, self)?;
        let (a, b) = (graph.ty(call.inputs[0]).channels(), graph.ty(call.inputs[1]).channels());
        let d_a = match call.needs[0] {
            true => Some(graph.apply_one(Split { first: 0, count: a }, &[d_y])?),
            false => None,
        };
        let d_b = match call.needs[1] {
            true => Some(graph.apply_one(Split { first: a, count: b }, &[d_y])?),
            false => None,
        };
        Ok(vec![d_a, d_b])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let (y, a) = (&types.outputs[0], types.inputs[0].channels());
        let params = params(y.len(), y.channels(), 0, a);
        variants(["forward_vec4", "forward"], y, params, [a, y.channels(), 0])
    }
    fn tolerance(&self) -> f32 {
        0.0
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([a, b], [y]) = operands.split();
        let (a_channels, b_channels) = (a.ty.channels(), b.ty.channels());
        for row in 0..y.ty.rows() {
            for c in 0..a_channels + b_channels {
                y.data[row * (a_channels + b_channels) + c] = if c < a_channels {
                    a.data[row * a_channels + c]
                } else {
                    b.data[row * b_channels + c - a_channels]
                };
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([a, b], [y]) = operands.split();
        let (a_channels, b_channels, channels) = (a.ty.channels(), b.ty.channels(), y.ty.channels());
        par_rows(y.data, channels, |first, rows| {
            let a = a.data[first * a_channels..].chunks_exact(a_channels);
            let b = b.data[first * b_channels..].chunks_exact(b_channels);
            for (y, (a, b)) in rows.chunks_exact_mut(channels).zip(a.zip(b)) {
                y[..a_channels].copy_from_slice(a);
                y[a_channels..].copy_from_slice(b);
            }
        });
    }
}

impl Op for Split {
    fn name(&self) -> &'static str {
        "concat.split"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["d_y"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["part"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let end = self.first + self.count;
        expect(end <= inputs[0].channels(), || format!("it needs at least {end} channels"))?;
        Ok(vec![with_channels(inputs[0], self.count)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let (part, channels) = (&types.outputs[0], types.inputs[0].channels());
        let params = params(part.len(), channels, self.first, self.count);
        variants(["split_vec4", "split"], part, params, [channels, self.first, self.count])
    }
    fn tolerance(&self) -> f32 {
        0.0
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([d_y], [part]) = operands.split();
        for row in 0..part.ty.rows() {
            for c in 0..self.count {
                part.data[row * self.count + c] = d_y.data[row * d_y.ty.channels() + self.first + c];
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([d_y], [part]) = operands.split();
        let channels = d_y.ty.channels();
        par_rows(part.data, self.count, |first, rows| {
            let d_y = d_y.data[first * channels..].chunks_exact(channels);
            for (part, d_y) in rows.chunks_exact_mut(self.count).zip(d_y) {
                part.copy_from_slice(&d_y[self.first..][..self.count]);
            }
        });
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let image = |channels| Fill::normal([4, 16, 8, channels]);
    let ragged = |channels| Fill::normal([2, 5, 3, channels]);
    vec![
        Case::new("ragged", Forward, vec![ragged(7), ragged(3)]),
        Case::new("ragged, in fours", Forward, vec![ragged(8), ragged(12)]),
        Case::new("image", Forward, vec![image(128), image(64)]),
        Case::new("ragged first", Split { first: 0, count: 7 }, vec![ragged(10)]),
        Case::new("ragged second", Split { first: 7, count: 3 }, vec![ragged(10)]),
        Case::new("ragged, in fours", Split { first: 8, count: 12 }, vec![ragged(24)]),
        Case::new("image", Split { first: 128, count: 64 }, vec![image(192)]),
    ]
}
