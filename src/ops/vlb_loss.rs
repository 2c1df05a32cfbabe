//! The terms of the variational bound on the likelihood, as a loss of each sample.

use rayon::prelude::*;

use super::cpu::par_rows;
use super::philox::elements_per_sample;
use super::{
    Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, Word, expect, expect_like, expect_shape,
};
use crate::graph::{Graph, GraphError, TensorType, ValueId};
use crate::normal::Nats;

/// The term of the bound of each sample `[N]`, in bits per dimension.
///
/// `prediction` is the network's output `[N, H, W, C]`, or `[N, H, W, 2 C]` where it says v of the variance in the second
/// half of the channels; `truth` is what it should say, and `x_start` the images, both `[N, H, W, C]`. A row of
/// `coefficients` `[N, 5]` holds the factor of truth - prediction in the difference of the means, the logarithm of the
/// posterior's variance, those of the model's where v = -1 and v = 1, and whether this is the decoder's term. With `freeze_mean` the loss teaches the variance alone, as the
/// hybrid loss wants it (Nichol and Dhariwal 2021, section 3.1). There is a gradient through the prediction only.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn vlb_loss(
    graph: &mut Graph,
    [prediction, truth, x_start]: [ValueId; 3],
    coefficients: ValueId,
    freeze_mean: bool,
) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward { freeze_mean }, &[prediction, truth, x_start, coefficients])
}

#[derive(Debug)]
struct Forward {
    freeze_mean: bool,
}

#[derive(Debug)]
struct Backward {
    freeze_mean: bool,
}

fn expect_operands(inputs: &[&TensorType]) -> Result<(), String> {
    let (prediction, truth) = (inputs[0], inputs[1]);
    let rank = truth.shape.len();
    let channels = truth.channels();
    let same = prediction.shape.len() == rank && prediction.shape[..rank - 1] == truth.shape[..rank - 1];
    let fits = [channels, 2 * channels].contains(&prediction.channels());
    expect(!truth.is_empty() && same && fits && prediction.dtype == truth.dtype, || {
        format!("prediction must be {truth}, or of twice the channels")
    })?;
    expect_like("x_start", inputs[2], truth)?;
    expect_shape("coefficients", inputs[3], &[truth.shape[0], 5])
}

fn params(prediction: &TensorType, truth: &TensorType, freeze_mean: bool) -> Vec<(&'static str, Word)> {
    vec![
        ("samples", truth.shape[0].into()),
        ("elements", elements_per_sample(truth).into()),
        ("channels", truth.channels().into()),
        ("predicted_channels", prediction.channels().into()),
        ("freeze_mean", freeze_mean.into()),
    ]
}

/// Elements of one sample.
struct Sample<'a> {
    /// The sample's row of coefficients.
    row: [f64; 5],
    prediction: &'a [f32],
    truth: &'a [f32],
    x_start: &'a [f32],
    /// Channels of the truth and of the prediction.
    channels: [usize; 2],
}

impl Sample<'_> {
    /// The term's share of element `e`, and where in the prediction the element is.
    fn term(&self, e: usize) -> (Nats, usize) {
        let [channels, predicted] = self.channels;
        let p = e / channels * predicted + e % channels;
        let [mean_of_output, log_variance, low, high, is_decoder] = self.row;
        let difference = mean_of_output * (f64::from(self.truth[e]) - f64::from(self.prediction[p]));
        let model_log_variance = if predicted > channels {
            low + 0.5 * (f64::from(self.prediction[p + channels]) + 1.0) * (high - low)
        } else {
            high
        };
        let term = if is_decoder == 0.0 {
            Nats::divergence(log_variance, model_log_variance, difference)
        } else {
            Nats::of_value(f64::from(self.x_start[e]), difference, model_log_variance)
        };
        (term, p)
    }
}

/// The samples of a call.
fn samples<'a>(inputs: &[super::Input<'a>]) -> impl IndexedParallelIterator<Item = Sample<'a>> {
    let [prediction, truth, x_start, coefficients] = [0, 1, 2, 3].map(|i| inputs[i]);
    let channels = [truth.ty.channels(), prediction.ty.channels()];
    let elements = elements_per_sample(truth.ty);
    let predicted = elements_per_sample(prediction.ty);
    (0..truth.ty.shape[0]).into_par_iter().map(move |n| Sample {
        row: std::array::from_fn(|i| f64::from(coefficients.data[5 * n + i])),
        prediction: &prediction.data[n * predicted..][..predicted],
        truth: &truth.data[n * elements..][..elements],
        x_start: &x_start.data[n * elements..][..elements],
        channels,
    })
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "vlb_loss.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["prediction", "truth", "x_start", "coefficients"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["per_sample"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_operands(inputs)?;
        Ok(vec![TensorType::f32([inputs[1].shape[0]])])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        if call.needs[1..].contains(&true) {
            return Err(GraphError::NoGradient { path: graph.path(), op: self.name() });
        }
        let d_per_sample = call.d_output(graph, self)?;
        let inputs = [call.inputs, &[d_per_sample]].concat();
        let d_prediction = graph.apply_one(Backward { freeze_mean: self.freeze_mean }, &inputs)?;
        Ok(vec![Some(d_prediction), None, None, None])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let params = params(&types.inputs[0], &types.inputs[1], self.freeze_mean);
        vec![Variant::single("forward", Grid::Workgroups(types.outputs[0].len()), params)]
    }
    fn tolerance(&self) -> f32 {
        // The kernel's fit of erfc, and the exponentials of WGSL.
        2e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let per_sample: Vec<f32> = samples(&operands.inputs)
            .map(|sample| {
                let elements = sample.truth.len();
                let nats: f64 = (0..elements).map(|e| sample.term(e).0.nats).sum();
                (nats / (std::f64::consts::LN_2 * elements as f64)) as f32
            })
            .collect();
        let ([_, _, _, _], [output]) = operands.split();
        output.data.copy_from_slice(&per_sample);
    }
}

