//! Convolutions of the CPU executor that are not computed by [`super::winograd`]: matrix products of patches, which are
//! gathered a block at a time (im2col).

use std::ops::Range;

use rayon::prelude::*;

use super::Geometry;
use crate::ops::cpu::{
    Block, Matrix, copy, copy_block, copy_transposed, gemm, product, transposed_product, vector_functions,
    with_scratch,
};

/// Output pixels of one block of a scattered product.
const BLOCK: usize = 256;

/// Output pixels from which on it pays to transpose the weights once rather than in every task.
const MANY_PIXELS: usize = 1024;

/// Rows of the transposed weights that one task makes.
const TERMS: usize = 64;

/// `y = conv(x, weight) + bias`: `[pixels, KH KW I]` times the transpose of `[O, KH KW I]`.
pub(super) fn forward(g: &Geometry, x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) {
    let patch = g.patch();
    let gather = |block: &Block, out: &mut [f32]| gather_patches(g, x, block, out);
    if g.out_pixels() < MANY_PIXELS {
        let pack = |block: &Block, out: &mut [f32]| copy_transposed(weight, patch, block, out);
        product(y, g.out_channels, patch, Some(bias), gather, pack);
        return;
    }
    let mut transposed = vec![0.0; weight.len()]; // [KH KW I, O]
    transposed.par_chunks_mut(TERMS * g.out_channels).enumerate().for_each(|(index, out)| {
        let first = index * TERMS;
        let rows = first..patch.min(first + TERMS);
        copy_transposed(
            weight,
            patch,
            &Block { rows, columns: 0..g.out_channels, stride: g.out_channels },
            out,
        );
    });
    let pack = |block: &Block, out: &mut [f32]| copy_block(&transposed, g.out_channels, block, out);
    product(y, g.out_channels, patch, Some(bias), gather, pack);
}

/// A block of the im2col matrix: its rows are output pixels, its columns `[KH, KW, I]`.
fn gather_patches(g: &Geometry, x: &[f32], block: &Block, out: &mut [f32]) {
    let channels = g.in_channels;
    let mut column = block.columns.start;
    while column < block.columns.end {
        let (tap, first) = (column / channels, column % channels);
        let end = channels.min(first + block.columns.end - column);
        let out = &mut out[column - block.columns.start..];
        gather_tap(*g, x, block.rows.clone(), tap, first..end, out, block.stride);
        column += end - first;
    }
}

vector_functions! {
    /// Copies some channels that a range of output pixels reads under one tap, to rows `stride` apart.
    fn gather_tap(
        g: Geometry,
        x: &[f32],
        pixels: Range<usize>,
        tap: usize,
        channels: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
        let [in_height, in_width] = g.in_size;
        let [out_height, out_width] = g.out_size;
        let (kh, kw) = (tap / g.kernel[1], tap % g.kernel[1]);
        let ([down, across], [top, left]) = (g.stride, g.pad);
        // The columns of an output row that read inside the image.
        let first = left.saturating_sub(kw).div_ceil(across).min(out_width);
        let end = (in_width + left).saturating_sub(kw).div_ceil(across).clamp(first, out_width);
        let mut rows = out.chunks_mut(stride).map(|row| &mut row[..channels.len()]);
        let mut pixel = pixels.start;
        while pixel < pixels.end {
            let (line, column) = (pixel / out_width, pixel % out_width);
            let columns = column..out_width.min(column + pixels.end - pixel);
            pixel += columns.len();
            let (n, h) = (line / out_height, (line % out_height * down + kh).wrapping_sub(top));
            let (first, end) = match h < in_height {
                true => (first.clamp(columns.start, columns.end), end.clamp(columns.start, columns.end)),
                false => (columns.end, columns.end),
            };
            rows.by_ref().take(first - columns.start).for_each(|row| row.fill(0.0));
            if first < end {
                let at = ((n * in_height + h) * in_width + first * across + kw - left) * g.in_channels;
                let inputs = x[at + channels.start..].chunks(across * g.in_channels);
                let pairs = inputs.take(end - first).zip(rows.by_ref());
                // The width of a panel of the weight gradient, where copying counts.
                if channels.len() == 32 {
                    for (input, row) in pairs {
                        if let (Some(row), Some(input)) = (row.first_chunk_mut::<32>(), input.first_chunk::<32>()) {
                            *row = *input;
                        }
                    }
                } else {
                    pairs.for_each(|(input, row)| copy(row, &input[..channels.len()]));
                }
            }
            rows.by_ref().take(columns.end - end).for_each(|row| row.fill(0.0));
        }
    }

    /// A block of the kernel rotated by 180 degrees, `[KH, KW, O]` by input channels: row `(tap, o)` of it is a part of
    /// a row of the weight `[O, KH, KW, I]`.
    fn pack_rotated(g: Geometry, weight: &[f32], block: &Block, out: &mut [f32]) {
        let taps = g.taps();
        let (mut tap, mut o) = (block.rows.start / g.out_channels, block.rows.start % g.out_channels);
        for out in out.chunks_mut(block.stride).take(block.rows.len()) {
            let row = &weight[(o * taps + taps - 1 - tap) * g.in_channels..][block.columns.clone()];
            copy(&mut out[..row.len()], row);
            o += 1;
            if o == g.out_channels {
                (tap, o) = (tap + 1, 0);
            }
        }
    }
}

