//! Multi-head attention: of pixels to one another, or to other tokens.

mod cases;
mod compute;
mod sizes;

pub use cases::cases;

use sizes::{Own, Sizes};

use super::{
    Cost, GradientCall, Grid, Input, Op, Operands, Types, Variant, expect, expect_like, expect_shape,
};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// What queries look at; made of a number of heads where they look at all keys.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Heads, which share the channels evenly: head `h` owns channels `h D .. (h + 1) D`.
    pub heads: usize,
    /// Whether query `i` sees keys `0 ..= i` only, counted from the first of each.
    pub causal: bool,
    /// An f32 `[N, S]` that is added to the scores of each key, the same for all heads and queries: 0 for a key that
    /// counts, [`MASKED`] for one that does not. It gets no gradient.
    pub mask: Option<ValueId>,
}

/// The number of a [mask](Attention::mask) that hides a key; numbers beyond +-1e4 count as +-1e4.
///
/// It is finite: a query all of whose keys are hidden weighs them as if none were.
pub const MASKED: f32 = -1.0e4;

impl From<usize> for Attention {
    fn from(heads: usize) -> Self {
        Self { heads, causal: false, mask: None }
    }
}

/// `softmax(q k^T / sqrt(D) + mask) v` in each head, for `q` `[N, ..., C]` and `k` and `v` `[N, ..., C]` of one shape;
/// what lies between N and C are tokens in a row, such as pixels.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes, or if the heads do not divide the channels.
pub fn attention(
    graph: &mut Graph,
    q: ValueId,
    k: ValueId,
    v: ValueId,
    attention: impl Into<Attention>,
) -> Result<ValueId, GraphError> {
    let Attention { heads, causal, mask } = attention.into();
    let settings = Settings { heads, causal, masked: mask.is_some() };
    let inputs: Vec<ValueId> = [q, k, v].into_iter().chain(mask).collect();
    Ok(graph.apply(Forward(settings), &inputs)?[0])
}

/// What all passes of a call agree on.
#[derive(Clone, Copy, Debug)]
struct Settings {
    heads: usize,
    causal: bool,
    masked: bool,
}

#[derive(Debug)]
struct Forward(Settings);

#[derive(Debug)]
struct BackwardDot {
    heads: usize,
}

#[derive(Debug)]
struct BackwardQuery(Settings);

#[derive(Debug)]
struct BackwardKeyValue(Settings);

impl Settings {
    /// Checks the operands of a pass, and gives the shape of a query's statistics.
    ///
    /// `names` and `inputs` are q, k, v, further tensors of the shape of q, and the mask if there is one.
    fn expect(self, names: &[&str], inputs: &[&TensorType]) -> Result<[usize; 3], String> {
        let (q, k) = (inputs[0], inputs[1]);
        let statistics = expect_tokens(self.heads, names[0], q)?;
        let fits =
            k.shape.len() >= 3 && !k.is_empty() && k.shape[0] == q.shape[0] && k.channels() == q.channels();
        expect(fits && k.dtype == q.dtype, || {
            format!("{} must have the samples, the channels and the element type of {}", names[1], names[0])
        })?;
        expect_like(names[2], inputs[2], k)?;
        let tensors = inputs.len() - usize::from(self.masked);
        for (name, input) in names.iter().zip(inputs).take(tensors).skip(3) {
            expect_like(name, input, q)?;
        }
        if self.masked {
            expect_shape(names[tensors], inputs[tensors], &[k.shape[0], k.rows() / k.shape[0]])?;
        }
        Ok(statistics)
    }

    /// The types of the operands of [`BACKWARD`].
    fn expect_backward(self, inputs: &[&TensorType]) -> Result<(), String> {
        let (tensors, rest) = inputs.split_at(4);
        let shared = [tensors, &rest[1..]].concat();
        let [n, heads, queries] = self.expect(&["q", "k", "v", "d_y", "mask"], &shared)?;
        expect_shape(BACKWARD[4], rest[0], &[n, heads, 2 * queries])
    }
}

/// Checks `[N, ..., C]`, and gives the shape of a query's statistics.
fn expect_tokens(heads: usize, name: &str, ty: &TensorType) -> Result<[usize; 3], String> {
    expect(ty.shape.len() >= 3 && !ty.is_empty(), || format!("{name} must be [N, T, C]"))?;
    let c = ty.channels();
    expect(heads > 0 && c.is_multiple_of(heads), || format!("{c} channels do not fall into {heads} heads"))?;
    Ok([ty.shape[0], heads, ty.rows() / ty.shape[0]])
}

/// The operands of both backward passes; the mask is left out where there is none.
const BACKWARD: &[&str] = &["q", "k", "v", "d_y", "saved_rows", "mask"];

/// The names of the operands of a pass, of which the last is the mask.
fn names(all: &'static [&'static str], masked: bool) -> &'static [&'static str] {
    if masked { all } else { &all[..all.len() - 1] }
}

