//! The CPU twins of group normalisation: few passes, inner loops over contiguous channels, parallel over samples and
//! over blocks of rows within a sample.

use rayon::prelude::*;

use super::{Settings, Sizes};
use crate::ops::cpu::{Operands, par_rows, sigmoid, vectorized};

/// Elements of a block that one task sums.
const BLOCK: usize = 32 * 1024;

/// Rows that are summed in f32 before the sum goes to f64.
const RUN: usize = 32;

/// `add(p, lanes)` adds row `p` to `width` lanes; the sums over all rows, in an order that is always the same.
fn sum_rows(sizes: Sizes, width: usize, add: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f64> {
    let rows = (BLOCK / sizes.channels).max(1);
    let sum_block = |block: usize| {
        let (first, end) = (block * rows, sizes.pixels.min((block + 1) * rows));
        let mut sums = vec![0.0; width];
        let mut lanes = vec![0.0; width];
        vectorized(|| {
            for run in (first..end).step_by(RUN) {
                lanes.fill(0.0);
                for p in run..end.min(run + RUN) {
                    add(p, &mut lanes);
                }
                for (sum, &lane) in sums.iter_mut().zip(&lanes) {
                    *sum += f64::from(lane);
                }
            }
        });
        sums
    };
    let blocks = sizes.pixels.div_ceil(rows);
    if blocks == 1 {
        // Nothing to share: a task would cost more than it does.
        return sum_block(0);
    }
    let blocks: Vec<Vec<f64>> = (0..blocks).into_par_iter().map(sum_block).collect();
    let mut sums = vec![0.0; width];
    for block in blocks {
        for (sum, term) in sums.iter_mut().zip(block) {
            *sum += term;
        }
    }
    sums
}

/// The mean over each group's elements, from sums over the pixels of each channel.
fn group_means(sizes: Sizes, sums: &[f64]) -> Vec<f64> {
    let count = (sizes.pixels * sizes.group_channels) as f64;
    sums.chunks_exact(sizes.group_channels).map(|group| group.iter().sum::<f64>() / count).collect()
}

/// One number per channel from one per group.
fn spread(sizes: Sizes, groups: impl Fn(usize) -> f32) -> Vec<f32> {
    (0..sizes.channels).map(|c| groups(c / sizes.group_channels)).collect()
}

pub(super) fn forward(settings: Settings, operands: Operands<'_>) {
    let ([x, weight, bias], [y, mean, rstd]) = operands.split();
    let sizes = settings.sizes(x.ty);
    let (c, sample) = (sizes.channels, sizes.pixels * sizes.channels);
    let statistics = mean.data.par_chunks_mut(sizes.groups).zip(rstd.data.par_chunks_mut(sizes.groups));
    let samples = y.data.par_chunks_mut(sample).zip(x.data.par_chunks(sample));
    samples.zip(statistics).for_each(|((y, x), (mean, rstd))| {
        let sums = sum_rows(sizes, c, |p, lanes| {
            for (lane, x) in lanes.iter_mut().zip(&x[p * c..][..c]) {
                *lane += x;
            }
        });
        let rough: Vec<f32> = group_means(sizes, &sums).into_iter().map(|mean| mean as f32).collect();
        let means_f32 = spread(sizes, |g| rough[g]);
        // The second pass also finds what rounding left out of the mean.
        let centred = sum_rows(sizes, 2 * c, |p, lanes| {
            let (rests, squares) = lanes.split_at_mut(c);
            let row = x[p * c..][..c].iter().zip(&means_f32);
            for ((rest, square), (x, mean)) in rests.iter_mut().zip(squares).zip(row) {
                let difference = x - mean;
                *rest += difference;
                *square += difference * difference;
            }
        });
        let rests = group_means(sizes, &centred[..c]);
        let squares = group_means(sizes, &centred[c..]);
        for (g, (mean, rstd)) in mean.iter_mut().zip(rstd.iter_mut()).enumerate() {
            *mean = (f64::from(rough[g]) + rests[g]) as f32;
            let variance = (squares[g] - rests[g] * rests[g]).max(0.0);
            *rstd = (1.0 / (variance + f64::from(settings.eps)).sqrt()) as f32;
        }
        let scales: Vec<f32> = (0..c).map(|c| rstd[c / sizes.group_channels] * weight.data[c]).collect();
        let shifts: Vec<f32> = (0..c)
            .map(|c| {
                let rest = rests[c / sizes.group_channels] * f64::from(scales[c]);
                (f64::from(bias.data[c]) - rest) as f32
            })
            .collect();
        par_rows(y, c, |first, rows| {
            for (row, y) in rows.chunks_exact_mut(c).enumerate() {
                let x = &x[(first + row) * c..][..c];
                let channels = means_f32.iter().zip(&scales).zip(&shifts);
                for ((y, x), ((mean, scale), shift)) in y.iter_mut().zip(x).zip(channels) {
                    *y = (x - mean) * scale + shift;
                }
                if settings.silu {
                    for y in y {
                        *y *= sigmoid(*y);
                    }
                }
            }
        });
    });
}

/// What the backward passes know of one channel.
#[derive(Clone, Copy)]
struct Channel {
    mean: f32,
    rstd: f32,
    weight: f32,
    bias: f32,
}

/// `x_hat` and `d_z`.
#[inline(always)]
fn x_hat_and_d_z<const SILU: bool>(channel: Channel, x: f32, d_y: f32) -> (f32, f32) {
    let x_hat = (x - channel.mean) * channel.rstd;
    if !SILU {
        return (x_hat, d_y);
    }
    let z = x_hat * channel.weight + channel.bias;
    let sigmoid = sigmoid(z);
    (x_hat, d_y * sigmoid * (1.0 + z * (1.0 - sigmoid)))
}

/// The channels of one sample, each property by itself so that loops over channels vectorise.
struct Channels<'a> {
    mean: Vec<f32>,
    rstd: Vec<f32>,
    weight: &'a [f32],
    bias: &'a [f32],
}

