//! Random numbers by themselves: the words of the generator, and standard normals.
//!
//! The ops that draw noise (`dropout`, `q_sample`, `reverse_step`) use [`Stream`] in their CPU kernels and
//! `kernels/shared/random.wgsl` in their kernels.

use super::cpu::par_rows;
use super::{Case, Fill, Grid, Op, Operands, Types, Variant, Word, expect};
use crate::graph::{DType, Graph, GraphError, TensorType, ValueId};
use crate::random::{Purpose, Stream, StreamId, fill_normals};

impl From<StreamId> for Word {
    fn from(stream: StreamId) -> Self {
        stream.word().into()
    }
}

/// Standard normals of the given shape, drawn on the device.
///
/// `key_step_sample` is the u32 buffer `(seed low, seed high, step, number of the first sample)`.
///
/// # Errors
/// [`GraphError::Shape`] if the key is not four u32.
pub fn standard_normals(
    graph: &mut Graph,
    key_step_sample: ValueId,
    shape: impl Into<Vec<usize>>,
) -> Result<ValueId, GraphError> {
    let stream = graph.random_stream(Purpose::StandardNormals);
    graph.apply_one(Normals { shape: shape.into(), stream }, &[key_step_sample])
}

#[derive(Debug)]
struct Integers {
    shape: Vec<usize>,
    stream: StreamId,
}

#[derive(Debug)]
struct Normals {
    shape: Vec<usize>,
    stream: StreamId,
}

/// The type of the generator's key buffer, as the shape rules of random ops expect it.
pub(super) fn expect_key(ty: &TensorType) -> Result<(), String> {
    expect(ty.shape == [4] && ty.dtype == DType::U32, || "key_step_sample must be four u32".to_owned())
}

/// Elements of one sample of a batch.
pub(super) fn elements_per_sample(ty: &TensorType) -> usize {
    ty.shape[1..].iter().product()
}

