//! One step of the reverse process, for samplers whose next x is a linear combination of known values.

use super::philox::{EXTREME_STREAM, NORMAL_ERROR, elements_per_sample, expect_key, extremes, key_fill};
use super::{Case, Fill, Grid, Input, Op, Operands, Output, Types, Variant, expect, expect_shape};
use crate::graph::{Graph, GraphError, TensorType, ValueId};
use crate::random::{Stream, StreamId, fill_normals};

/// Most values that a sampler can keep from step to step.
pub const MAX_SLOTS: usize = 8;

/// Numbers of a sample's coefficients before the rows: see `kernels/reverse_step.wgsl`.
const HEADER: usize = 5;

/// Length of the `coefficients` of one sample, for a history of `slots` values.
pub const fn coefficients_length(slots: usize) -> usize {
    HEADER + (1 + slots) * (4 + slots)
}

/// The factors of x_0, x and the network's output in a value, and those of the values of the history.
pub type Factors = [f64; 3 + MAX_SLOTS];

/// What a step does with one image, in numbers; all that it reads is as it was before.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRow {
    /// Factors of x and of the network's output in the estimate of x_0, before it is clamped.
    pub x_0: [f64; 2],
    /// Standard deviation of the noise that is added to x.
    pub sigma: f64,
    /// With learned variance: v in -1..1, the second half of the network's output, changes the standard deviation to
    /// `sigma * exp(log_range * v)`; 0 elsewhere.
    pub log_range: f64,
    /// The next x, without its noise.
    pub x: Factors,
    /// The values of the history that change, by slot.
    pub history: Vec<(usize, Factors)>,
}

impl StepRow {
    /// One row of the `coefficients` that [`reverse_step`] reads, for a history of `slots` values.
    pub fn to_vec(&self, slots: usize) -> Vec<f32> {
        let mut numbers = vec![0.0; coefficients_length(slots)];
        let rows =
            || std::iter::once((0, &self.x)).chain(self.history.iter().map(|(slot, row)| (1 + slot, row)));
        let is_read = |slot: &usize| rows().any(|(_, row)| row[3 + slot] != 0.0);
        let reads: u32 = (0..slots).filter(is_read).map(|slot| 1 << slot).sum();
        let [of_x, of_output] = self.x_0;
        numbers[..HEADER].copy_from_slice(&[of_x, of_output, self.sigma, self.log_range, f64::from(reads)]);
        for (index, row) in rows() {
            let row_of = &mut numbers[HEADER + index * (4 + slots)..][..4 + slots];
            row_of[0] = 1.0;
            row_of[1..].copy_from_slice(&row[..3 + slots]);
        }
        numbers.into_iter().map(|number| number as f32).collect()
    }
}

/// What a step reads beside x.
#[derive(Clone, Copy, Debug)]
pub struct StepInputs {
    /// The network's output `[N, H, W, C]`, or `[N, H, W, 2 C]` with learned variance.
    pub output: ValueId,
    /// [`StepRow::to_vec`] of each sample, `[N, L]`.
    pub coefficients: ValueId,
    /// For each sample the largest absolute value of x_0 before it is multiplied by a factor, and the factor: `[N, 2]`.
    pub limits: ValueId,
}

/// Where noise comes from.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    /// The generator's key: `(seed low, seed high, step, number of the first sample)`.
    pub key_step_sample: ValueId,
    /// The generator's stream, [`Graph::random_stream`].
    pub stream: StreamId,
}

/// Rewrites `x` `[N, H, W, C]` from x_t to x_{t-1}, and the values `history` `[slots, N, H, W, C]`, with noise drawn on the
/// device.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn reverse_step(
    graph: &mut Graph,
    x: ValueId,
    history: ValueId,
    inputs: StepInputs,
    noise: Noise,
) -> Result<(), GraphError> {
    let form = Form::new(graph, x, history);
    let op = Forward { stream: noise.stream, form };
    let StepInputs { output, coefficients, limits } = inputs;
    graph.update(op, &[output, coefficients, limits, noise.key_step_sample], &[x, history])
}

/// As [`reverse_step`], with the noise given `[N, H, W, C]`: for comparing with other implementations.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn reverse_step_injected(
    graph: &mut Graph,
    x: ValueId,
    history: ValueId,
    inputs: StepInputs,
    noise: ValueId,
) -> Result<(), GraphError> {
    let form = Form::new(graph, x, history);
    let StepInputs { output, coefficients, limits } = inputs;
    graph.update(ForwardInjected { form }, &[output, coefficients, limits, noise], &[x, history])
}

#[derive(Debug)]
struct Forward {
    stream: StreamId,
    form: Form,
}

#[derive(Debug)]
struct ForwardInjected {
    form: Form,
}

/// What the targets say and the inputs do not: the channels of x, and how long the history is.
#[derive(Clone, Copy, Debug)]
struct Form {
    channels: usize,
    slots: usize,
}