impl<'a> Channels<'a> {
    fn of_sample(
        sizes: Sizes,
        n: usize,
        mean: &[f32],
        rstd: &[f32],
        weight: &'a [f32],
        bias: &'a [f32],
    ) -> Self {
        let spread = |groups: &[f32]| spread(sizes, |g| groups[n * sizes.groups + g]);
        Self { mean: spread(mean), rstd: spread(rstd), weight, bias }
    }

    /// Calls `body(c, x_hat, d_z)` for each channel of a row.
    #[inline(always)]
    fn walk<const SILU: bool>(&self, x: &[f32], d_y: &[f32], mut body: impl FnMut(usize, f32, f32)) {
        let c = x.len();
        let (d_y, weight, bias) = (&d_y[..c], &self.weight[..c], &self.bias[..c]);
        let (mean, rstd) = (&self.mean[..c], &self.rstd[..c]);
        for i in 0..c {
            let channel = Channel { mean: mean[i], rstd: rstd[i], weight: weight[i], bias: bias[i] };
            let (x_hat, d_z) = x_hat_and_d_z::<SILU>(channel, x[i], d_y[i]);
            body(i, x_hat, d_z);
        }
    }
}

pub(super) fn backward_sums<const SILU: bool>(settings: Settings, operands: Operands<'_>) {
    let ([x, weight, bias, mean, rstd, d_y], [sums]) = operands.split();
    let sizes = settings.sizes(x.ty);
    let c = sizes.channels;
    sums.data.par_chunks_mut(2 * c).enumerate().for_each(|(n, sums)| {
        let channels = Channels::of_sample(sizes, n, mean.data, rstd.data, weight.data, bias.data);
        let totals = sum_rows(sizes, 2 * c, |p, lanes| {
            let at = (n * sizes.pixels + p) * c;
            let (sum, sum_x_hat) = lanes.split_at_mut(c);
            let (sum, sum_x_hat) = (&mut sum[..c], &mut sum_x_hat[..c]);
            channels.walk::<SILU>(&x.data[at..][..c], &d_y.data[at..][..c], |c, x_hat, d_z| {
                sum[c] += d_z;
                sum_x_hat[c] += d_z * x_hat;
            });
        });
        for (sum, total) in sums.iter_mut().zip(totals) {
            *sum = total as f32;
        }
    });
}

pub(super) fn backward_input<const SILU: bool>(settings: Settings, operands: Operands<'_>) {
    let ([x, weight, bias, mean, rstd, d_y, sums], [d_x]) = operands.split();
    let sizes = settings.sizes(x.ty);
    let c = sizes.channels;
    let sample = sizes.pixels * c;
    d_x.data.par_chunks_mut(sample).enumerate().for_each(|(n, d_x)| {
        let channels = Channels::of_sample(sizes, n, mean.data, rstd.data, weight.data, bias.data);
        // d_x = rstd weight d_z - rstd A - x_hat rstd B, the factors per channel.
        let means_of = |which: usize| {
            let sums = &sums.data[(2 * n + which) * c..][..c];
            let weighted: Vec<f64> =
                sums.iter().zip(weight.data).map(|(s, w)| f64::from(*s) * f64::from(*w)).collect();
            group_means(sizes, &weighted)
        };
        let (means, means_x_hat) = (means_of(0), means_of(1));
        let rstds: Vec<f64> =
            rstd.data[n * sizes.groups..][..sizes.groups].iter().map(|&r| f64::from(r)).collect();
        let offsets = spread(sizes, |g| (rstds[g] * means[g]) as f32);
        let slopes = spread(sizes, |g| (rstds[g] * means_x_hat[g]) as f32);
        let scales: Vec<f32> =
            channels.rstd.iter().zip(weight.data).map(|(rstd, weight)| rstd * weight).collect();
        let (offsets, slopes, scales) = (&offsets[..c], &slopes[..c], &scales[..c]);
        par_rows(d_x, c, |first, rows| {
            for (row, d_x) in rows.chunks_exact_mut(c).enumerate() {
                let at = n * sample + (first + row) * c;
                channels.walk::<SILU>(&x.data[at..][..c], &d_y.data[at..][..c], |c, x_hat, d_z| {
                    d_x[c] = scales[c] * d_z - offsets[c] - slopes[c] * x_hat;
                });
            }
        });
    });
}
