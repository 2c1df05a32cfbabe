//! Super-resolution models: what they are given beside x_t (Ho et al. 2021, "Cascaded Diffusion Models").

use serde::{Deserialize, Serialize};

use super::SampleSize;

/// A model of images given smaller ones.
///
/// Its condition image is the smaller image, enlarged bilinearly, and noised by s steps of the forward process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuperResolution {
    /// Height and width of the smaller images.
    pub low_size: SampleSize,
    /// Conditioning augmentation: while training, s is uniform in 0..=this. The network is not told s.
    pub augmentation: usize,
}

impl SuperResolution {
    /// Height and width of the smaller images of which the model makes images of `size`, where the short side of the
    /// smaller ones is `short_side`; `None` where the long one would have no whole number of pixels.
    pub fn low_of(short_side: usize, size: [usize; 2]) -> Option<[usize; 2]> {
        let shortest = size[0].min(size[1]).max(1);
        let scaled = |side: usize| side.checked_mul(short_side).filter(|n| n.is_multiple_of(shortest));
        Some([scaled(size[0])? / shortest, scaled(size[1])? / shortest])
    }

    /// Shrinks images `[N, H, W, C]` to the smaller size `[N, h, w, C]`: the mean of each block of pixels (PyTorch's
    /// `interpolate` with mode "area"). H and W are multiples of h and w.
    pub fn shrink(&self, images: &[f32], shape: [usize; 4]) -> Vec<f32> {
        let [n, h, w, c] = shape;
        let [low_h, low_w] = self.low_size.sides();
        let (rows, columns) = (h / low_h, w / low_w);
        let mut out = vec![0.0; n * low_h * low_w * c];
        for (index, out) in out.chunks_mut(c).enumerate() {
            let (image, y, x) = (index / (low_h * low_w), index / low_w % low_h, index % low_w);
            for row in 0..rows {
                for column in 0..columns {
                    let at = ((image * h + y * rows + row) * w + x * columns + column) * c;
                    for (out, value) in out.iter_mut().zip(&images[at..]) {
                        *out += value / (rows * columns) as f32;
                    }
                }
            }
        }
        out
    }

    /// Enlarges images of the smaller size `[N, h, w, C]` to `[N, H, W, C]`, where `size` is H and W, bilinearly,
    /// pixels being squares (PyTorch's `interpolate` with mode "bilinear" and `align_corners` false).
    pub fn enlarge(&self, images: &[f32], channels: usize, size: [usize; 2]) -> Vec<f32> {
        let [height, width] = size;
        let [low_h, low_w] = self.low_size.sides();
        // The two rows or columns around the centre of pixel `i`, and the share of the second.
        let around = |i: usize, low: usize, size: usize| {
            let centre = ((i as f32 + 0.5) * low as f32 / size as f32 - 0.5).max(0.0);
            let first = (centre as usize).min(low - 1);
            (first, (first + 1).min(low - 1), centre - first as f32)
        };
        let mut out = Vec::with_capacity(images.len() / (low_h * low_w) * height * width);
        for image in images.chunks(low_h * low_w * channels) {
            for y in 0..height {
                let (top, bottom, down) = around(y, low_h, height);
                for x in 0..width {
                    let (left, right, along) = around(x, low_w, width);
                    for c in 0..channels {
                        let at = |y: usize, x: usize| image[(y * low_w + x) * channels + c];
                        let mix = |a: f32, b: f32, share: f32| a + share * (b - a);
                        let above = mix(at(top, left), at(top, right), along);
                        let below = mix(at(bottom, left), at(bottom, right), along);
                        out.push(mix(above, below, down));
                    }
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOUBLING: SuperResolution = SuperResolution { low_size: SampleSize::Square(2), augmentation: 0 };

    /// torch.nn.functional.interpolate([[0, 4], [8, 20]], size=4, mode="bilinear", align_corners=False)
    #[test]
    fn enlarging_is_that_of_pytorch() {
        let one: [f32; 16] = [0., 1., 3., 4., 2., 3.5, 6.5, 8., 6., 8.5, 13.5, 16., 8., 11., 17., 20.];
        assert_eq!(DOUBLING.enlarge(&[0., 4., 8., 20.], 1, [4, 4]), one);
        // Two images of two channels: the second channel is the first one's negative, the second image twice the first.
        let low: Vec<f32> = [0., 4., 8., 20., 0., 8., 16., 40.].iter().flat_map(|&v| [v, -v]).collect();
        let high: Vec<f32> = one.iter().copied().chain(one.map(|v| 2.0 * v)).flat_map(|v| [v, -v]).collect();
        assert_eq!(DOUBLING.enlarge(&low, 2, [4, 4]), high);
    }

    /// torch.nn.functional.interpolate([[0, 4, 8]], size=(2, 6), mode="bilinear", align_corners=False), and the same
    /// of the transposed images.
    #[test]
    fn rectangles_are_enlarged_along_their_own_sides() {
        let row = [0., 1., 3., 5., 7., 8.];
        let of = |low_size| SuperResolution { low_size: SampleSize::Rectangle(low_size), augmentation: 0 };
        assert_eq!(of([1, 3]).enlarge(&[0., 4., 8.], 1, [2, 6]), [row, row].concat());
        let column: Vec<f32> = row.iter().flat_map(|&value| [value; 2]).collect();
        assert_eq!(of([3, 1]).enlarge(&[0., 4., 8.], 1, [6, 2]), column);
        // Shrunk again, each block is the mean of four pixels.
        assert_eq!(of([1, 3]).shrink(&[row, row].concat(), [1, 2, 6, 1]), [0.5, 4., 7.5]);
        assert_eq!(of([3, 1]).shrink(&column, [1, 6, 2, 1]), [0.5, 4., 7.5]);
    }

    #[test]
    fn a_short_side_keeps_the_proportions() {
        assert_eq!(SuperResolution::low_of(16, [32, 64]), Some([16, 32]));
        assert_eq!(SuperResolution::low_of(16, [64, 32]), Some([32, 16]));
        assert_eq!(SuperResolution::low_of(8, [16, 16]), Some([8, 8]));
        assert_eq!(SuperResolution::low_of(3, [32, 48]), None);
    }

    #[test]
    fn shrinking_takes_the_mean_of_each_block() {
        // Two images of 4 x 6 pixels and two channels; a block has 2 x 3.
        let images: Vec<f32> = (0u16..96).map(f32::from).collect();
        let mean = |n: usize, y: usize, x: usize, c: usize| {
            let values = (0..2).flat_map(|i| (0..3).map(move |j| (2 * y + i, 3 * x + j)));
            values.map(|(y, x)| images[((n * 4 + y) * 6 + x) * 2 + c]).sum::<f32>() / 6.0
        };
        let expected: Vec<f32> = (0..16).map(|i| mean(i / 8, i / 4 % 2, i / 2 % 2, i % 2)).collect();
        let found = DOUBLING.shrink(&images, [2, 4, 6, 2]);
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-4, "{found} and {expected}");
        }
        assert_eq!(found.len(), expected.len());
    }
}
