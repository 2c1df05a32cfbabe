//! One step of the reverse process, for samplers that are linear in x_t, the network's output and noise.

use super::cpu::{par_chunks, par_rows};
use super::philox::{Stream, elements_per_sample, expect_key, fill_normals, key_fill};
use super::{Case, Fill, Grid, Op, Operands, Types, Variant, Word, expect_shape};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// The factors of one step; see `kernels/reverse_step.wgsl` for the formula.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coefficients {
    /// Factors of x_t and of the network's output in the estimate of x_0.
    pub x_0: [f64; 2],
    /// The estimate is clamped to `-limit..=limit`; infinite for no clamp.
    pub limit: f64,
    /// Factors of x_0, x_t and the network's output in x_{t-1}.
    pub x_prev: [f64; 3],
    /// Standard deviation of the noise that is added.
    pub sigma: f64,
}

impl Coefficients {
    /// Contents of the `coefficients` input `[7]`.
    pub fn to_array(&self) -> [f32; 7] {
        // WGSL has no infinity that drivers must keep; the largest float clamps nothing that is finite.
        let limit = self.limit.min(f64::from(f32::MAX));
        let [a, b] = self.x_0;
        let [c, d, e] = self.x_prev;
        [a, b, limit, c, d, e, self.sigma].map(|value| value as f32)
    }
}

/// Rewrites `x` `[N, H, W, C]` from x_t to x_{t-1}, with noise drawn on the device.
///
/// `coefficients` is `[7]`, see [`Coefficients::to_array`]; `key_step_sample` is the generator's key.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn reverse_step(
    graph: &mut Graph,
    x: ValueId,
    output: ValueId,
    coefficients: ValueId,
    key_step_sample: ValueId,
) -> Result<(), GraphError> {
    let stream = graph.random_stream();
    graph.update(Forward { stream }, &[output, coefficients, key_step_sample], &[x])
}

/// As [`reverse_step`], with the noise given `[N, H, W, C]`: for comparing with other implementations.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn reverse_step_injected(
    graph: &mut Graph,
    x: ValueId,
    output: ValueId,
    coefficients: ValueId,
    noise: ValueId,
) -> Result<(), GraphError> {
    graph.update(ForwardInjected, &[output, coefficients, noise], &[x])
}

#[derive(Debug)]
struct Forward {
    stream: u32,
}

#[derive(Debug)]
struct ForwardInjected;

/// `x_{t-1}` in the arithmetic of the kernel.
fn reverse(k: &[f32], x_t: f32, output: f32, z: f32) -> f32 {
    let x_0 = (k[0] * x_t + k[1] * output).clamp(-k[2], k[2]);
    k[3] * x_0 + k[4] * x_t + k[5] * output + k[6] * z
}

/// `x_{t-1}` in f64.
fn reverse_f64(k: &[f32], x_t: f32, output: f32, z: f32) -> f32 {
    let k: Vec<f64> = k.iter().map(|&k| f64::from(k)).collect();
    let (x_t, output, z) = (f64::from(x_t), f64::from(output), f64::from(z));
    let x_0 = (k[0] * x_t + k[1] * output).clamp(-k[2], k[2]);
    (k[3] * x_0 + k[4] * x_t + k[5] * output + k[6] * z) as f32
}

