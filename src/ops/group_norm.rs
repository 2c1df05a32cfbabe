//! Group normalisation, with SiLU fused behind it on request.

mod compute;

use super::silu::sigmoid_and_slope;
use super::{
    Case, Cost, Fill, GradientCall, Grid, Op, Operands, Pass, Requirements, Types, Variant, Word, expect,
    expect_like, expect_nhwc, expect_shape,
};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// Normalises the channels of `x` `[N, H, W, C]` in `groups` groups, scales by `weight` and adds `bias` (both `[C]`),
/// and applies SiLU if `silu`.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes, or if `groups` does not divide the channels.
pub fn group_norm(
    graph: &mut Graph,
    x: ValueId,
    weight: ValueId,
    bias: ValueId,
    groups: usize,
    eps: f32,
    silu: bool,
) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward(Settings { groups, eps, silu }), &[x, weight, bias])
}

/// Name and value of a WGSL `override`.
type Override = (&'static str, f64);

/// What all passes of a call agree on.
#[derive(Clone, Copy, Debug)]
struct Settings {
    groups: usize,
    eps: f32,
    silu: bool,
}

#[derive(Debug)]
struct Forward(Settings);

#[derive(Debug)]
struct Backward(Settings);

#[derive(Debug)]
struct BackwardWeight;

/// Channels of one workgroup of `backward_sums`; `CHANNELS` of the kernel.
const SUM_CHANNELS: usize = 16;

/// Quads of channels side by side in a workgroup of the `_vec4` kernels; `LANES` of the kernel.
const LANES: usize = 8;

/// The most pixels of an image for one row of lanes. Mesa's lavapipe ends a loop after 65,535 turns; this stays far
/// below.
const PIXELS_OF_A_ROW: usize = 128 * 128;

/// Sizes of a call.
#[derive(Clone, Copy)]
struct Sizes {
    samples: usize,
    pixels: usize,
    channels: usize,
    groups: usize,
    group_channels: usize,
}

impl Settings {
    fn sizes(self, x: &TensorType) -> Sizes {
        let [samples, h, w, channels] = super::dims(x);
        let group_channels = channels / self.groups;
        Sizes { samples, pixels: h * w, channels, groups: self.groups, group_channels }
    }

    fn pass(self, entry: &'static str, x: &TensorType, workgroups: usize, overrides: &[Override]) -> Pass {
        let sizes = self.sizes(x);
        let params = params(sizes.samples, sizes.pixels, sizes.channels, self);
        let overrides = [&[("SILU", f64::from(u8::from(self.silu)))], overrides].concat();
        Pass { overrides, ..Pass::new(entry, Grid::Workgroups(workgroups), params) }
    }

    /// The kernels that read four channels at a time. On drivers that run on the CPU a workgroup is one row of lanes,
    /// with hardly a barrier; on GPUs it has as many rows as fit. None where groups are no multiples of four channels.
    fn vec4_variants(self, x: &TensorType, entry: &'static str, names: [&'static str; 2]) -> Vec<Variant> {
        let sizes = self.sizes(x);
        if !sizes.group_channels.is_multiple_of(4) {
            return Vec::new();
        }
        let group_quads = sizes.group_channels / 4;
        let span = (LANES / group_quads).max(1) * group_quads;
        let workgroups = sizes.samples * (sizes.channels / 4).div_ceil(span);
        let turns = sizes.pixels * group_quads.div_ceil(LANES);
        let variant = |name, requires, overrides: &[Override]| Variant {
            name,
            requires,
            scratch: Vec::new(),
            passes: vec![self.pass(entry, x, workgroups, overrides)],
        };
        let eight_lanes = Requirements { subgroup_size: Some(LANES as u32), ..Requirements::default() };
        let row = variant(names[0], eight_lanes, &[("WORKGROUP", LANES as f64)]);
        let rows = variant(names[1], Requirements::default(), &[]);
        if turns <= PIXELS_OF_A_ROW { vec![row, rows] } else { vec![rows] }
    }

    /// Checks x, weight and bias, and gives the shape of the statistics.
    fn expect(self, x: &TensorType, weight: &TensorType, bias: &TensorType) -> Result<[usize; 2], String> {
        let [n, h, w, c] = expect_nhwc("x", x)?;
        let divides = self.groups > 0 && c % self.groups == 0 && h * w * c > 0;
        expect(divides, || format!("{c} channels do not fall into {} groups", self.groups))?;
        expect_shape("weight", weight, &[c])?;
        expect_shape("bias", bias, &[c])?;
        Ok([n, self.groups])
    }

    /// `d_z` in f64.
    fn d_z(self, d_y: f32, x_hat: f64, weight: f32, bias: f32) -> f64 {
        let slope = match self.silu {
            true => sigmoid_and_slope(x_hat * f64::from(weight) + f64::from(bias)).1,
            false => 1.0,
        };
        f64::from(d_y) * slope
    }
}