fn grid_and_params(ty: &TensorType, stream: StreamId) -> (Grid, Vec<(&'static str, Word)>) {
    let (samples, elements) = (ty.shape[0], elements_per_sample(ty));
    let blocks = elements.div_ceil(4);
    let params = vec![
        ("samples", samples.into()),
        ("elements", elements.into()),
        ("blocks", blocks.into()),
        ("stream", stream.into()),
    ];
    (Grid::Invocations(samples * blocks), params)
}

impl Op for Integers {
    fn name(&self) -> &'static str {
        "philox.integers"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["key_step_sample"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["words"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_key(inputs[0])?;
        Ok(vec![TensorType::u32(self.shape.clone())])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let (grid, params) = grid_and_params(&types.outputs[0], self.stream);
        vec![Variant::single("integers", grid, params)]
    }
    fn tolerance(&self) -> f32 {
        0.0
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([key], [words]) = operands.split();
        let elements = elements_per_sample(words.ty);
        let data: &mut [u32] = bytemuck::cast_slice_mut(words.data);
        for (n, row) in data.chunks_mut(elements).enumerate() {
            let stream = Stream::of_sample(key.u32(), self.stream, n);
            for (e, word) in row.iter_mut().enumerate() {
                *word = stream.words(e as u32 / 4)[e % 4];
            }
        }
    }
}

impl Op for Normals {
    fn name(&self) -> &'static str {
        "philox.standard_normals"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["key_step_sample"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["normals"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_key(inputs[0])?;
        Ok(vec![TensorType::f32(self.shape.clone())])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let (grid, params) = grid_and_params(&types.outputs[0], self.stream);
        vec![Variant::single("standard_normals", grid, params)]
    }
    fn tolerance(&self) -> f32 {
        NORMAL_ERROR
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([key], [normals]) = operands.split();
        let elements = elements_per_sample(normals.ty);
        for (n, row) in normals.data.chunks_mut(elements).enumerate() {
            fill_normals(Stream::of_sample(key.u32(), self.stream, n), row);
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([key], [normals]) = operands.split();
        let elements = elements_per_sample(normals.ty);
        par_rows(normals.data, elements, |first, rows| {
            for (n, row) in rows.chunks_mut(elements).enumerate() {
                fill_normals(Stream::of_sample(key.u32(), self.stream, first + n), row);
            }
        });
    }
}

/// The error that a normal number may have on any device, relative to the largest of a tensor, and so of a pair.
/// Relative to the radius, WGSL allows the square root 4.5 units in the last place, which are 5.4e-7, and the product
/// half a unit. The logarithm, the sine and the cosine of `kernels/shared/` err by at most 1e-7 each; the root halves
/// the logarithm's error. Together this is 8e-7. It holds for every radius, also the smallest: a case has a uniform
/// number next to 1.
pub(super) const NORMAL_ERROR: f32 = 1e-6;

/// A key buffer for cases.
pub(super) fn key_fill() -> Fill {
    key_of_sample(5)
}

fn key_of_sample(sample: u32) -> Fill {
    Fill::integers([0x1234_5678, 0x9abc_def0, 77, sample])
}

/// Cases of the smallest radius, sqrt(2^-23), and of the largest, 5.8: a name, and a key whose stream
/// [`EXTREME_STREAM`] begins with that pair. They must hold nothing but the pair, or larger numbers would hide its
/// error.
pub(super) fn extremes() -> [(&'static str, Fill); 2] {
    [("a uniform next to 1", key_of_sample(21_056_263)), ("a uniform next to 0", key_of_sample(137_051_628))]
}

/// The stream that [`extremes`] belong to.
pub(super) const EXTREME_STREAM: StreamId = StreamId::of_word(9);

/// Words of streams that have the highest bits of a purpose and of an index, alone and together.
const WIDE_STREAMS: [(&str, StreamId); 4] = [
    ("a large index", Purpose::Dropout.node(0x7F_0003)),
    ("the top bit", Purpose::StepBack.node(0)),
    ("the top bit and an index", Purpose::StepBack.node(0x40_0001)),
    ("all bits", StreamId::of_word(u32::MAX)),
];

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let stream = StreamId::of_word;
    let mut cases = vec![
        Case::new("ragged", Integers { shape: vec![3, 7, 5], stream: stream(9) }, vec![key_fill()]),
        Case::new("image", Integers { shape: vec![4, 32, 32, 3], stream: stream(1) }, vec![key_fill()]),
        Case::new("ragged", Normals { shape: vec![3, 7, 5], stream: stream(9) }, vec![key_fill()]),
        Case::new("image", Normals { shape: vec![4, 32, 32, 3], stream: stream(1) }, vec![key_fill()]),
    ];
    for (name, stream) in WIDE_STREAMS {
        // Every word of the counter is large, and the numbers of the samples pass 2^32.
        let key = Fill::integers([u32::MAX, 0x8000_0001, u32::MAX - 1, u32::MAX]);
        cases.push(Case::new(name, Integers { shape: vec![3, 7, 5], stream }, vec![key]));
    }
    for (name, key) in extremes() {
        cases.push(Case::new(name, Normals { shape: vec![1, 2], stream: EXTREME_STREAM }, vec![key]));
    }
    cases
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn extreme_cases_begin_with_the_largest_and_the_smallest_uniform() {
        let first = extremes().map(|(_, key)| {
            let Fill::Integers { data, .. } = key else { return f32::NAN };
            Stream::of_sample(&data, EXTREME_STREAM, 0).uniform(0)
        });
        assert_eq!(first, [1.0 - 0.5f32.powi(24), 0.5f32.powi(24)]);
    }

    /// Every bit of a stream's word is 1 in one case and 0 in another.
    #[test]
    fn cases_of_integers_have_every_bit_of_a_stream() {
        let words = WIDE_STREAMS.map(|(_, stream)| stream.word()).into_iter().chain([1, 9]);
        let (all, none) = words.fold((0, u32::MAX), |(or, and), word| (or | word, and & word));
        assert_eq!((all, none), (u32::MAX, 0x0000_0001));
    }
}
