//! Windows that slide over images, for pooling.

use super::{Fill, Word, dims, expect, expect_nhwc};
use crate::graph::TensorType;

/// A window that slides over an image: sizes along height, then width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Rows and columns of the window.
    pub kernel: [usize; 2],
    /// Rows and columns from one window to the next.
    pub stride: [usize; 2],
    /// Rows and columns by which windows reach over each edge of the image; less than the kernel's.
    pub padding: [usize; 2],
}

/// A window on an image of a size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sliding {
    pub(super) window: Window,
    pub(super) in_size: [usize; 2],
    pub(super) out_size: [usize; 2],
    pub(super) channels: usize,
}

impl Window {
    /// A window as large as the distance to the next one, without padding.
    pub fn tiles(size: usize) -> Self {
        Self { kernel: [size; 2], stride: [size; 2], padding: [0; 2] }
    }

    /// Checks that windows fit into images of this type, and gives the shape of what is pooled of them.
    pub(super) fn expect(self, x: &TensorType) -> Result<[usize; 4], String> {
        let [n, height, width, channels] = expect_nhwc("x", x)?;
        expect(!self.kernel.contains(&0) && !self.stride.contains(&0), || {
            "kernel and stride must be at least 1".to_owned()
        })?;
        for ((size, kernel), padding) in [height, width].into_iter().zip(self.kernel).zip(self.padding) {
            expect(padding < kernel, || {
                format!(
                    "padding must be less than the kernel, or windows see nothing; it is {padding} of {kernel}"
                )
            })?;
            expect(size > 0 && size + 2 * padding >= kernel, || {
                format!("windows of {kernel} do not fit into {size} with a padding of {padding}")
            })?;
        }
        let [oh, ow] = self.on([height, width], channels).out_size;
        Ok([n, oh, ow, channels])
    }

    pub(super) fn on(self, in_size: [usize; 2], channels: usize) -> Sliding {
        let Self { kernel, stride, padding } = self;
        let out = |axis: usize| (in_size[axis] + 2 * padding[axis] - kernel[axis]) / stride[axis] + 1;
        Sliding { window: self, in_size, out_size: [out(0), out(1)], channels }
    }

    /// On images of this type.
    pub(super) fn on_type(self, x: &TensorType) -> Sliding {
        let [_, height, width, channels] = dims(x);
        self.on([height, width], channels)
    }
}

impl Sliding {
    /// Pixels of x under the window of an output pixel, both counted through the batch, each with its tap.
    pub(super) fn taps(&self, pixel: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let Self { window: Window { kernel, stride, padding }, in_size, out_size, .. } = *self;
        let (line, ow) = (pixel / out_size[1], pixel % out_size[1]);
        let (n, oh) = (line / out_size[0], line % out_size[0]);
        (0..kernel[0] * kernel[1]).filter_map(move |tap| {
            let h = (oh * stride[0] + tap / kernel[1]).checked_sub(padding[0]).filter(|&h| h < in_size[0])?;
            let w = (ow * stride[1] + tap % kernel[1]).checked_sub(padding[1]).filter(|&w| w < in_size[1])?;
            Some((tap, (n * in_size[0] + h) * in_size[1] + w))
        })
    }

    /// Pixels that one image has before and after pooling.
    pub(super) fn pixels(&self) -> [usize; 2] {
        [self.in_size[0] * self.in_size[1], self.out_size[0] * self.out_size[1]]
    }

    /// Fields of a kernel's `Params`.
    pub(super) fn params(&self) -> Vec<(&'static str, Word)> {
        let Self { window: Window { kernel, stride, padding }, in_size, out_size, channels } = *self;
        vec![
            ("channels", channels.into()),
            ("height", in_size[0].into()),
            ("width", in_size[1].into()),
            ("out_height", out_size[0].into()),
            ("out_width", out_size[1].into()),
            ("kernel_height", kernel[0].into()),
            ("kernel_width", kernel[1].into()),
            ("stride_height", stride[0].into()),
            ("stride_width", stride[1].into()),
            ("pad_height", padding[0].into()),
            ("pad_width", padding[1].into()),
        ]
    }
}

/// Calls to check and time: name, images, window.
pub(super) fn cases() -> Vec<(&'static str, Fill, Window)> {
    let window = |kernel, stride, padding| Window { kernel, stride, padding };
    vec![
        ("3x3 ragged", Fill::normal([3, 5, 6, 7]), window([3, 3], [2, 2], [0, 0])),
        ("3x3 in fours, padded", Fill::normal([2, 5, 4, 12]), window([3, 3], [1, 1], [1, 1])),
        (
            "2x3, a stride and a padding for each axis",
            Fill::normal([2, 7, 8, 3]),
            window([2, 3], [3, 1], [0, 2]),
        ),
        ("windows with gaps", Fill::normal([2, 9, 7, 4]), window([1, 2], [3, 4], [0, 1])),
        ("2x2 tiles, large offset", Fill::offset([2, 6, 4, 5]), Window::tiles(2)),
        ("a window larger than the image", Fill::normal([2, 2, 1, 4]), window([3, 3], [2, 2], [1, 1])),
        ("Inception", Fill::normal([2, 17, 17, 64]), window([3, 3], [2, 2], [0, 0])),
    ]
}