impl Form {
    fn new(graph: &Graph, x: ValueId, history: ValueId) -> Self {
        Self { channels: graph.ty(x).channels(), slots: graph.ty(history).shape[0] }
    }

    /// The shape rule: types of x and of the values of the history.
    fn output_types(self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let Self { channels, slots } = self;
        let output = inputs[0];
        expect((1..=MAX_SLOTS).contains(&slots), || format!("from 1 to {MAX_SLOTS} values can be stored"))?;
        expect([channels, 2 * channels].contains(&output.channels()), || {
            format!("output must have {channels} channels, or {} with learned variance", 2 * channels)
        })?;
        let samples = output.shape[0];
        expect_shape("coefficients", inputs[1], &[samples, coefficients_length(slots)])?;
        expect_shape("limits", inputs[2], &[samples, 2])?;
        let mut shape = output.shape.clone();
        shape.pop();
        shape.push(channels);
        let x = TensorType::f32(shape);
        let history = TensorType::f32([&[slots], x.shape.as_slice()].concat());
        Ok(vec![x, history])
    }

    fn variant(self, entry: &'static str, grid: Grid, types: Types<'_>, stream: StreamId) -> Variant {
        let x = &types.outputs[0];
        let elements = elements_per_sample(x);
        let params = vec![
            ("samples", x.shape[0].into()),
            ("elements", elements.into()),
            ("blocks", elements.div_ceil(4).into()),
            ("stream", stream.into()),
            ("slots", self.slots.into()),
            ("channels", self.channels.into()),
            ("output_channels", types.inputs[0].channels().into()),
        ];
        Variant::single(entry, grid, params)
    }

    /// Rewrites x and the values of the history; `noise(n, z)` fills `z` with the noise of sample `n`.
    fn run(
        self,
        [output, coefficients, limits]: [Input<'_>; 3],
        x: Output<'_>,
        history: Output<'_>,
        noise: impl Fn(usize, &mut [f32]),
    ) {
        let Self { channels, slots } = self;
        let (elements, stride) = (elements_per_sample(x.ty), x.data.len());
        let length = coefficients_length(slots);
        let mut z = vec![0.0; elements];
        for n in 0..x.ty.shape[0] {
            let k: Vec<f64> =
                coefficients.data[n * length..][..length].iter().map(|&k| f64::from(k)).collect();
            let (limit, factor) = (f64::from(limits.data[2 * n]), f64::from(limits.data[2 * n + 1]));
            let (sigma, range) = (k[2], k[3]);
            if sigma != 0.0 {
                noise(n, &mut z);
            }
            for (element, &z) in z.iter().enumerate() {
                let at = n * elements + element;
                let of_output = at / channels * output.ty.channels() + at % channels;
                let (x_t, out) = (f64::from(x.data[at]), f64::from(output.data[of_output]));
                let x_0 = (k[0] * x_t + k[1] * out).clamp(-limit, limit) * factor;
                let mut now = vec![x_0, x_t, out];
                now.extend((0..slots).map(|slot| f64::from(history.data[slot * stride + at])));
                for (row, r) in k[HEADER..].chunks(4 + slots).enumerate().filter(|(_, r)| r[0] != 0.0) {
                    let value: f64 = r[1..].iter().zip(&now).map(|(factor, value)| factor * value).sum();
                    if row > 0 {
                        history.data[(row - 1) * stride + at] = value as f32;
                    } else if sigma == 0.0 {
                        x.data[at] = value as f32;
                    } else {
                        let v = if range == 0.0 { 0.0 } else { f64::from(output.data[of_output + channels]) };
                        x.data[at] = (value + sigma * (range * v).exp() * f64::from(z)) as f32;
                    }
                }
            }
        }
    }
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "reverse_step.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["output", "coefficients", "limits", "key_step_sample"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["x", "history"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_key(inputs[3])?;
        self.form.output_types(inputs)
    }
    fn updates_in_place(&self) -> bool {
        true
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let x = &types.outputs[0];
        let grid = Grid::Invocations(x.shape[0] * elements_per_sample(x).div_ceil(4));
        vec![self.form.variant("forward", grid, types, self.stream)]
    }
    fn tolerance(&self) -> f32 {
        // What the noise is multiplied by has an exponential, which WGSL allows 3 + 2 |x| units in the last place.
        3.0 * NORMAL_ERROR
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([output, coefficients, limits, key], [x, history]) = operands.split();
        let noise = |n: usize, z: &mut [f32]| fill_normals(Stream::of_sample(key.u32(), self.stream, n), z);
        self.form.run([output, coefficients, limits], x, history, noise);
    }
}

