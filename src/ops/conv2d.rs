//! 2-D convolution over NHWC images with OHWI weights.

mod cases;
mod compute;
mod winograd;

pub use cases::cases;

use super::product::Product;
use super::{
    Cost, GradientCall, Op, Operands, Types, Variant, Word, dims, expect, expect_nhwc, expect_shape,
    expect_shape_like,
};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// How an image is padded with zeros before a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// Half the kernel on each side, rounded down: for odd kernels and stride 1, the size stays.
    Same,
    /// Half the kernel below and to the right, rounded down (diffusers' `downsample_padding` 0).
    RightBottom,
    /// So many rows above and below, and columns to the left and to the right.
    Sides {
        /// Above and below.
        rows: [usize; 2],
        /// To the left and to the right.
        columns: [usize; 2],
    },
}

/// Rows and columns from one place of the kernel to the next; made of one number for both, or of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stride([usize; 2]);

impl From<usize> for Stride {
    fn from(stride: usize) -> Self {
        Self([stride; 2])
    }
}

impl From<[usize; 2]> for Stride {
    fn from(stride: [usize; 2]) -> Self {
        Self(stride)
    }
}

/// Convolution of `x` `[N, H, W, I]` with `weight` `[O, KH, KW, I]`, plus `bias` `[O]`.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes, or a kernel that is larger than the padded image.
pub fn conv2d(
    graph: &mut Graph,
    x: ValueId,
    weight: ValueId,
    bias: ValueId,
    stride: impl Into<Stride>,
    padding: Padding,
) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward(Settings { stride: stride.into(), padding }), &[x, weight, bias])
}

/// What all passes of a call agree on.
#[derive(Clone, Copy, Debug)]
struct Settings {
    stride: Stride,
    padding: Padding,
}

#[derive(Debug)]
struct Forward(Settings);

#[derive(Debug)]
struct BackwardInput {
    settings: Settings,
    /// Height and width of x: a stride hides which of several sizes it was.
    size: [usize; 2],
}

#[derive(Debug)]
struct BackwardWeight {
    settings: Settings,
    kernel: [usize; 2],
}

/// All sizes of one convolution.
#[derive(Clone, Copy, Debug)]
struct Geometry {
    batch: usize,
    in_size: [usize; 2],
    in_channels: usize,
    out_size: [usize; 2],
    out_channels: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    /// Rows and columns of zeros before the first.
    pad: [usize; 2],
}

impl Settings {
    /// Zeros before and after the rows, and the columns, of an image.
    fn pads(self, kernel: [usize; 2]) -> [[usize; 2]; 2] {
        match self.padding {
            Padding::Same => kernel.map(|kernel| [kernel / 2; 2]),
            Padding::RightBottom => kernel.map(|kernel| [0, kernel / 2]),
            Padding::Sides { rows, columns } => [rows, columns],
        }
    }

    /// All sizes, checked.
    fn geometry(self, x: [usize; 4], out_channels: usize, kernel: [usize; 2]) -> Result<Geometry, String> {
        let (Stride(stride), pads) = (self.stride, self.pads(kernel));
        let [batch, height, width, in_channels] = x;
        let in_size = [height, width];
        expect(!stride.contains(&0), || "the stride must be at least 1".to_owned())?;
        for ((size, pads), kernel_size) in in_size.into_iter().zip(pads).zip(kernel) {
            let padded = size + pads[0] + pads[1];
            expect(kernel_size > 0 && kernel_size <= padded, || {
                let [kh, kw] = kernel;
                format!(
                    "a kernel of {kh}x{kw} does not fit into an image of {height}x{width} and its padding"
                )
            })?;
        }
        let out =
            |axis: usize| (in_size[axis] + pads[axis][0] + pads[axis][1] - kernel[axis]) / stride[axis] + 1;
        let pad = pads.map(|[before, _]| before);
        let out_size = [out(0), out(1)];
        Ok(Geometry { batch, in_size, in_channels, out_size, out_channels, kernel, stride, pad })
    }
}

