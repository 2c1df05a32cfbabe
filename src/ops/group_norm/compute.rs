//! The CPU kernels of group normalisation: few passes, inner loops over contiguous channels, parallel over samples and
//! over blocks of rows within a sample.
//!
//! Loops run over wide rows: as many pixels as make a row worth vectors, with what belongs to a channel repeated.

use std::ops::Range;

use rayon::prelude::*;

use super::{Settings, Sizes};
use crate::ops::cpu::{Operands, sigmoid, vector_functions};

/// Elements of a block of a sample that one task takes.
const BLOCK: usize = 32 * 1024;

/// Wide rows that are summed in f32 before the sum goes to f64.
const RUN: usize = 32;

/// Elements of a wide row, at least.
const WIDE: usize = 128;

impl Sizes {
    /// Elements of a wide row.
    fn wide(&self) -> usize {
        self.channels * WIDE.div_ceil(self.channels)
    }

    /// One number per element of a wide row.
    fn spread(&self, of_channel: impl Fn(usize) -> f32) -> Vec<f32> {
        (0..self.wide()).map(|i| of_channel(i % self.channels)).collect()
    }

    /// The mean over each group's elements, from sums over the pixels of each channel.
    fn group_means(&self, sums: impl Iterator<Item = f64>) -> Vec<f64> {
        let mut means = vec![0.0; self.groups];
        for (c, sum) in sums.enumerate() {
            means[c / self.group_channels] += sum;
        }
        let count = (self.pixels * self.group_channels) as f64;
        means.iter_mut().for_each(|mean| *mean /= count);
        means
    }
}

/// `add(elements, lanes)` adds a range of a sample's elements to `kinds` wide rows of sums; the sums per channel, in an
/// order that is always the same.
fn sum_pixels(sizes: Sizes, kinds: usize, add: impl Fn(Range<usize>, &mut [f32]) + Sync) -> Vec<f64> {
    let (sample, wide, c) = (sizes.pixels * sizes.channels, sizes.wide(), sizes.channels);
    let run = RUN * wide;
    let block = run * (BLOCK / run).max(1);
    let sum_block = |first: usize| {
        let end = sample.min(first + block);
        let mut sums = vec![0.0; kinds * wide];
        let mut lanes = vec![0.0; kinds * wide];
        for first in (first..end).step_by(run) {
            lanes.fill(0.0);
            add(first..end.min(first + run), &mut lanes);
            for (sum, &lane) in sums.iter_mut().zip(&lanes) {
                *sum += f64::from(lane);
            }
        }
        sums
    };
    let blocks: Vec<Vec<f64>> = match sample <= block {
        // Nothing to share: a task would cost more than it does.
        true => vec![sum_block(0)],
        false => (0..sample.div_ceil(block)).into_par_iter().map(|index| sum_block(index * block)).collect(),
    };
    let mut sums = vec![0.0; kinds * c];
    for block in blocks {
        for (sums, lanes) in sums.chunks_exact_mut(c).zip(block.chunks_exact(wide)) {
            for lanes in lanes.chunks_exact(c) {
                for (sum, lane) in sums.iter_mut().zip(lanes) {
                    *sum += lane;
                }
            }
        }
    }
    sums
}

/// Runs `body(elements, rows)` over blocks of whole wide rows of a sample.
fn for_blocks(sizes: Sizes, sample: &mut [f32], body: impl Fn(Range<usize>, &mut [f32]) + Sync) {
    let block = sizes.wide() * (BLOCK / sizes.wide()).max(1);
    if sample.len() <= block {
        body(0..sample.len(), sample);
        return;
    }
    let blocks = sample.par_chunks_mut(block).enumerate();
    blocks.for_each(|(index, rows)| body(index * block..index * block + rows.len(), rows));
}

