//! The convolution of the CPU executor: matrix products over blocks of gathered pixels (im2col), which never holds more
//! than a block of the gathered matrix.

use rayon::prelude::*;

use super::Geometry;
use crate::ops::cpu::{Matrix, gemm, with_scratch};

/// Output pixels of one block: enough to pay for the packing of the weights inside the matrix product.
const BLOCK: usize = 256;

fn block_pixels(pixels: usize) -> usize {
    let tasks = 2 * rayon::current_num_threads();
    pixels.div_ceil(tasks).clamp(16, BLOCK)
}

/// `y = conv(x, weight) + bias`.
pub(super) fn forward(g: &Geometry, x: &[f32], weight: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let (patch, out) = (g.patch(), g.out_channels);
    let weight = Matrix::new(weight, out, patch).t();
    let block = block_pixels(g.out_pixels());
    y.par_chunks_mut(block * out).enumerate().for_each(|(index, y)| {
        let rows = y.len() / out;
        let beta = match bias {
            Some(bias) => {
                y.chunks_exact_mut(out).for_each(|row| row.copy_from_slice(bias));
                1.0
            }
            None => 0.0,
        };
        let first = index * block;
        if g.kernel == 1 && g.stride == 1 {
            gemm(1.0, Matrix::new(&x[first * patch..], rows, patch), weight, beta, y, out);
        } else {
            with_scratch(rows * patch, |columns| {
                gather_patches(g, x, first, columns);
                gemm(1.0, Matrix::new(columns, rows, patch), weight, beta, y, out);
            });
        }
    });
}

/// Rows of the im2col matrix for output pixels from `first` on: `[pixels, k, k, I]`.
fn gather_patches(g: &Geometry, x: &[f32], first: usize, columns: &mut [f32]) {
    let channels = g.in_channels;
    let row = g.kernel * channels;
    let [in_height, in_width] = g.in_size;
    for (index, patch) in columns.chunks_exact_mut(g.patch()).enumerate() {
        let pixel = first + index;
        let ow = pixel % g.out_size[1];
        let oh = pixel / g.out_size[1] % g.out_size[0];
        let n = pixel / (g.out_size[0] * g.out_size[1]);
        // The columns left..right of the image that the kernel covers, and where they start within a patch row.
        let left = (ow * g.stride).saturating_sub(g.pad);
        let skipped = (g.pad.saturating_sub(ow * g.stride)) * channels;
        let right = (ow * g.stride + g.kernel - g.pad).min(in_width);
        let covered = right.saturating_sub(left) * channels;
        for (kh, patch) in patch.chunks_exact_mut(row).enumerate() {
            let h = (oh * g.stride + kh).wrapping_sub(g.pad);
            if h >= in_height || covered == 0 {
                patch.fill(0.0);
                continue;
            }
            let at = ((n * in_height + h) * in_width + left) * channels;
            patch[..skipped].fill(0.0);
            patch[skipped..skipped + covered].copy_from_slice(&x[at..at + covered]);
            patch[skipped + covered..].fill(0.0);
        }
    }
}

/// `d_x` from `d_y`: a convolution with the turned kernel where the stride is 1, else products scattered back.
pub(super) fn backward_input(g: &Geometry, d_y: &[f32], weight: &[f32], d_x: &mut [f32]) {
    if g.stride == 1 {
        let turned = turn_kernel(g, weight);
        let transposed = Geometry {
            in_size: g.out_size,
            in_channels: g.out_channels,
            out_size: g.in_size,
            out_channels: g.in_channels,
            pad: g.kernel - 1 - g.pad,
            ..*g
        };
        forward(&transposed, d_y, &turned, None, d_x);
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
                        let Some(pixel) = g.tap(0, oh, ow, tap / g.kernel, tap % g.kernel) else { continue };
                        for (d, value) in d_x[pixel * channels..].iter_mut().zip(values) {
                            *d += value;
                        }
                    }
                }
            }
        });
    });
}

