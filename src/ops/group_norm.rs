//! Group normalisation, with SiLU fused behind it on request.

mod compute;

use super::silu::sigmoid_and_slope;
use super::{
    Case, Cost, Fill, GradientCall, Grid, Op, Operands, Types, Variant, Word, expect, expect_nhwc,
    expect_shape,
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
struct BackwardSums(Settings);

#[derive(Debug)]
struct BackwardInput(Settings);

#[derive(Debug)]
struct BackwardWeight;

/// Channels of one workgroup of `backward_sums`; `CHANNELS` of the kernel.
const SUM_CHANNELS: usize = 16;

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

    fn params(self, x: &TensorType) -> Vec<(&'static str, Word)> {
        let sizes = self.sizes(x);
        params(sizes.samples, sizes.pixels, sizes.channels, self)
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
        ("silu", settings.silu.into()),
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
        let sums = graph.apply_one(BackwardSums(self.0), &shared)?;
        let d_x = match call.needs[0] {
            true => Some(graph.apply_one(BackwardInput(self.0), &[shared, vec![sums]].concat())?),
            false => None,
        };
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
        let grid = Grid::Workgroups(x.shape[0] * self.0.groups);
        vec![Variant::single("forward", grid, self.0.params(x))]
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

impl Op for BackwardSums {
    fn name(&self) -> &'static str {
        "group_norm.backward_sums"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x", "weight", "bias", "saved_mean", "saved_rstd", "d_y"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["sums"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let statistics = self.0.expect(inputs[0], inputs[1], inputs[2])?;
        expect_shape("saved_mean", inputs[3], &statistics)?;
        expect_shape("saved_rstd", inputs[4], &statistics)?;
        expect_shape("d_y", inputs[5], &inputs[0].shape)?;
        Ok(vec![TensorType::f32([statistics[0], 2, inputs[1].len()])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let x = &types.inputs[0];
        let grid = Grid::Workgroups(x.shape[0] * x.channels().div_ceil(SUM_CHANNELS));
        vec![Variant::single("backward_sums", grid, self.0.params(x))]
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        let length = types.inputs[0].len();
        Cost { bytes: 8 * length, flops: (5 + 10 * usize::from(self.0.silu)) * length }
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x, weight, bias, mean, rstd, d_y], [sums]) = operands.split();
        let s = self.0.sizes(x.ty);
        for n in 0..s.samples {
            for c in 0..s.channels {
                let g = n * s.groups + c / s.group_channels;
                let (mut sum, mut sum_x_hat) = (0.0, 0.0);
                for p in 0..s.pixels {
                    let i = (n * s.pixels + p) * s.channels + c;
                    let x_hat = (f64::from(x.data[i]) - f64::from(mean.data[g])) * f64::from(rstd.data[g]);
                    let d_z = self.0.d_z(d_y.data[i], x_hat, weight.data[c], bias.data[c]);
                    sum += d_z;
                    sum_x_hat += d_z * x_hat;
                }
                sums.data[2 * n * s.channels + c] = sum as f32;
                sums.data[(2 * n + 1) * s.channels + c] = sum_x_hat as f32;
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        compute::backward_sums(self.0, operands);
    }
}

impl Op for BackwardInput {
    fn name(&self) -> &'static str {
        "group_norm.backward_input"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x", "weight", "bias", "saved_mean", "saved_rstd", "d_y", "saved_sums"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_x"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let sums = BackwardSums(self.0).output_types(&inputs[..6])?;
        expect_shape("saved_sums", inputs[6], &sums[0].shape)?;
        Ok(vec![inputs[0].clone()])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let x = &types.inputs[0];
        let grid = Grid::Workgroups(x.shape[0] * self.0.groups);
        vec![Variant::single("backward_input", grid, self.0.params(x))]
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        let length = types.inputs[0].len();
        Cost { bytes: 12 * length, flops: (7 + 8 * usize::from(self.0.silu)) * length }
    }
    fn tolerance(&self) -> f32 {
        5e-6
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x, weight, bias, mean, rstd, d_y, sums], [d_x]) = operands.split();
        let s = self.0.sizes(x.ty);
        let count = (s.pixels * s.group_channels) as f64;
        for n in 0..s.samples {
            for c in 0..s.channels {
                let g = c / s.group_channels;
                let group = g * s.group_channels..(g + 1) * s.group_channels;
                let mean_of = |which: usize| {
                    let sums = &sums.data[(2 * n + which) * s.channels..];
                    group.clone().map(|c| f64::from(weight.data[c]) * f64::from(sums[c])).sum::<f64>() / count
                };
                let (mean_d, mean_d_x_hat) = (mean_of(0), mean_of(1));
                let (mean, rstd) =
                    (f64::from(mean.data[n * s.groups + g]), f64::from(rstd.data[n * s.groups + g]));
                for p in 0..s.pixels {
                    let i = (n * s.pixels + p) * s.channels + c;
                    let x_hat = (f64::from(x.data[i]) - mean) * rstd;
                    let d_z = self.0.d_z(d_y.data[i], x_hat, weight.data[c], bias.data[c]);
                    let d = f64::from(weight.data[c]) * d_z - mean_d - x_hat * mean_d_x_hat;
                    d_x.data[i] = (rstd * d) as f32;
                }
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        compute::backward_input(self.0, operands);
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
        ("image", [16, 16, 16, 32], 8, 0.0),
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
        let with_sums = [saved.clone(), vec![Fill::normal([n, 2, c])]].concat();
        for silu in [false, true] {
            let name = if silu { format!("{name}, silu") } else { name.to_owned() };
            cases.push(Case::new(&name, Forward(settings(groups, silu)), shared.clone()));
            cases.push(Case::new(&name, BackwardSums(settings(groups, silu)), saved.clone()));
            cases.push(Case::new(&name, BackwardInput(settings(groups, silu)), with_sums.clone()));
        }
        cases.push(Case::new(name, BackwardWeight, vec![Fill::normal([n, 2, c])]));
    }
    cases
}