vector_functions! {
    /// Adds x to `lanes`, a wide row.
    fn add_rows(x: &[f32], lanes: &mut [f32]) {
        for x in x.chunks(lanes.len()) {
            for (lane, x) in lanes.iter_mut().zip(x) {
                *lane += x;
            }
        }
    }

    /// Adds `x - mean` to the first wide row of `lanes`, and its square to the second.
    fn add_centred(x: &[f32], means: &[f32], lanes: &mut [f32]) {
        let (rests, squares) = lanes.split_at_mut(means.len());
        for x in x.chunks(means.len()) {
            for (((rest, square), x), mean) in rests.iter_mut().zip(squares.iter_mut()).zip(x).zip(means) {
                let difference = x - mean;
                *rest += difference;
                *square = difference.mul_add(difference, *square);
            }
        }
    }

    /// `y = (x - mean) scale + shift`, with SiLU behind it on request; the rows are mean, scale and shift.
    fn normalise(x: &[f32], rows: [&[f32]; 3], silu: bool, y: &mut [f32]) {
        let [means, scales, shifts] = rows;
        let wide = means.len();
        for (x, y) in x.chunks(wide).zip(y.chunks_mut(wide)) {
            let channels = means.iter().zip(scales).zip(shifts);
            let elements = y.iter_mut().zip(x).zip(channels);
            if silu {
                for ((y, x), ((mean, scale), shift)) in elements {
                    let z = (x - mean).mul_add(*scale, *shift);
                    *y = z * sigmoid(z);
                }
            } else {
                for ((y, x), ((mean, scale), shift)) in elements {
                    *y = (x - mean).mul_add(*scale, *shift);
                }
            }
        }
    }

    /// Adds `d_z` to the first wide row of `lanes`, and `d_z x_hat` to the second.
    fn add_gradients(x: &[f32], d_y: &[f32], channels: Channels<'_>, silu: bool, lanes: &mut [f32]) {
        let wide = channels.mean.len();
        let (sums, sums_x_hat) = lanes.split_at_mut(wide);
        for (x, d_y) in x.chunks(wide).zip(d_y.chunks(wide)) {
            channels.walk(x, d_y, silu, sums.iter_mut().zip(sums_x_hat.iter_mut()), |(sum, sum_x_hat), x_hat, d_z| {
                *sum += d_z;
                *sum_x_hat = d_z.mul_add(x_hat, *sum_x_hat);
            });
        }
    }

    /// `d_x = scale d_z - offset - slope x_hat`; the rows are scale, offset and slope.
    fn input_gradient(
        x: &[f32],
        d_y: &[f32],
        channels: Channels<'_>,
        silu: bool,
        rows: [&[f32]; 3],
        d_x: &mut [f32],
    ) {
        let wide = channels.mean.len();
        let [scales, offsets, slopes] = rows;
        for ((x, d_y), d_x) in x.chunks(wide).zip(d_y.chunks(wide)).zip(d_x.chunks_mut(wide)) {
            let outputs = d_x.iter_mut().zip(scales.iter().zip(offsets).zip(slopes));
            channels.walk(x, d_y, silu, outputs, |(d_x, ((scale, offset), slope)), x_hat, d_z| {
                *d_x = scale * d_z - slope.mul_add(x_hat, *offset);
            });
        }
    }
}

pub(super) fn forward(settings: Settings, operands: Operands<'_>) {
    let ([x, weight, bias], [y, mean, rstd]) = operands.split();
    let sizes = settings.sizes(x.ty);
    let (c, sample) = (sizes.channels, sizes.pixels * sizes.channels);
    let group = |c: usize| c / sizes.group_channels;
    let statistics = mean.data.par_chunks_mut(sizes.groups).zip(rstd.data.par_chunks_mut(sizes.groups));
    let samples = y.data.par_chunks_mut(sample).zip(x.data.par_chunks(sample));
    samples.zip(statistics).for_each(|((y, x), (mean, rstd))| {
        let sums = sum_pixels(sizes, 1, |elements, lanes| add_rows(&x[elements], lanes));
        let rough: Vec<f32> =
            sizes.group_means(sums.into_iter()).into_iter().map(|mean| mean as f32).collect();
        let means = sizes.spread(|c| rough[group(c)]);
        // The second pass also finds what rounding left out of the mean.
        let centred = sum_pixels(sizes, 2, |elements, lanes| add_centred(&x[elements], &means, lanes));
        let rests = sizes.group_means(centred[..c].iter().copied());
        let squares = sizes.group_means(centred[c..].iter().copied());
        for (g, (mean, rstd)) in mean.iter_mut().zip(rstd.iter_mut()).enumerate() {
            *mean = (f64::from(rough[g]) + rests[g]) as f32;
            let variance = (squares[g] - rests[g] * rests[g]).max(0.0);
            *rstd = (1.0 / (variance + f64::from(settings.eps)).sqrt()) as f32;
        }
        let scales = sizes.spread(|c| rstd[group(c)] * weight.data[c]);
        let shifts = sizes.spread(|c| {
            let rest = rests[group(c)] * f64::from(rstd[group(c)] * weight.data[c]);
            (f64::from(bias.data[c]) - rest) as f32
        });
        for_blocks(sizes, y, |elements, y| {
            normalise(&x[elements], [&means, &scales, &shifts], settings.silu, y);
        });
    });
}

