//! Winograd's minimal filtering F(2x2, 3x3) for convolutions of stride 1 with many channels (Lavin and Gray 2015,
//! "Fast Algorithms for Convolutional Neural Networks").
//!
//! An image is cut into tiles of 2 x 2 outputs, each of which depends on 4 x 4 inputs d. For one input channel, with the
//! 3 x 3 kernel g, the tile is
//!
//! ```text
//! Y = A^T [(G g G^T) * (B^T d B)] A        * element by element
//!
//!       1  0 -1  0          1   0   0
//! B^T = 0  1  1  0     G = 1/2 1/2 1/2     A^T = 1  1  1  0
//!       0 -1  1  0         1/2-1/2 1/2           0  1 -1  1
//!       0 -1  0  1          0   0   1
//! ```
//!
//! 16 multiplications where the definition takes 36. Summed over input channels, each of the 16 positions is a matrix
//! product of transformed inputs `[tiles, I]` and transformed kernels `[I, O]`. Y is linear in d and in g, so gradients are
//! sums of the same kind. The transforms add and halve: rounding errors stay close to those of the plain sums.

mod backward_weight;
mod convolve;

use std::ops::Range;

use pulp::Simd;

pub(super) use backward_weight::backward_weight;
pub(super) use convolve::{backward_input, forward};

use super::Geometry;

/// Elements of a 4 x 4 transform.
const POSITIONS: usize = 16;

/// Whether this convolution can be computed so: channels fill vectors, images fill tiles.
pub(super) fn suits(g: &Geometry) -> bool {
    let same = g.kernel == [3; 2] && g.stride == [1; 2] && g.pad == [1; 2] && g.in_size == g.out_size;
    let [height, width] = g.in_size;
    same && height % 2 == 0
        && width % 2 == 0
        && g.in_channels.is_multiple_of(16)
        && g.out_channels.is_multiple_of(16)
}

/// Whether the gradient of the kernels is best computed so: sums over few tiles cost less than their transforms.
pub(super) fn suits_weight(g: &Geometry) -> bool {
    suits(g) && Tiling::new(g).tiles() >= 32
}

/// The tiles of a batch of images: lines of tiles one below the other.
#[derive(Clone, Copy)]
struct Tiling {
    /// Tiles of an image, down and across.
    down: usize,
    across: usize,
    /// Lines of tiles of all images.
    lines: usize,
}

impl Tiling {
    fn new(g: &Geometry) -> Self {
        let [height, width] = g.in_size;
        Self { down: height / 2, across: width / 2, lines: g.batch * height / 2 }
    }

    fn tiles(&self) -> usize {
        self.lines * self.across
    }

    /// Lines that have about so many tiles together.
    fn lines_of(&self, tiles: usize) -> usize {
        (tiles / self.across).clamp(1, self.lines)
    }

    /// Calls `store(tile, channel, B^T d B)` for each vector of `channels` of each tile of some lines; tiles are counted
    /// from the first line's.
    #[inline(always)]
    fn transform_inputs<S: Simd>(
        &self,
        simd: S,
        x: &[f32], // [N, H, W, all_channels]
        all_channels: usize,
        channels: Range<usize>,
        lines: Range<usize>,
        mut store: impl FnMut(usize, usize, [S::f32s; POSITIONS]),
    ) {
        let zero = simd.splat_f32s(0.0);
        let (height, width) = (2 * self.down, 2 * self.across);
        let row_length = width * all_channels;
        for (index, line) in lines.enumerate() {
            let (n, first) = (line / self.down, 2 * (line % self.down));
            // Rows of the image, empty above and below it.
            let row = |r: usize| match (first + r).checked_sub(1) {
                Some(h) if h < height => &x[(n * height + h) * row_length..][..row_length],
                _ => &[],
            };
            let rows: [&[f32]; 4] = [row(0), row(1), row(2), row(3)];
            for channel in channels.clone().step_by(S::F32_LANES) {
                // Down one column of pixels.
                let column = |w: usize| {
                    let at = w * all_channels + channel;
                    let [a, b, c, d] = rows
                        .map(|row| row.get(at..at + S::F32_LANES).map_or(zero, |x| S::as_simd_f32s(x).0[0]));
                    transform_input(simd, [a, b, c, d])
                };
                let mut left = [[zero; 4], column(0)];
                for tile in 0..self.across {
                    let last = match tile + 1 < self.across {
                        true => column(2 * tile + 2),
                        false => [zero; 4],
                    };
                    let right = [column(2 * tile + 1), last];
                    let mut transformed = [zero; POSITIONS];
                    for r in 0..4 {
                        let across =
                            transform_input(simd, [left[0][r], left[1][r], right[0][r], right[1][r]]);
                        transformed[4 * r..4 * r + 4].copy_from_slice(&across);
                    }
                    store(index * self.across + tile, channel, transformed);
                    left = right;
                }
            }
        }
    }
}

/// `B^T d`.
#[inline(always)]
fn transform_input<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; 4]) -> [S::f32s; 4] {
    [simd.sub_f32s(a, c), simd.add_f32s(b, c), simd.sub_f32s(c, b), simd.sub_f32s(d, b)]
}

/// A vector of a slice.
#[inline(always)]
fn load<S: Simd>(values: &[f32], at: usize) -> S::f32s {
    S::as_simd_f32s(&values[at..at + S::F32_LANES]).0[0]
}

/// Writes a vector to a slice.
#[inline(always)]
fn store<S: Simd>(values: &mut [f32], at: usize, vector: S::f32s) {
    S::as_mut_simd_f32s(&mut values[at..at + S::F32_LANES]).0[0] = vector;
}
