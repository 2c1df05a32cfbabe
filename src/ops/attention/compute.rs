//! The CPU kernels of attention: matrix products over blocks of own rows, one task per (sample, block).

use rayon::prelude::*;

use super::{Backward, Settings, Sizes};
use crate::ops::cpu::{Matrix, Operands, exp, gemm, par_rows, vector_functions, with_scratch};

/// Own rows of a task: queries, or keys where the sums run over queries.
const ROWS: usize = 64;

/// The score of a key that a query does not see.
const HIDDEN: f32 = -3.0e38;

/// The rows `first .. first + rows` of one head of one sample, of a tensor with a row for each query.
fn queries(s: Sizes, data: &[f32], n: usize, head: usize, first: usize, rows: usize) -> Matrix<'_> {
    Matrix::strided(&data[s.query(n, head, first)..], rows, s.size, s.channels)
}

/// The same of a tensor with a row for each key.
fn keys(s: Sizes, data: &[f32], n: usize, head: usize, first: usize, rows: usize) -> Matrix<'_> {
    Matrix::strided(&data[s.key(n, head, first)..], rows, s.size, s.channels)
}

/// Adds what the mask says of each key, and hides keys that come after their query. Rows of `scores` are queries.
fn mask_keys(s: Sizes, mask: Option<&[f32]>, n: usize, first: usize, scores: &mut [f32]) {
    for (row, scores) in scores.chunks_exact_mut(s.keys).enumerate() {
        if mask.is_some() {
            scores.iter_mut().enumerate().for_each(|(key, score)| *score += s.mask(mask, n, key));
        }
        if s.settings.causal {
            scores.iter_mut().skip(first + row + 1).for_each(|score| *score = HIDDEN);
        }
    }
}

/// The same where rows of `scores` are keys.
fn mask_queries(s: Sizes, mask: Option<&[f32]>, n: usize, first: usize, scores: &mut [f32]) {
    for (row, scores) in scores.chunks_exact_mut(s.queries).enumerate() {
        let key = first + row;
        if mask.is_some() {
            let added = s.mask(mask, n, key);
            scores.iter_mut().for_each(|score| *score += added);
        }
        if s.settings.causal {
            scores.iter_mut().take(key).for_each(|score| *score = HIDDEN);
        }
    }
}

/// Folds a row in sixteen lanes, which vectorise, and then the lanes.
#[inline(always)]
fn fold(row: &[f32], start: f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; 16];
    let (vectors, rest) = row.as_chunks::<16>();
    for vector in vectors {
        for (lane, value) in lanes.iter_mut().zip(vector) {
            *lane = join(*lane, *value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = join(*lane, *value);
    }
    lanes.into_iter().fold(start, join)
}

vector_functions! {
    /// Softmax of each row of scores, one row per element of `logsumexp`.
    fn softmax(scores: &mut [f32], logsumexp: &mut [f32]) {
        let tokens = scores.len() / logsumexp.len();
        for (row, logsumexp) in scores.chunks_exact_mut(tokens).zip(logsumexp) {
            let highest = fold(row, f32::NEG_INFINITY, |a, b| if a > b { a } else { b });
            for score in row.iter_mut() {
                *score = exp(*score - highest);
            }
            let total = fold(row, 0.0, |a, b| a + b);
            let scale = 1.0 / total;
            for score in row.iter_mut() {
                *score *= scale;
            }
            *logsumexp = highest + total.ln();
        }
    }

    /// Turns `d_p` from gradients of probabilities into gradients of scores. Each query has a row of the scores `p`,
    /// and a pair of `rows`: the logarithm of its sum, and its dot product.
    fn query_gradients(p: &[f32], rows: &[f32], d_p: &mut [f32]) {
        let tokens = 2 * p.len() / rows.len();
        let (rows, _) = rows.as_chunks::<2>();
        let scores = p.chunks_exact(tokens).zip(d_p.chunks_exact_mut(tokens));
        for ((p, d_p), [logsumexp, dot]) in scores.zip(rows) {
            for (p, d) in p.iter().zip(d_p) {
                *d = exp(p - logsumexp) * (*d - dot);
            }
        }
    }

    /// [`query_gradients`] where a row is a key; also `p` from scores to probabilities.
    fn key_gradients(p: &mut [f32], logsumexp: &[f32], dots: &[f32], d_p: &mut [f32]) {
        let tokens = dots.len();
        for (p, d_p) in p.chunks_exact_mut(tokens).zip(d_p.chunks_exact_mut(tokens)) {
            for ((p, d), (logsumexp, dot)) in p.iter_mut().zip(d_p).zip(logsumexp.iter().zip(dots)) {
                *p = exp(*p - logsumexp);
                *d = *p * (*d - dot);
            }
        }
    }
}

/// A block of rows of one sample, and each head's statistics of those rows.
struct Task<'a> {
    n: usize,
    first: usize,
    rows: &'a mut [f32],
    statistics: Vec<&'a mut [f32]>,
}