/// What the backward passes know of the channels of one sample: wide rows.
struct ChannelRows {
    mean: Vec<f32>,
    rstd: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl ChannelRows {
    fn of_sample(sizes: Sizes, n: usize, mean: &[f32], rstd: &[f32], weight: &[f32], bias: &[f32]) -> Self {
        let group = |c: usize| n * sizes.groups + c / sizes.group_channels;
        Self {
            mean: sizes.spread(|c| mean[group(c)]),
            rstd: sizes.spread(|c| rstd[group(c)]),
            weight: sizes.spread(|c| weight[c]),
            bias: sizes.spread(|c| bias[c]),
        }
    }

    fn view(&self) -> Channels<'_> {
        Channels { mean: &self.mean, rstd: &self.rstd, weight: &self.weight, bias: &self.bias }
    }
}

/// Views of [`ChannelRows`].
#[derive(Clone, Copy)]
struct Channels<'a> {
    mean: &'a [f32],
    rstd: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
}

impl Channels<'_> {
    /// Calls `body(output, x_hat, d_z)` for each element of a wide row.
    #[inline(always)]
    fn walk<T>(
        self,
        x: &[f32],
        d_y: &[f32],
        silu: bool,
        outputs: impl Iterator<Item = T>,
        mut body: impl FnMut(T, f32, f32),
    ) {
        let statistics = self.mean.iter().zip(self.rstd);
        let inputs = x.iter().zip(d_y).zip(statistics);
        if silu {
            let channels = self.weight.iter().zip(self.bias);
            for ((((x, d_y), (mean, rstd)), (weight, bias)), output) in inputs.zip(channels).zip(outputs) {
                let x_hat = (x - mean) * rstd;
                let z = x_hat.mul_add(*weight, *bias);
                let sigmoid = sigmoid(z);
                body(output, x_hat, d_y * sigmoid * z.mul_add(1.0 - sigmoid, 1.0));
            }
        } else {
            for (((x, d_y), (mean, rstd)), output) in inputs.zip(outputs) {
                body(output, (x - mean) * rstd, *d_y);
            }
        }
    }
}

/// The gradient of one sample after another: its sums, and `d_x` from them while the sample is in cache.
pub(super) fn backward(settings: Settings, operands: Operands<'_>) {
    let ([x, weight, bias, mean, rstd, d_y], [d_x, sums]) = operands.split();
    let sizes = settings.sizes(x.ty);
    let (c, sample) = (sizes.channels, sizes.pixels * sizes.channels);
    let group = |c: usize| c / sizes.group_channels;
    let samples = x.data.par_chunks(sample).zip(d_y.data.par_chunks(sample));
    let outputs = d_x.data.par_chunks_mut(sample).zip(sums.data.par_chunks_mut(2 * c));
    outputs.zip(samples).enumerate().for_each(|(n, ((d_x, sums), (x, d_y)))| {
        let channels = ChannelRows::of_sample(sizes, n, mean.data, rstd.data, weight.data, bias.data);
        let totals = sum_pixels(sizes, 2, |elements, lanes| {
            add_gradients(&x[elements.clone()], &d_y[elements], channels.view(), settings.silu, lanes);
        });
        for (sum, total) in sums.iter_mut().zip(&totals) {
            *sum = *total as f32;
        }
        // d_x = rstd weight d_z - rstd A - x_hat rstd B, the factors per channel.
        let means_of = |totals: &[f64]| {
            sizes.group_means(totals.iter().zip(weight.data).map(|(total, w)| total * f64::from(*w)))
        };
        let (means, means_x_hat) = (means_of(&totals[..c]), means_of(&totals[c..]));
        let rstd = &rstd.data[n * sizes.groups..][..sizes.groups];
        let scales = sizes.spread(|c| rstd[group(c)] * weight.data[c]);
        let offsets = sizes.spread(|c| (f64::from(rstd[group(c)]) * means[group(c)]) as f32);
        let slopes = sizes.spread(|c| (f64::from(rstd[group(c)]) * means_x_hat[group(c)]) as f32);
        for_blocks(sizes, d_x, |elements, d_x| {
            let (x, d_y) = (&x[elements.clone()], &d_y[elements]);
            input_gradient(x, d_y, channels.view(), settings.silu, [&scales, &offsets, &slopes], d_x);
        });
    });
}