impl Op for Backward {
    fn name(&self) -> &'static str {
        "vlb_loss.backward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["prediction", "truth", "x_start", "coefficients", "d_per_sample"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_prediction"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_operands(inputs)?;
        expect_shape("d_per_sample", inputs[4], &inputs[0].shape[..1])?;
        Ok(vec![inputs[0].clone()])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let params = params(&types.inputs[0], &types.inputs[1], self.freeze_mean);
        vec![Variant::single("backward", Grid::Invocations(types.inputs[1].len()), params)]
    }
    fn tolerance(&self) -> f32 {
        2e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let samples: Vec<Sample<'_>> = samples(&operands.inputs).collect();
        let ([prediction, _, _, _, d_per_sample], [d_prediction]) = operands.split();
        let row = elements_per_sample(prediction.ty);
        par_rows(d_prediction.data, row, |first, rows| {
            for (index, d) in rows.chunks_exact_mut(row).enumerate() {
                let sample = &samples[first + index];
                let elements = sample.truth.len();
                let scale =
                    f64::from(d_per_sample.data[first + index]) / (std::f64::consts::LN_2 * elements as f64);
                let [channels, predicted] = sample.channels;
                let [mean_of_output, _, low, high, _] = sample.row;
                for e in 0..elements {
                    let (term, p) = sample.term(e);
                    let d_mean = -scale * mean_of_output * term.d_difference;
                    d[p] = if self.freeze_mean { 0.0 } else { d_mean as f32 };
                    if predicted > channels {
                        d[p + channels] = (scale * 0.5 * (high - low) * term.d_log_variance) as f32;
                    }
                }
            }
        });
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    // The decoder's term and two others. The first has variances as in a schedule, of about 1e-4.
    let small = [0.01, -10.4, -10.4, -9.2, 1.0, 0.02, -8.0, -8.0, -7.9, 0.0, 0.2, -4.0, -4.0, -3.9, 0.0];
    let wide = [0.8, -3.0, -3.0, -1.0, 1.0, 0.3, -2.0, -2.0, -0.5, 0.0, 0.9, -1.0, -1.0, 0.5, 0.0];
    // Bins of a tenth to a quarter of a standard deviation; and bins just narrow enough for the density in their middle.
    let middle = [0.05, -6.8, -6.8, -4.8, 1.0, 0.1, -5.0, -5.0, -4.0, 1.0, 0.05, -6.0, -6.0, -5.0, 1.0];
    let narrow = [0.3, -3.66, -3.66, -3.6, 1.0, 0.01, -3.66, -3.66, -3.6, 1.0, 0.2, -3.66, -3.66, -3.6, 1.0];
    let coefficients = |rows: [f32; 15]| Fill::Floats { shape: vec![3, 5], data: rows.to_vec() };
    let images = |scale: f32| Fill::Uniform { shape: vec![3, 5, 7, 3], low: -scale, high: scale };
    let ragged = || Fill::normal([3, 5, 7, 3]);
    let double = || Fill::normal([3, 5, 7, 6]);
    let inputs = |prediction: Fill, rows| vec![prediction, ragged(), images(1.2), coefficients(rows)];
    let with_d = |mut inputs: Vec<Fill>| {
        inputs.push(Fill::normal([inputs[0].ty().shape[0]]));
        inputs
    };
    // Hundreds of standard deviations off.
    let far = || Fill::Normal { shape: vec![3, 5, 7, 6], mean: 100.0, std: 30.0 };
    let real = || {
        let rows: Vec<f32> = (0..16)
            .flat_map(
                |n| if n == 0 { [0.01, -10.4, -10.4, -9.2, 1.0] } else { [0.05, -6.0, -6.0, -5.9, 0.0] },
            )
            .collect();
        let shape = [16, 32, 32, 3];
        let images = Fill::Uniform { shape: shape.to_vec(), low: -1.0, high: 1.0 };
        let rows = Fill::Floats { shape: vec![16, 5], data: rows };
        vec![Fill::normal([16, 32, 32, 6]), Fill::normal(shape), images, rows]
    };
    let forward = || Forward { freeze_mean: false };
    let backward = |freeze_mean| Backward { freeze_mean };
    vec![
        Case::new("ragged", forward(), inputs(ragged(), wide)),
        Case::new("learned variance", forward(), inputs(double(), wide)),
        Case::new("learned variance, small", forward(), inputs(double(), small)),
        Case::new("middling bins", forward(), inputs(double(), middle)),
        Case::new("narrow bins", forward(), inputs(double(), narrow)),
        Case::new("far off", forward(), inputs(far(), small)),
        Case::new("image", forward(), real()),
        Case::new("ragged", backward(false), with_d(inputs(ragged(), wide))),
        Case::new("learned variance", backward(false), with_d(inputs(double(), wide))),
        Case::new("learned variance, small", backward(false), with_d(inputs(double(), small))),
        Case::new("learned variance, frozen mean", backward(true), with_d(inputs(double(), small))),
        Case::new("middling bins", backward(false), with_d(inputs(double(), middle))),
        Case::new("narrow bins", backward(false), with_d(inputs(double(), narrow))),
        Case::new("far off", backward(false), with_d(inputs(far(), small))),
        Case::new("image", backward(false), with_d(real())),
    ]
}
