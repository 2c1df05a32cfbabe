//! Counter-based random numbers: Philox 4x32-10, the same words on every device.
//!
//! The ops that draw noise (`dropout`, `q_sample`, `reverse_step`) use [`Stream`] in their CPU kernels and
//! `kernels/shared/random.wgsl` in their kernels.

use super::cpu::par_rows;
use super::{Case, Fill, Grid, Op, Operands, Types, Variant, Word, expect};
use crate::graph::{DType, Graph, GraphError, TensorType, ValueId};

/// The numbers of one sample in one step: element `e` comes from block `e / 4`, lane `e % 4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Key.
    pub seed: u64,
    /// Training or denoising step.
    pub step: u32,
    /// Tells the random nodes of one graph apart.
    pub stream: u32,
    /// Number of the sample within the run.
    pub sample: u32,
}

impl Stream {
    /// The stream of sample `n` of a batch, from the buffer that kernels read: `(seed low, seed high, step, first)`.
    pub(super) fn of_sample(key_step_sample: &[u32], stream: u32, n: usize) -> Self {
        let seed = u64::from(key_step_sample[0]) | u64::from(key_step_sample[1]) << 32;
        let sample = key_step_sample[3].wrapping_add(n as u32);
        Self { seed, step: key_step_sample[2], stream, sample }
    }

    /// The buffer that kernels read, for a batch whose first sample is this one.
    pub fn key_step_sample(&self) -> [u32; 4] {
        [self.seed as u32, (self.seed >> 32) as u32, self.step, self.sample]
    }

    /// Four random words: Philox 4x32-10 (Salmon et al. 2011, section 3.3).
    pub fn words(&self, block: u32) -> [u32; 4] {
        let mut counter = [block, self.step, self.stream, self.sample];
        let mut key = [self.seed as u32, (self.seed >> 32) as u32];
        for _ in 0..10 {
            let p0 = u64::from(counter[0]) * 0xD251_1F53;
            let p1 = u64::from(counter[2]) * 0xCD9E_8D57;
            counter = [
                (p1 >> 32) as u32 ^ counter[1] ^ key[0],
                p1 as u32,
                (p0 >> 32) as u32 ^ counter[3] ^ key[1],
                p0 as u32,
            ];
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        counter
    }

    /// Four numbers uniform in (0, 1), exact in f32.
    pub fn uniforms(&self, block: u32) -> [f32; 4] {
        self.words(block).map(|word| ((word >> 9) as f32 + 0.5) / 8_388_608.0)
    }

    /// The uniform number of one element.
    pub fn uniform(&self, element: u32) -> f32 {
        self.uniforms(element / 4)[element as usize % 4]
    }

    /// Four standard normals by the Box-Muller transform.
    pub fn normals(&self, block: u32) -> [f32; 4] {
        let [u0, u1, u2, u3] = self.uniforms(block);
        let pair = |u: f32, v: f32| {
            let radius = (-2.0 * f64::from(u).ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * (f64::from(v) - 0.5)).sin_cos();
            ((radius * cos) as f32, (radius * sin) as f32)
        };
        let ((a, b), (c, d)) = (pair(u0, u1), pair(u2, u3));
        [a, b, c, d]
    }
}

/// Fills `row` with the normals of one sample.
pub(super) fn fill_normals(stream: Stream, row: &mut [f32]) {
    for (block, chunk) in row.chunks_mut(4).enumerate() {
        chunk.copy_from_slice(&stream.normals(block as u32)[..chunk.len()]);
    }
}

/// The first `length` standard normals of a stream.
pub fn normals(stream: Stream, length: usize) -> Vec<f32> {
    let mut row = vec![0.0; length];
    fill_normals(stream, &mut row);
    row
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
    let stream = graph.random_stream();
    graph.apply_one(Normals { shape: shape.into(), stream }, &[key_step_sample])
}

#[derive(Debug)]
struct Integers {
    shape: Vec<usize>,
    stream: u32,
}

#[derive(Debug)]
struct Normals {
    shape: Vec<usize>,
    stream: u32,
}

/// The type of the generator's key buffer, as the shape rules of random ops expect it.
pub(super) fn expect_key(ty: &TensorType) -> Result<(), String> {
    expect(ty.shape == [4] && ty.dtype == DType::U32, || "key_step_sample must be four u32".to_owned())
}

/// Elements of one sample of a batch.
pub(super) fn elements_per_sample(ty: &TensorType) -> usize {
    ty.shape[1..].iter().product()
}

fn grid_and_params(ty: &TensorType, stream: u32) -> (Grid, Vec<(&'static str, Word)>) {
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
pub(super) const EXTREME_STREAM: u32 = 9;

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("ragged", Integers { shape: vec![3, 7, 5], stream: 9 }, vec![key_fill()]),
        Case::new("image", Integers { shape: vec![4, 32, 32, 3], stream: 1 }, vec![key_fill()]),
        Case::new("ragged", Normals { shape: vec![3, 7, 5], stream: 9 }, vec![key_fill()]),
        Case::new("image", Normals { shape: vec![4, 32, 32, 3], stream: 1 }, vec![key_fill()]),
    ];
    for (name, key) in extremes() {
        cases.push(Case::new(name, Normals { shape: vec![1, 2], stream: EXTREME_STREAM }, vec![key]));
    }
    cases
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Known answers of Random123 (kat_vectors, philox4x32 10).
    #[test]
    fn philox_gives_the_published_words() {
        let stream = |seed, step, stream, sample| Stream { seed, step, stream, sample };
        assert_eq!(stream(0, 0, 0, 0).words(0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            stream(u64::MAX, u32::MAX, u32::MAX, u32::MAX).words(u32::MAX),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            stream(0x299f_31d0_a409_3822, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344).words(0x243f_6a88),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn extreme_cases_begin_with_the_largest_and_the_smallest_uniform() {
        let first = extremes().map(|(_, key)| {
            let Fill::Integers { data, .. } = key else { return f32::NAN };
            Stream::of_sample(&data, EXTREME_STREAM, 0).uniform(0)
        });
        assert_eq!(first, [1.0 - 0.5f32.powi(24), 0.5f32.powi(24)]);
    }

    #[test]
    fn normals_have_the_moments_and_tails_of_the_normal_distribution() {
        let length = 1 << 20;
        let z = normals(Stream { seed: 3, step: 1, stream: 2, sample: 0 }, length);
        let mean_of =
            |f: &dyn Fn(f64) -> f64| z.iter().map(|&z| f(f64::from(z))).sum::<f64>() / length as f64;
        // Bounds of five standard errors: Var[z^2] = 2, Var[z^3] = 15, Var[z^4] = 96.
        let bound = |variance: f64| 5.0 * (variance / length as f64).sqrt();
        assert!(mean_of(&|z| z).abs() < bound(1.0));
        assert!((mean_of(&|z| z * z) - 1.0).abs() < bound(2.0));
        assert!(mean_of(&|z| z * z * z).abs() < bound(15.0));
        assert!((mean_of(&|z| z.powi(4)) - 3.0).abs() < bound(96.0));
        let beyond_two = mean_of(&|z| if z.abs() > 2.0 { 1.0 } else { 0.0 });
        assert!((beyond_two - 0.045_500_26).abs() < bound(0.0455));
        // Neighbouring elements, which share a Box-Muller pair, and neighbouring blocks are uncorrelated.
        for lag in [1, 2, 3, 4] {
            let correlation =
                z.windows(lag + 1).map(|w| f64::from(w[0] * w[lag])).sum::<f64>() / length as f64;
            assert!(correlation.abs() < bound(1.0), "lag {lag}: {correlation}");
        }
    }
}
