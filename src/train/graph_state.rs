//! What a training graph holds between steps, as the host writes and reads it.

use super::{TrainError, TrainOptions, TrainingGraph};
use crate::checkpoint::TrainingState;
use crate::device::{DeviceError, Executor};
use crate::graph::{Graph, Storage, ValueId};
use crate::network::{Tensors, from_tensors, to_tensors};
use crate::ops::loss_scale::LossScale;

impl TrainingGraph {
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

    /// Sets the scalars of the next step, see [`AdamW::schedule`](crate::ops::adamw::AdamW::schedule), and the decays of the further averages.
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
