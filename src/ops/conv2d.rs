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

/// How an image is padded with zeros before a 3x3 convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// One row or column on each side; none for a 1x1 kernel.
    Same,
    /// One row below and one column to the right (diffusers' `downsample_padding` 0).
    RightBottom,
}

/// Convolution of `x` `[N, H, W, I]` with `weight` `[O, k, k, I]`, k 1 or 3, plus `bias` `[O]`.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn conv2d(
    graph: &mut Graph,
    x: ValueId,
    weight: ValueId,
    bias: ValueId,
    stride: usize,
    padding: Padding,
) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward { stride, padding }, &[x, weight, bias])
}

#[derive(Debug)]
struct Forward {
    stride: usize,
    padding: Padding,
}

#[derive(Debug)]
struct BackwardInput {
    stride: usize,
    padding: Padding,
    /// Height and width of x: a stride hides which of two sizes it was.
    size: [usize; 2],
}

#[derive(Debug)]
struct BackwardWeight {
    stride: usize,
    padding: Padding,
    kernel: usize,
}

/// All sizes of one convolution.
#[derive(Clone, Copy, Debug)]
struct Geometry {
    batch: usize,
    in_size: [usize; 2],
    in_channels: usize,
    out_size: [usize; 2],
    out_channels: usize,
    kernel: usize,
    stride: usize,
    /// Rows and columns of zeros before the first.
    pad: usize,
}

impl Geometry {
    fn new(x: [usize; 4], out_channels: usize, kernel: usize, stride: usize, padding: Padding) -> Self {
        let [batch, height, width, in_channels] = x;
        let (pad, pad_both) = match padding {
            Padding::Same => (kernel / 2, 2 * (kernel / 2)),
            Padding::RightBottom => (0, kernel / 2),
        };
        let out = |size: usize| (size + pad_both).saturating_sub(kernel) / stride + 1;
        Self {
            batch,
            in_size: [height, width],
            in_channels,
            out_size: [out(height), out(width)],
            out_channels,
            kernel,
            stride,
            pad,
        }
    }

    fn in_pixels(&self) -> usize {
        self.batch * self.in_size[0] * self.in_size[1]
    }

    fn out_pixels(&self) -> usize {
        self.batch * self.out_size[0] * self.out_size[1]
    }

    fn weights(&self) -> usize {
        self.out_channels * self.patch()
    }

    /// Inputs that one output depends on.
    fn patch(&self) -> usize {
        self.kernel * self.kernel * self.in_channels
    }

    fn y_shape(&self) -> [usize; 4] {
        [self.batch, self.out_size[0], self.out_size[1], self.out_channels]
    }

    /// Input pixel that output pixel `(oh, ow)` of image `n` reads under tap `(kh, kw)`; `None` in the padding.
    fn tap(&self, n: usize, oh: usize, ow: usize, kh: usize, kw: usize) -> Option<usize> {
        let h = (oh * self.stride + kh).checked_sub(self.pad).filter(|&h| h < self.in_size[0])?;
        let w = (ow * self.stride + kw).checked_sub(self.pad).filter(|&w| w < self.in_size[1])?;
        Some((n * self.in_size[0] + h) * self.in_size[1] + w)
    }

