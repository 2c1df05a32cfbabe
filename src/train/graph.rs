//! The training step as a graph: loss, gradients, clip, AdamW, moving average.

use super::micro_batches::MicroBatches;
use crate::graph::{
    BufferRole, Graph, GraphError, Parameter, Phase, Storage, TensorType, ValueId, gradients,
    recompute_cheap, recompute_segments,
};
use crate::ops::adamw::{AdamW, State};
use crate::ops::loss_scale;
use crate::ops::{ema, grad_norm};

/// How weights follow gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Optimizer {
    /// AdamW's constants.
    pub adamw: AdamW,
    /// Gradients are scaled down to this norm over all parameters; `None` leaves them as they are.
    pub max_grad_norm: Option<f32>,
    /// Whether the loss is scaled, and steps whose gradients overflow are skipped: for activations of 16 bits.
    pub scales_loss: bool,
    /// Moving averages of the weights besides the one that AdamW keeps.
    pub extra_emas: usize,
    /// Runs of the graph in a step, each over a part of the batch.
    pub micro_batches: usize,
}

/// The values of a training step that the host reads and writes.
///
/// The weights that are trained, their moments and averages are packed end to end, each into as few flat values as fit
/// WebGPU's binding limit.
#[derive(Clone, Debug)]
pub struct TrainingGraph {
    /// The loss, one term for each micro-batch.
    pub loss: ValueId,
    /// Losses of the single images, each `[N]`; of all micro-batches.
    pub per_sample: Vec<ValueId>,
    /// Norm of all gradients before the clip, and the factor of the clip, `[2]`.
    pub norm_and_scale: ValueId,
    /// Packed weights, without those that are not trained.
    pub weights: Vec<ValueId>,
    /// Packed first moments.
    pub first_moment: Vec<ValueId>,
    /// Packed second moments.
    pub second_moment: Vec<ValueId>,
    /// The parameters that are not trained, one by one.
    pub(super) fixed: Vec<ValueId>,
    /// Packed moving averages of the weights.
    pub ema: Vec<ValueId>,
    /// Further packed averages, each with its decay `[1]`.
    pub extra_emas: Vec<(Vec<ValueId>, ValueId)>,
    /// The [`LossScale`](loss_scale::LossScale), where the loss is scaled.
    pub loss_scale: Option<ValueId>,
    /// Where the loss is not scaled, steps skipped since the first whose gradients were not finite `[1]`.
    pub(super) skipped: Option<ValueId>,
    pub(super) micro_batches: MicroBatches,
    pub(super) d_loss: ValueId,
    pub(super) schedule: ValueId,
}