/// The operands of both backward passes by name.
struct Backward<'a> {
    rows: &'a [f32],
    q: Input<'a>,
    k: Input<'a>,
    v: Input<'a>,
    d_y: Input<'a>,
    mask: Option<&'a [f32]>,
}

impl<'a> Backward<'a> {
    fn new(inputs: &[Input<'a>]) -> Self {
        let [q, k, v, d_y, rows, mask @ ..] = inputs else {
            unreachable!("the graph checks the number of operands");
        };
        let mask = mask.first().map(|mask| mask.data);
        Self { rows: rows.data, q: *q, k: *k, v: *v, d_y: *d_y, mask }
    }

    fn sizes(&self, settings: Settings) -> Sizes {
        Sizes::of(self.q.ty, self.k.ty, settings)
    }

    /// Calls `body(i, j, p, ds)` for every query `i` and key `j` of a head that see one another.
    fn p_ds(&self, s: Sizes, n: usize, head: usize, mut body: impl FnMut(usize, usize, f64, f64)) {
        for i in 0..s.queries {
            let row = 2 * ((n * s.heads + head) * s.queries + i);
            let (logsumexp, row_dot) = (f64::from(self.rows[row]), f64::from(self.rows[row + 1]));
            let at_i = s.query(n, head, i);
            for j in (0..s.keys).filter(|&j| s.sees(i, j)) {
                let at_j = s.key(n, head, j);
                let product = dot(&self.q.data[at_i..][..s.size], &self.k.data[at_j..][..s.size]);
                let score = s.scale * product + f64::from(s.mask(self.mask, n, j));
                let p = (score - logsumexp).exp();
                let d_p = dot(&self.d_y.data[at_i..][..s.size], &self.v.data[at_j..][..s.size]);
                body(i, j, p, p * (d_p - row_dot));
            }
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        if self.0.masked { "attention.forward_masked" } else { "attention.forward" }
    }
    fn inputs(&self) -> &'static [&'static str] {
        names(&["q", "k", "v", "mask"], self.0.masked)
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y", "logsumexp"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let statistics = self.0.expect(self.inputs(), inputs)?;
        Ok(vec![inputs[0].clone(), TensorType::f32(statistics)])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let d_y = call.d_output(graph, self)?;
        if call.needs.get(3) == Some(&true) {
            return Err(GraphError::NoGradient { path: graph.path(), op: self.name() });
        }
        let dot = BackwardDot { heads: self.0.heads };
        let rows = graph.apply_one(dot, &[d_y, call.outputs[0], call.outputs[1]])?;
        let shared = [&call.inputs[..3], &[d_y, rows], &call.inputs[3..]].concat();
        let d_q = match call.needs[0] {
            true => Some(graph.apply_one(BackwardQuery(self.0), &shared)?),
            false => None,
        };
        let (d_k, d_v) = match call.needs[1] || call.needs[2] {
            true => {
                let outputs = graph.apply(BackwardKeyValue(self.0), &shared)?;
                (Some(outputs[0]), Some(outputs[1]))
            }
            false => (None, None),
        };
        let mut gradients = vec![d_q, d_k, d_v];
        gradients.resize(call.inputs.len(), None);
        Ok(gradients)
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let (lanes, tiles) = (["forward_lanes", "forward_masked_lanes"], ["forward", "forward_masked"]);
        Sizes::of(&types.inputs[0], &types.inputs[1], self.0).variants(lanes, tiles, Own::Queries, 5)
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        Sizes::of(&types.inputs[0], &types.inputs[1], self.0).cost(types, 2)
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let mask = operands.inputs.get(3).map(|mask| mask.data);
        let [q, k, v] = [0, 1, 2].map(|input| operands.inputs[input]);
        let [y, logsumexp] = operands.split_outputs();
        let s = Sizes::of(q.ty, k.ty, self.0);
        for n in 0..s.samples {
            for head in 0..s.heads {
                for i in 0..s.queries {
                    let query = &q.data[s.query(n, head, i)..][..s.size];
                    let seen: Vec<usize> = (0..s.keys).filter(|&j| s.sees(i, j)).collect();
                    let score = |&j: &usize| {
                        s.scale * dot(query, &k.data[s.key(n, head, j)..][..s.size])
                            + f64::from(s.mask(mask, n, j))
                    };
                    let scores: Vec<f64> = seen.iter().map(score).collect();
                    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let total: f64 = scores.iter().map(|score| (score - highest).exp()).sum();
                    logsumexp.data[(n * s.heads + head) * s.queries + i] = (highest + total.ln()) as f32;
                    for c in 0..s.size {
                        let mut sum = 0.0;
                        for (&j, score) in seen.iter().zip(&scores) {
                            let value = f64::from(v.data[s.key(n, head, j) + c]);
                            sum += (score - highest).exp() / total * value;
                        }
                        y.data[s.query(n, head, i) + c] = sum as f32;
                    }
                }
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        compute::forward(self.0, operands);
    }
}

impl Op for BackwardDot {
    fn name(&self) -> &'static str {
        "attention.backward_dot"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["d_y", "saved_y", "saved_logsumexp"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["rows"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let statistics = expect_tokens(self.heads, "d_y", inputs[0])?;
        expect_like("saved_y", inputs[1], inputs[0])?;
        expect_shape("saved_logsumexp", inputs[2], &statistics)?;
        let [n, heads, queries] = statistics;
        Ok(vec![TensorType::f32([n, heads, 2 * queries])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let settings = Settings { heads: self.heads, causal: false, masked: false };
        let sizes = Sizes::of(&types.inputs[0], &types.inputs[0], settings);
        let grid = Grid::Invocations(types.inputs[2].len());
        let vec4 = sizes.size.is_multiple_of(4).then_some("backward_dot_vec4");
        let entries = vec4.into_iter().chain(["backward_dot"]);
        entries.map(|entry| Variant::single(entry, grid, sizes.params())).collect()
    }
    fn tolerance(&self) -> f32 {
        5e-6
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([d_y, y, logsumexp], [rows]) = operands.split();
        let settings = Settings { heads: self.heads, causal: false, masked: false };
        let s = Sizes::of(y.ty, y.ty, settings);
        for (row, pair) in rows.data.chunks_exact_mut(2).enumerate() {
            let at = s.query(row / s.queries / s.heads, row / s.queries % s.heads, row % s.queries);
            pair[0] = logsumexp.data[row];
            pair[1] = dot(&d_y.data[at..][..s.size], &y.data[at..][..s.size]) as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        compute::backward_dot(self.heads, operands);
    }
}

impl Op for BackwardQuery {
    fn name(&self) -> &'static str {
        if self.0.masked { "attention.backward_query_masked" } else { "attention.backward_query" }
    }
    fn inputs(&self) -> &'static [&'static str] {
        names(BACKWARD, self.0.masked)
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_q"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        self.0.expect_backward(inputs)?;
        Ok(vec![inputs[0].clone()])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let lanes = ["backward_query_lanes", "backward_query_masked_lanes"];
        let tiles = ["backward_query", "backward_query_masked"];
        Sizes::of(&types.inputs[0], &types.inputs[1], self.0).variants(lanes, tiles, Own::Queries, 5)
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        Sizes::of(&types.inputs[0], &types.inputs[1], self.0).cost(types, 3)
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let backward = Backward::new(&operands.inputs);
        let s = backward.sizes(self.0);
        let [d_q] = operands.split_outputs();
        for n in 0..s.samples {
            for head in 0..s.heads {
                let mut sums = vec![0.0; s.queries * s.size];
                backward.p_ds(s, n, head, |i, j, _, ds| {
                    for c in 0..s.size {
                        sums[i * s.size + c] +=
                            s.scale * ds * f64::from(backward.k.data[s.key(n, head, j) + c]);
                    }
                });
                store(&sums, s.size, d_q.data, |token| s.query(n, head, token));
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        compute::backward_query(self.0, operands);
    }
}

/// Rounds the sums of one head into its channels of a tensor; `at` is where those of a token begin.
fn store(sums: &[f64], size: usize, tensor: &mut [f32], at: impl Fn(usize) -> usize) {
    for (token, sums) in sums.chunks_exact(size).enumerate() {
        for (c, &sum) in sums.iter().enumerate() {
            tensor[at(token) + c] = sum as f32;
        }
    }
}

impl Op for BackwardKeyValue {
    fn name(&self) -> &'static str {
        if self.0.masked { "attention.backward_key_value_masked" } else { "attention.backward_key_value" }
    }
    fn inputs(&self) -> &'static [&'static str] {
        names(BACKWARD, self.0.masked)
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_k", "d_v"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        self.0.expect_backward(inputs)?;
        Ok(vec![inputs[1].clone(), inputs[2].clone()])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let lanes = ["backward_key_value_lanes", "backward_key_value_masked_lanes"];
        let tiles = ["backward_key_value", "backward_key_value_masked"];
        Sizes::of(&types.inputs[0], &types.inputs[1], self.0).variants(lanes, tiles, Own::Keys, 2)
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        Sizes::of(&types.inputs[0], &types.inputs[1], self.0).cost(types, 4)
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let backward = Backward::new(&operands.inputs);
        let s = backward.sizes(self.0);
        let [d_k, d_v] = operands.split_outputs();
        for n in 0..s.samples {
            for head in 0..s.heads {
                let mut key_sums = vec![0.0; s.keys * s.size];
                let mut value_sums = key_sums.clone();
                backward.p_ds(s, n, head, |i, j, p, ds| {
                    let at = s.query(n, head, i);
                    for c in 0..s.size {
                        key_sums[j * s.size + c] += s.scale * ds * f64::from(backward.q.data[at + c]);
                        value_sums[j * s.size + c] += p * f64::from(backward.d_y.data[at + c]);
                    }
                });
                store(&key_sums, s.size, d_k.data, |token| s.key(n, head, token));
                store(&value_sums, s.size, d_v.data, |token| s.key(n, head, token));
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        compute::backward_key_value(self.0, operands);
    }
}
