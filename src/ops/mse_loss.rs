//! Mean squared error, of each sample and of the batch.

use rayon::prelude::*;

use super::cpu::par_rows;
use super::philox::elements_per_sample;
use super::{
    Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, Word, expect, expect_like, expect_shape,
};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// The mean of `(prediction - target)^2` over all elements, `[1]`, and over the elements of each sample, `[N]`.
///
/// The target is data: a gradient through it is refused.
///
/// # Errors
/// [`GraphError::Shape`] if the operands differ in shape.
pub fn mse_loss(
    graph: &mut Graph,
    prediction: ValueId,
    target: ValueId,
) -> Result<(ValueId, ValueId), GraphError> {
    let per_sample = graph.apply_one(Forward, &[prediction, target])?;
    Ok((mean(graph, per_sample)?, per_sample))
}

/// The mean `[1]` of losses `[N]`.
pub(super) fn mean(graph: &mut Graph, losses: ValueId) -> Result<ValueId, GraphError> {
    graph.apply_one(Mean, &[losses])
}

#[derive(Debug)]
struct Forward;

#[derive(Debug)]
struct Backward;

#[derive(Debug)]
struct Mean;

#[derive(Debug)]
struct MeanBackward {
    samples: usize,
}

fn params(samples: usize, elements: usize) -> Vec<(&'static str, Word)> {
    vec![("samples", samples.into()), ("elements", elements.into())]
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "mse_loss.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        // `target` is a reserved word of WGSL.
        &["prediction", "truth"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["per_sample"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect(!inputs[0].is_empty(), || "prediction must not be empty".to_owned())?;
        expect_like("truth", inputs[1], inputs[0])?;
        Ok(vec![TensorType::f32([inputs[0].shape[0]])])
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
        Ok(vec![Some(graph.apply_one(Backward, &inputs)?), None])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let (samples, elements) = (types.outputs[0].len(), elements_per_sample(&types.inputs[0]));
        vec![Variant::single("forward", Grid::Workgroups(samples), params(samples, elements))]
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([prediction, truth], [per_sample]) = operands.split();
        let elements = elements_per_sample(prediction.ty);
        for (n, loss) in per_sample.data.iter_mut().enumerate() {
            let mut sum = 0.0;
            for e in n * elements..(n + 1) * elements {
                sum += (f64::from(prediction.data[e]) - f64::from(truth.data[e])).powi(2);
            }
            *loss = (sum / elements as f64) as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([prediction, truth], [per_sample]) = operands.split();
        let elements = elements_per_sample(prediction.ty);
        let rows = prediction.data.par_chunks(elements).zip(truth.data.par_chunks(elements));
        per_sample.data.par_iter_mut().zip(rows).for_each(|(loss, (prediction, truth))| {
            let sum: f64 = prediction.chunks(256).zip(truth.chunks(256)).map(sum_of_squares).sum();
            *loss = (sum / elements as f64) as f32;
        });
    }
}

/// Sum over a short run, in eight lanes that vectorise.
fn sum_of_squares((prediction, truth): (&[f32], &[f32])) -> f64 {
    let mut lanes = [0.0_f32; 8];
    for (prediction, truth) in prediction.chunks(8).zip(truth.chunks(8)) {
        for ((lane, prediction), truth) in lanes.iter_mut().zip(prediction).zip(truth) {
            let difference = prediction - truth;
            *lane += difference * difference;
        }
    }
    lanes.iter().map(|&lane| f64::from(lane)).sum()
}

impl Op for Backward {
    fn name(&self) -> &'static str {
        "mse_loss.backward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["prediction", "truth", "d_per_sample"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_prediction"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect(!inputs[0].is_empty(), || "prediction must not be empty".to_owned())?;
        expect_like("truth", inputs[1], inputs[0])?;
        expect_shape("d_per_sample", inputs[2], &inputs[0].shape[..1])?;
        Ok(vec![inputs[0].clone()])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let d_prediction = &types.outputs[0];
        let params = params(d_prediction.shape[0], elements_per_sample(d_prediction));
        vec![Variant::single("backward", Grid::Invocations(d_prediction.len()), params)]
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([prediction, truth, d_per_sample], [d_prediction]) = operands.split();
        let elements = elements_per_sample(prediction.ty);
        for (i, d) in d_prediction.data.iter_mut().enumerate() {
            let difference = f64::from(prediction.data[i]) - f64::from(truth.data[i]);
            *d = (f64::from(d_per_sample.data[i / elements]) * 2.0 * difference / elements as f64) as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([prediction, truth, d_per_sample], [d_prediction]) = operands.split();
        let elements = elements_per_sample(prediction.ty);
        par_rows(d_prediction.data, elements, |first, rows| {
            for (row, d) in rows.chunks_exact_mut(elements).enumerate() {
                let n = first + row;
                let scale = d_per_sample.data[n] * (2.0 / elements as f32);
                let sample = prediction.data[n * elements..].iter().zip(&truth.data[n * elements..]);
                for (d, (prediction, truth)) in d.iter_mut().zip(sample) {
                    *d = scale * (prediction - truth);
                }
            }
        });
    }
}

impl Op for Mean {
    fn name(&self) -> &'static str {
        "mse_loss.mean"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["losses"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["loss"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect(inputs[0].shape.len() == 1 && !inputs[0].is_empty(), || "losses must be [N]".to_owned())?;
        Ok(vec![TensorType::f32([1])])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let d_loss = call.d_output(graph, self)?;
        let samples = graph.ty(call.inputs[0]).len();
        Ok(vec![Some(graph.apply_one(MeanBackward { samples }, &[d_loss])?)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        vec![Variant::single("mean", Grid::Workgroups(1), params(types.inputs[0].len(), 1))]
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([losses], [loss]) = operands.split();
        let sum: f64 = losses.data.iter().map(|&loss| f64::from(loss)).sum();
        loss.data[0] = (sum / losses.data.len() as f64) as f32;
    }
}

impl Op for MeanBackward {
    fn name(&self) -> &'static str {
        "mse_loss.mean_backward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["d_loss"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_losses"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_shape("d_loss", inputs[0], &[1])?;
        Ok(vec![TensorType::f32([self.samples])])
    }
    fn variants(&self, _types: Types<'_>) -> Vec<Variant> {
        let grid = Grid::Invocations(self.samples);
        vec![Variant::single("mean_backward", grid, params(self.samples, 1))]
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([d_loss], [d_losses]) = operands.split();
        d_losses.data.fill((f64::from(d_loss.data[0]) / self.samples as f64) as f32);
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let ragged = || Fill::normal([3, 5, 7, 3]);
    let real = || Fill::normal([16, 32, 32, 3]);
    vec![
        Case::new("ragged", Forward, vec![ragged(), ragged()]),
        Case::new("large offset", Forward, vec![Fill::offset([3, 5, 7, 3]), Fill::offset([3, 5, 7, 3])]),
        Case::new("image", Forward, vec![real(), real()]),
        Case::new("ragged", Backward, vec![ragged(), ragged(), Fill::normal([3])]),
        Case::new("image", Backward, vec![real(), real(), Fill::normal([16])]),
        Case::new("few", Mean, vec![Fill::offset([3])]),
        Case::new("more than a workgroup", Mean, vec![Fill::normal([1021])]),
        Case::new("few", MeanBackward { samples: 3 }, vec![Fill::normal([1])]),
        Case::new("more than a workgroup", MeanBackward { samples: 1021 }, vec![Fill::normal([1])]),
    ]
}
