//! The CPU twins of attention: matrix products over blocks of own rows, one task per (sample, block).

use rayon::prelude::*;

use super::Sizes;
use crate::ops::cpu::{Matrix, Operands, exp, gemm, par_rows, vector_functions, with_scratch};

/// Own rows of a task: queries, or keys where the sums run over queries.
const ROWS: usize = 64;

/// The rows `first .. first + rows` of one head of one sample.
fn head_rows(s: Sizes, data: &[f32], n: usize, head: usize, first: usize, rows: usize) -> Matrix<'_> {
    Matrix::strided(&data[s.at(n, head, first)..], rows, s.size, s.channels)
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

    /// `d_p` from gradients of probabilities to gradients of scores; a row of `p`, the scores, is a query.
    fn query_gradients(p: &[f32], logsumexp: &[f32], dots: &[f32], d_p: &mut [f32]) {
        let tokens = p.len() / dots.len();
        let rows = p.chunks_exact(tokens).zip(d_p.chunks_exact_mut(tokens));
        for ((p, d_p), (logsumexp, dot)) in rows.zip(logsumexp.iter().zip(dots)) {
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

pub(super) fn forward(heads: usize, operands: Operands<'_>) {
    let ([q, k, v], [y, logsumexp]) = operands.split();
    let s = Sizes::of(q.ty, heads);
    let mut tasks: Vec<Task<'_>> = Vec::new();
    let samples = y.data.chunks_mut(s.tokens * s.channels).zip(logsumexp.data.chunks_mut(heads * s.tokens));
    for (n, (y, logsumexp)) in samples.enumerate() {
        let begin = tasks.len();
        for (block, rows) in y.chunks_mut(ROWS * s.channels).enumerate() {
            tasks.push(Task { n, first: block * ROWS, rows, statistics: Vec::new() });
        }
        for head in logsumexp.chunks_mut(s.tokens) {
            for (task, rows) in tasks[begin..].iter_mut().zip(head.chunks_mut(ROWS)) {
                task.statistics.push(rows);
            }
        }
    }
    tasks.into_par_iter().for_each(|mut task| {
        let rows = task.rows.len() / s.channels;
        with_scratch(rows * s.tokens, |p| {
            for (head, logsumexp) in task.statistics.iter_mut().enumerate() {
                let query = head_rows(s, q.data, task.n, head, task.first, rows);
                let key = head_rows(s, k.data, task.n, head, 0, s.tokens);
                gemm(s.scale as f32, query, key.t(), 0.0, p, s.tokens);
                softmax(p, logsumexp);
                let value = head_rows(s, v.data, task.n, head, 0, s.tokens);
                let probabilities = Matrix::new(p, rows, s.tokens);
                gemm(1.0, probabilities, value, 0.0, &mut task.rows[head * s.size..], s.channels);
            }
        });
    });
}

pub(super) fn backward_dot(heads: usize, operands: Operands<'_>) {
    let ([d_y, y], [dots]) = operands.split();
    let s = Sizes::of(y.ty, heads);
    par_rows(dots.data, s.tokens, |first, rows| {
        for (i, dot) in rows.iter_mut().enumerate() {
            let (head, token) = (first + i / s.tokens, i % s.tokens);
            let at = s.at(head / heads, head % heads, token);
            let mut lanes = [0.0_f32; 8];
            for (d_y, y) in d_y.data[at..][..s.size].chunks(8).zip(y.data[at..][..s.size].chunks(8)) {
                for ((lane, d_y), y) in lanes.iter_mut().zip(d_y).zip(y) {
                    *lane += d_y * y;
                }
            }
            *dot = lanes.iter().sum();
        }
    });
}

pub(super) fn backward_query(heads: usize, operands: Operands<'_>) {
    let ([q, k, v, d_y, logsumexp, dots], [d_q]) = operands.split();
    let s = Sizes::of(q.ty, heads);
    for_blocks(s, d_q.data, |n, first, d_q| {
        let rows = d_q.len() / s.channels;
        with_scratch(2 * rows * s.tokens, |scratch| {
            let (p, d_p) = scratch.split_at_mut(rows * s.tokens);
            for head in 0..heads {
                let key = head_rows(s, k.data, n, head, 0, s.tokens);
                let value = head_rows(s, v.data, n, head, 0, s.tokens);
                let query = head_rows(s, q.data, n, head, first, rows);
                gemm(s.scale as f32, query, key.t(), 0.0, p, s.tokens);
                gemm(1.0, head_rows(s, d_y.data, n, head, first, rows), value.t(), 0.0, d_p, s.tokens);
                let statistics = (n * heads + head) * s.tokens + first;
                let (logsumexp, dots) =
                    (&logsumexp.data[statistics..][..rows], &dots.data[statistics..][..rows]);
                query_gradients(p, logsumexp, dots, d_p);
                let ds = Matrix::new(d_p, rows, s.tokens);
                gemm(s.scale as f32, ds, key, 0.0, &mut d_q[head * s.size..], s.channels);
            }
        });
    });
}

/// Runs `body(n, first, rows)` over blocks of rows of a `[N, T, C]` tensor in parallel.
fn for_blocks(s: Sizes, tensor: &mut [f32], body: impl Fn(usize, usize, &mut [f32]) + Sync) {
    tensor.par_chunks_mut(s.tokens * s.channels).enumerate().for_each(|(n, sample)| {
        let blocks = sample.par_chunks_mut(ROWS * s.channels).enumerate();
        blocks.for_each(|(block, rows)| body(n, block * ROWS, rows));
    });
}

pub(super) fn backward_key_value(heads: usize, operands: Operands<'_>) {
    let ([q, k, v, d_y, logsumexp, dots], [d_k, d_v]) = operands.split();
    let s = Sizes::of(k.ty, heads);
    let sample = s.tokens * s.channels;
    let samples = d_k.data.par_chunks_mut(sample).zip(d_v.data.par_chunks_mut(sample)).enumerate();
    samples.for_each(|(n, (d_k, d_v))| {
        let blocks = d_k.par_chunks_mut(ROWS * s.channels).zip(d_v.par_chunks_mut(ROWS * s.channels));
        blocks.enumerate().for_each(|(block, (d_k, d_v))| {
            let (first, rows) = (block * ROWS, d_k.len() / s.channels);
            with_scratch(2 * rows * s.tokens, |scratch| {
                let (p, d_p) = scratch.split_at_mut(rows * s.tokens);
                for head in 0..heads {
                    // Row j of these matrices is a key, column i a query.
                    let query = head_rows(s, q.data, n, head, 0, s.tokens);
                    let d = head_rows(s, d_y.data, n, head, 0, s.tokens);
                    gemm(
                        s.scale as f32,
                        head_rows(s, k.data, n, head, first, rows),
                        query.t(),
                        0.0,
                        p,
                        s.tokens,
                    );
                    gemm(1.0, head_rows(s, v.data, n, head, first, rows), d.t(), 0.0, d_p, s.tokens);
                    let queries = (n * heads + head) * s.tokens;
                    let (logsumexp, dots) =
                        (&logsumexp.data[queries..][..s.tokens], &dots.data[queries..][..s.tokens]);
                    key_gradients(p, logsumexp, dots, d_p);
                    let channels = head * s.size;
                    gemm(1.0, Matrix::new(p, rows, s.tokens), d, 0.0, &mut d_v[channels..], s.channels);
                    gemm(
                        s.scale as f32,
                        Matrix::new(d_p, rows, s.tokens),
                        query,
                        0.0,
                        &mut d_k[channels..],
                        s.channels,
                    );
                }
            });
        });
    });
}