/// `d_x` from `d_y`: a convolution with the rotated kernel where the stride is 1, else products scattered back.
pub(super) fn backward_input(g: &Geometry, d_y: &[f32], weight: &[f32], d_x: &mut [f32]) {
    let can_turn = (0..2).all(|axis| g.stride[axis] == 1 && g.pad[axis] < g.kernel[axis]);
    if can_turn {
        let rotated = Geometry {
            in_size: g.out_size,
            in_channels: g.out_channels,
            out_size: g.in_size,
            out_channels: g.in_channels,
            pad: [g.kernel[0] - 1 - g.pad[0], g.kernel[1] - 1 - g.pad[1]],
            ..*g
        };
        let gather = |block: &Block, out: &mut [f32]| gather_patches(&rotated, d_y, block, out);
        let pack = |block: &Block, out: &mut [f32]| pack_rotated(*g, weight, block, out);
        product(d_x, g.in_channels, rotated.patch(), None, gather, pack);
        return;
    }
    let (patch, out, channels) = (g.patch(), g.out_channels, g.in_channels);
    let out_image = g.out_size[0] * g.out_size[1];
    let in_image = g.in_size[0] * g.in_size[1] * channels;
    let weight = Matrix::new(weight, out, patch);
    d_x.par_chunks_mut(in_image).enumerate().for_each(|(n, d_x)| {
        d_x.fill(0.0);
        let rows = BLOCK.min(out_image);
        with_scratch(rows * patch, |columns| {
            for first in (0..out_image).step_by(rows) {
                let rows = rows.min(out_image - first);
                let d_y = Matrix::new(&d_y[(n * out_image + first) * out..], rows, out);
                gemm(1.0, d_y, weight, 0.0, columns, patch);
                for (index, patch) in columns.chunks_exact(patch).take(rows).enumerate() {
                    let (oh, ow) = ((first + index) / g.out_size[1], (first + index) % g.out_size[1]);
                    for (tap, values) in patch.chunks_exact(channels).enumerate() {
                        let Some(pixel) = g.tap(0, oh, ow, tap / g.kernel[1], tap % g.kernel[1]) else {
                            continue;
                        };
                        for (d, value) in d_x[pixel * channels..].iter_mut().zip(values) {
                            *d += value;
                        }
                    }
                }
            }
        });
    });
}

/// `d_weight` from `x` and `d_y`: the transpose of `[pixels, O]` times `[pixels, KH KW I]`.
pub(super) fn backward_weight(g: &Geometry, x: &[f32], d_y: &[f32], d_weight: &mut [f32]) {
    let right = |block: &Block, out: &mut [f32]| gather_patches(g, x, block, out);
    transposed_product(d_weight, g.patch(), d_y, right);
}
