//! The convolution by tiles, for `y` and, with the kernel rotated by 180 degrees, for `d_x`.
//!
//! Transformed inputs and transformed kernels are larger than the originals. Where there are many pixels, the kernels
//! are transformed once for all tasks; a task is a block of tiles, and transforms its inputs in its cache. Where there
//! are few pixels, the inputs are transformed once; a task is a panel of output channels, and transforms its kernels.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Geometry, POSITIONS, Tiling, load, store};
use crate::ops::cpu::tile::{DEPTH, multiply_tile, tile_rows};
use crate::ops::cpu::with_scratch;

/// Rows of a register tile with the widest vectors. Narrower vectors have tiles of fewer rows, which divide it.
const ROWS: usize = 12;

/// Columns of a panel at most: two of the widest vectors.
const PANEL: usize = 32;

/// Input channels of the kernels that are gathered at a time.
const GATHER: usize = 16;

/// Tiles of a block: enough to pay for loading the transformed kernels, and few enough for the second cache.
const TILES: usize = 48;

/// Elements of a cache line between the matrices of one position and the next: without it the sixteen elements of a
/// transform would compete for the same places of the first cache.
const GAP: usize = 16;

/// `y = conv(x, weight) + bias`.
pub(in super::super) fn forward(g: &Geometry, x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) {
    let kernels = Kernels { weight, inputs: g.in_channels, outputs: g.out_channels, rotated: false };
    convolve(Tiling::new(g), x, kernels, bias, y);
}

/// `d_x` from `d_y`.
pub(in super::super) fn backward_input(g: &Geometry, d_y: &[f32], weight: &[f32], d_x: &mut [f32]) {
    let kernels = Kernels { weight, inputs: g.out_channels, outputs: g.in_channels, rotated: true };
    convolve(Tiling::new(g), d_y, kernels, &vec![0.0; g.in_channels], d_x);
}

/// The kernels of a convolution with so many input and output channels: `weight` is `[outputs, 3, 3, inputs]`, or
/// `[inputs, 3, 3, outputs]` of kernels that are to be rotated.
#[derive(Clone, Copy)]
struct Kernels<'a> {
    weight: &'a [f32],
    inputs: usize,
    outputs: usize,
    rotated: bool,
}

impl Kernels<'_> {
    /// `G g G^T` for a block of input channels and a panel of output channels: `[16, depth, width]`.
    #[inline(always)]
    fn transform<S: Simd>(&self, simd: S, block: usize, panel: usize, out: &mut [f32]) {
        let width = 2 * S::F32_LANES;
        let columns = panel * width..self.outputs.min((panel + 1) * width);
        let inputs = block * DEPTH..self.inputs.min((block + 1) * DEPTH);
        let position = out.len() / POSITIONS;
        let mut taps = [[[0.0; PANEL]; 9]; GATHER];
        for first in inputs.clone().step_by(GATHER) {
            self.gather(first, columns.clone(), &mut taps);
            for (input, taps) in (first - inputs.start..).zip(&taps) {
                for lane in (0..width).step_by(S::F32_LANES) {
                    let mut half = [[simd.splat_f32s(0.0); 3]; 4];
                    for j in 0..3 {
                        let tap = |i: usize| load::<S>(&taps[3 * i + j], lane);
                        let down = transform_kernel(simd, [tap(0), tap(1), tap(2)]);
                        for i in 0..4 {
                            half[i][j] = down[i];
                        }
                    }
                    for (i, half) in half.into_iter().enumerate() {
                        for (j, value) in transform_kernel(simd, half).into_iter().enumerate() {
                            store::<S>(out, (4 * i + j) * position + input * width + lane, value);
                        }
                    }
                }
            }
        }
    }

    /// The nine taps of some kernels, output channels side by side.
    #[inline(always)]
    fn gather(&self, first: usize, columns: Range<usize>, taps: &mut [[[f32; PANEL]; 9]; GATHER]) {
        if self.rotated {
            for (input, taps) in (first..).zip(taps) {
                for (tap, out) in taps.iter_mut().rev().enumerate() {
                    let row = &self.weight[(input * 9 + tap) * self.outputs..][columns.clone()];
                    out[..row.len()].copy_from_slice(row);
                }
            }
            return;
        }
        for (lane, output) in columns.enumerate() {
            for tap in 0..9 {
                let row = &self.weight[(output * 9 + tap) * self.inputs + first..][..GATHER];
                for (taps, value) in taps.iter_mut().zip(row) {
                    taps[tap][lane] = *value;
                }
            }
        }
    }
}

/// `G g`.
#[inline(always)]
fn transform_kernel<S: Simd>(simd: S, [a, b, c]: [S::f32s; 3]) -> [S::f32s; 4] {
    let half = simd.splat_f32s(0.5);
    let (outer, inner) = (simd.mul_f32s(simd.add_f32s(a, c), half), simd.mul_f32s(b, half));
    [a, simd.add_f32s(outer, inner), simd.sub_f32s(outer, inner), c]
}