pub(super) fn forward(settings: Settings, operands: Operands<'_>) {
    let mask = operands.inputs.get(3).map(|mask| mask.data);
    let [q, k, v] = [0, 1, 2].map(|input| operands.inputs[input]);
    let [y, logsumexp] = operands.split_outputs();
    let s = Sizes::of(q.ty, k.ty, settings);
    let mut tasks: Vec<Task<'_>> = Vec::new();
    let samples =
        y.data.chunks_mut(s.queries * s.channels).zip(logsumexp.data.chunks_mut(s.heads * s.queries));
    for (n, (y, logsumexp)) in samples.enumerate() {
        let begin = tasks.len();
        for (block, rows) in y.chunks_mut(ROWS * s.channels).enumerate() {
            tasks.push(Task { n, first: block * ROWS, rows, statistics: Vec::new() });
        }
        for head in logsumexp.chunks_mut(s.queries) {
            for (task, rows) in tasks[begin..].iter_mut().zip(head.chunks_mut(ROWS)) {
                task.statistics.push(rows);
            }
        }
    }
    tasks.into_par_iter().for_each(|mut task| {
        let (n, first, rows) = (task.n, task.first, task.rows.len() / s.channels);
        with_scratch(rows * s.keys, |p| {
            for (head, logsumexp) in task.statistics.iter_mut().enumerate() {
                let query = queries(s, q.data, n, head, first, rows);
                let key = keys(s, k.data, n, head, 0, s.keys);
                gemm(s.scale as f32, query, key.t(), 0.0, p, s.keys);
                mask_keys(s, mask, n, first, p);
                softmax(p, logsumexp);
                let value = keys(s, v.data, n, head, 0, s.keys);
                let probabilities = Matrix::new(p, rows, s.keys);
                gemm(1.0, probabilities, value, 0.0, &mut task.rows[head * s.size..], s.channels);
            }
        });
    });
}

pub(super) fn backward_dot(heads: usize, operands: Operands<'_>) {
    let ([d_y, y, logsumexp], [rows]) = operands.split();
    let s = Sizes::of(y.ty, y.ty, Settings { heads, causal: false, masked: false });
    par_rows(rows.data, 2 * s.queries, |first, pairs| {
        for (i, pair) in pairs.chunks_exact_mut(2).enumerate() {
            let (head, token) = (first + i / s.queries, i % s.queries);
            let at = s.query(head / heads, head % heads, token);
            let mut lanes = [0.0_f32; 8];
            for (d_y, y) in d_y.data[at..][..s.size].chunks(8).zip(y.data[at..][..s.size].chunks(8)) {
                for ((lane, d_y), y) in lanes.iter_mut().zip(d_y).zip(y) {
                    *lane += d_y * y;
                }
            }
            pair[0] = logsumexp.data[head * s.queries + token];
            pair[1] = lanes.iter().sum();
        }
    });
}

