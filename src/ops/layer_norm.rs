//! Layer normalisation over the last axis, with or without weight and bias.

use rayon::prelude::*;

use super::cpu::{par_rows, vector_functions};
use super::{
    Case, Cost, Fill, GradientCall, Grid, Op, Operands, Pass, Requirements, Types, Variant, Word, expect,
    expect_like, expect_shape,
};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// Normalises each row of `x` `[..., C]` over its channels; with `affine`, scales by a weight and adds a bias, both
/// `[C]`.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn layer_norm(
    graph: &mut Graph,
    x: ValueId,
    affine: Option<(ValueId, ValueId)>,
    eps: f32,
) -> Result<ValueId, GraphError> {
    let outputs = match affine {
        Some((weight, bias)) => graph.apply(Forward { eps, affine: true }, &[x, weight, bias])?,
        None => graph.apply(Forward { eps, affine: false }, &[x])?,
    };
    Ok(outputs[0])
}

#[derive(Debug)]
struct Forward {
    eps: f32,
    affine: bool,
}

#[derive(Debug)]
struct Backward {
    affine: bool,
}

#[derive(Debug)]
struct BackwardWeight;

/// Rows that one range of the weight's gradient is summed over.
const ROWS_PER_SPLIT: usize = 128;

/// Invocations of a workgroup that is one subgroup of a software adapter.
const LANES: u32 = 8;

fn params(x: &TensorType, eps: f32) -> Vec<(&'static str, Word)> {
    vec![
        ("rows", x.rows().into()),
        ("channels", x.channels().into()),
        ("eps", eps.into()),
        ("rows_per_split", ROWS_PER_SPLIT.into()),
        ("splits", x.rows().div_ceil(ROWS_PER_SPLIT).into()),
    ]
}