fn params(ty: &TensorType, stream: u32) -> Vec<(&'static str, Word)> {
    let elements = elements_per_sample(ty);
    vec![
        ("samples", ty.shape[0].into()),
        ("elements", elements.into()),
        ("blocks", elements.div_ceil(4).into()),
        ("stream", stream.into()),
    ]
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "reverse_step.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["output", "coefficients", "key_step_sample"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["x"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_shape("coefficients", inputs[1], &[7])?;
        expect_key(inputs[2])?;
        Ok(vec![inputs[0].clone()])
    }
    fn updates_in_place(&self) -> bool {
        true
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let ty = &types.inputs[0];
        let grid = Grid::Invocations(ty.shape[0] * elements_per_sample(ty).div_ceil(4));
        vec![Variant::single("forward", grid, params(ty, self.stream))]
    }
    fn tolerance(&self) -> f32 {
        3e-6
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([output, coefficients, key], [x]) = operands.split();
        let elements = elements_per_sample(x.ty);
        let mut z = vec![0.0; elements];
        for (n, row) in x.data.chunks_mut(elements).enumerate() {
            fill_normals(Stream::of_sample(key.u32(), self.stream, n), &mut z);
            for ((x, &output), &z) in row.iter_mut().zip(&output.data[n * elements..]).zip(&z) {
                *x = reverse_f64(coefficients.data, *x, output, z);
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([output, coefficients, key], [x]) = operands.split();
        let elements = elements_per_sample(x.ty);
        let k = coefficients.data;
        par_rows(x.data, elements, |first, rows| {
            for (row, x) in rows.chunks_mut(elements).enumerate() {
                let n = first + row;
                let stream = Stream::of_sample(key.u32(), self.stream, n);
                let output = &output.data[n * elements..][..elements];
                for (block, (x, output)) in x.chunks_mut(4).zip(output.chunks(4)).enumerate() {
                    let z = if k[6] == 0.0 { [0.0; 4] } else { stream.normals(block as u32) };
                    for ((x, &output), z) in x.iter_mut().zip(output).zip(z) {
                        *x = reverse(k, *x, output, z);
                    }
                }
            }
        });
    }
}

impl Op for ForwardInjected {
    fn name(&self) -> &'static str {
        "reverse_step.forward_injected"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["output", "coefficients", "noise"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["x"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_shape("coefficients", inputs[1], &[7])?;
        expect_shape("noise", inputs[2], &inputs[0].shape)?;
        Ok(vec![inputs[0].clone()])
    }
    fn updates_in_place(&self) -> bool {
        true
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let ty = &types.inputs[0];
        vec![Variant::single("forward_injected", Grid::Invocations(ty.len()), params(ty, 0))]
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([output, coefficients, noise], [x]) = operands.split();
        for ((x, &output), &z) in x.data.iter_mut().zip(output.data).zip(noise.data) {
            *x = reverse_f64(coefficients.data, *x, output, z);
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([output, coefficients, noise], [x]) = operands.split();
        par_chunks(x.data, |first, x| {
            for ((x, &output), &z) in x.iter_mut().zip(&output.data[first..]).zip(&noise.data[first..]) {
                *x = reverse(coefficients.data, *x, output, z);
            }
        });
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let posterior =
        Coefficients { x_0: [1.3, -0.8], limit: 1.0, x_prev: [0.4, 0.6, 0.0], sigma: 0.3 }.to_array();
    let sigma_one =
        Coefficients { x_0: [1.3, -0.8], limit: 1.0, x_prev: [0.4, 0.6, 0.0], sigma: 1.0 }.to_array();
    let ddim = Coefficients { x_0: [1.3, -0.8], limit: f64::INFINITY, x_prev: [0.4, 0.0, 0.7], sigma: 0.0 }
        .to_array();
    let mut cases = Vec::new();
    for (name, shape, k) in [
        ("ragged, clipped, with noise", [3, 5, 3, 3], posterior),
        ("ragged, noise as it is", [3, 5, 3, 3], sigma_one),
        ("ragged, deterministic", [3, 5, 3, 3], ddim),
        ("image, clipped, with noise", [4, 32, 32, 3], posterior),
    ] {
        let targets = vec![Fill::normal(shape)];
        let inputs = |last: Fill| vec![Fill::offset(shape), Fill::floats(k), last];
        let forward = Case::new(name, Forward { stream: 5 }, inputs(key_fill()));
        let injected = Case::new(name, ForwardInjected, inputs(Fill::normal(shape)));
        cases.push(Case { targets: targets.clone(), ..forward });
        cases.push(Case { targets, ..injected });
    }
    cases
}
