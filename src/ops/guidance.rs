//! Guidance of the network's output towards a class: classifier-free, and by a classifier's gradient.

use super::philox::elements_per_sample;
use super::{Case, Fill, Grid, Op, Operands, Types, Variant, Word, expect, expect_nhwc, expect_shape};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// The batch twice: `[N, H, W, C]` becomes `[2 N, H, W, C]`.
///
/// # Errors
/// [`GraphError::Shape`] if `x` is not an image batch.
pub fn double(graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    graph.apply_one(Double, &[x])
}

/// Classifier-free guidance (Ho and Salimans 2022): `scale * cond + (1 - scale) * uncond`.
///
/// `outputs` is `[2 N, H, W, C']`: what the network says without a class, then with one. `scale` is diffusers': 1 gives what
/// it says with a class, to the bit; the paper's w is `scale - 1`. `rescale` is phi of Lin et al. 2023, equations 15 and 16:
/// 0 leaves the result as it is, 1 gives it the standard deviation of the conditional output. Only the first `channels` of
/// C' are guided: others, a learned variance, are the conditional ones.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn classifier_free(
    graph: &mut Graph,
    outputs: ValueId,
    channels: usize,
    scale: f32,
    rescale: f32,
) -> Result<ValueId, GraphError> {
    graph.apply_one(ClassifierFree { channels, scale, rescale }, &[outputs])
}

/// `output + f gradient`, where f is `factors[n]`: `[N, H, W, C']`, `[N, H, W, C]` and `[N]`.
///
/// Channels of the output beyond C stay.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn shift(
    graph: &mut Graph,
    output: ValueId,
    gradient: ValueId,
    factors: ValueId,
) -> Result<ValueId, GraphError> {
    graph.apply_one(Shift, &[output, gradient, factors])
}

/// Adds `f exp(r v) gradient` to `x`, where f and r are `factors[n]`: `[N, H, W, C]`, and `[N, 2]`.
///
/// v is the other half of an `output` `[N, H, W, 2 C]`; with one of C channels it is 0.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn shift_mean(
    graph: &mut Graph,
    x: ValueId,
    output: ValueId,
    gradient: ValueId,
    factors: ValueId,
) -> Result<(), GraphError> {
    graph.update(ShiftMean, &[output, gradient, factors], &[x])
}

#[derive(Debug)]
struct Double;

#[derive(Debug)]
struct ClassifierFree {
    channels: usize,
    scale: f32,
    rescale: f32,
}

#[derive(Debug)]
struct Shift;

#[derive(Debug)]
struct ShiftMean;

/// Parameters of a call: number and type of the samples of one half, guided channels, scale and rescale.
fn params(
    samples: usize,
    output: &TensorType,
    channels: usize,
    [scale, rescale]: [f32; 2],
) -> Vec<(&'static str, Word)> {
    vec![
        ("samples", samples.into()),
        ("elements", elements_per_sample(output).into()),
        ("channels", channels.into()),
        ("output_channels", output.channels().into()),
        ("scale", scale.into()),
        ("rescale", rescale.into()),
    ]
}