/// The kernels of a pass over rows. Some read four channels at a time; the last takes any number of channels.
fn variants(names: [&'static str; 3], x: &TensorType, eps: f32) -> Vec<Variant> {
    let [row, vec4, plain] = names;
    let variant = |name, entry, requires, overrides| Variant {
        name,
        requires,
        scratch: Vec::new(),
        passes: vec![Pass { overrides, ..Pass::new(entry, Grid::Workgroups(x.rows()), params(x, eps)) }],
    };
    let eight_lanes = Requirements { subgroup_size: Some(LANES), ..Requirements::default() };
    let mut variants = Vec::new();
    if x.channels().is_multiple_of(4) {
        variants.push(variant(row, vec4, eight_lanes, vec![("WORKGROUP", f64::from(LANES))]));
        variants.push(variant(vec4, vec4, Requirements::default(), Vec::new()));
    }
    variants.push(variant(plain, plain, Requirements::default(), Vec::new()));
    variants
}

/// Checks x, and gives the shape of the statistics.
fn expect_rows(x: &TensorType) -> Result<[usize; 1], String> {
    expect(!x.shape.is_empty() && !x.is_empty(), || "x must be [..., C]".to_owned())?;
    Ok([x.rows()])
}

vector_functions! {
    /// Mean and 1 / standard deviation of each row of x; one output of each a row.
    fn statistics(x: &[f32], eps: f32, mean: &mut [f32], rstd: &mut [f32]) {
        let channels = x.len() / mean.len();
        for ((x, mean), rstd) in x.chunks_exact(channels).zip(mean).zip(rstd) {
            let rough = sum(x, |x| x) / channels as f32;
            let rest = sum(x, |x| x - rough) / channels as f32;
            let square = sum(x, |x| (x - rough) * (x - rough)) / channels as f32;
            *mean = rough + rest;
            *rstd = 1.0 / ((square - rest * rest).max(0.0) + eps).sqrt();
        }
    }

    /// `x_hat` of each row.
    fn normalise(x: &[f32], mean: &[f32], rstd: &[f32], y: &mut [f32]) {
        let channels = x.len() / mean.len();
        let rows = x.chunks_exact(channels).zip(y.chunks_exact_mut(channels));
        for ((x, y), (mean, rstd)) in rows.zip(mean.iter().zip(rstd)) {
            for (y, x) in y.iter_mut().zip(x) {
                *y = (x - mean) * rstd;
            }
        }
    }

    /// `y weight + bias` for each row.
    fn scale(weight: &[f32], bias: &[f32], y: &mut [f32]) {
        for y in y.chunks_exact_mut(weight.len()) {
            for ((y, weight), bias) in y.iter_mut().zip(weight).zip(bias) {
                *y = y.mul_add(*weight, *bias);
            }
        }
    }

    /// `d_x` of rows, from `g` in its place.
    fn project(x: &[f32], mean: &[f32], rstd: &[f32], d_x: &mut [f32]) {
        let channels = x.len() / mean.len();
        let rows = x.chunks_exact(channels).zip(d_x.chunks_exact_mut(channels));
        for ((x, d_x), (&mean, &rstd)) in rows.zip(mean.iter().zip(rstd)) {
            let (mut sum, mut sum_x_hat) = ([0.0f32; 16], [0.0f32; 16]);
            for (g, x) in d_x.chunks(16).zip(x.chunks(16)) {
                for ((sum, sum_x_hat), (g, x)) in sum.iter_mut().zip(&mut sum_x_hat).zip(g.iter().zip(x)) {
                    *sum += g;
                    *sum_x_hat += g * ((x - mean) * rstd);
                }
            }
            let g_mean = sum.iter().sum::<f32>() / channels as f32;
            let g_x_hat_mean = sum_x_hat.iter().sum::<f32>() / channels as f32;
            for (d_x, x) in d_x.iter_mut().zip(x) {
                *d_x = rstd * (*d_x - g_mean - (x - mean) * rstd * g_x_hat_mean);
            }
        }
    }

    /// Adds `d_y` and `d_y x_hat` of each row to the sums, which are `[2, C]`.
    fn add_weight_gradients(x: &[f32], mean: &[f32], rstd: &[f32], d_y: &[f32], sums: &mut [f32]) {
        let channels = sums.len() / 2;
        let (d_bias, d_weight) = sums.split_at_mut(channels);
        let rows = x.chunks_exact(channels).zip(d_y.chunks_exact(channels));
        for ((x, d_y), (mean, rstd)) in rows.zip(mean.iter().zip(rstd)) {
            for ((d_bias, d_weight), (x, d)) in d_bias.iter_mut().zip(d_weight.iter_mut()).zip(x.iter().zip(d_y)) {
                *d_bias += d;
                *d_weight += d * ((x - mean) * rstd);
            }
        }
    }
}

/// The sum of a term of each element, in sixteen lanes, which vectorise.
#[inline(always)]
fn sum(row: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    for chunk in row.chunks(16) {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += term(x);
        }
    }
    lanes.iter().sum()
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        if self.affine { "layer_norm.forward_affine" } else { "layer_norm.forward" }
    }
    fn inputs(&self) -> &'static [&'static str] {
        if self.affine { &["x", "weight", "bias"] } else { &["x"] }
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y", "mean", "rstd"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let statistics = TensorType::f32(expect_rows(inputs[0])?);
        for (name, input) in self.inputs().iter().zip(inputs).skip(1) {
            expect_shape(name, input, &[inputs[0].channels()])?;
        }
        Ok(vec![inputs[0].clone(), statistics.clone(), statistics])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let d_y = call.d_output(graph, self)?;
        let saved = [call.inputs[0], call.outputs[1], call.outputs[2], d_y];
        let mut gradients = vec![None];
        if call.needs[0] {
            let inputs = [&saved, call.inputs.get(1..2).unwrap_or_default()].concat();
            gradients[0] = Some(graph.apply_one(Backward { affine: self.affine }, &inputs)?);
        }
        if self.affine {
            let needs_weight = call.needs[1] || call.needs[2];
            let sums = if needs_weight { graph.apply(BackwardWeight, &saved)? } else { Vec::new() };
            gradients.extend((0..2).map(|index| sums.get(index).copied()));
        }
        Ok(gradients)
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let names = match self.affine {
            true => ["forward_affine_row", "forward_affine_vec4", "forward_affine"],
            false => ["forward_row", "forward_vec4", "forward"],
        };
        variants(names, &types.inputs[0], self.eps)
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        let bytes = types.inputs.iter().chain(types.outputs).map(TensorType::bytes).sum();
        Cost { bytes, flops: (5 + 2 * usize::from(self.affine)) * types.inputs[0].len() }
    }
    fn tolerance(&self) -> f32 {
        5e-6
    }
    fn reference(&self, operands: Operands<'_>) {
        let channels = operands.inputs[0].ty.channels();
        let inputs = operands.inputs.clone();
        let [y, mean, rstd] = operands.split_outputs().map(|output| output.data);
        for (row, x) in inputs[0].data.chunks_exact(channels).enumerate() {
            let m = x.iter().map(|&x| f64::from(x)).sum::<f64>() / channels as f64;
            let variance = x.iter().map(|&x| (f64::from(x) - m).powi(2)).sum::<f64>() / channels as f64;
            let r = 1.0 / (variance + f64::from(self.eps)).sqrt();
            for (c, &x) in x.iter().enumerate() {
                let x_hat = (f64::from(x) - m) * r;
                let [weight, bias] = match self.affine {
                    true => [f64::from(inputs[1].data[c]), f64::from(inputs[2].data[c])],
                    false => [1.0, 0.0],
                };
                y[row * channels + c] = (x_hat * weight + bias) as f32;
            }
            mean[row] = m as f32;
            rstd[row] = r as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let inputs = operands.inputs.clone();
        let (x, channels) = (inputs[0].data, inputs[0].ty.channels());
        let [y, mean, rstd] = operands.split_outputs().map(|output| output.data);
        let blocks = y.par_chunks_mut(ROWS_PER_SPLIT * channels).zip(x.par_chunks(ROWS_PER_SPLIT * channels));
        let statistics_of_blocks =
            mean.par_chunks_mut(ROWS_PER_SPLIT).zip(rstd.par_chunks_mut(ROWS_PER_SPLIT));
        blocks.zip(statistics_of_blocks).for_each(|((y, x), (mean, rstd))| {
            statistics(x, self.eps, mean, rstd);
            normalise(x, mean, rstd, y);
            if let [_, weight, bias] = inputs.as_slice() {
                scale(weight.data, bias.data, y);
            }
        });
    }
}

