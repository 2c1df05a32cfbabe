//! The training step as a graph: loss, gradients, clip, AdamW, moving average.

use super::micro_batches::MicroBatches;
use super::{TrainError, TrainOptions};
use crate::checkpoint::TrainingState;
use crate::device::{DeviceError, Executor};
use crate::graph::{
    BufferRole, Graph, GraphError, Phase, Storage, TensorType, ValueId, gradients, recompute_cheap,
    recompute_segments,
};
use crate::model::{Tensors, from_tensors, to_tensors};
use crate::ops::adamw::{AdamW, State};
use crate::ops::loss_scale::{self, LossScale};
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
/// Weights, moments and averages are packed end to end, each into as few flat values as fit WebGPU's binding limit.
#[derive(Clone, Debug)]
pub struct TrainingGraph {
    /// The loss, one term for each micro-batch.
    pub loss: ValueId,
    /// Losses of the single images, each `[N]`; of all micro-batches.
    pub per_sample: Vec<ValueId>,
    /// Norm of all gradients before the clip, and the factor of the clip, `[2]`.
    pub norm_and_scale: ValueId,
    /// Packed weights.
    pub weights: Vec<ValueId>,
    /// Packed first moments.
    pub first_moment: Vec<ValueId>,
    /// Packed second moments.
    pub second_moment: Vec<ValueId>,
    /// Packed moving averages of the weights.
    pub ema: Vec<ValueId>,
    /// Further packed averages, each with its decay `[1]`.
    pub extra_emas: Vec<(Vec<ValueId>, ValueId)>,
    /// The [`LossScale`], where the loss is scaled.
    pub loss_scale: Option<ValueId>,
    /// Where the loss is not scaled, steps skipped since the first whose gradients were not finite `[1]`.
    skipped: Option<ValueId>,
    pub(super) micro_batches: MicroBatches,
    d_loss: ValueId,
    schedule: ValueId,
}