/// The kernel turned by 180 degrees with input and output channels exchanged: `[O, k, k, I]` to `[I, k, k, O]`.
fn turn_kernel(g: &Geometry, weight: &[f32]) -> Vec<f32> {
    let taps = g.kernel * g.kernel;
    let (inputs, outputs) = (g.in_channels, g.out_channels);
    let mut turned = vec![0.0; weight.len()];
    turned.par_chunks_mut(taps * outputs).enumerate().for_each(|(i, rows)| {
        for (tap, row) in rows.chunks_exact_mut(outputs).enumerate() {
            let source = (taps - 1 - tap) * inputs + i;
            for (o, value) in row.iter_mut().enumerate() {
                *value = weight[o * taps * inputs + source];
            }
        }
    });
    turned
}

/// `d_weight` from `x` and `d_y`. A task makes one kernel tap for a block of output channels, so that the order of
/// summation, and with it every bit, is the same for any number of threads.
pub(super) fn backward_weight(g: &Geometry, x: &[f32], d_y: &[f32], d_weight: &mut [f32]) {
    let taps = g.kernel * g.kernel;
    let (inputs, outputs) = (g.in_channels, g.out_channels);
    let block = outputs.div_ceil(if taps == 1 { 4 } else { 2 }).max(16).min(outputs);
    let blocks = outputs.div_ceil(block);
    let tiles: Vec<Vec<f32>> = (0..taps * blocks)
        .into_par_iter()
        .map(|task| {
            let (tap, first) = (task % taps, task / taps * block);
            let rows = block.min(outputs - first);
            let mut tile = vec![0.0; rows * inputs];
            accumulate_tap(g, x, &d_y[first..], rows, tap, &mut tile);
            tile
        })
        .collect();
    d_weight.par_chunks_mut(taps * inputs).enumerate().for_each(|(o, row)| {
        for (tap, values) in row.chunks_exact_mut(inputs).enumerate() {
            let tile = &tiles[o / block * taps + tap];
            values.copy_from_slice(&tile[o % block * inputs..][..inputs]);
        }
    });
}

/// `tile[o, i] = sum over pixels of d_y[pixel, o] x[input pixel of the tap, i]`, for `rows` output channels.
fn accumulate_tap(g: &Geometry, x: &[f32], d_y: &[f32], rows: usize, tap: usize, tile: &mut [f32]) {
    let (inputs, outputs) = (g.in_channels, g.out_channels);
    let pixels = g.out_pixels();
    let d_y_block =
        |first: usize, count: usize| Matrix::strided(&d_y[first * outputs..], count, rows, outputs).t();
    if g.kernel == 1 && g.stride == 1 {
        gemm(1.0, d_y_block(0, pixels), Matrix::new(x, pixels, inputs), 0.0, tile, inputs);
        return;
    }
    // As much of the shifted image as fits the cache beside the product's own blocks.
    let block = (64 * 1024 / inputs).clamp(64, 4096).min(pixels);
    with_scratch(block * inputs, |shifted| {
        for first in (0..pixels).step_by(block) {
            let count = block.min(pixels - first);
            for (index, row) in shifted.chunks_exact_mut(inputs).take(count).enumerate() {
                let pixel = first + index;
                let (n, rest) =
                    (pixel / (g.out_size[0] * g.out_size[1]), pixel % (g.out_size[0] * g.out_size[1]));
                let (oh, ow) = (rest / g.out_size[1], rest % g.out_size[1]);
                match g.tap(n, oh, ow, tap / g.kernel, tap % g.kernel) {
                    Some(input) => row.copy_from_slice(&x[input * inputs..][..inputs]),
                    None => row.fill(0.0),
                }
            }
            let beta = if first == 0 { 0.0 } else { 1.0 };
            gemm(1.0, d_y_block(first, count), Matrix::new(shifted, count, inputs), beta, tile, inputs);
        }
    });
}
