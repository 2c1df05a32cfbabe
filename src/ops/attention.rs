//! Multi-head self-attention over the pixels of an image.

mod compute;

use super::{
    Case, Cost, Fill, GradientCall, Grid, Op, Operands, Pass, Requirements, Types, Variant, Word, expect,
    expect_like, expect_shape,
};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// `softmax(q k^T / sqrt(D)) v` in each head, for `q`, `k` and `v` of one shape `[N, H, W, C]` or `[N, T, C]`; head `h`
/// owns channels `h D .. (h + 1) D`.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes, or if `heads` does not divide the channels.
pub fn attention(
    graph: &mut Graph,
    q: ValueId,
    k: ValueId,
    v: ValueId,
    heads: usize,
) -> Result<ValueId, GraphError> {
    Ok(graph.apply(Forward { heads }, &[q, k, v])?[0])
}

#[derive(Debug)]
struct Forward {
    heads: usize,
}

#[derive(Debug)]
struct BackwardDot {
    heads: usize,
}

#[derive(Debug)]
struct BackwardQuery {
    heads: usize,
}

#[derive(Debug)]
struct BackwardKeyValue {
    heads: usize,
}

/// Own rows, channels and invocations of one workgroup; `OWN` and `WORKGROUP` of the kernel.
const OWN: usize = 16;
const WORKGROUP: usize = 256;

/// Own rows and invocations of one workgroup of the `_lanes` kernels; `LANES` of `shared/lanes.wgsl`.
const LANES: usize = 8;

/// Sizes of a call.
#[derive(Clone, Copy)]
struct Sizes {
    samples: usize,
    tokens: usize,
    channels: usize,
    heads: usize,
    /// Channels of one head.
    size: usize,
    scale: f64,
}

impl Sizes {
    fn of(ty: &TensorType, heads: usize) -> Self {
        let (samples, channels) = (ty.shape[0], ty.channels());
        let size = channels / heads;
        Self {
            samples,
            tokens: ty.rows() / samples,
            channels,
            heads,
            size,
            scale: 1.0 / (size as f64).sqrt(),
        }
    }

    /// Index of the first channel of a head in row `token` of sample `n`.
    fn at(&self, n: usize, head: usize, token: usize) -> usize {
        (n * self.tokens + token) * self.channels + head * self.size
    }

    fn params(&self) -> Vec<(&'static str, Word)> {
        vec![
            ("samples", self.samples.into()),
            ("tokens", self.tokens.into()),
            ("channels", self.channels.into()),
            ("heads", self.heads.into()),
            ("scale", (self.scale as f32).into()),
        ]
    }

    fn tiles(&self, entry: &'static str) -> Variant {
        let workgroups =
            self.samples * self.heads * self.tokens.div_ceil(OWN) * self.size.div_ceil(WORKGROUP);
        Variant::single(entry, Grid::Workgroups(workgroups), self.params())
    }

    /// The kernel for eight lanes, of which each adds up `most` quads of channels, where heads are multiples of four.
    fn lanes(&self, entry: &'static str, most: usize) -> Option<Variant> {
        let quads = self.size.is_multiple_of(4).then_some(self.size / 4)?;
        // The more quads a lane adds up, the fewer workgroups compute the scores again; but not more than there are.
        let per_lane = [1, 2].into_iter().find(|&per_lane| quads <= LANES * per_lane).unwrap_or(most);
        let chunks = quads.div_ceil(LANES * per_lane);
        let workgroups = self.samples * self.heads * self.tokens.div_ceil(LANES) * chunks;
        Some(Variant {
            name: entry,
            requires: Requirements { subgroup_size: Some(LANES as u32), ..Requirements::default() },
            scratch: Vec::new(),
            passes: vec![Pass {
                overrides: vec![("QUADS", per_lane as f64)],
                ..Pass::new(entry, Grid::Workgroups(workgroups), self.params())
            }],
        })
    }

