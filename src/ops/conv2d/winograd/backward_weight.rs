//! The gradient of the kernels by tiles: `G^T [(B^T d B) * (A d_Y A^T)] G`, summed over tiles before the last transform.
//!
//! A task sums a block of output by input channels over a part of the tiles. It transforms its part of `x` and `d_y` by
//! itself: blocks are so large that the products take most of the time.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Geometry, POSITIONS, Tiling, load, store};
use crate::ops::cpu::tile::{multiply_tile, tile_rows};
use crate::ops::cpu::with_scratch;

/// Channels of a block, of outputs and of inputs.
const BLOCK: usize = 64;

/// Tiles whose transforms fill the second cache beside the sums.
const TILES: usize = 32;

/// Tasks that there should be at least, where there are tiles enough.
const TASKS: usize = 8;

/// Tiles of a task at least.
const TILES_PER_TASK: usize = 256;

/// `d_weight` from `x` and `d_y`.
pub(in super::super) fn backward_weight(g: &Geometry, x: &[f32], d_y: &[f32], d_weight: &mut [f32]) {
    let tiling = Tiling::new(g);
    let blocks = g.out_channels.div_ceil(BLOCK) * g.in_channels.div_ceil(BLOCK);
    let parts = TASKS.div_ceil(blocks).min(tiling.tiles() / TILES_PER_TASK).max(1);
    let lines = tiling.lines.div_ceil(parts);
    let parts = tiling.lines.div_ceil(lines);
    let tiles = tiling.lines_of(TILES) * tiling.across;
    let sum_part = |sums: &mut [f32], part: usize| {
        let lines = part * lines..tiling.lines.min((part + 1) * lines);
        blocks_of(sums, g.in_channels).into_par_iter().for_each(|block| {
            let lines = lines.clone();
            with_scratch(POSITIONS * BLOCK * (2 * tiles + BLOCK), |scratch| {
                pulp::Arch::new().dispatch(Sum { tiling, lines, x, d_y, g, block, scratch });
            });
        });
    };
    if parts == 1 {
        sum_part(d_weight, 0);
        return;
    }
    let length = d_weight.len();
    with_scratch(parts * length, |sums| {
        sums.par_chunks_mut(length).enumerate().for_each(|(part, sums)| sum_part(sums, part));
        d_weight.par_chunks_mut(length.div_ceil(TASKS)).enumerate().for_each(|(index, d_weight)| {
            let first = index * length.div_ceil(TASKS);
            d_weight.copy_from_slice(&sums[first..][..d_weight.len()]);
            for part in 1..parts {
                for (d, sum) in d_weight.iter_mut().zip(&sums[part * length + first..]) {
                    *d += sum;
                }
            }
        });
    });
}

/// A block of the kernels: some output channels, nine rows of some input channels for each.
struct Block<'a> {
    first_output: usize,
    first_input: usize,
    rows: Vec<&'a mut [f32]>,
}

fn blocks_of(d_weight: &mut [f32], inputs: usize) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for (index, outputs) in d_weight.chunks_mut(BLOCK * 9 * inputs).enumerate() {
        let begin = blocks.len();
        for first_input in (0..inputs).step_by(BLOCK) {
            blocks.push(Block { first_output: index * BLOCK, first_input, rows: Vec::new() });
        }
        for row in outputs.chunks_exact_mut(inputs) {
            for (block, part) in blocks[begin..].iter_mut().zip(row.chunks_mut(BLOCK)) {
                block.rows.push(part);
            }
        }
    }
    blocks
}

/// One task.
struct Sum<'a> {
    tiling: Tiling,
    lines: Range<usize>,
    x: &'a [f32],
    d_y: &'a [f32],
    g: &'a Geometry,
    block: Block<'a>,
    /// Transforms of some tiles, and the sums.
    scratch: &'a mut [f32],
}

impl WithSimd for Sum<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        match S::REGISTER_COUNT >= 32 {
            true => self.sum::<S, 8>(simd),
            false => self.sum::<S, 4>(simd),
        }
    }
}