fn convolve(tiling: Tiling, x: &[f32], kernels: Kernels<'_>, bias: &[f32], y: &mut [f32]) {
    let (inputs, outputs, width) = (kernels.inputs, kernels.outputs, pulp::Arch::new().dispatch(PanelWidth));
    let lines = tiling.lines_of(TILES);
    let sizes = Sizes { tiling, inputs, lines, rows: (lines * tiling.across).next_multiple_of(ROWS), width };
    let (depth_blocks, panels) = (inputs.div_ceil(DEPTH), outputs.div_ceil(width));
    let pixels_per_block = 4 * lines * tiling.across;
    let transform_kernels = |panel: usize, block: usize, out: &mut [f32]| {
        pulp::Arch::new().dispatch(TransformKernels { kernels, panel, block, out });
    };
    let transform_inputs = |(block, out): (usize, &mut [f32])| {
        pulp::Arch::new().dispatch(TransformInputs { sizes, x, block, out });
    };
    let multiply = |u: &[f32], v: &[f32], m: &mut [f32], block: usize| {
        pulp::Arch::new().dispatch(Multiply { sizes, u, v, m, block });
    };
    let transform_outputs = |m: &[f32], bias: &[f32], rows: &mut [&mut [f32]]| {
        pulp::Arch::new().dispatch(TransformOutputs { sizes, m, bias, rows });
    };
    if tiling.tiles() > outputs {
        with_scratch(panels * depth_blocks * sizes.kernels(), |u| {
            u.par_chunks_mut(sizes.kernels()).enumerate().for_each(|(index, u)| {
                transform_kernels(index / depth_blocks, index % depth_blocks, u);
            });
            y.par_chunks_mut(pixels_per_block * outputs).enumerate().for_each(|(block, y)| {
                with_scratch(depth_blocks * sizes.inputs() + sizes.products(), |scratch| {
                    let (v, m) = scratch.split_at_mut(depth_blocks * sizes.inputs());
                    transform_inputs((block, v));
                    let u = u.chunks_exact(depth_blocks * sizes.kernels());
                    for ((u, mut rows), bias) in u.zip(strips(y, outputs, width)).zip(bias.chunks(width)) {
                        let factors = u.chunks_exact(sizes.kernels()).zip(v.chunks_exact(sizes.inputs()));
                        for (index, (u, v)) in factors.enumerate() {
                            multiply(u, v, m, index);
                        }
                        transform_outputs(m, bias, &mut rows);
                    }
                });
            });
        });
    } else {
        let blocks = tiling.lines.div_ceil(lines);
        with_scratch(blocks * depth_blocks * sizes.inputs(), |v| {
            v.par_chunks_mut(depth_blocks * sizes.inputs()).enumerate().for_each(transform_inputs);
            let strips = strips(y, outputs, width).into_par_iter().zip(bias.par_chunks(width)).enumerate();
            strips.for_each(|(panel, (mut rows, bias))| {
                with_scratch(sizes.kernels() + blocks * sizes.products(), |scratch| {
                    let (u, m) = scratch.split_at_mut(sizes.kernels());
                    for depth_block in 0..depth_blocks {
                        transform_kernels(panel, depth_block, u);
                        let v = v.chunks_exact(sizes.inputs()).skip(depth_block).step_by(depth_blocks);
                        for (m, v) in m.chunks_exact_mut(sizes.products()).zip(v) {
                            multiply(u, v, m, depth_block);
                        }
                    }
                    for (m, rows) in m.chunks_exact(sizes.products()).zip(rows.chunks_mut(pixels_per_block)) {
                        transform_outputs(m, bias, rows);
                    }
                });
            });
        });
    }
}

/// The rows of each range of `width` columns.
fn strips(y: &mut [f32], columns: usize, width: usize) -> Vec<Vec<&mut [f32]>> {
    let mut strips: Vec<Vec<&mut [f32]>> = Vec::new();
    strips.resize_with(columns.div_ceil(width), || Vec::with_capacity(y.len() / columns));
    for row in y.chunks_exact_mut(columns) {
        for (strip, part) in strips.iter_mut().zip(row.chunks_mut(width)) {
            strip.push(part);
        }
    }
    strips
}

/// Sizes of a convolution cut into blocks of `lines` lines of tiles, whose matrices have `rows` rows and panels of `width`
/// columns.
#[derive(Clone, Copy)]
struct Sizes {
    tiling: Tiling,
    inputs: usize,
    lines: usize,
    rows: usize,
    width: usize,
}

impl Sizes {
    /// Elements of the transformed kernels of a panel and a block of input channels: `[16, depth, width]` and gaps.
    fn kernels(&self) -> usize {
        POSITIONS * (self.inputs.min(DEPTH) * self.width + GAP)
    }

    /// Elements of the transformed inputs of a block of tiles and a block of input channels: `[16, rows, DEPTH]` and gaps.
    fn inputs(&self) -> usize {
        POSITIONS * (self.rows * DEPTH + GAP)
    }

