//! The forward process of diffusion, with the noise drawn on the device.

use super::cpu::par_rows;
use super::philox::{EXTREME_STREAM, NORMAL_ERROR, elements_per_sample, expect_key, extremes, key_fill};
use super::{Case, Fill, Grid, Op, Operands, Types, Variant, expect_shape};
use crate::graph::{Graph, GraphError, TensorType, ValueId};
use crate::random::{Purpose, Stream, StreamId, fill_normals};

/// Noised images and what the network is to predict, both of the shape of `x_start` `[N, H, W, C]`.
///
/// Row n of `coefficients` `[N, 4]` holds the factors of x_start and eps in x_t, then those in the target
/// (Ho et al. 2020, equation 4). `key_step_sample` is the generator's key, see [`Stream::key_step_sample`].
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn q_sample(
    graph: &mut Graph,
    x_start: ValueId,
    coefficients: ValueId,
    key_step_sample: ValueId,
) -> Result<(ValueId, ValueId), GraphError> {
    let stream = graph.random_stream(Purpose::QSample);
    let outputs = graph.apply(Forward { stream }, &[x_start, coefficients, key_step_sample])?;
    Ok((outputs[0], outputs[1]))
}

#[derive(Debug)]
struct Forward {
    stream: StreamId,
}

impl Forward {
    /// Calls `row(n, elements, x_t of sample n, target of sample n)` with the sample's noise in x_t.
    fn mix(operands: Operands<'_>, stream: StreamId, mix: impl Fn([f32; 4], f32, f32) -> (f32, f32)) {
        let ([x_start, coefficients, key], [x_t, target]) = operands.split();
        let elements = elements_per_sample(x_t.ty);
        for (n, (x_t, target)) in
            x_t.data.chunks_mut(elements).zip(target.data.chunks_mut(elements)).enumerate()
        {
            let k = std::array::from_fn(|i| coefficients.data[4 * n + i]);
            fill_normals(Stream::of_sample(key.u32(), stream, n), x_t);
            for ((x_t, target), &x) in x_t.iter_mut().zip(target).zip(&x_start.data[n * elements..]) {
                (*x_t, *target) = mix(k, x, *x_t);
            }
        }
    }
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "q_sample.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x_start", "coefficients", "key_step_sample"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["x_t", "prediction_target"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let samples = inputs[0].shape.first().copied().unwrap_or(0);
        expect_shape("coefficients", inputs[1], &[samples, 4])?;
        expect_key(inputs[2])?;
        Ok(vec![inputs[0].clone(), inputs[0].clone()])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let (samples, elements) = (types.inputs[0].shape[0], elements_per_sample(&types.inputs[0]));
        let blocks = elements.div_ceil(4);
        let params = vec![
            ("samples", samples.into()),
            ("elements", elements.into()),
            ("blocks", blocks.into()),
            ("stream", self.stream.into()),
        ];
        vec![Variant::single("forward", Grid::Invocations(samples * blocks), params)]
    }
    fn tolerance(&self) -> f32 {
        // Where the noise and the image have opposite signs, the largest sum is smaller than the largest noise.
        3.0 * NORMAL_ERROR
    }
    fn reference(&self, operands: Operands<'_>) {
        Self::mix(operands, self.stream, |k, x, eps| {
            let k = k.map(f64::from);
            let (x, eps) = (f64::from(x), f64::from(eps));
            ((k[0] * x + k[1] * eps) as f32, (k[2] * x + k[3] * eps) as f32)
        });
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x_start, coefficients, key], [x_t, target]) = operands.split();
        let elements = elements_per_sample(x_t.ty);
        // The noise is drawn twice rather than passed between threads: it is a small part of a step.
        let draw = |out: &mut [f32], [of_x, of_eps]: [usize; 2]| {
            par_rows(out, elements, |first, rows| {
                for (row, out) in rows.chunks_mut(elements).enumerate() {
                    let n = first + row;
                    let k = &coefficients.data[4 * n..][..4];
                    fill_normals(Stream::of_sample(key.u32(), self.stream, n), out);
                    for (out, x) in out.iter_mut().zip(&x_start.data[n * elements..]) {
                        *out = k[of_x] * x + k[of_eps] * *out;
                    }
                }
            });
        };
        draw(x_t.data, [0, 1]);
        draw(target.data, [2, 3]);
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let inputs = |shape: [usize; 4]| {
        let coefficients = Fill::Uniform { shape: vec![shape[0], 4], low: -1.0, high: 1.0 };
        vec![Fill::normal(shape), coefficients, key_fill()]
    };
    let mut cases = vec![
        Case::new("ragged", Forward { stream: StreamId::of_word(3) }, inputs([3, 5, 3, 3])),
        Case::new("image", Forward { stream: StreamId::of_word(4) }, inputs([4, 32, 32, 3])),
    ];
    for (name, key) in extremes() {
        let only_noise = Fill::Floats { shape: vec![1, 4], data: vec![0.0, 1.0, 0.0, 1.0] };
        let inputs = vec![Fill::normal([1, 1, 2, 1]), only_noise, key];
        cases.push(Case::new(name, Forward { stream: EXTREME_STREAM }, inputs));
    }
    cases
}
