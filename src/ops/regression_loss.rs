//! How far predictions are from the truth: squared, absolute, and Huber's loss of each sample.

use rayon::prelude::*;

use super::cpu::par_rows;
use super::philox::elements_per_sample;
use super::{
    Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, Word, expect, expect_shape, weighted_mean,
};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// What is averaged over the elements of a sample, as a function of d = prediction - truth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Regression {
    /// d^2.
    Mse,
    /// |d|.
    L1,
    /// d^2 / 2 where |d| is at most `delta`, and delta (|d| - delta / 2) beyond (Huber 1964).
    Huber {
        /// Where the parabola becomes a line.
        delta: f32,
    },
}

/// The loss of each sample `[N]`: its mean over all elements of `truth` `[N, H, W, C]`.
///
/// `prediction` is `[N, H, W, P]` with P at least C; of more channels than C the first count, and the others get no
/// gradient. The truth is data: a gradient through it is refused.
///
/// # Errors
/// [`GraphError::Shape`] if the operands differ in another size.
pub fn regression_loss(
    graph: &mut Graph,
    kind: Regression,
    prediction: ValueId,
    truth: ValueId,
) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward { kind }, &[prediction, truth])
}

/// The mean of `(prediction - target)^2` over the elements of each sample, `[N]`, and its mean over the samples with
/// `weights` `[N]`, `[1]`.
///
/// # Errors
/// [`GraphError::Shape`] if the operands differ in shape.
pub fn mse_loss(
    graph: &mut Graph,
    prediction: ValueId,
    target: ValueId,
    weights: ValueId,
) -> Result<(ValueId, ValueId), GraphError> {
    let per_sample = regression_loss(graph, Regression::Mse, prediction, target)?;
    Ok((weighted_mean(graph, per_sample, weights)?, per_sample))
}

#[derive(Debug)]
struct Forward {
    kind: Regression,
}

#[derive(Debug)]
struct Backward {
    kind: Regression,
}

impl Regression {
    fn params(self, prediction: &TensorType, truth: &TensorType) -> Vec<(&'static str, Word)> {
        let (kind, delta) = match self {
            Self::Mse => (0u32, 0.0),
            Self::L1 => (1, 0.0),
            Self::Huber { delta } => (2, delta),
        };
        vec![
            ("samples", truth.shape[0].into()),
            ("elements", elements_per_sample(truth).into()),
            ("channels", truth.channels().into()),
            ("predicted_channels", prediction.channels().into()),
            ("kind", kind.into()),
            ("delta", delta.into()),
        ]
    }

    fn loss_f64(self, d: f64) -> f64 {
        match self {
            Self::Mse => d.powi(2),
            Self::L1 => d.abs(),
            Self::Huber { delta } if d.abs() <= f64::from(delta) => 0.5 * d.powi(2),
            Self::Huber { delta } => f64::from(delta) * (d.abs() - 0.5 * f64::from(delta)),
        }
    }

    fn slope_f64(self, d: f64) -> f64 {
        match self {
            Self::Mse => 2.0 * d,
            Self::L1 if d == 0.0 => 0.0,
            Self::L1 => d.signum(),
            Self::Huber { delta } => d.clamp(-f64::from(delta), f64::from(delta)),
        }
    }

    #[inline(always)]
    fn loss(self, d: f32) -> f32 {
        match self {
            Self::Mse => d * d,
            Self::L1 => d.abs(),
            Self::Huber { delta } => {
                let inside = d.abs().min(delta);
                inside * (d.abs() - 0.5 * inside)
            }
        }
    }

    #[inline(always)]
    fn slope(self, d: f32) -> f32 {
        match self {
            Self::Mse => 2.0 * d,
            Self::L1 if d == 0.0 => 0.0,
            Self::L1 => d.signum(),
            Self::Huber { delta } => d.clamp(-delta, delta),
        }
    }
}