    /// Elements of the product of the two: `[16, rows, width]`.
    fn products(&self) -> usize {
        POSITIONS * self.rows * self.width
    }
}

/// Columns of a panel: two vectors.
struct PanelWidth;

impl WithSimd for PanelWidth {
    type Output = usize;
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        2 * S::F32_LANES
    }
}

struct TransformKernels<'a> {
    kernels: Kernels<'a>,
    panel: usize,
    block: usize,
    out: &'a mut [f32],
}

impl WithSimd for TransformKernels<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.kernels.transform(simd, self.block, self.panel, self.out);
    }
}

struct TransformInputs<'a> {
    sizes: Sizes,
    x: &'a [f32],
    block: usize,
    out: &'a mut [f32],
}

impl WithSimd for TransformInputs<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Sizes { tiling, inputs, lines, .. } = self.sizes;
        let block = self.sizes.inputs();
        let lines = self.block * lines..tiling.lines.min((self.block + 1) * lines);
        let out = self.out;
        tiling.transform_inputs(simd, self.x, inputs, 0..inputs, lines, |tile, channel, values| {
            let out = &mut out[channel / DEPTH * block..][..block];
            for (out, value) in out.chunks_exact_mut(block / POSITIONS).zip(values) {
                store::<S>(out, tile * DEPTH + channel % DEPTH, value);
            }
        });
    }
}

/// A block of inputs times a panel of kernels: `m = v u`, or `m += v u` after the first block of channels.
struct Multiply<'a> {
    sizes: Sizes,
    u: &'a [f32],
    v: &'a [f32],
    m: &'a mut [f32],
    /// Index of the block of channels.
    block: usize,
}

impl WithSimd for Multiply<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (S::REGISTER_COUNT >= 32, self.block == 0) {
            (true, true) => self.multiply::<S, ROWS, false>(simd),
            (true, false) => self.multiply::<S, ROWS, true>(simd),
            (false, true) => self.multiply::<S, { ROWS / 2 }, false>(simd),
            (false, false) => self.multiply::<S, { ROWS / 2 }, true>(simd),
        }
    }
}

impl Multiply<'_> {
    #[inline(always)]
    fn multiply<S: Simd, const M: usize, const ADD: bool>(self, simd: S) {
        let Sizes { inputs, rows, .. } = self.sizes;
        let width = 2 * S::F32_LANES;
        let terms = DEPTH.min(inputs - self.block * DEPTH);
        let (v, u) = (self.v.len() / POSITIONS, self.u.len() / POSITIONS);
        let factors = self.v.chunks_exact(v).zip(self.u.chunks_exact(u));
        for ((v, u), m) in factors.zip(self.m.chunks_exact_mut(rows * width)) {
            let (u, _) = S::as_simd_f32s(&u[..terms * width]);
            for (m, v) in m.chunks_exact_mut(M * width).zip(v.chunks_exact(M * DEPTH)) {
                multiply_tile::<S, M, false, ADD>(simd, v, u, &mut tile_rows::<M>(m, width), 0);
            }
        }
    }
}

/// `A^T m A` and the bias, to the rows of a panel of `y`.
struct TransformOutputs<'a, 'y> {
    sizes: Sizes,
    m: &'a [f32],
    bias: &'a [f32],
    rows: &'a mut [&'y mut [f32]],
}

impl WithSimd for TransformOutputs<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (width, across) = (2 * S::F32_LANES, self.sizes.tiling.across);
        let position = self.sizes.rows * width;
        for (line, rows) in self.rows.chunks_exact_mut(4 * across).enumerate() {
            let (upper, lower) = rows.split_at_mut(2 * across);
            let pairs = upper.as_chunks_mut::<2>().0.iter_mut().zip(lower.as_chunks_mut::<2>().0);
            for (tile, (upper, lower)) in pairs.enumerate() {
                for lane in (0..upper[0].len()).step_by(S::F32_LANES) {
                    let at = (line * across + tile) * width + lane;
                    let [mut top, mut bottom] = [[simd.splat_f32s(0.0); 4]; 2];
                    for j in 0..4 {
                        let m = |i: usize| load::<S>(self.m, (4 * i + j) * position + at);
                        [top[j], bottom[j]] = transform_output(simd, [m(0), m(1), m(2), m(3)]);
                    }
                    let bias = load::<S>(self.bias, lane);
                    for (half, rows) in [(top, &mut *upper), (bottom, &mut *lower)] {
                        let [y0, y1] = transform_output(simd, half);
                        store::<S>(rows[0], lane, simd.add_f32s(y0, bias));
                        store::<S>(rows[1], lane, simd.add_f32s(y1, bias));
                    }
                }
            }
        }
    }
}

/// `A^T m`.
#[inline(always)]
fn transform_output<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; 4]) -> [S::f32s; 2] {
    [simd.add_f32s(simd.add_f32s(a, b), c), simd.add_f32s(simd.sub_f32s(b, c), d)]
}
