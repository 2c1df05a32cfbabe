//! The largest value of every channel in windows of an image.

use super::cpu::par_rows;
use super::window::{Sliding, Window, cases as window_cases};
use super::{
    Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, expect_nhwc, expect_shape,
    expect_shape_like,
};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// The largest value in each window: `[N, H, W, C]` becomes `[N, OH, OW, C]`,
/// `OH = (H + 2 padding - kernel) / stride + 1`.
///
/// Padding never wins. Of equal values the first in reading order counts as the largest, and gets the gradient.
///
/// # Errors
/// [`GraphError::Shape`] if `x` is not an image batch, or windows do not fit into it.
pub fn max_pool(graph: &mut Graph, x: ValueId, window: Window) -> Result<ValueId, GraphError> {
    Ok(graph.apply(Forward(window), &[x])?[0])
}

#[derive(Debug)]
struct Forward(Window);

#[derive(Debug)]
struct Backward {
    window: Window,
    /// Height and width of x: a stride hides which of several sizes it was.
    size: [usize; 2],
}

/// The kernel that takes four channels at a time, where they are a multiple of four, and the other.
fn variants([vec4, plain]: [&'static str; 2], sliding: Sliding, length: usize) -> Vec<Variant> {
    let mut params = sliding.params();
    params.push(("length", length.into()));
    let single = |entry, count| Variant::single(entry, Grid::Invocations(count), params.clone());
    let vec4 = sliding.channels.is_multiple_of(4).then(|| single(vec4, length / 4));
    vec4.into_iter().chain([single(plain, length)]).collect()
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "max_pool.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y", "taps"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let shape = self.0.expect(inputs[0])?;
        Ok(vec![inputs[0].with_shape(shape), TensorType::u32(shape)])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let d_y = call.d_output(graph, self)?;
        let [_, height, width, _] = super::dims(graph.ty(call.inputs[0]));
        let backward = Backward { window: self.0, size: [height, width] };
        Ok(vec![Some(graph.apply_one(backward, &[call.outputs[1], d_y])?)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        variants(["forward_vec4", "forward"], self.0.on_type(&types.inputs[0]), types.outputs[0].len())
    }
    fn tolerance(&self) -> f32 {
        0.0
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x], [y, taps]) = operands.split();
        let sliding = self.0.on_type(x.ty);
        for (i, (y, chosen)) in y.data.iter_mut().zip(taps.data).enumerate() {
            let (pixel, c) = (i / sliding.channels, i % sliding.channels);
            let mut largest: Option<(usize, f32)> = None;
            for (tap, source) in sliding.taps(pixel) {
                let value = x.data[source * sliding.channels + c];
                if largest.is_none_or(|(_, largest)| value > largest) {
                    largest = Some((tap, value));
                }
            }
            // Every window sees a pixel: the shape rule keeps paddings less than the kernel.
            if let Some((tap, value)) = largest {
                (*y, *chosen) = (value, f32::from_bits(tap as u32));
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x], [y, taps]) = operands.split();
        let sliding = self.0.on_type(x.ty);
        let c = sliding.channels;
        // A row for each output pixel: its values, then its taps.
        let mut rows = vec![0.0f32; 2 * y.data.len()];
        par_rows(&mut rows, 2 * c, |first, rows| {
            for (row, pixel) in rows.chunks_exact_mut(2 * c).zip(first..) {
                let (largest, chosen) = row.split_at_mut(c);
                let mut is_first = true;
                for (tap, source) in sliding.taps(pixel) {
                    let tap = f32::from_bits(tap as u32);
                    let values = &x.data[source * c..][..c];
                    for ((largest, chosen), &value) in largest.iter_mut().zip(chosen.iter_mut()).zip(values) {
                        if is_first || value > *largest {
                            (*largest, *chosen) = (value, tap);
                        }
                    }
                    is_first = false;
                }
            }
        });
        let outputs = y.data.chunks_exact_mut(c).zip(taps.data.chunks_exact_mut(c));
        for ((y, taps), row) in outputs.zip(rows.chunks_exact(2 * c)) {
            y.copy_from_slice(&row[..c]);
            taps.copy_from_slice(&row[c..]);
        }
    }
}

impl Op for Backward {
    fn name(&self) -> &'static str {
        "max_pool.backward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["saved_taps", "d_y"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_x"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [n, _, _, c] = expect_nhwc("d_y", inputs[1])?;
        let x = inputs[1].with_shape([n, self.size[0], self.size[1], c]);
        let shape = self.window.expect(&x)?;
        expect_shape_like("d_y", inputs[1], &shape, &x)?;
        expect_shape("saved_taps", inputs[0], &shape)?;
        Ok(vec![x])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let x = &types.outputs[0];
        variants(["backward_vec4", "backward"], self.window.on_type(x), x.len())
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([taps, d_y], [d_x]) = operands.split();
        let sliding = self.window.on_type(d_x.ty);
        let c = sliding.channels;
        let mut sums = vec![0.0f64; d_x.data.len()];
        for (i, &d) in d_y.data.iter().enumerate() {
            for (tap, source) in sliding.taps(i / c) {
                if tap == taps.u32()[i] as usize {
                    sums[source * c + i % c] += f64::from(d);
                }
            }
        }
        d_x.data.iter_mut().zip(sums).for_each(|(d_x, sum)| *d_x = sum as f32);
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([taps, d_y], [d_x]) = operands.split();
        let sliding = self.window.on_type(d_x.ty);
        let (c, [pixels, out_pixels]) = (sliding.channels, sliding.pixels());
        let chosen = taps.u32();
        par_rows(d_x.data, pixels * c, |first, images| {
            images.fill(0.0);
            let first_pixel = first * pixels;
            let out = first * out_pixels..(first + images.len() / (pixels * c)) * out_pixels;
            for pixel in out {
                for (tap, source) in sliding.taps(pixel) {
                    let d_x = &mut images[(source - first_pixel) * c..][..c];
                    let chosen = &chosen[pixel * c..][..c];
                    for ((d_x, &chosen), d) in d_x.iter_mut().zip(chosen).zip(&d_y.data[pixel * c..]) {
                        *d_x += if chosen as usize == tap { *d } else { 0.0 };
                    }
                }
            }
        });
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, x, window) in window_cases() {
        let ty = x.ty();
        // Finite differences take steps that grow with the values: large ones would change which is the largest.
        let x = Fill::normal(ty.shape.clone());
        let Ok(shape) = window.expect(&ty) else { continue };
        let [_, height, width, c] = super::dims(&ty);
        // Taps that the windows have, in some order.
        let sliding = window.on_type(&ty);
        let taps = (0..shape.iter().product::<usize>())
            .map(|i| {
                let taps: Vec<usize> = sliding.taps(i / c).map(|(tap, _)| tap).collect();
                taps[7 * i % taps.len()] as u32
            })
            .collect();
        let backward = Backward { window, size: [height, width] };
        let saved = Fill::Integers { shape: shape.to_vec(), data: taps };
        cases.push(Case::new(name, Forward(window), vec![x]));
        cases.push(Case::new(name, backward, vec![saved, Fill::normal(shape)]));
    }
    // Many values are equal: the first in reading order must win. Finite differences do not work at such a kink.
    let equal = (0..2 * 26 * 15 * 4).map(|i| ((i * 7 + i / 5) % 3) as f32).collect();
    let window = Window { kernel: [3, 3], stride: [1, 1], padding: [1, 1] };
    let equal = Fill::Floats { shape: vec![2, 26, 15, 4], data: equal };
    cases.push(Case::new("equal values", Forward(window), vec![equal]));
    cases
}