pub(super) fn backward_query(settings: Settings, operands: Operands<'_>) {
    let Backward { rows: pairs, q, k, v, d_y, mask } = Backward::new(&operands.inputs);
    let s = Sizes::of(q.ty, k.ty, settings);
    let [d_q] = operands.split_outputs();
    d_q.data.par_chunks_mut(s.queries * s.channels).enumerate().for_each(|(n, sample)| {
        sample.par_chunks_mut(ROWS * s.channels).enumerate().for_each(|(block, d_q)| {
            let (first, rows) = (block * ROWS, d_q.len() / s.channels);
            with_scratch(2 * rows * s.keys, |scratch| {
                let (p, d_p) = scratch.split_at_mut(rows * s.keys);
                for head in 0..s.heads {
                    let key = keys(s, k.data, n, head, 0, s.keys);
                    let value = keys(s, v.data, n, head, 0, s.keys);
                    let query = queries(s, q.data, n, head, first, rows);
                    gemm(s.scale as f32, query, key.t(), 0.0, p, s.keys);
                    mask_keys(s, mask, n, first, p);
                    gemm(1.0, queries(s, d_y.data, n, head, first, rows), value.t(), 0.0, d_p, s.keys);
                    let own = 2 * ((n * s.heads + head) * s.queries + first);
                    query_gradients(p, &pairs[own..][..2 * rows], d_p);
                    let ds = Matrix::new(d_p, rows, s.keys);
                    gemm(s.scale as f32, ds, key, 0.0, &mut d_q[head * s.size..], s.channels);
                }
            });
        });
    });
}

pub(super) fn backward_key_value(settings: Settings, operands: Operands<'_>) {
    let Backward { rows: pairs, q, k, v, d_y, mask } = Backward::new(&operands.inputs);
    let s = Sizes::of(q.ty, k.ty, settings);
    let [d_k, d_v] = operands.split_outputs();
    // Apart, so that a row of scores can be walked beside each.
    let (logsumexp, dots): (Vec<f32>, Vec<f32>) =
        pairs.chunks_exact(2).map(|pair| (pair[0], pair[1])).unzip();
    let sample = s.keys * s.channels;
    let samples = d_k.data.par_chunks_mut(sample).zip(d_v.data.par_chunks_mut(sample)).enumerate();
    samples.for_each(|(n, (d_k, d_v))| {
        let blocks = d_k.par_chunks_mut(ROWS * s.channels).zip(d_v.par_chunks_mut(ROWS * s.channels));
        blocks.enumerate().for_each(|(block, (d_k, d_v))| {
            let (first, rows) = (block * ROWS, d_k.len() / s.channels);
            with_scratch(2 * rows * s.queries, |scratch| {
                let (p, d_p) = scratch.split_at_mut(rows * s.queries);
                for head in 0..s.heads {
                    // Row j of these matrices is a key, column i a query.
                    let query = queries(s, q.data, n, head, 0, s.queries);
                    let d = queries(s, d_y.data, n, head, 0, s.queries);
                    let key = keys(s, k.data, n, head, first, rows);
                    gemm(s.scale as f32, key, query.t(), 0.0, p, s.queries);
                    mask_queries(s, mask, n, first, p);
                    gemm(1.0, keys(s, v.data, n, head, first, rows), d.t(), 0.0, d_p, s.queries);
                    let own = (n * s.heads + head) * s.queries;
                    let (logsumexp, dots) = (&logsumexp[own..][..s.queries], &dots[own..][..s.queries]);
                    key_gradients(p, logsumexp, dots, d_p);
                    let channels = head * s.size;
                    gemm(1.0, Matrix::new(p, rows, s.queries), d, 0.0, &mut d_v[channels..], s.channels);
                    let ds = Matrix::new(d_p, rows, s.queries);
                    gemm(s.scale as f32, ds, query, 0.0, &mut d_k[channels..], s.channels);
                }
            });
        });
    });
}