/// Checks that a prediction has the truth's shape, or more channels.
fn expect_prediction(prediction: &TensorType, truth: &TensorType) -> Result<(), String> {
    expect(!truth.is_empty(), || "truth must not be empty".to_owned())?;
    let rank = truth.shape.len();
    let same = prediction.shape.len() == rank && prediction.shape[..rank - 1] == truth.shape[..rank - 1];
    let same = same && prediction.dtype == truth.dtype;
    expect(same && prediction.channels() >= truth.channels(), || {
        format!("prediction must be {truth}, or of more channels")
    })
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "regression_loss.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        // `target` is a reserved word of WGSL.
        &["prediction", "truth"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["per_sample"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_prediction(inputs[0], inputs[1])?;
        Ok(vec![TensorType::f32([inputs[1].shape[0]])])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        if call.needs[1] {
            return Err(GraphError::NoGradient { path: graph.path(), op: self.name() });
        }
        let d_per_sample = call.d_output(graph, self)?;
        let inputs = [call.inputs[0], call.inputs[1], d_per_sample];
        Ok(vec![Some(graph.apply_one(Backward { kind: self.kind }, &inputs)?), None])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let params = self.kind.params(&types.inputs[0], &types.inputs[1]);
        vec![Variant::single("forward", Grid::Workgroups(types.outputs[0].len()), params)]
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([prediction, truth], [per_sample]) = operands.split();
        let elements = elements_per_sample(truth.ty);
        let (channels, predicted) = (truth.ty.channels(), prediction.ty.channels());
        for (n, loss) in per_sample.data.iter_mut().enumerate() {
            let mut sum = 0.0;
            for e in n * elements..(n + 1) * elements {
                let p = e / channels * predicted + e % channels;
                sum += self.kind.loss_f64(f64::from(prediction.data[p]) - f64::from(truth.data[e]));
            }
            *loss = (sum / elements as f64) as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([prediction, truth], [per_sample]) = operands.split();
        let elements = elements_per_sample(truth.ty);
        let (channels, predicted) = (truth.ty.channels(), prediction.ty.channels());
        let rows = prediction.data.par_chunks(elements / channels * predicted);
        let rows = rows.zip(truth.data.par_chunks(elements));
        per_sample.data.par_iter_mut().zip(rows).for_each(|(loss, (prediction, truth))| {
            let sum: f64 = if channels == predicted {
                prediction
                    .chunks(256)
                    .zip(truth.chunks(256))
                    .map(|(p, t)| sum_of_losses(self.kind, p, t))
                    .sum()
            } else {
                let pixels = prediction.chunks_exact(predicted).zip(truth.chunks_exact(channels));
                pixels.map(|(p, t)| sum_of_losses(self.kind, &p[..channels], t)).sum()
            };
            *loss = (sum / elements as f64) as f32;
        });
    }
}

/// Sum over a short run, in eight lanes that vectorise.
#[inline(always)]
fn sum_of_losses(kind: Regression, prediction: &[f32], truth: &[f32]) -> f64 {
    let mut lanes = [0.0_f32; 8];
    for (prediction, truth) in prediction.chunks(8).zip(truth.chunks(8)) {
        for ((lane, prediction), truth) in lanes.iter_mut().zip(prediction).zip(truth) {
            *lane += kind.loss(prediction - truth);
        }
    }
    lanes.iter().map(|&lane| f64::from(lane)).sum()
}

impl Op for Backward {
    fn name(&self) -> &'static str {
        "regression_loss.backward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["prediction", "truth", "d_per_sample"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_prediction"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_prediction(inputs[0], inputs[1])?;
        expect_shape("d_per_sample", inputs[2], &inputs[0].shape[..1])?;
        Ok(vec![inputs[0].clone()])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let params = self.kind.params(&types.inputs[0], &types.inputs[1]);
        vec![Variant::single("backward", Grid::Invocations(types.outputs[0].len()), params)]
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([prediction, truth, d_per_sample], [d_prediction]) = operands.split();
        let elements = elements_per_sample(truth.ty);
        let (channels, predicted) = (truth.ty.channels(), prediction.ty.channels());
        d_prediction.data.fill(0.0);
        for (e, &truth) in truth.data.iter().enumerate() {
            let p = e / channels * predicted + e % channels;
            let slope = self.kind.slope_f64(f64::from(prediction.data[p]) - f64::from(truth));
            d_prediction.data[p] =
                (f64::from(d_per_sample.data[e / elements]) * slope / elements as f64) as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([prediction, truth, d_per_sample], [d_prediction]) = operands.split();
        let elements = elements_per_sample(truth.ty);
        let (channels, predicted) = (truth.ty.channels(), prediction.ty.channels());
        let row_length = elements / channels * predicted;
        par_rows(d_prediction.data, row_length, |first, rows| {
            for (row, d) in rows.chunks_exact_mut(row_length).enumerate() {
                let n = first + row;
                let scale = d_per_sample.data[n] / elements as f32;
                let prediction = &prediction.data[n * row_length..][..row_length];
                let truth = &truth.data[n * elements..][..elements];
                if channels == predicted {
                    for ((d, prediction), truth) in d.iter_mut().zip(prediction).zip(truth) {
                        *d = scale * self.kind.slope(prediction - truth);
                    }
                    continue;
                }
                let pixels = d.chunks_exact_mut(predicted).zip(prediction.chunks_exact(predicted));
                for ((d, prediction), truth) in pixels.zip(truth.chunks_exact(channels)) {
                    d[channels..].fill(0.0);
                    for ((d, prediction), truth) in d.iter_mut().zip(prediction).zip(truth) {
                        *d = scale * self.kind.slope(prediction - truth);
                    }
                }
            }
        });
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let ragged = || Fill::normal([3, 5, 7, 3]);
    let double = || Fill::normal([3, 5, 7, 6]);
    let real = || Fill::normal([16, 32, 32, 3]);
    let forward = |kind| Forward { kind };
    let backward = |kind| Backward { kind };
    let (mse, l1, huber) = (Regression::Mse, Regression::L1, Regression::Huber { delta: 0.7 });
    // Away from the kink of |d|, where differences mean something.
    let apart = || vec![Fill::Normal { shape: vec![3, 5, 7, 3], mean: 4.0, std: 0.5 }, ragged()];
    vec![
        Case::new("ragged", forward(mse), vec![ragged(), ragged()]),
        Case::new("large offset", forward(mse), vec![Fill::offset([3, 5, 7, 3]), Fill::offset([3, 5, 7, 3])]),
        Case::new("first half of the channels", forward(mse), vec![double(), ragged()]),
        Case::new("image", forward(mse), vec![real(), real()]),
        Case::new("L1", forward(l1), apart()),
        Case::new("Huber", forward(huber), vec![ragged(), ragged()]),
        Case::new("Huber, first half of the channels", forward(huber), vec![double(), ragged()]),
        Case::new("ragged", backward(mse), vec![ragged(), ragged(), Fill::normal([3])]),
        Case::new("first half of the channels", backward(mse), vec![double(), ragged(), Fill::normal([3])]),
        Case::new("image", backward(mse), vec![real(), real(), Fill::normal([16])]),
        Case::new("L1", backward(l1), vec![ragged(), ragged(), Fill::normal([3])]),
        Case::new("Huber", backward(huber), vec![double(), ragged(), Fill::normal([3])]),
    ]
}