impl Geometry {
    fn in_pixels(&self) -> usize {
        self.batch * self.in_size[0] * self.in_size[1]
    }

    fn out_pixels(&self) -> usize {
        self.batch * self.out_size[0] * self.out_size[1]
    }

    fn weights(&self) -> usize {
        self.out_channels * self.patch()
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Inputs that one output depends on.
    fn patch(&self) -> usize {
        self.taps() * self.in_channels
    }

    fn y_shape(&self) -> [usize; 4] {
        [self.batch, self.out_size[0], self.out_size[1], self.out_channels]
    }

    /// Input pixel that output pixel `(oh, ow)` of image `n` reads under tap `(kh, kw)`; `None` in the padding.
    fn tap(&self, n: usize, oh: usize, ow: usize, kh: usize, kw: usize) -> Option<usize> {
        let h = (oh * self.stride[0] + kh).checked_sub(self.pad[0]).filter(|&h| h < self.in_size[0])?;
        let w = (ow * self.stride[1] + kw).checked_sub(self.pad[1]).filter(|&w| w < self.in_size[1])?;
        Some((n * self.in_size[0] + h) * self.in_size[1] + w)
    }

    /// Calls `body(output pixel, input pixel, tap)` for every pair that the convolution connects.
    fn for_each_tap(&self, mut body: impl FnMut(usize, usize, usize)) {
        let mut pixel = 0;
        for n in 0..self.batch {
            for oh in 0..self.out_size[0] {
                for ow in 0..self.out_size[1] {
                    for kh in 0..self.kernel[0] {
                        for kw in 0..self.kernel[1] {
                            if let Some(input) = self.tap(n, oh, ow, kh, kw) {
                                body(pixel, input, kh * self.kernel[1] + kw);
                            }
                        }
                    }
                    pixel += 1;
                }
            }
        }
    }

    /// The matrix product that makes y: a row is a pixel of y, its taps are pixels of x.
    fn forward_product(&self) -> Product {
        Product {
            rows: self.out_pixels(),
            columns: self.out_channels,
            taps: self.taps(),
            depth: self.in_channels,
        }
    }

    /// The matrix product that makes d_x: a row is a pixel of x, its taps are pixels of d_y.
    fn backward_input_product(&self) -> Product {
        Product {
            rows: self.in_pixels(),
            columns: self.in_channels,
            depth: self.out_channels,
            ..self.forward_product()
        }
    }

    fn params(&self) -> Vec<(&'static str, Word)> {
        let mut params = vec![
            ("batch", self.batch.into()),
            ("in_height", self.in_size[0].into()),
            ("in_width", self.in_size[1].into()),
            ("in_channels", self.in_channels.into()),
            ("out_height", self.out_size[0].into()),
            ("out_width", self.out_size[1].into()),
            ("out_channels", self.out_channels.into()),
            ("kernel_height", self.kernel[0].into()),
            ("kernel_width", self.kernel[1].into()),
            ("stride_height", self.stride[0].into()),
            ("stride_width", self.stride[1].into()),
            ("pad_top", self.pad[0].into()),
            ("pad_left", self.pad[1].into()),
        ];
        params.extend(self.forward_product().split_params());
        params
    }

    fn cost(&self) -> Cost {
        let elements =
            self.in_pixels() * self.in_channels + self.weights() + self.out_pixels() * self.out_channels;
        Cost { bytes: 4 * elements, flops: 2 * self.out_pixels() * self.weights() }
    }
}

impl Forward {
    fn geometry(&self, x: &TensorType, weight: &TensorType) -> Result<Geometry, String> {
        let [out_channels, kh, kw, _] = dims(weight);
        self.0.geometry(dims(x), out_channels, [kh, kw])
    }
}

impl BackwardInput {
    fn geometry(&self, d_y: &TensorType, weight: &TensorType) -> Result<Geometry, String> {
        let [out_channels, kh, kw, in_channels] = dims(weight);
        let [batch, ..] = dims::<4>(d_y);
        let x = [batch, self.size[0], self.size[1], in_channels];
        self.settings.geometry(x, out_channels, [kh, kw])
    }
}

impl BackwardWeight {
    fn geometry(&self, x: &TensorType, d_y: &TensorType) -> Result<Geometry, String> {
        self.settings.geometry(dims(x), d_y.channels(), self.kernel)
    }
}

/// The geometry of a call whose shapes the shape rule has checked.
fn checked(geometry: Result<Geometry, String>) -> Geometry {
    geometry.unwrap_or_else(|fault| unreachable!("a convolution passed its shape rule, but {fault}"))
}

fn expect_kernel(weight: &TensorType) -> Result<[usize; 4], String> {
    weight.shape.as_slice().try_into().map_err(|_| "weight must be [O, KH, KW, I]".to_owned())
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "conv2d.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x", "weight", "bias"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [_, _, _, channels] = expect_nhwc("x", inputs[0])?;
        let [out_channels, _, _, in_channels] = expect_kernel(inputs[1])?;
        expect(channels == in_channels, || format!("weight takes {in_channels} channels, x has {channels}"))?;
        expect_shape("bias", inputs[2], &[out_channels])?;
        Ok(vec![inputs[0].with_shape(self.geometry(inputs[0], inputs[1])?.y_shape())])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let settings = self.0;
        let d_y = call.d_output(graph, self)?;
        let (x, weight) = (call.inputs[0], call.inputs[1]);
        let [_, height, width, _] = dims(graph.ty(x));
        let [_, kh, kw, _] = dims(graph.ty(weight));
        let (mut d_x, mut d_weight, mut d_bias) = (None, None, None);
        if call.needs[1] || call.needs[2] {
            let grads = graph.apply(BackwardWeight { settings, kernel: [kh, kw] }, &[x, d_y])?;
            (d_weight, d_bias) = (Some(grads[0]), Some(grads[1]));
        }
        if call.needs[0] {
            let op = BackwardInput { settings, size: [height, width] };
            d_x = Some(graph.apply_one(op, &[d_y, weight])?);
        }
        Ok(vec![d_x, d_weight, d_bias])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let geometry = checked(self.geometry(&types.inputs[0], &types.inputs[1]));
        geometry.forward_product().forward(&geometry.params())
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        checked(self.geometry(&types.inputs[0], &types.inputs[1])).cost()
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x, weight, bias], [y]) = operands.split();
        let geometry = checked(self.geometry(x.ty, weight.ty));
        let (channels, patch) = (geometry.in_channels, geometry.patch());
        let mut sums: Vec<f64> =
            (0..y.data.len()).map(|i| f64::from(bias.data[i % geometry.out_channels])).collect();
        geometry.for_each_tap(|pixel, input, tap| {
            for o in 0..geometry.out_channels {
                for i in 0..channels {
                    sums[pixel * geometry.out_channels + o] += f64::from(x.data[input * channels + i])
                        * f64::from(weight.data[o * patch + tap * channels + i]);
                }
            }
        });
        for (y, sum) in y.data.iter_mut().zip(sums) {
            *y = sum as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x, weight, bias], [y]) = operands.split();
        let geometry = checked(self.geometry(x.ty, weight.ty));
        let forward = if winograd::suits(&geometry) { winograd::forward } else { compute::forward };
        forward(&geometry, x.data, weight.data, bias.data, y.data);
    }
}