impl Sum<'_> {
    #[inline(always)]
    fn sum<S: Simd, const M: usize>(&mut self, simd: S) {
        let width = 2 * S::F32_LANES;
        let (outputs, inputs) = (self.block.rows.len() / 9, self.block.rows[0].len());
        let columns = inputs.next_multiple_of(width);
        let lines_at_once = self.tiling.lines_of(TILES);
        let tiles = lines_at_once * self.tiling.across;
        let (v, scratch) = std::mem::take(&mut self.scratch).split_at_mut(POSITIONS * tiles * columns);
        let (d, scratch) = scratch.split_at_mut(POSITIONS * tiles * outputs);
        let m = &mut scratch[..POSITIONS * outputs * columns];
        for first in self.lines.clone().step_by(lines_at_once) {
            let lines = first..self.lines.end.min(first + lines_at_once);
            let count = lines.len() * self.tiling.across;
            let channels = self.block.first_input..self.block.first_input + inputs;
            let (x_channels, offset) = (self.g.in_channels, self.block.first_input);
            // [16, panels, tiles, width]
            self.tiling.transform_inputs(
                simd,
                self.x,
                x_channels,
                channels,
                lines.clone(),
                |tile, channel, values| {
                    let channel = channel - offset;
                    let at = (channel / width * tiles + tile) * width + channel % width;
                    for (out, value) in v.chunks_exact_mut(tiles * columns).zip(values) {
                        store::<S>(out, at, value);
                    }
                },
            );
            self.transform_d_y::<S, M>(simd, lines, tiles, d);
            let factors = v.chunks_exact(tiles * columns).zip(d.chunks_exact(tiles * outputs));
            for ((v, d), m) in factors.zip(m.chunks_exact_mut(outputs * columns)) {
                for (v, m) in v.chunks_exact(tiles * width).zip(m.chunks_exact_mut(outputs * width)) {
                    let (v, _) = S::as_simd_f32s(&v[..count * width]);
                    for (d, m) in d.chunks_exact(tiles * M).zip(m.chunks_exact_mut(M * width)) {
                        let m = &mut tile_rows::<M>(m, width);
                        match first == self.lines.start {
                            true => multiply_tile::<S, M, true, false>(simd, d, v, m, 0),
                            false => multiply_tile::<S, M, true, true>(simd, d, v, m, 0),
                        }
                    }
                }
            }
        }
        self.transform_sums(simd, m, columns);
    }

    /// `A d_Y A^T`: `[16, outputs / M, tiles, M]`.
    #[inline(always)]
    fn transform_d_y<S: Simd, const M: usize>(
        &self,
        simd: S,
        lines: Range<usize>,
        tiles: usize,
        out: &mut [f32],
    ) {
        let outputs = self.block.rows.len() / 9;
        let (channels, across) = (self.g.out_channels, self.tiling.across);
        for (index, line) in lines.enumerate() {
            let (upper, lower) = self.d_y[line * 4 * across * channels..].split_at(2 * across * channels);
            for tile in 0..across {
                for output in (0..outputs).step_by(S::F32_LANES) {
                    let at = |w: usize| (2 * tile + w) * channels + self.block.first_output + output;
                    let column = |w: usize| {
                        transform_gradient(simd, [load::<S>(upper, at(w)), load::<S>(lower, at(w))])
                    };
                    let (left, right) = (column(0), column(1));
                    for i in 0..4 {
                        let row = transform_gradient(simd, [left[i], right[i]]);
                        for (j, value) in row.into_iter().enumerate() {
                            let out = &mut out[(4 * i + j) * tiles * outputs..][..tiles * outputs];
                            let mut lanes = [0.0; 16];
                            store::<S>(&mut lanes, 0, value);
                            for (part, lanes) in lanes[..S::F32_LANES].chunks(M).enumerate() {
                                let output = output + part * M;
                                let at = (output / M * tiles + index * across + tile) * M + output % M;
                                out[at..at + lanes.len()].copy_from_slice(lanes);
                            }
                        }
                    }
                }
            }
        }
    }

    /// `G^T m G`; `m` is `[16, panels, outputs, width]`.
    #[inline(always)]
    fn transform_sums<S: Simd>(&mut self, simd: S, m: &[f32], columns: usize) {
        let width = 2 * S::F32_LANES;
        let outputs = self.block.rows.len() / 9;
        for (output, rows) in self.block.rows.chunks_exact_mut(9).enumerate() {
            for input in (0..rows[0].len()).step_by(S::F32_LANES) {
                let at = (input / width * outputs + output) * width + input % width;
                let [mut top, mut middle, mut bottom] = [[simd.splat_f32s(0.0); 4]; 3];
                for j in 0..4 {
                    let m = |i: usize| load::<S>(m, (4 * i + j) * outputs * columns + at);
                    [top[j], middle[j], bottom[j]] = transform_sum(simd, [m(0), m(1), m(2), m(3)]);
                }
                for (i, half) in [top, middle, bottom].into_iter().enumerate() {
                    for (j, value) in transform_sum(simd, half).into_iter().enumerate() {
                        store::<S>(rows[3 * i + j], input, value);
                    }
                }
            }
        }
    }
}

/// `A d_y`.
#[inline(always)]
fn transform_gradient<S: Simd>(simd: S, [a, b]: [S::f32s; 2]) -> [S::f32s; 4] {
    [a, simd.add_f32s(a, b), simd.sub_f32s(a, b), b]
}

/// `G^T m`.
#[inline(always)]
fn transform_sum<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; 4]) -> [S::f32s; 3] {
    let half = simd.splat_f32s(0.5);
    let sum = simd.mul_f32s(simd.add_f32s(b, c), half);
    let difference = simd.mul_f32s(simd.sub_f32s(b, c), half);
    [simd.add_f32s(a, sum), difference, simd.add_f32s(sum, d)]
}