impl TrainingGraph {
    /// Appends everything after the `loss` `[1]`: gradients of the trained parameters of `graph`, and the
    /// optimiser's step. `per_sample` are values `[N]` of the images that can be read after a step.
    ///
    /// With `checkpointing`, the reverse pass computes the inside of residual and attention blocks again; see
    /// [`recompute_segments`]. Results are the same to the bit.
    ///
    /// # Errors
    /// [`GraphError`] if a parameter is too large to bind, or the loss does not depend on it, or none is trained.
    pub fn new(
        graph: &mut Graph,
        loss: ValueId,
        per_sample: &[ValueId],
        optimizer: Optimizer,
        checkpointing: bool,
    ) -> Result<Self, GraphError> {
        let trained: Vec<Parameter> = graph.trained_parameters().cloned().collect();
        if trained.is_empty() {
            return Err(GraphError::NothingTrained { parameters: graph.parameters().len() });
        }
        let d_loss = graph.input("d_loss", TensorType::f32([1]));
        let loss_scale = optimizer.scales_loss.then(|| {
            let scaler = graph.state("loss_scale", TensorType::f32([3]), BufferRole::Inputs);
            // Its first element is the scale itself, so the device sets it for the next step.
            graph.set_storage(d_loss, Storage::Slice { of: scaler, offset: 0 });
            scaler
        });
        let parameters: Vec<ValueId> = trained.iter().map(|parameter| parameter.value).collect();
        let fixed = graph.fixed_parameters().map(|parameter| parameter.value).collect();
        let forward = graph.nodes().len();
        let mut d_parameters = Vec::new();
        for (index, gradient) in gradients(graph, &[(loss, d_loss)], &parameters)?.into_iter().enumerate() {
            d_parameters.push(gradient.ok_or_else(|| GraphError::Pack {
                name: trained[index].name.clone(),
                reason: "the loss does not depend on it, so it has no gradient".to_owned(),
            })?);
        }
        if checkpointing {
            recompute_segments(graph, forward);
        }
        recompute_cheap(graph, forward);
        let weights = graph.pack("weights", &parameters, BufferRole::Weights)?;
        let packed_gradients = graph.pack("gradients", &d_parameters, BufferRole::Gradients)?;
        let micro_batches = MicroBatches::new(graph, optimizer.micro_batches);
        let (packed_gradients, loss, per_sample) = graph.scoped("accumulation", |graph| {
            let per_sample = per_sample.iter().map(|&part| micro_batches.gather(graph, part));
            let per_sample = per_sample.collect::<Result<Vec<ValueId>, GraphError>>()?;
            let loss = micro_batches.gather(graph, loss)?;
            Ok::<_, GraphError>((micro_batches.sum(graph, packed_gradients)?, loss, per_sample))
        })?;
        graph.in_phase(Phase::Optimizer, |graph| {
            let like = |graph: &mut Graph, name: &str, role| -> Vec<ValueId> {
                weights.iter().map(|&flat| graph.state(name, graph.ty(flat).clone(), role)).collect()
            };
            let first_moment = like(graph, "first_moment", BufferRole::Moments);
            let second_moment = like(graph, "second_moment", BufferRole::Moments);
            let ema = like(graph, "ema", BufferRole::Ema);
            let schedule = graph.input("schedule", TensorType::f32([4]));
            // Nothing writes this state: it stays zero, where the sum of squares starts.
            let mut sum = graph.state("zero", TensorType::f32([1]), BufferRole::Inputs);
            for &gradients in &packed_gradients {
                sum = grad_norm::sum_squares(graph, gradients, sum)?;
            }
            let max_norm = optimizer.max_grad_norm.unwrap_or(f32::MAX);
            let (norm_and_scale, skipped) = match loss_scale {
                Some(scaler) => (loss_scale::clip(graph, sum, scaler, max_norm)?, None),
                None => {
                    let skipped = graph.state("skipped", TensorType::f32([1]), BufferRole::Inputs);
                    let norm_and_scale = grad_norm::clip(graph, sum, skipped, max_norm)?;
                    grad_norm::count_skipped(graph, norm_and_scale, skipped)?;
                    (norm_and_scale, Some(skipped))
                }
            };
            for (index, &gradients) in packed_gradients.iter().enumerate() {
                let state = State {
                    weights: weights[index],
                    first_moment: first_moment[index],
                    second_moment: second_moment[index],
                    ema: ema[index],
                };
                optimizer.adamw.step(graph, gradients, norm_and_scale, schedule, state)?;
            }
            let mut extra_emas = Vec::new();
            for _ in 0..optimizer.extra_emas {
                let (packed, decay) =
                    (like(graph, "ema", BufferRole::Ema), graph.input("ema_decay", TensorType::f32([1])));
                for (&weights, &ema) in weights.iter().zip(&packed) {
                    ema::step(graph, weights, norm_and_scale, decay, ema)?;
                }
                extra_emas.push((packed, decay));
            }
            if let Some(scaler) = loss_scale {
                loss_scale::update(graph, norm_and_scale, scaler)?;
            }
            Ok(Self {
                loss,
                per_sample,
                norm_and_scale,
                weights,
                first_moment,
                second_moment,
                fixed,
                ema,
                extra_emas,
                loss_scale,
                skipped,
                micro_batches,
                d_loss,
                schedule,
            })
        })
    }

    /// The values to keep for reading after a step.
    pub fn read_back(&self) -> Vec<ValueId> {
        let first = [self.loss, self.norm_and_scale].into_iter();
        first.chain(self.per_sample.iter().copied()).chain(self.fixed.iter().copied()).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