    /// The cost of a call that multiplies `products` pairs of `T x D` and `D x T` matrices per head.
    fn cost(&self, types: Types<'_>, products: usize) -> Cost {
        let bytes = types.inputs.iter().chain(types.outputs).map(TensorType::bytes).sum();
        Cost { bytes, flops: 2 * products * self.samples * self.tokens * self.tokens * self.channels }
    }
}

/// Checks tensors of the shape of q, and gives the shape of the logarithms of sums.
fn expect_tokens(heads: usize, names: &[&str], inputs: &[&TensorType]) -> Result<[usize; 3], String> {
    let first = inputs[0];
    expect(first.shape.len() >= 3 && !first.is_empty(), || format!("{} must be [N, T, C]", names[0]))?;
    let c = first.channels();
    expect(heads > 0 && c.is_multiple_of(heads), || format!("{c} channels do not fall into {heads} heads"))?;
    for (name, input) in names.iter().zip(inputs) {
        expect_like(name, input, first)?;
    }
    Ok([first.shape[0], heads, first.rows() / first.shape[0]])
}

/// The operands of both backward passes.
const BACKWARD: &[&str] = &["q", "k", "v", "d_y", "saved_logsumexp", "saved_dots"];

fn expect_backward(heads: usize, inputs: &[&TensorType]) -> Result<(), String> {
    let statistics = expect_tokens(heads, &BACKWARD[..4], &inputs[..4])?;
    expect_shape(BACKWARD[4], inputs[4], &statistics)?;
    expect_shape(BACKWARD[5], inputs[5], &statistics)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "attention.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["q", "k", "v"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y", "logsumexp"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let statistics = expect_tokens(self.heads, self.inputs(), inputs)?;
        Ok(vec![inputs[0].clone(), TensorType::f32(statistics)])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let heads = self.heads;
        let d_y = call.d_output(graph, self)?;
        let dots = graph.apply_one(BackwardDot { heads }, &[d_y, call.outputs[0]])?;
        let shared = [call.inputs, &[d_y, call.outputs[1], dots]].concat();
        let d_q = match call.needs[0] {
            true => Some(graph.apply_one(BackwardQuery { heads }, &shared)?),
            false => None,
        };
        let (d_k, d_v) = match call.needs[1] || call.needs[2] {
            true => {
                let outputs = graph.apply(BackwardKeyValue { heads }, &shared)?;
                (Some(outputs[0]), Some(outputs[1]))
            }
            false => (None, None),
        };
        Ok(vec![d_q, d_k, d_v])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let sizes = Sizes::of(&types.inputs[0], self.heads);
        sizes.lanes("forward_lanes", 4).into_iter().chain([sizes.tiles("forward")]).collect()
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        Sizes::of(&types.inputs[0], self.heads).cost(types, 2)
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([q, k, v], [y, logsumexp]) = operands.split();
        let s = Sizes::of(q.ty, self.heads);
        for n in 0..s.samples {
            for head in 0..s.heads {
                for i in 0..s.tokens {
                    let query = &q.data[s.at(n, head, i)..][..s.size];
                    let scores: Vec<f64> = (0..s.tokens)
                        .map(|j| s.scale * dot(query, &k.data[s.at(n, head, j)..][..s.size]))
                        .collect();
                    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let total: f64 = scores.iter().map(|score| (score - highest).exp()).sum();
                    logsumexp.data[(n * s.heads + head) * s.tokens + i] = (highest + total.ln()) as f32;
                    for c in 0..s.size {
                        let mut sum = 0.0;
                        for (j, score) in scores.iter().enumerate() {
                            sum += (score - highest).exp() / total * f64::from(v.data[s.at(n, head, j) + c]);
                        }
                        y.data[s.at(n, head, i) + c] = sum as f32;
                    }
                }
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        compute::forward(self.heads, operands);
    }
}

impl Op for BackwardDot {
    fn name(&self) -> &'static str {
        "attention.backward_dot"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["d_y", "saved_y"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["row_dots"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        Ok(vec![TensorType::f32(expect_tokens(self.heads, self.inputs(), inputs)?)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let sizes = Sizes::of(&types.inputs[0], self.heads);
        let grid = Grid::Invocations(types.outputs[0].len());
        let vec4 = sizes.size.is_multiple_of(4).then_some("backward_dot_vec4");
        let entries = vec4.into_iter().chain(["backward_dot"]);
        entries.map(|entry| Variant::single(entry, grid, sizes.params())).collect()
    }
    fn tolerance(&self) -> f32 {
        5e-6
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([d_y, y], [dots]) = operands.split();
        let s = Sizes::of(y.ty, self.heads);
        for (row, d) in dots.data.iter_mut().enumerate() {
            let at = s.at(row / s.tokens / s.heads, row / s.tokens % s.heads, row % s.tokens);
            *d = dot(&d_y.data[at..][..s.size], &y.data[at..][..s.size]) as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        compute::backward_dot(self.heads, operands);
    }
}

/// Calls `body(i, j, p, ds)` for every query `i` and key `j` of a head, given the operands of [`BACKWARD`].
fn reference_p_ds(
    s: Sizes,
    inputs: &[&[f32]; 6],
    n: usize,
    head: usize,
    mut body: impl FnMut(usize, usize, f64, f64),
) {
    let [q, k, v, d_y, logsumexp, dots] = inputs;
    for i in 0..s.tokens {
        let row = (n * s.heads + head) * s.tokens + i;
        let at_i = s.at(n, head, i);
        for j in 0..s.tokens {
            let at_j = s.at(n, head, j);
            let score = s.scale * dot(&q[at_i..][..s.size], &k[at_j..][..s.size]);
            let p = (score - f64::from(logsumexp[row])).exp();
            let d_p = dot(&d_y[at_i..][..s.size], &v[at_j..][..s.size]);
            body(i, j, p, p * (d_p - f64::from(dots[row])));
        }
    }
}

impl Op for BackwardQuery {
    fn name(&self) -> &'static str {
        "attention.backward_query"
    }
    fn inputs(&self) -> &'static [&'static str] {
        BACKWARD
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_q"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_backward(self.heads, inputs)?;
        Ok(vec![inputs[0].clone()])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let sizes = Sizes::of(&types.inputs[0], self.heads);
        sizes.lanes("backward_query_lanes", 4).into_iter().chain([sizes.tiles("backward_query")]).collect()
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        Sizes::of(&types.inputs[0], self.heads).cost(types, 3)
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let (inputs, [d_q]) = operands.split::<6, 1>();
        let s = Sizes::of(d_q.ty, self.heads);
        let inputs = inputs.map(|input| input.data);
        for n in 0..s.samples {
            for head in 0..s.heads {
                let mut sums = vec![0.0; s.tokens * s.size];
                reference_p_ds(s, &inputs, n, head, |i, j, _, ds| {
                    for c in 0..s.size {
                        sums[i * s.size + c] += s.scale * ds * f64::from(inputs[1][s.at(n, head, j) + c]);
                    }
                });
                store(s, n, head, &sums, d_q.data);
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        compute::backward_query(self.heads, operands);
    }
}

/// Rounds the sums of one head into its channels of a tensor.
fn store(s: Sizes, n: usize, head: usize, sums: &[f64], tensor: &mut [f32]) {
    for (token, sums) in sums.chunks_exact(s.size).enumerate() {
        for (c, &sum) in sums.iter().enumerate() {
            tensor[s.at(n, head, token) + c] = sum as f32;
        }
    }
}

impl Op for BackwardKeyValue {
    fn name(&self) -> &'static str {
        "attention.backward_key_value"
    }
    fn inputs(&self) -> &'static [&'static str] {
        BACKWARD
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_k", "d_v"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_backward(self.heads, inputs)?;
        Ok(vec![inputs[1].clone(), inputs[2].clone()])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let sizes = Sizes::of(&types.inputs[0], self.heads);
        sizes
            .lanes("backward_key_value_lanes", 2)
            .into_iter()
            .chain([sizes.tiles("backward_key_value")])
            .collect()
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        Sizes::of(&types.inputs[0], self.heads).cost(types, 4)
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let (inputs, [d_k, d_v]) = operands.split::<6, 2>();
        let s = Sizes::of(d_k.ty, self.heads);
        let inputs = inputs.map(|input| input.data);
        for n in 0..s.samples {
            for head in 0..s.heads {
                let mut key_sums = vec![0.0; s.tokens * s.size];
                let mut value_sums = key_sums.clone();
                reference_p_ds(s, &inputs, n, head, |i, j, p, ds| {
                    for c in 0..s.size {
                        key_sums[j * s.size + c] += s.scale * ds * f64::from(inputs[0][s.at(n, head, i) + c]);
                        value_sums[j * s.size + c] += p * f64::from(inputs[3][s.at(n, head, i) + c]);
                    }
                });
                store(s, n, head, &key_sums, d_k.data);
                store(s, n, head, &value_sums, d_v.data);
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        compute::backward_key_value(self.heads, operands);
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, shape, heads) in [
        ("ragged", vec![2, 5, 3, 21], 3),
        ("tokens in a row", vec![3, 37, 10], 2),
        ("one token", vec![2, 1, 1, 6], 2),
        ("large scores", vec![2, 7, 5, 32], 2),
        ("head larger than a workgroup", vec![2, 3, 2, 602], 2),
        ("eight heads", vec![2, 8, 8, 64], 8),
        ("more heads than fill the lanes", vec![2, 7, 5, 60], 5),
        ("lanes that two quads do not fill", vec![1, 3, 3, 76], 1),
        ("U-Net S", vec![16, 8, 8, 64], 1),
        ("U-Net M", vec![2, 16, 16, 128], 1),
        ("ddpm-cifar10-32", vec![2, 16, 16, 256], 1),
    ] {
        let tensor = || Fill::normal(shape.clone());
        let q_k_v = match name {
            "large scores" => vec![integers(&shape, 0), integers(&shape, 1), tensor()],
            _ => vec![tensor(), tensor(), tensor()],
        };
        cases.push(Case::new(name, Forward { heads }, q_k_v.clone()));
        cases.push(Case::new(name, BackwardDot { heads }, vec![tensor(), tensor()]));
        // The sums must belong to q and k, or p is no distribution.
        let logsumexp = logsumexp_of(&q_k_v, heads);
        let Fill::Floats { shape: statistics, .. } = &logsumexp else { continue };
        let dots = Fill::normal(statistics.clone());
        let backward = [q_k_v, vec![tensor(), logsumexp, dots]].concat();
        cases.push(Case::new(name, BackwardQuery { heads }, backward.clone()));
        cases.push(Case::new(name, BackwardKeyValue { heads }, backward));
    }
    cases
}

/// Integers up to about 80. A head of 16 channels makes scores of +-1000 of them without rounding: errors that are left
/// belong to the softmax. (A rounded score of 1000 is off by 6e-5, and so is then every p, whatever the kernel does.)
fn integers(shape: &[usize], index: u32) -> Fill {
    let normal = Fill::Normal { shape: shape.to_vec(), mean: 0.0, std: 20.0 };
    Fill::Floats { shape: shape.to_vec(), data: normal.data(index).into_iter().map(f32::round).collect() }
}

/// Output `logsumexp` of the forward pass.
fn logsumexp_of(q_k_v: &[Fill], heads: usize) -> Fill {
    let types: Vec<TensorType> = q_k_v.iter().map(Fill::ty).collect();
    let data: Vec<Vec<f32>> = (0..).zip(q_k_v).map(|(index, fill)| fill.data(index)).collect();
    let s = Sizes::of(&types[0], heads);
    let statistics = TensorType::f32([s.samples, s.heads, s.tokens]);
    let (mut y, mut logsumexp) = (vec![0.0; types[0].len()], vec![0.0; statistics.len()]);
    Forward { heads }.compute(Operands {
        inputs: types.iter().zip(&data).map(|(ty, data)| super::Input { ty, data }).collect(),
        outputs: vec![
            super::Output { ty: &types[0], data: &mut y },
            super::Output { ty: &statistics, data: &mut logsumexp },
        ],
    });
    Fill::Floats { shape: statistics.shape, data: logsumexp }
}
