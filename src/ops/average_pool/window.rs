//! The mean of every channel in windows of an image.

use crate::graph::{Graph, GraphError, TensorType, ValueId};
use crate::ops::cpu::par_rows;
use crate::ops::window::{Sliding, Window, cases as window_cases};
use crate::ops::{
    Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, dims, expect_nhwc, expect_shape_like,
};

/// The mean in each window: `[N, H, W, C]` becomes `[N, OH, OW, C]`, `OH = (H + 2 padding - kernel) / stride + 1`.
///
/// Where `count_include_pad`, padding counts as zeros, as it does by default in PyTorch; else the mean is over the
/// pixels that the window has inside the image.
///
/// # Errors
/// [`GraphError::Shape`] if `x` is not an image batch, or windows do not fit into it.
pub fn average_pool_window(
    graph: &mut Graph,
    x: ValueId,
    window: Window,
    count_include_pad: bool,
) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward(Settings { window, count_include_pad }), &[x])
}

/// What both passes of a call agree on.
#[derive(Clone, Copy, Debug)]
struct Settings {
    window: Window,
    count_include_pad: bool,
}

#[derive(Debug)]
struct Forward(Settings);

#[derive(Debug)]
struct Backward {
    settings: Settings,
    /// Height and width of x: a stride hides which of several sizes it was.
    size: [usize; 2],
}

/// Fields of `Params` that say nothing to the kernels that average whole images.
pub(super) const NO_WINDOW: [&str; 11] = [
    "height",
    "width",
    "out_height",
    "out_width",
    "kernel_height",
    "kernel_width",
    "stride_height",
    "stride_width",
    "pad_height",
    "pad_width",
    "counts_padding",
];

impl Settings {
    /// The kernel that takes four channels at a time, where they are a multiple of four, and the other.
    fn variants(self, [vec4, plain]: [&'static str; 2], sliding: Sliding, length: usize) -> Vec<Variant> {
        let mut params = sliding.params();
        let counts_padding = ("counts_padding", self.count_include_pad.into());
        params.extend([("length", length.into()), ("pixels", 0u32.into()), counts_padding]);
        let single = |entry, count| Variant::single(entry, Grid::Invocations(count), params.clone());
        let vec4 = sliding.channels.is_multiple_of(4).then(|| single(vec4, length / 4));
        vec4.into_iter().chain([single(plain, length)]).collect()
    }

    /// Pixels that the mean of an output pixel is over.
    fn area(self, sliding: &Sliding, pixel: usize) -> usize {
        match self.count_include_pad {
            true => self.window.kernel[0] * self.window.kernel[1],
            false => sliding.taps(pixel).count(),
        }
    }
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "average_pool.forward_window"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        Ok(vec![inputs[0].with_shape(self.0.window.expect(inputs[0])?)])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let d_y = call.d_output(graph, self)?;
        let [_, height, width, _] = dims(graph.ty(call.inputs[0]));
        let backward = Backward { settings: self.0, size: [height, width] };
        Ok(vec![Some(graph.apply_one(backward, &[d_y])?)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let sliding = self.0.window.on_type(&types.inputs[0]);
        self.0.variants(["forward_window_vec4", "forward_window"], sliding, types.outputs[0].len())
    }
    fn tolerance(&self) -> f32 {
        5e-6
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        let sliding = self.0.window.on_type(x.ty);
        let c = sliding.channels;
        for (i, y) in y.data.iter_mut().enumerate() {
            let sum: f64 = sliding.taps(i / c).map(|(_, source)| f64::from(x.data[source * c + i % c])).sum();
            *y = (sum / self.0.area(&sliding, i / c) as f64) as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        let sliding = self.0.window.on_type(x.ty);
        let c = sliding.channels;
        par_rows(y.data, c, |first, rows| {
            for (y, pixel) in rows.chunks_exact_mut(c).zip(first..) {
                y.fill(0.0);
                for (_, source) in sliding.taps(pixel) {
                    y.iter_mut().zip(&x.data[source * c..]).for_each(|(y, x)| *y += x);
                }
                let share = 1.0 / self.0.area(&sliding, pixel) as f32;
                y.iter_mut().for_each(|y| *y *= share);
            }
        });
    }
}

impl Op for Backward {
    fn name(&self) -> &'static str {
        "average_pool.backward_window"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["d_y"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_x"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [n, _, _, c] = expect_nhwc("d_y", inputs[0])?;
        let x = inputs[0].with_shape([n, self.size[0], self.size[1], c]);
        let shape = self.settings.window.expect(&x)?;
        expect_shape_like("d_y", inputs[0], &shape, &x)?;
        Ok(vec![x])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let x = &types.outputs[0];
        let sliding = self.settings.window.on_type(x);
        self.settings.variants(["backward_window_vec4", "backward_window"], sliding, x.len())
    }
    fn tolerance(&self) -> f32 {
        5e-6
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([d_y], [d_x]) = operands.split();
        let sliding = self.settings.window.on_type(d_x.ty);
        let c = sliding.channels;
        let mut sums = vec![0.0f64; d_x.data.len()];
        for (i, &d) in d_y.data.iter().enumerate() {
            let d = f64::from(d) / self.settings.area(&sliding, i / c) as f64;
            sliding.taps(i / c).for_each(|(_, source)| sums[source * c + i % c] += d);
        }
        d_x.data.iter_mut().zip(sums).for_each(|(d_x, sum)| *d_x = sum as f32);
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([d_y], [d_x]) = operands.split();
        let sliding = self.settings.window.on_type(d_x.ty);
        let (c, [pixels, out_pixels]) = (sliding.channels, sliding.pixels());
        par_rows(d_x.data, pixels * c, |first, images| {
            images.fill(0.0);
            for pixel in first * out_pixels..(first + images.len() / (pixels * c)) * out_pixels {
                let share = 1.0 / self.settings.area(&sliding, pixel) as f32;
                for (_, source) in sliding.taps(pixel) {
                    let d_x = &mut images[(source - first * pixels) * c..][..c];
                    d_x.iter_mut().zip(&d_y.data[pixel * c..]).for_each(|(d_x, d)| *d_x += d * share);
                }
            }
        });
    }
}

/// Calls to check and time.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, x, window) in window_cases() {
        for count_include_pad in [true, false] {
            let settings = Settings { window, count_include_pad };
            let Ok(shape) = window.expect(&x.ty()) else { continue };
            let [_, height, width, _] = dims(&x.ty());
            let name = if count_include_pad { name.to_owned() } else { format!("{name}, inside the image") };
            let backward = Backward { settings, size: [height, width] };
            cases.push(Case::new(&name, Forward(settings), vec![x.clone()]));
            cases.push(Case::new(&name, backward, vec![Fill::normal(shape)]));
        }
    }
    cases
}