impl Op for BackwardInput {
    fn name(&self) -> &'static str {
        "conv2d.backward_input"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["d_y", "weight"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_x"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [batch, ..] = expect_nhwc("d_y", inputs[0])?;
        let [_, _, _, in_channels] = expect_kernel(inputs[1])?;
        expect_shape_like("d_y", inputs[0], &self.geometry(inputs[0], inputs[1])?.y_shape(), inputs[0])?;
        Ok(vec![inputs[0].with_shape([batch, self.size[0], self.size[1], in_channels])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let geometry = checked(self.geometry(&types.inputs[0], &types.inputs[1]));
        geometry.backward_input_product().backward_input(&geometry.params())
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        checked(self.geometry(&types.inputs[0], &types.inputs[1])).cost()
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([d_y, weight], [d_x]) = operands.split();
        let geometry = checked(self.geometry(d_y.ty, weight.ty));
        let (channels, patch) = (geometry.in_channels, geometry.patch());
        let mut sums = vec![0.0f64; d_x.data.len()];
        geometry.for_each_tap(|pixel, input, tap| {
            for o in 0..geometry.out_channels {
                for i in 0..channels {
                    sums[input * channels + i] += f64::from(d_y.data[pixel * geometry.out_channels + o])
                        * f64::from(weight.data[o * patch + tap * channels + i]);
                }
            }
        });
        for (d_x, sum) in d_x.data.iter_mut().zip(sums) {
            *d_x = sum as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([d_y, weight], [d_x]) = operands.split();
        let geometry = checked(self.geometry(d_y.ty, weight.ty));
        let backward_input =
            if winograd::suits(&geometry) { winograd::backward_input } else { compute::backward_input };
        backward_input(&geometry, d_y.data, weight.data, d_x.data);
    }
}

impl Op for BackwardWeight {
    fn name(&self) -> &'static str {
        "conv2d.backward_weight"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x", "d_y"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_weight", "d_bias"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [_, _, _, in_channels] = expect_nhwc("x", inputs[0])?;
        let [_, _, _, out_channels] = expect_nhwc("d_y", inputs[1])?;
        expect_shape_like("d_y", inputs[1], &self.geometry(inputs[0], inputs[1])?.y_shape(), inputs[0])?;
        let weight = TensorType::f32([out_channels, self.kernel[0], self.kernel[1], in_channels]);
        Ok(vec![weight, TensorType::f32([out_channels])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let geometry = checked(self.geometry(&types.inputs[0], &types.inputs[1]));
        geometry.forward_product().backward_weight(&geometry.params())
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        checked(self.geometry(&types.inputs[0], &types.inputs[1])).cost()
    }
    fn tolerance(&self) -> f32 {
        2e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x, d_y], [d_weight, d_bias]) = operands.split();
        let geometry = checked(self.geometry(x.ty, d_y.ty));
        let (channels, patch) = (geometry.in_channels, geometry.patch());
        let mut sums = vec![0.0f64; d_weight.data.len()];
        geometry.for_each_tap(|pixel, input, tap| {
            for o in 0..geometry.out_channels {
                for i in 0..channels {
                    sums[o * patch + tap * channels + i] +=
                        f64::from(d_y.data[pixel * geometry.out_channels + o])
                            * f64::from(x.data[input * channels + i]);
                }
            }
        });
        for (d_weight, sum) in d_weight.data.iter_mut().zip(sums) {
            *d_weight = sum as f32;
        }
        for (o, d_bias) in d_bias.data.iter_mut().enumerate() {
            let sum: f64 =
                d_y.data.iter().skip(o).step_by(geometry.out_channels).map(|&d| f64::from(d)).sum();
            *d_bias = sum as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x, d_y], [d_weight, d_bias]) = operands.split();
        let geometry = checked(self.geometry(x.ty, d_y.ty));
        let backward_weight = if winograd::suits_weight(&geometry) {
            winograd::backward_weight
        } else {
            compute::backward_weight
        };
        backward_weight(&geometry, x.data, d_y.data, d_weight.data);
        super::cpu::column_sums(d_y.data, d_bias.data);
    }
}