fn params(samples: usize, pixels: usize, channels: usize, settings: Settings) -> Vec<(&'static str, Word)> {
    vec![
        ("samples", samples.into()),
        ("pixels", pixels.into()),
        ("channels", channels.into()),
        ("groups", settings.groups.into()),
        ("eps", settings.eps.into()),
    ]
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "group_norm.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x", "weight", "bias"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y", "mean", "rstd"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let statistics = TensorType::f32(self.0.expect(inputs[0], inputs[1], inputs[2])?);
        Ok(vec![inputs[0].clone(), statistics.clone(), statistics])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let d_y = call.d_output(graph, self)?;
        let shared = [&call.inputs[..3], &call.outputs[1..], &[d_y]].concat();
        let outputs = graph.apply(Backward(self.0), &shared)?;
        let (d_x, sums) = (Some(outputs[0]), outputs[1]);
        let (d_weight, d_bias) = match call.needs[1] || call.needs[2] {
            true => {
                let outputs = graph.apply(BackwardWeight, &[sums])?;
                (Some(outputs[0]), Some(outputs[1]))
            }
            false => (None, None),
        };
        Ok(vec![d_x, d_weight, d_bias])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let x = &types.inputs[0];
        let mut variants = self.0.vec4_variants(x, "forward_vec4", ["forward_row", "forward_vec4"]);
        variants.push(Variant {
            name: "forward",
            requires: Requirements::default(),
            scratch: Vec::new(),
            passes: vec![self.0.pass("forward", x, x.shape[0] * self.0.groups, &[])],
        });
        variants
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        let length = types.inputs[0].len();
        Cost { bytes: 8 * length, flops: (6 + 4 * usize::from(self.0.silu)) * length }
    }
    fn tolerance(&self) -> f32 {
        5e-6
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x, weight, bias], [y, mean, rstd]) = operands.split();
        let s = self.0.sizes(x.ty);
        let count = (s.pixels * s.group_channels) as f64;
        for n in 0..s.samples {
            for g in 0..s.groups {
                let elements = || {
                    (0..s.pixels).flat_map(move |p| {
                        (0..s.group_channels)
                            .map(move |c| (n * s.pixels + p) * s.channels + g * s.group_channels + c)
                    })
                };
                let m = elements().map(|i| f64::from(x.data[i])).sum::<f64>() / count;
                let variance = elements().map(|i| (f64::from(x.data[i]) - m).powi(2)).sum::<f64>() / count;
                let r = 1.0 / (variance + f64::from(self.0.eps)).sqrt();
                mean.data[n * s.groups + g] = m as f32;
                rstd.data[n * s.groups + g] = r as f32;
                for i in elements() {
                    let c = i % s.channels;
                    let x_hat = (f64::from(x.data[i]) - m) * r;
                    let z = x_hat * f64::from(weight.data[c]) + f64::from(bias.data[c]);
                    y.data[i] = if self.0.silu { z * sigmoid_and_slope(z).0 } else { z } as f32;
                }
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        compute::forward(self.0, operands);
    }
}