impl TrainingGraph {
    /// Appends everything after the `loss` `[1]`: gradients of all parameters of `graph`, and the optimiser's step.
    /// `per_sample` are values `[N]` of the images that can be read after a step.
    ///
    /// With `checkpointing`, the reverse pass computes the inside of residual and attention blocks again; see
    /// [`recompute_segments`]. Results are the same to the bit.
    ///
    /// # Errors
    /// [`GraphError`] if a parameter is too large to bind, or the loss does not depend on it.
    pub fn new(
        graph: &mut Graph,
        loss: ValueId,
        per_sample: &[ValueId],
        optimizer: Optimizer,
        checkpointing: bool,
    ) -> Result<Self, GraphError> {
        let d_loss = graph.input("d_loss", TensorType::f32([1]));
        let loss_scale = optimizer.scales_loss.then(|| {
            let scaler = graph.state("loss_scale", TensorType::f32([3]), BufferRole::Inputs);
            // Its first element is the scale itself, so the device sets it for the next step.
            graph.set_storage(d_loss, Storage::Slice { of: scaler, offset: 0 });
            scaler
        });
        let parameters: Vec<ValueId> = graph.parameters().iter().map(|parameter| parameter.value).collect();
        let forward = graph.nodes().len();
        let mut d_parameters = Vec::new();
        for (index, gradient) in gradients(graph, &[(loss, d_loss)], &parameters)?.into_iter().enumerate() {
            d_parameters.push(gradient.ok_or_else(|| GraphError::Pack {
                name: graph.parameters()[index].name.clone(),
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
        [self.loss, self.norm_and_scale].into_iter().chain(self.per_sample.iter().copied()).collect()
    }

    /// Sets weights and all averages of them, per parameter in the graph's order; the moments stay as they are, zero at first.
    ///
    /// # Errors
    /// [`DeviceError`] for contents of another length.
    pub fn initialize(
        &self,
        graph: &Graph,
        executor: &mut Executor,
        weights: &[Vec<f32>],
        ema: &[Vec<f32>],
    ) -> Result<(), DeviceError> {
        match self.loss_scale {
            Some(scaler) => executor.write(scaler, &LossScale::default().to_array())?,
            None => executor.write(self.d_loss, &[1.0f32])?,
        }
        self.write(graph, executor, &self.weights, weights)?;
        let mut emas = self.extra_emas.iter().map(|(packed, _)| packed).chain([&self.ema]);
        emas.try_for_each(|packed| self.write(graph, executor, packed, ema))
    }

    /// Sets everything that a resumed run of the same options goes on from; `ema` are the averaged weights.
    ///
    /// # Errors
    /// [`TrainError::Weights`] for tensors of another model.
    pub fn restore(
        &self,
        graph: &Graph,
        executor: &mut Executor,
        ema: &Tensors,
        state: &TrainingState,
    ) -> Result<(), TrainError> {
        let (weights, ema) = (from_tensors(graph, &state.weights)?, from_tensors(graph, ema)?);
        self.initialize(graph, executor, &weights, &ema)?;
        self.write(graph, executor, &self.first_moment, &from_tensors(graph, &state.first_moment)?)?;
        self.write(graph, executor, &self.second_moment, &from_tensors(graph, &state.second_moment)?)?;
        for ((packed, _), (_, tensors)) in self.extra_emas.iter().zip(&state.extra_emas) {
            self.write(graph, executor, packed, &from_tensors(graph, tensors)?)?;
        }
        if let (Some(scaler), Some(state)) = (self.loss_scale, state.loss_scale) {
            executor.write(scaler, &state.to_array())?;
        }
        Ok(())
    }

    /// The loss of the last step.
    ///
    /// # Errors
    /// [`DeviceError`] from the driver.
    pub async fn read_loss(&self, executor: &mut Executor) -> Result<f32, DeviceError> {
        Ok(executor.read(self.loss).await?.iter().sum())
    }

    /// Norm of the gradient of all parameters in the last step, before it was clipped.
    ///
    /// # Errors
    /// [`DeviceError`] from the driver.
    pub async fn read_gradient_norm(&self, executor: &mut Executor) -> Result<f32, DeviceError> {
        Ok(executor.read(self.norm_and_scale).await?[0])
    }

    /// Where loss scaling stands; `None` for a precision that needs none.
    ///
    /// # Errors
    /// [`DeviceError`] from the driver.
    pub async fn read_loss_scale(&self, executor: &mut Executor) -> Result<Option<LossScale>, DeviceError> {
        let Some(scaler) = self.loss_scale else { return Ok(None) };
        let state = executor.read(scaler).await?;
        Ok(Some(LossScale::from_array([state[0], state[1], state[2]])))
    }

    /// Steps that were skipped, from the first whose gradients were not finite to the last; 0 with loss scaling, which skips
    /// such steps and goes on.
    ///
    /// # Errors
    /// [`DeviceError`] from the driver.
    pub async fn read_skipped_steps(&self, executor: &mut Executor) -> Result<u64, DeviceError> {
        let Some(skipped) = self.skipped else { return Ok(0) };
        Ok(executor.read(skipped).await?[0] as u64)
    }

    /// The first parameter, in the graph's order, that is not finite, in words.
    ///
    /// # Errors
    /// [`DeviceError`] from the driver.
    pub(super) async fn bad_parameter(
        &self,
        graph: &Graph,
        executor: &mut Executor,
    ) -> Result<Option<String>, DeviceError> {
        let weights = self.read(graph, executor, &self.weights).await?;
        let bad = weights.iter().position(|weight| weight.iter().any(|value| !value.is_finite()));
        Ok(bad.map(|index| format!("the parameter {}, before the step", graph.parameters()[index].name)))
    }

    /// Sets the scalars of the next step, see [`AdamW::schedule`], and the decays of the further averages.
    ///
    /// # Errors
    /// [`DeviceError`] from the driver.
    pub fn write_schedule(
        &self,
        executor: &mut Executor,
        schedule: [f32; 4],
        extra_decays: &[f32],
    ) -> Result<(), DeviceError> {
        executor.write(self.schedule, &schedule)?;
        let mut decays = self.extra_emas.iter().zip(extra_decays);
        decays.try_for_each(|((_, value), &decay)| executor.write(*value, &[decay]))
    }

    /// Writes packed values from their contents per parameter.
    ///
    /// # Errors
    /// [`DeviceError`] for contents of another length.
    pub fn write(
        &self,
        graph: &Graph,
        executor: &mut Executor,
        packed: &[ValueId],
        contents: &[Vec<f32>],
    ) -> Result<(), DeviceError> {
        let mut flat: Vec<Vec<f32>> = packed.iter().map(|&id| vec![0.0; graph.ty(id).len()]).collect();
        for ((index, offset, length), data) in self.ranges(graph).zip(contents) {
            let expected = flat[index].get_mut(offset..offset + length);
            match expected {
                Some(range) if range.len() == data.len() => range.copy_from_slice(data),
                _ => {
                    let name = "a parameter".to_owned();
                    return Err(DeviceError::Length { name, given: data.len(), expected: length });
                }
            }
        }
        packed.iter().zip(&flat).try_for_each(|(&id, data)| executor.write(id, data))
    }

    /// Reads packed values as contents per parameter, in the graph's order.
    ///
    /// # Errors
    /// [`DeviceError`] from the driver.
    pub async fn read(
        &self,
        graph: &Graph,
        executor: &mut Executor,
        packed: &[ValueId],
    ) -> Result<Vec<Vec<f32>>, DeviceError> {
        let mut flat = Vec::new();
        for &id in packed {
            flat.push(executor.read(id).await?);
        }
        Ok(self
            .ranges(graph)
            .map(|(index, offset, length)| flat[index][offset..offset + length].to_vec())
            .collect())
    }

    async fn read_tensors(
        &self,
        graph: &Graph,
        executor: &mut Executor,
        packed: &[ValueId],
    ) -> Result<Tensors, DeviceError> {
        Ok(to_tensors(graph, &self.read(graph, executor, packed).await?))
    }

    /// The averaged weights by name.
    ///
    /// # Errors
    /// [`DeviceError`] from the driver.
    pub async fn read_ema(&self, graph: &Graph, executor: &mut Executor) -> Result<Tensors, DeviceError> {
        self.read_tensors(graph, executor, &self.ema).await
    }

    /// What a run that is resumed after step `step` needs of this graph, beside the averaged weights.
    ///
    /// # Errors
    /// [`DeviceError`] from the driver.
    pub async fn read_state(
        &self,
        graph: &Graph,
        executor: &mut Executor,
        options: &TrainOptions,
        step: u64,
    ) -> Result<TrainingState, TrainError> {
        let mut extra_emas = Vec::new();
        for (&decay, (packed, _)) in options.extra_ema_decays.iter().zip(&self.extra_emas) {
            extra_emas.push((decay, self.read_tensors(graph, executor, packed).await?));
        }
        Ok(TrainingState {
            step,
            options: options.to_json()?,
            weights: self.read_tensors(graph, executor, &self.weights).await?,
            first_moment: self.read_tensors(graph, executor, &self.first_moment).await?,
            second_moment: self.read_tensors(graph, executor, &self.second_moment).await?,
            extra_emas,
            loss_scale: self.read_loss_scale(executor).await?,
            ..TrainingState::default()
        })
    }

    /// For each parameter, which packed value it lies in, where, and its length.
    fn ranges<'a>(&'a self, graph: &'a Graph) -> impl Iterator<Item = (usize, usize, usize)> + 'a {
        graph.parameters().iter().filter_map(|parameter| {
            let Storage::Slice { of, offset } = graph.value(parameter.value).storage else { return None };
            let index = self.weights.iter().position(|&flat| flat == of)?;
            Some((index, offset, graph.ty(parameter.value).len()))
        })
    }
}