impl Op for ForwardInjected {
    fn name(&self) -> &'static str {
        "reverse_step.forward_injected"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["output", "coefficients", "limits", "noise"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["x", "history"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let types = self.form.output_types(inputs)?;
        expect_shape("noise", inputs[3], &types[0].shape)?;
        Ok(types)
    }
    fn updates_in_place(&self) -> bool {
        true
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        // The stream is not read.
        let stream = StreamId::of_word(0);
        vec![self.form.variant("forward_injected", Grid::Invocations(types.outputs[0].len()), types, stream)]
    }
    fn tolerance(&self) -> f32 {
        3e-6
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([output, coefficients, limits, noise], [x, history]) = operands.split();
        let noise = |n: usize, z: &mut [f32]| z.copy_from_slice(&noise.data[n * z.len()..][..z.len()]);
        self.form.run([output, coefficients, limits], x, history, noise);
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    // Factors of x_0, x and the output, and of some values of the history.
    let factors = |now: [f64; 3], history: &[(usize, f64)]| {
        let mut factors = [0.0; 3 + MAX_SLOTS];
        factors[..3].copy_from_slice(&now);
        history.iter().for_each(|&(slot, factor)| factors[3 + slot] = factor);
        factors
    };
    let step = |x: Factors, history: Vec<(usize, Factors)>| StepRow {
        x_0: [1.3, -0.8],
        sigma: 0.0,
        log_range: 0.0,
        x,
        history,
    };
    let ddpm = StepRow { sigma: 0.3, ..step(factors([0.4, 0.6, 0.0], &[]), vec![]) };
    let unscaled = StepRow { sigma: 1.0, ..ddpm.clone() };
    let ddim = step(factors([0.4, 0.0, 0.7], &[]), vec![]);
    let learned = StepRow { log_range: 0.4, ..ddpm.clone() };
    // The values of the history change places, and one of them stays.
    let stored =
        vec![(0, factors([-0.5, 0.0, 0.0], &[(2, 1.0)])), (2, factors([0.0, 0.2, -0.1], &[(0, 1.0)]))];
    let multistep = step(factors([0.4, 0.3, 0.0], &[(0, -0.6), (2, 0.2)]), stored);
    let multistep = StepRow { sigma: 0.3, ..multistep };
    let stored = vec![(7, factors([0.0; 3], &[(6, 1.0)])), (6, factors([0.0, 0.0, 1.0], &[]))];
    let last = step(factors([0.0, 0.4, 0.0], &[(7, -0.7)]), stored);
    let ragged = [3, 5, 3, 3];
    let image = [4, 32, 32, 3];
    let mut cases = Vec::new();
    for (name, shape, slots, outputs, updates) in [
        ("ragged, with noise", ragged, 1, 1, [&ddpm, &ddpm]),
        ("ragged, noise as it is", ragged, 1, 1, [&unscaled, &unscaled]),
        ("ragged, deterministic", ragged, 1, 1, [&ddim, &ddim]),
        ("ragged, a step of its own for each sample", ragged, 3, 1, [&multistep, &ddim]),
        ("ragged, learned variance", ragged, 3, 2, [&learned, &multistep]),
        ("most slots", ragged, MAX_SLOTS, 1, [&last, &last]),
        ("image, with noise", image, 1, 1, [&ddpm, &ddpm]),
        ("image, multistep", image, 3, 1, [&multistep, &multistep]),
    ] {
        let [samples, height, width, channels] = shape;
        let form = Form { channels, slots };
        let coefficients = (0..samples).flat_map(|n| updates[n % 2].to_vec(slots)).collect();
        let limits = (0..samples).flat_map(|n| [[1.0, 1.0], [60.0, 0.5], [f32::MAX, 1.0]][n % 3]).collect();
        let inputs = |last: Fill| {
            vec![
                Fill::normal([samples, height, width, outputs * channels]),
                Fill::Floats { shape: vec![samples, coefficients_length(slots)], data: coefficients },
                Fill::Floats { shape: vec![samples, 2], data: limits },
                last,
            ]
        };
        let targets = vec![Fill::offset(shape), Fill::normal([&[slots], &shape[..]].concat())];
        let forward =
            Case::new(name, Forward { stream: StreamId::of_word(5), form }, inputs.clone()(key_fill()));
        let injected = Case::new(name, ForwardInjected { form }, inputs(Fill::normal(shape)));
        cases.push(Case { targets: targets.clone(), ..forward });
        cases.push(Case { targets, ..injected });
    }
    for (name, key) in extremes() {
        let only_noise = StepRow { x_0: [0.0; 2], sigma: 1.0, ..step(factors([0.0; 3], &[]), vec![]) };
        let inputs = vec![
            Fill::normal([1, 1, 2, 1]),
            Fill::Floats { shape: vec![1, coefficients_length(1)], data: only_noise.to_vec(1) },
            Fill::Floats { shape: vec![1, 2], data: vec![1.0, 1.0] },
            key,
        ];
        let op = Forward { stream: EXTREME_STREAM, form: Form { channels: 1, slots: 1 } };
        let targets = vec![Fill::normal([1, 1, 2, 1]), Fill::normal([1, 1, 1, 2, 1])];
        cases.push(Case { targets, ..Case::new(name, op, inputs) });
    }
    cases
}
