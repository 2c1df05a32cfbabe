//! Sizes that a sampler chooses its next step by, image by image.

use super::philox::{elements_per_sample, expect_key, key_fill};
use super::reverse_step::{Factors, MAX_SLOTS, Noise, StepInputs};
use super::{Case, Fill, Grid, Op, Operands, Types, Variant, expect_shape};
use crate::graph::{Graph, GraphError, TensorType, ValueId};
use crate::random::{Stream, StreamId, fill_normals};

/// Numbers of a sample's measures before the combinations: see `kernels/step_norms.wgsl`.
const HEADER: usize = 5;

/// Length of the `measures` of one sample, for a history of `slots` values.
pub const fn measures_length(slots: usize) -> usize {
    HEADER + 2 * (3 + slots)
}

/// What is measured of one image, in numbers: the root of the mean over its elements of
/// `(value / (absolute + relative max(|x|, |beside|)))^2`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeasureRow {
    /// Factors of x and of the network's output in the estimate of x_0, before it is clamped.
    pub x_0: [f64; 2],
    /// What is measured.
    pub value: Factors,
    /// What is compared with x.
    pub beside: Factors,
    /// The absolute tolerance.
    pub absolute: f64,
    /// The relative tolerance.
    pub relative: f64,
    /// Whether the noise of the next update with noise is measured, too.
    pub noise: bool,
}

impl MeasureRow {
    /// One row of the `measures` that [`step_norms`] reads, for a history of `slots` values.
    pub fn to_vec(&self, slots: usize) -> Vec<f32> {
        let [of_x, of_output] = self.x_0;
        let noise = f64::from(u8::from(self.noise));
        let mut numbers = vec![of_x, of_output, self.absolute, self.relative, noise];
        for row in [&self.value, &self.beside] {
            numbers.extend(&row[..3 + slots]);
        }
        numbers.into_iter().map(|number| number as f32).collect()
    }
}

/// The size of what is measured and of the noise that the next update draws, `[N, 2]`.
///
/// `x` is `[N, H, W, C]`, `history` `[slots, N, H, W, C]`, and `measures` holds [`MeasureRow::to_vec`] of each image. The
/// coefficients of `inputs` are not read.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn step_norms(
    graph: &mut Graph,
    [x, history, measures]: [ValueId; 3],
    inputs: StepInputs,
    noise: Noise,
) -> Result<ValueId, GraphError> {
    let StepInputs { output, limits, .. } = inputs;
    let op = Forward { stream: noise.stream };
    graph.apply_one(op, &[output, measures, limits, noise.key_step_sample, x, history])
}

#[derive(Debug)]
struct Forward {
    stream: StreamId,
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "step_norms.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["output", "measures", "limits", "key_step_sample", "x", "history"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["norms"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let (x, slots) = (inputs[4], inputs[5].shape[0]);
        let samples = x.shape[0];
        expect_shape("history", inputs[5], &[&[slots], x.shape.as_slice()].concat())?;
        expect_shape("measures", inputs[1], &[samples, measures_length(slots)])?;
        expect_shape("limits", inputs[2], &[samples, 2])?;
        expect_key(inputs[3])?;
        Ok(vec![TensorType::f32([samples, 2])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let (x, history) = (&types.inputs[4], &types.inputs[5]);
        let elements = elements_per_sample(x);
        let params = vec![
            ("samples", x.shape[0].into()),
            ("elements", elements.into()),
            ("blocks", elements.div_ceil(4).into()),
            ("stream", self.stream.into()),
            ("slots", history.shape[0].into()),
            ("channels", x.channels().into()),
            ("output_channels", types.inputs[0].channels().into()),
        ];
        vec![Variant::single("forward", Grid::Workgroups(x.shape[0]), params)]
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([output, measures, limits, key, x, history], [norms]) = operands.split();
        let (elements, slots, channels) = (elements_per_sample(x.ty), history.ty.shape[0], x.ty.channels());
        let length = measures_length(slots);
        let mut z = vec![0.0; elements];
        for n in 0..x.ty.shape[0] {
            let k: Vec<f64> = measures.data[n * length..][..length].iter().map(|&k| f64::from(k)).collect();
            let (limit, factor) = (f64::from(limits.data[2 * n]), f64::from(limits.data[2 * n + 1]));
            let mut square = 0.0;
            for at in n * elements..(n + 1) * elements {
                let of_output = at / channels * output.ty.channels() + at % channels;
                let (x_t, out) = (f64::from(x.data[at]), f64::from(output.data[of_output]));
                let mut now = vec![(k[0] * x_t + k[1] * out).clamp(-limit, limit) * factor, x_t, out];
                now.extend((0..slots).map(|slot| f64::from(history.data[slot * x.data.len() + at])));
                let dot = |factors: &[f64]| -> f64 { factors.iter().zip(&now).map(|(f, v)| f * v).sum() };
                let (value, beside) = (dot(&k[HEADER..HEADER + 3 + slots]), dot(&k[HEADER + 3 + slots..]));
                square += (value / (k[2] + k[3] * x_t.abs().max(beside.abs()))).powi(2);
            }
            norms.data[2 * n] = (square / elements as f64).sqrt() as f32;
            norms.data[2 * n + 1] = 0.0;
            if k[4] != 0.0 {
                fill_normals(Stream::of_sample(key.u32(), self.stream, n), &mut z);
                let square: f64 = z.iter().map(|&z| f64::from(z).powi(2)).sum();
                norms.data[2 * n + 1] = (square / elements as f64).sqrt() as f32;
            }
        }
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    // Factors of x_0, x and the output, and of the first two values of the history.
    let factors = |first: [f64; 5]| {
        let mut factors = [0.0; 3 + MAX_SLOTS];
        factors[..5].copy_from_slice(&first);
        factors
    };
    let error = MeasureRow {
        x_0: [1.3, -0.8],
        value: factors([0.1, 0.0, 0.3, 0.0, -0.2]),
        beside: factors([0.0, 0.0, 0.0, 1.0, 0.0]),
        absolute: 0.1,
        relative: 0.2,
        noise: false,
    };
    let score = MeasureRow {
        value: factors([0.0, 0.5, -0.7, 0.0, 0.0]),
        beside: factors([0.0, 1.0, 0.0, 0.0, 0.0]),
        absolute: 1.0,
        relative: 0.0,
        noise: true,
        ..error
    };
    let mut cases = Vec::new();
    for (name, shape, slots, outputs) in [
        ("ragged", [3, 5, 3, 3], 2, 1),
        ("learned variance, less than a workgroup", [3, 2, 3, 1], 2, 2),
        ("learned variance", [3, 5, 3, 3], 2, 2),
        ("image", [4, 32, 32, 3], 7, 1),
    ] {
        let [samples, height, width, channels] = shape;
        let measures = (0..samples).flat_map(|n| [&error, &score][n % 2].to_vec(slots)).collect();
        let limits = (0..samples).flat_map(|n| [[1.0, 1.0], [2.0, 0.5], [f32::MAX, 1.0]][n % 3]).collect();
        let inputs = vec![
            Fill::normal([samples, height, width, outputs * channels]),
            Fill::Floats { shape: vec![samples, measures_length(slots)], data: measures },
            Fill::Floats { shape: vec![samples, 2], data: limits },
            key_fill(),
            Fill::normal(shape),
            Fill::normal([&[slots], &shape[..]].concat()),
        ];
        cases.push(Case::new(name, Forward { stream: StreamId::of_word(5) }, inputs));
    }
    cases
}