impl Op for Backward {
    fn name(&self) -> &'static str {
        if self.affine { "layer_norm.backward_affine" } else { "layer_norm.backward" }
    }
    fn inputs(&self) -> &'static [&'static str] {
        let all = &["x", "saved_mean", "saved_rstd", "d_y", "weight"];
        if self.affine { all } else { &all[..4] }
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_x"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_saved(inputs)?;
        if self.affine {
            expect_shape("weight", inputs[4], &[inputs[0].channels()])?;
        }
        Ok(vec![inputs[0].clone()])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let names = match self.affine {
            true => ["backward_affine_row", "backward_affine_vec4", "backward_affine"],
            false => ["backward_row", "backward_vec4", "backward"],
        };
        variants(names, &types.inputs[0], 0.0)
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        let bytes = types.inputs.iter().chain(types.outputs).map(TensorType::bytes).sum();
        Cost { bytes, flops: 12 * types.inputs[0].len() }
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let inputs = operands.inputs.clone();
        let channels = inputs[0].ty.channels();
        let [d_x] = operands.split_outputs().map(|output| output.data);
        let element = |input: usize, at: usize| f64::from(inputs[input].data[at]);
        for row in 0..inputs[0].ty.rows() {
            let x_hat = |c: usize| (element(0, row * channels + c) - element(1, row)) * element(2, row);
            let g = |c: usize| element(3, row * channels + c) * if self.affine { element(4, c) } else { 1.0 };
            let g_mean = (0..channels).map(g).sum::<f64>() / channels as f64;
            let g_x_hat_mean = (0..channels).map(|c| g(c) * x_hat(c)).sum::<f64>() / channels as f64;
            for c in 0..channels {
                d_x[row * channels + c] =
                    (element(2, row) * (g(c) - g_mean - x_hat(c) * g_x_hat_mean)) as f32;
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let inputs = operands.inputs.clone();
        let channels = inputs[0].ty.channels();
        let [d_x] = operands.split_outputs().map(|output| output.data);
        par_rows(d_x, channels, |first, d_x| {
            let (rows, length) = (d_x.len() / channels, d_x.len());
            let of_rows = |input: usize| &inputs[input].data[first..][..rows];
            let elements = |input: usize| &inputs[input].data[first * channels..][..length];
            d_x.copy_from_slice(elements(3));
            if self.affine {
                for g in d_x.chunks_exact_mut(channels) {
                    for (g, weight) in g.iter_mut().zip(inputs[4].data) {
                        *g *= weight;
                    }
                }
            }
            project(elements(0), of_rows(1), of_rows(2), d_x);
        });
    }
}

/// Checks x, the statistics of its rows, and d_y.
fn expect_saved(inputs: &[&TensorType]) -> Result<(), String> {
    let statistics = expect_rows(inputs[0])?;
    expect_shape("saved_mean", inputs[1], &statistics)?;
    expect_shape("saved_rstd", inputs[2], &statistics)?;
    expect_like("d_y", inputs[3], inputs[0])
}

impl Op for BackwardWeight {
    fn name(&self) -> &'static str {
        "layer_norm.backward_weight"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x", "saved_mean", "saved_rstd", "d_y"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_weight", "d_bias"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_saved(inputs)?;
        Ok(vec![TensorType::f32([inputs[0].channels()]); 2])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let x = &types.inputs[0];
        let (splits, channels) = (x.rows().div_ceil(ROWS_PER_SPLIT), x.channels());
        let pass = |entry, invocations| Pass::new(entry, Grid::Invocations(invocations), params(x, 0.0));
        vec![Variant {
            name: "backward_weight",
            requires: Requirements::default(),
            scratch: vec![("partial", splits * 2 * channels)],
            passes: vec![
                pass("backward_weight", splits * channels),
                pass("backward_weight_reduce", channels),
            ],
        }]
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        let bytes = types.inputs.iter().chain(types.outputs).map(TensorType::bytes).sum();
        Cost { bytes, flops: 5 * types.inputs[0].len() }
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x, mean, rstd, d_y], [d_weight, d_bias]) = operands.split();
        let channels = x.ty.channels();
        for c in 0..channels {
            let (mut weight_sum, mut bias_sum) = (0.0, 0.0);
            for row in 0..x.ty.rows() {
                let d = f64::from(d_y.data[row * channels + c]);
                let centred = f64::from(x.data[row * channels + c]) - f64::from(mean.data[row]);
                weight_sum += d * centred * f64::from(rstd.data[row]);
                bias_sum += d;
            }
            d_weight.data[c] = weight_sum as f32;
            d_bias.data[c] = bias_sum as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x, mean, rstd, d_y], [d_weight, d_bias]) = operands.split();
        let (rows, channels) = (x.ty.rows(), x.ty.channels());
        // Cut by shape, and added up in order: the same for any number of threads.
        let mut partial = vec![0.0f32; rows.div_ceil(ROWS_PER_SPLIT) * 2 * channels];
        partial.par_chunks_mut(2 * channels).enumerate().for_each(|(split, sums)| {
            let rows = split * ROWS_PER_SPLIT..rows.min((split + 1) * ROWS_PER_SPLIT);
            let elements = rows.start * channels..rows.end * channels;
            let statistics = (&mean.data[rows.clone()], &rstd.data[rows]);
            let (x, d_y) = (&x.data[elements.clone()], &d_y.data[elements]);
            add_weight_gradients(x, statistics.0, statistics.1, d_y, sums);
        });
        d_weight.data.fill(0.0);
        d_bias.data.fill(0.0);
        for sums in partial.chunks_exact(2 * channels) {
            let both = d_bias.data.iter_mut().chain(d_weight.data.iter_mut());
            both.zip(sums).for_each(|(sum, part)| *sum += part);
        }
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, shape, mean) in [
        ("ragged", vec![3, 5, 21], 0.0),
        ("one row", vec![7], 0.0),
        ("one channel", vec![5, 1], 0.0),
        ("large mean", vec![2, 29, 5, 12], 50.0),
        ("more channels than a workgroup", vec![3, 2, 300], 0.0),
        ("more channels than a workgroup, ragged", vec![3, 14, 77], 50.0),
        ("several ranges of rows", vec![3, 91, 20], 0.0),
        ("a transformer's tokens", vec![2, 256, 320], 0.0),
    ] {
        let x = Fill::Normal { shape: shape.clone(), mean, std: 1.0 };
        let (rows, channels) = (x.ty().rows(), x.ty().channels());
        let weight = Fill::Normal { shape: vec![channels], mean: 1.0, std: 0.3 };
        let means = Fill::Normal { shape: vec![rows], mean, std: 0.1 };
        let rstds = Fill::Uniform { shape: vec![rows], low: 0.5, high: 2.0 };
        let saved = vec![x.clone(), means, rstds, Fill::normal(shape)];
        let forward = |affine| Forward { eps: 1e-5, affine };
        cases.push(Case::new(name, forward(false), vec![x.clone()]));
        cases.push(Case::new(name, forward(true), vec![x, weight.clone(), Fill::normal([channels])]));
        cases.push(Case::new(name, Backward { affine: false }, saved.clone()));
        let affine = [saved.as_slice(), &[weight]].concat();
        cases.push(Case::new(name, Backward { affine: true }, affine));
        cases.push(Case::new(name, BackwardWeight, saved));
    }
    cases
}