impl Op for Backward {
    fn name(&self) -> &'static str {
        "group_norm.backward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x", "weight", "bias", "saved_mean", "saved_rstd", "d_y"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_x", "sums"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let statistics = self.0.expect(inputs[0], inputs[1], inputs[2])?;
        expect_shape("saved_mean", inputs[3], &statistics)?;
        expect_shape("saved_rstd", inputs[4], &statistics)?;
        expect_like("d_y", inputs[5], inputs[0])?;
        Ok(vec![inputs[0].clone(), TensorType::f32([statistics[0], 2, inputs[1].len()])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let x = &types.inputs[0];
        let mut variants = self.0.vec4_variants(x, "backward_vec4", ["backward_row", "backward_vec4"]);
        let blocks = x.shape[0] * x.channels().div_ceil(SUM_CHANNELS);
        variants.push(Variant {
            name: "backward",
            requires: Requirements::default(),
            scratch: Vec::new(),
            passes: vec![
                self.0.pass("backward_sums", x, blocks, &[]),
                self.0.pass("backward_input", x, x.shape[0] * self.0.groups, &[]),
            ],
        });
        variants
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        let length = types.inputs[0].len();
        Cost { bytes: 20 * length, flops: (12 + 18 * usize::from(self.0.silu)) * length }
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x, weight, bias, mean, rstd, d_y], [d_x, sums]) = operands.split();
        let s = self.0.sizes(x.ty);
        let count = (s.pixels * s.group_channels) as f64;
        for n in 0..s.samples {
            // x_hat and d_z of a pixel and channel.
            let at = |p: usize, c: usize| (n * s.pixels + p) * s.channels + c;
            let x_hat_and_d_z = |p: usize, c: usize| {
                let g = n * s.groups + c / s.group_channels;
                let x_hat = (f64::from(x.data[at(p, c)]) - f64::from(mean.data[g])) * f64::from(rstd.data[g]);
                (x_hat, self.0.d_z(d_y.data[at(p, c)], x_hat, weight.data[c], bias.data[c]))
            };
            for g in 0..s.groups {
                let (mut group_sum, mut group_sum_x_hat) = (0.0, 0.0);
                for c in g * s.group_channels..(g + 1) * s.group_channels {
                    let (mut sum, mut sum_x_hat) = (0.0, 0.0);
                    for p in 0..s.pixels {
                        let (x_hat, d_z) = x_hat_and_d_z(p, c);
                        sum += d_z;
                        sum_x_hat += d_z * x_hat;
                    }
                    sums.data[2 * n * s.channels + c] = sum as f32;
                    sums.data[(2 * n + 1) * s.channels + c] = sum_x_hat as f32;
                    group_sum += f64::from(weight.data[c]) * sum;
                    group_sum_x_hat += f64::from(weight.data[c]) * sum_x_hat;
                }
                for c in g * s.group_channels..(g + 1) * s.group_channels {
                    for p in 0..s.pixels {
                        let (x_hat, d_z) = x_hat_and_d_z(p, c);
                        let d =
                            f64::from(weight.data[c]) * d_z - (group_sum + x_hat * group_sum_x_hat) / count;
                        d_x.data[at(p, c)] = (f64::from(rstd.data[n * s.groups + g]) * d) as f32;
                    }
                }
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        compute::backward(self.0, operands);
    }
}

impl Op for BackwardWeight {
    fn name(&self) -> &'static str {
        "group_norm.backward_weight"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["saved_sums"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_weight", "d_bias"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [n, _, c] = super::dims(inputs[0]);
        expect_shape("saved_sums", inputs[0], &[n, 2, c])?;
        Ok(vec![TensorType::f32([c]), TensorType::f32([c])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let [n, _, c] = super::dims(&types.inputs[0]);
        let params = params(n, 1, c, Settings { groups: 1, eps: 0.0, silu: false });
        vec![Variant::single("backward_weight", Grid::Invocations(c), params)]
    }
    fn tolerance(&self) -> f32 {
        5e-6
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([sums], [d_weight, d_bias]) = operands.split();
        let [n, _, c] = super::dims(sums.ty);
        for c_i in 0..c {
            let sum =
                |which: usize| (0..n).map(|n| f64::from(sums.data[(2 * n + which) * c + c_i])).sum::<f64>();
            d_bias.data[c_i] = sum(0) as f32;
            d_weight.data[c_i] = sum(1) as f32;
        }
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let settings = |groups, silu| Settings { groups, eps: 1e-6, silu };
    // Name, shape of x, groups, mean of x.
    let calls = [
        ("ragged", [3, 5, 2, 21], 7, 0.0),
        ("one group", [2, 3, 4, 10], 1, 0.0),
        ("a channel a group", [2, 7, 3, 6], 6, 0.0),
        ("large mean", [2, 9, 5, 12], 3, 50.0),
        ("wide groups", [2, 2, 1, 1200], 2, 0.0),
        ("more quads than lanes, not a multiple", [2, 5, 3, 80], 2, 0.0),
        ("groups that do not fill the lanes", [3, 4, 5, 60], 5, 0.0),
        ("U-Net S", [16, 16, 16, 32], 8, 0.0),
        ("U-Net S, deeper", [16, 8, 8, 64], 8, 50.0),
        ("ddpm-cifar10-32", [4, 16, 16, 256], 32, 0.0),
    ];
    let mut cases = Vec::new();
    for (name, shape, groups, mean) in calls {
        let [n, _, _, c] = shape;
        let x = Fill::Normal { shape: shape.to_vec(), mean, std: 1.0 };
        let weight = Fill::Normal { shape: vec![c], mean: 1.0, std: 0.3 };
        let shared = vec![x, weight, Fill::normal([c])];
        let means = Fill::Normal { shape: vec![n, groups], mean, std: 0.1 };
        let rstds = Fill::Uniform { shape: vec![n, groups], low: 0.5, high: 2.0 };
        let saved = [shared.clone(), vec![means, rstds, Fill::normal(shape)]].concat();
        for silu in [false, true] {
            let name = if silu { format!("{name}, silu") } else { name.to_owned() };
            cases.push(Case::new(&name, Forward(settings(groups, silu)), shared.clone()));
            cases.push(Case::new(&name, Backward(settings(groups, silu)), saved.clone()));
        }
        cases.push(Case::new(name, BackwardWeight, vec![Fill::normal([n, 2, c])]));
    }
    // Biases that put whole channels where SiLU's exponential overflows or vanishes; 0 gives the others a scale.
    let far = [-1e30, -1000.0, -100.0, -88.0, 0.0, 0.0, -104.0, -2000.0, 0.0, -3e38, -90.0, 0.0];
    let x = Fill::normal([2, 3, 5, 12]);
    let shared = vec![x.clone(), Fill::normal([12]), Fill::floats(far)];
    let rstds = Fill::Uniform { shape: vec![2, 3], low: 0.5, high: 2.0 };
    let saved = [shared.clone(), vec![Fill::normal([2, 3]), rstds, x]].concat();
    cases.push(Case::new("far below zero, silu", Forward(settings(3, true)), shared));
    cases.push(Case::new("far below zero, silu", Backward(settings(3, true)), saved));
    cases
}