impl Op for Double {
    fn name(&self) -> &'static str {
        "guidance.double"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [n, h, w, c] = expect_nhwc("x", inputs[0])?;
        expect_shape("x", inputs[0], &[n, h, w, c])?;
        Ok(vec![TensorType::f32([2 * n, h, w, c])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let x = &types.inputs[0];
        let params = params(x.shape[0], x, x.channels(), [0.0; 2]);
        vec![Variant::single("double", Grid::Invocations(x.len()), params)]
    }
    fn tolerance(&self) -> f32 {
        0.0
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        let (first, second) = y.data.split_at_mut(x.data.len());
        first.copy_from_slice(x.data);
        second.copy_from_slice(x.data);
    }
}

impl Op for ClassifierFree {
    fn name(&self) -> &'static str {
        "guidance.classifier_free"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["outputs"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [n, h, w, c] = expect_nhwc("outputs", inputs[0])?;
        expect(n % 2 == 0, || "outputs must have an even number of samples".to_owned())?;
        expect((1..=c).contains(&self.channels), || format!("from 1 to {c} channels can be guided"))?;
        expect_shape("outputs", inputs[0], &[n, h, w, c])?;
        Ok(vec![TensorType::f32([n / 2, h, w, c])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let y = &types.outputs[0];
        let params = params(y.shape[0], y, self.channels, [self.scale, self.rescale]);
        vec![if self.rescale == 0.0 {
            Variant::single("forward", Grid::Invocations(y.len()), params)
        } else {
            Variant::single("forward_rescaled", Grid::Workgroups(y.shape[0]), params)
        }]
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([outputs], [y]) = operands.split();
        let (elements, all) = (elements_per_sample(y.ty), y.ty.channels());
        let (uncond, cond) = outputs.data.split_at(y.data.len());
        let is_guided = |i: usize| i % all < self.channels;
        let scale = f64::from(self.scale);
        for n in 0..y.ty.shape[0] {
            let range = n * elements..(n + 1) * elements;
            let mut factor = 1.0;
            let value = |i: usize| scale * f64::from(cond[i]) + (1.0 - scale) * f64::from(uncond[i]);
            if self.rescale != 0.0 {
                let std = |value: &dyn Fn(usize) -> f64| {
                    let guided: Vec<f64> = range.clone().filter(|&i| is_guided(i)).map(value).collect();
                    let mean = guided.iter().sum::<f64>() / guided.len() as f64;
                    guided.iter().map(|value| (value - mean).powi(2)).sum::<f64>().sqrt()
                };
                let (of_cond, of_guided) = (std(&|i| f64::from(cond[i])), std(&value));
                let phi = f64::from(self.rescale);
                if of_guided > 0.0 {
                    factor = phi * of_cond / of_guided + 1.0 - phi;
                }
            }
            for i in range.clone() {
                // In f32 where the scale is 1, so that nothing of the unconditional half is left.
                y.data[i] = if is_guided(i) { (factor * value(i)) as f32 } else { cond[i] };
            }
        }
    }
}

impl Op for Shift {
    fn name(&self) -> &'static str {
        "guidance.shift"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["output", "gradient", "factors"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [n, h, w, c] = expect_nhwc("output", inputs[0])?;
        let channels = inputs[1].channels();
        expect((1..=c).contains(&channels), || format!("gradient must have from 1 to {c} channels"))?;
        expect_shape("output", inputs[0], &[n, h, w, c])?;
        expect_shape("gradient", inputs[1], &[n, h, w, channels])?;
        expect_shape("factors", inputs[2], &[n])?;
        Ok(vec![inputs[0].clone()])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let y = &types.outputs[0];
        let params = params(y.shape[0], y, types.inputs[1].channels(), [0.0; 2]);
        vec![Variant::single("shift", Grid::Invocations(y.len()), params)]
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([output, gradient, factors], [y]) = operands.split();
        let (elements, all, channels) = (elements_per_sample(y.ty), y.ty.channels(), gradient.ty.channels());
        for (i, y) in y.data.iter_mut().enumerate() {
            let (pixel, channel) = (i / all, i % all);
            let mut value = f64::from(output.data[i]);
            if channel < channels {
                let slope = f64::from(gradient.data[pixel * channels + channel]);
                value += f64::from(factors.data[i / elements]) * slope;
            }
            *y = value as f32;
        }
    }
}

impl Op for ShiftMean {
    fn name(&self) -> &'static str {
        "guidance.shift_mean"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["output", "gradient", "factors"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [n, h, w, all] = expect_nhwc("output", inputs[0])?;
        let [.., channels] = expect_nhwc("gradient", inputs[1])?;
        expect([channels, 2 * channels].contains(&all), || {
            format!("output must have {channels} channels, or {} with learned variance", 2 * channels)
        })?;
        expect_shape("gradient", inputs[1], &[n, h, w, channels])?;
        expect_shape("factors", inputs[2], &[n, 2])?;
        Ok(vec![inputs[1].clone()])
    }
    fn updates_in_place(&self) -> bool {
        true
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let y = &types.outputs[0];
        let output_channels = types.inputs[0].channels();
        let params = vec![
            ("samples", y.shape[0].into()),
            ("elements", elements_per_sample(y).into()),
            ("channels", y.channels().into()),
            ("output_channels", output_channels.into()),
            ("scale", 0.0f32.into()),
            ("rescale", 0.0f32.into()),
        ];
        vec![Variant::single("shift_mean", Grid::Invocations(y.len()), params)]
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([output, gradient, factors], [y]) = operands.split();
        let (elements, all, channels) = (elements_per_sample(y.ty), output.ty.channels(), y.ty.channels());
        for (i, y) in y.data.iter_mut().enumerate() {
            let [factor, range] = [0, 1].map(|at| f64::from(factors.data[2 * (i / elements) + at]));
            let of_output = i / channels * all + i % channels;
            let v = if all == 2 * channels { f64::from(output.data[of_output + channels]) } else { 0.0 };
            let shift = factor * (range * v).exp() * f64::from(gradient.data[i]);
            *y = (f64::from(*y) + shift) as f32;
        }
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let (ragged, image) = ([3, 5, 2, 3], [8, 32, 32, 3]);
    let doubled = |[n, h, w, c]: [usize; 4]| Fill::normal([2 * n, h, w, c]);
    let mean = |name, shape: [usize; 4], outputs: usize| {
        let [n, h, w, c] = shape;
        let inputs = vec![Fill::normal([n, h, w, outputs * c]), Fill::normal(shape), Fill::normal([n, 2])];
        Case { targets: vec![Fill::normal(shape)], ..Case::new(name, ShiftMean, inputs) }
    };
    let free = |channels, scale, rescale| ClassifierFree { channels, scale, rescale };
    let off_centre = Fill::Normal { shape: vec![6, 5, 2, 3], mean: 3.0, std: 1.0 };
    let small = Fill::Normal { shape: vec![6, 5, 2, 3], mean: 0.0, std: 0.01 };
    // With scale 2 the guided output is 0.5 everywhere, so its standard deviation is 0, the conditional one's is not.
    let flat = {
        let conditional: Vec<f32> = (0..90u8).map(|i| f32::from(i % 7) * 0.25).collect();
        let unconditional = conditional.iter().map(|value| 2.0 * value - 0.5);
        Fill::Floats { shape: vec![6, 5, 2, 3], data: unconditional.chain(conditional.clone()).collect() }
    };
    vec![
        Case::new("ragged", Double, vec![Fill::normal(ragged)]),
        Case::new("ragged", free(3, 4.0, 0.0), vec![doubled(ragged)]),
        Case::new("scale 1", free(3, 1.0, 0.0), vec![doubled(ragged)]),
        Case::new("learned variance", free(2, 2.5, 0.0), vec![doubled([3, 5, 2, 4])]),
        Case::new("image", free(3, 7.5, 0.0), vec![doubled(image)]),
        Case::new("ragged, rescaled", free(3, 4.0, 0.7), vec![off_centre]),
        Case::new("small, rescaled", free(3, 4.0, 0.7), vec![small]),
        Case::new("flat, rescaled", free(3, 2.0, 0.7), vec![flat]),
        Case::new("learned variance, rescaled", free(2, 2.5, 1.0), vec![doubled([3, 5, 2, 4])]),
        Case::new("image, rescaled", free(3, 7.5, 0.7), vec![doubled(image)]),
        Case::new("ragged", Shift, vec![Fill::normal(ragged), Fill::normal(ragged), Fill::normal([3])]),
        Case::new(
            "learned variance",
            Shift,
            vec![Fill::normal([3, 5, 2, 4]), Fill::normal([3, 5, 2, 2]), Fill::normal([3])],
        ),
        mean("ragged", ragged, 1),
        mean("learned variance", [3, 5, 2, 2], 2),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::device::{CpuExecutor, CpuKernels};

    fn guided(outputs: &[f32], shape: [usize; 4], scale: f32, rescale: f32) -> Vec<f32> {
        let mut graph = Graph::new();
        let input = graph.input("outputs", TensorType::f32(shape));
        let y = classifier_free(&mut graph, input, shape[3], scale, rescale).unwrap();
        let mut executor = CpuExecutor::new(&graph, &[y], CpuKernels::Fast).unwrap();
        executor.write(input, outputs).unwrap();
        executor.run();
        executor.read(y).unwrap()
    }

    #[test]
    fn scale_1_is_the_conditional_output_to_the_bit() {
        let outputs = Fill::normal([6, 5, 2, 3]).data(7);
        assert_eq!(guided(&outputs, [6, 5, 2, 3], 1.0, 0.0), outputs[90..]);
    }

    /// `uncond + 4 (cond - uncond)` and diffusers' `rescale_noise_cfg(..., guidance_rescale=0.7)` of two samples, each of four
    /// values: uncond [0, 1, 2, 3], [1, -1, 1, 0], cond [1, 3, -1, 2], [0.5, 2, -2, 1].
    #[test]
    fn rescaling_is_that_of_diffusers() {
        let outputs = [0.0, 1.0, 2.0, 3.0, 1.0, -1.0, 1.0, 0.0, 1.0, 3.0, -1.0, 2.0, 0.5, 2.0, -2.0, 1.0];
        let expected = DIFFUSERS;
        for (found, expected) in guided(&outputs, [4, 2, 2, 1], 4.0, 0.7).iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{found} and {expected}");
        }
    }

    const DIFFUSERS: [f32; 8] =
        [1.790105, 4.027735, -4.475261, -0.447526, -0.428763, 4.716391, -4.716391, 1.715051];
}