    /// Calls `body(output pixel, input pixel, tap)` for every pair that the convolution connects.
    fn for_each_tap(&self, mut body: impl FnMut(usize, usize, usize)) {
        let mut pixel = 0;
        for n in 0..self.batch {
            for oh in 0..self.out_size[0] {
                for ow in 0..self.out_size[1] {
                    for kh in 0..self.kernel {
                        for kw in 0..self.kernel {
                            if let Some(input) = self.tap(n, oh, ow, kh, kw) {
                                body(pixel, input, kh * self.kernel + kw);
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
            taps: self.kernel * self.kernel,
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
            ("kernel", self.kernel.into()),
            ("stride", self.stride.into()),
            ("pad", self.pad.into()),
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
    fn geometry(&self, x: &TensorType, weight: &TensorType) -> Geometry {
        let [out_channels, kernel, _, _] = dims(weight);
        Geometry::new(dims(x), out_channels, kernel, self.stride, self.padding)
    }
}

impl BackwardInput {
    fn geometry(&self, d_y: &TensorType, weight: &TensorType) -> Geometry {
        let [out_channels, kernel, _, in_channels] = dims(weight);
        let [batch, ..] = dims::<4>(d_y);
        let x = [batch, self.size[0], self.size[1], in_channels];
        Geometry::new(x, out_channels, kernel, self.stride, self.padding)
    }
}

impl BackwardWeight {
    fn geometry(&self, x: &TensorType, d_y: &TensorType) -> Geometry {
        Geometry::new(dims(x), d_y.channels(), self.kernel, self.stride, self.padding)
    }
}

fn expect_kernel(weight: &TensorType) -> Result<[usize; 4], String> {
    let [out_channels, kh, kw, in_channels] =
        weight.shape.as_slice().try_into().map_err(|_| "weight must be [O, k, k, I]".to_owned())?;
    expect(kh == kw && (kh == 1 || kh == 3), || "the kernel must be 1x1 or 3x3".to_owned())?;
    Ok([out_channels, kh, kw, in_channels])
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
        expect(self.stride > 0, || "the stride must be at least 1".to_owned())?;
        Ok(vec![inputs[0].with_shape(self.geometry(inputs[0], inputs[1]).y_shape())])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let (stride, padding) = (self.stride, self.padding);
        let d_y = call.d_output(graph, self)?;
        let (x, weight) = (call.inputs[0], call.inputs[1]);
        let [_, height, width, _] = dims(graph.ty(x));
        let [_, kernel, _, _] = dims(graph.ty(weight));
        let (mut d_x, mut d_weight, mut d_bias) = (None, None, None);
        if call.needs[1] || call.needs[2] {
            let grads = graph.apply(BackwardWeight { stride, padding, kernel }, &[x, d_y])?;
            (d_weight, d_bias) = (Some(grads[0]), Some(grads[1]));
        }
        if call.needs[0] {
            let op = BackwardInput { stride, padding, size: [height, width] };
            d_x = Some(graph.apply_one(op, &[d_y, weight])?);
        }
        Ok(vec![d_x, d_weight, d_bias])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let geometry = self.geometry(&types.inputs[0], &types.inputs[1]);
        geometry.forward_product().forward(&geometry.params())
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        self.geometry(&types.inputs[0], &types.inputs[1]).cost()
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x, weight, bias], [y]) = operands.split();
        let geometry = self.geometry(x.ty, weight.ty);
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
        let geometry = self.geometry(x.ty, weight.ty);
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
        expect_shape_like("d_y", inputs[0], &self.geometry(inputs[0], inputs[1]).y_shape(), inputs[0])?;
        Ok(vec![inputs[0].with_shape([batch, self.size[0], self.size[1], in_channels])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let geometry = self.geometry(&types.inputs[0], &types.inputs[1]);
        geometry.backward_input_product().backward_input(&geometry.params())
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        self.geometry(&types.inputs[0], &types.inputs[1]).cost()
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([d_y, weight], [d_x]) = operands.split();
        let geometry = self.geometry(d_y.ty, weight.ty);
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
        let geometry = self.geometry(d_y.ty, weight.ty);
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
        expect_shape_like("d_y", inputs[1], &self.geometry(inputs[0], inputs[1]).y_shape(), inputs[0])?;
        let weight = TensorType::f32([out_channels, self.kernel, self.kernel, in_channels]);
        Ok(vec![weight, TensorType::f32([out_channels])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let geometry = self.geometry(&types.inputs[0], &types.inputs[1]);
        geometry.forward_product().backward_weight(&geometry.params())
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        self.geometry(&types.inputs[0], &types.inputs[1]).cost()
    }
    fn tolerance(&self) -> f32 {
        2e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x, d_y], [d_weight, d_bias]) = operands.split();
        let geometry = self.geometry(x.ty, d_y.ty);
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
        let geometry = self.geometry(x.ty, d_y.ty);
        let backward_weight = if winograd::suits_weight(&geometry) {
            winograd::backward_weight
        } else {
            compute::backward_weight
        };
        backward_weight(&geometry, x.data, d_y.data, d_weight.data);
        super::cpu::column_sums(d_y.data, d_bias.data);
    }
}
