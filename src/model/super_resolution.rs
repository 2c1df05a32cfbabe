//! Super-resolution models: what they are given beside x_t (Ho et al. 2021, "Cascaded Diffusion Models").

use serde::{Deserialize, Serialize};

/// A model of images given smaller ones.
///
/// Its input is x_t and then, as further channels, the smaller image: enlarged bilinearly, and noised by s steps of the
/// forward process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuperResolution {
    /// Height and width of the smaller images.
    pub low_size: usize,
    /// Conditioning augmentation: while training, s is uniform in 0..=this. The network is not told s.
    pub augmentation: usize,
}

impl SuperResolution {
    /// Shrinks images `[N, H, W, C]` to `[N, low_size, low_size, C]`: the mean of each block of pixels (PyTorch's
    /// `interpolate` with mode "area"). H and W are multiples of `low_size`.
    pub fn shrink(&self, images: &[f32], shape: [usize; 4]) -> Vec<f32> {
        let [n, h, w, c] = shape;
        let low = self.low_size;
        let (rows, columns) = (h / low, w / low);
        let mut out = vec![0.0; n * low * low * c];
        for (index, out) in out.chunks_mut(c).enumerate() {
            let (image, y, x) = (index / (low * low), index / low % low, index % low);
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

    /// Enlarges images `[N, low_size, low_size, C]` to `[N, size, size, C]` bilinearly, pixels being squares (PyTorch's
    /// `interpolate` with mode "bilinear" and `align_corners` false).
    pub fn enlarge(&self, images: &[f32], channels: usize, size: usize) -> Vec<f32> {
        let low = self.low_size;
        // The two rows or columns around the centre of pixel `i`, and the share of the second.
        let around = |i: usize| {
            let centre = ((i as f32 + 0.5) * low as f32 / size as f32 - 0.5).max(0.0);
            let first = (centre as usize).min(low - 1);
            (first, (first + 1).min(low - 1), centre - first as f32)
        };
        let mut out = Vec::with_capacity(images.len() / (low * low) * size * size);
        for image in images.chunks(low * low * channels) {
            for y in 0..size {
                let (top, bottom, down) = around(y);
                for x in 0..size {
                    let (left, right, along) = around(x);
                    for c in 0..channels {
                        let at = |y: usize, x: usize| image[(y * low + x) * channels + c];
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

    const DOUBLING: SuperResolution = SuperResolution { low_size: 2, augmentation: 0 };

    /// torch.nn.functional.interpolate([[0, 4], [8, 20]], size=4, mode="bilinear", align_corners=False)
    #[test]
    fn enlarging_is_that_of_pytorch() {
        let one: [f32; 16] = [0., 1., 3., 4., 2., 3.5, 6.5, 8., 6., 8.5, 13.5, 16., 8., 11., 17., 20.];
        assert_eq!(DOUBLING.enlarge(&[0., 4., 8., 20.], 1, 4), one);
        // Two images of two channels: the second channel is the first one's negative, the second image twice the first.
        let low: Vec<f32> = [0., 4., 8., 20., 0., 8., 16., 40.].iter().flat_map(|&v| [v, -v]).collect();
        let high: Vec<f32> = one.iter().copied().chain(one.map(|v| 2.0 * v)).flat_map(|v| [v, -v]).collect();
        assert_eq!(DOUBLING.enlarge(&low, 2, 4), high);
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
