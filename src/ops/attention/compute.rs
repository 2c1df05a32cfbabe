//! The CPU twins of attention: matrix products over blocks of own rows, one task per (sample, block).

use rayon::prelude::*;

use super::Sizes;
use crate::ops::cpu::{Matrix, Operands, exp, gemm, par_rows, with_scratch};

/// Own rows of a task: queries, or keys where the sums run over queries.
const ROWS: usize = 64;

/// The rows `first .. first + rows` of one head of one sample.
fn head_rows(s: Sizes, data: &[f32], n: usize, head: usize, first: usize, rows: usize) -> Matrix<'_> {
    Matrix::strided(&data[s.at(n, head, first)..], rows, s.size, s.channels)
}

/// Sum in eight lanes, which vectorise.
fn sum(row: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    for eight in row.chunks(8) {
        for (lane, value) in lanes.iter_mut().zip(eight) {
            *lane += value;
        }
    }
    lanes.iter().sum()
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
                for (row, logsumexp) in p.chunks_exact_mut(s.tokens).zip(logsumexp.iter_mut()) {
                    let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    for score in row.iter_mut() {
                        *score = exp(*score - highest);
                    }
                    let total = sum(row);
                    for score in row.iter_mut() {
                        *score /= total;
                    }
                    *logsumexp = highest + total.ln();
                }
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
                for (row, (p, d_p)) in
                    p.chunks_exact(s.tokens).zip(d_p.chunks_exact_mut(s.tokens)).enumerate()
                {
                    let (logsumexp, dot) = (logsumexp.data[statistics + row], dots.data[statistics + row]);
                    for (p, d) in p.iter().zip(d_p) {
                        *d = exp(p - logsumexp) * (*d - dot);
                    }
                }
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
                    for (p, d_p) in p.chunks_exact_mut(s.tokens).zip(d_p.chunks_exact_mut(s.tokens)) {
                        for ((p, d), (logsumexp, dot)) in
                            p.iter_mut().zip(d_p).zip(logsumexp.iter().zip(dots))
                        {
                            *p = exp(*p - logsumexp);
                            *d = *p * (*d - dot);
                        }
                    }
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
