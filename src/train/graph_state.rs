//! What a training graph holds between steps, as the host writes and reads it.

use super::{TrainError, TrainOptions, TrainingGraph};
use crate::checkpoint::TrainingState;
use crate::device::{DeviceError, Executor};
use crate::graph::{Graph, Parameter, Storage, ValueId};
use crate::network::{Tensors, from_tensors, to_tensors};
use crate::ops::loss_scale::LossScale;

impl TrainingGraph {
    /// Sets all parameters, in the graph's order, and the averages of those that are trained; the moments stay as they
    /// are, zero at first.
    ///
    /// # Errors
    /// [`DeviceError`] for contents of another length.
    pub fn initialize(
        &self,
        graph: &Graph,
        executor: &mut Executor,
        weights: &[Vec<f32>],
    ) -> Result<(), DeviceError> {
        match self.loss_scale {
            Some(scaler) => executor.write(scaler, &LossScale::default().to_array())?,
            None => executor.write(self.d_loss, &[1.0f32])?,
        }
        let mut trained = Vec::new();
        for (parameter, contents) in graph.parameters().iter().zip(weights) {
            match parameter.is_trained {
                true => trained.push(contents.clone()),
                false => executor.write(parameter.value, contents)?,
            }
        }
        let averages = self.extra_emas.iter().map(|(packed, _)| packed).chain([&self.ema]);
        let mut packed = averages.chain([&self.weights]);
        packed.try_for_each(|packed| self.write(graph, executor, packed, &trained))
    }

    /// Sets everything that a resumed run of the same options goes on from; `model` are the weights of the model, of
    /// which those that are trained are averages.
    ///
    /// # Errors
    /// [`TrainError::Weights`] for tensors of another model.
    pub fn restore(
        &self,
        graph: &Graph,
        executor: &mut Executor,
        model: &Tensors,
        state: &TrainingState,
    ) -> Result<(), TrainError> {
        self.initialize(graph, executor, &from_tensors(graph, graph.parameters(), model)?)?;
        let extra_emas = self.extra_emas.iter().zip(&state.extra_emas);
        let extra_emas = extra_emas.map(|((packed, _), (_, tensors))| (packed, tensors));
        let saved = [
            (&self.weights, &state.weights),
            (&self.first_moment, &state.first_moment),
            (&self.second_moment, &state.second_moment),
        ];
        let trained: Vec<&Parameter> = graph.trained_parameters().collect();
        for (packed, tensors) in saved.into_iter().chain(extra_emas) {
            let contents = from_tensors(graph, trained.iter().copied(), tensors)?;
            self.write(graph, executor, packed, &contents)?;
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

    /// Steps that were skipped, from the first whose gradients were not finite to the last; 0 with loss scaling, which
    /// skips such steps and goes on.
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
        let mut trained = self.read(graph, executor, &self.weights).await?.into_iter();
        for parameter in graph.parameters() {
            let contents = match parameter.is_trained {
                true => trained.next().unwrap_or_default(),
                false => executor.read(parameter.value).await?,
            };
            if contents.iter().any(|value| !value.is_finite()) {
                return Ok(Some(format!("the parameter {}, before the step", parameter.name)));
            }
        }
        Ok(None)
    }

    /// Sets the scalars of the next step, see [`AdamW::schedule`](crate::ops::adamw::AdamW::schedule), and the decays
    /// of the further averages.
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

    /// Writes packed values from their contents per parameter that is trained.
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

    /// Reads packed values as contents per parameter that is trained, in the graph's order.
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
        Ok(to_tensors(graph, graph.trained_parameters(), &self.read(graph, executor, packed).await?))
    }

    /// The weights of the model by name: the average of those that are trained, and the others.
    ///
    /// # Errors
    /// [`DeviceError`] from the driver.
    pub async fn read_model(&self, graph: &Graph, executor: &mut Executor) -> Result<Tensors, DeviceError> {
        let mut tensors = self.read_tensors(graph, executor, &self.ema).await?;
        let mut fixed = Vec::new();
        for &value in &self.fixed {
            fixed.push(executor.read(value).await?);
        }
        tensors.extend(to_tensors(graph, graph.fixed_parameters(), &fixed));
        Ok(tensors)
    }

    /// What a run that is resumed after step `step` needs of this graph, beside the weights of the model.
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

    /// For each parameter that is trained, which packed value it lies in, where, and its length.
    fn ranges<'a>(&'a self, graph: &'a Graph) -> impl Iterator<Item = (usize, usize, usize)> + 'a {
        graph.trained_parameters().filter_map(|parameter| {
            let Storage::Slice { of, offset } = graph.value(parameter.value).storage else { return None };
            let index = self.weights.iter().position(|&flat| flat == of)?;
            Some((index, offset, graph.ty(parameter.value).len()))
        })
    }
}
