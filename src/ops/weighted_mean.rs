//! The loss of a batch: the mean of its samples' losses, each with a weight.

use super::{Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, expect, expect_shape};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// The mean `[1]` of `weights[n] losses[n]`, both `[N]`; the divisor is N whatever the weights are.
///
/// The weights are data: a gradient through them is refused.
///
/// # Errors
/// [`GraphError::Shape`] if the operands are not of one length.
pub fn weighted_mean(graph: &mut Graph, losses: ValueId, weights: ValueId) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward, &[losses, weights])
}

#[derive(Debug)]
struct Forward;

#[derive(Debug)]
struct Backward;

impl Op for Forward {
    fn name(&self) -> &'static str {
        "weighted_mean.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["losses", "weights"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["loss"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect(inputs[0].shape.len() == 1 && !inputs[0].is_empty(), || "losses must be [N]".to_owned())?;
        expect_shape("weights", inputs[1], &inputs[0].shape)?;
        Ok(vec![TensorType::f32([1])])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        if call.needs[1] {
            return Err(GraphError::NoGradient { path: graph.path(), op: self.name() });
        }
        let d_loss = call.d_output(graph, self)?;
        Ok(vec![Some(graph.apply_one(Backward, &[d_loss, call.inputs[1]])?), None])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let params = vec![("samples", types.inputs[0].len().into())];
        vec![Variant::single("forward", Grid::Workgroups(1), params)]
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([losses, weights], [loss]) = operands.split();
        let pairs = losses.data.iter().zip(weights.data);
        let sum: f64 = pairs.map(|(&loss, &weight)| f64::from(loss) * f64::from(weight)).sum();
        loss.data[0] = (sum / losses.data.len() as f64) as f32;
    }
}

impl Op for Backward {
    fn name(&self) -> &'static str {
        "weighted_mean.backward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["d_loss", "weights"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_losses"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_shape("d_loss", inputs[0], &[1])?;
        expect(inputs[1].shape.len() == 1 && !inputs[1].is_empty(), || "weights must be [N]".to_owned())?;
        Ok(vec![inputs[1].clone()])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let samples = types.inputs[1].len();
        vec![Variant::single("backward", Grid::Invocations(samples), vec![("samples", samples.into())])]
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([d_loss, weights], [d_losses]) = operands.split();
        let samples = weights.data.len() as f64;
        for (d, &weight) in d_losses.data.iter_mut().zip(weights.data) {
            *d = (f64::from(d_loss.data[0]) * f64::from(weight) / samples) as f32;
        }
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let weights = |length: usize| Fill::Uniform { shape: vec![length], low: 0.1, high: 3.0 };
    vec![
        Case::new("few", Forward, vec![Fill::offset([3]), weights(3)]),
        Case::new("more than a workgroup", Forward, vec![Fill::normal([1021]), weights(1021)]),
        Case::new("few", Backward, vec![Fill::normal([1]), weights(3)]),
        Case::new("more than a workgroup", Backward, vec![Fill::normal([1]), weights(1021)]),
    ]
}
