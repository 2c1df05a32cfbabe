//! One training step after another on one device.

use std::ops::Range;

use super::patterns::freeze;
use super::quartiles::mean_by_quartile;
use super::timestep_sampler;
use super::{Contributions, Denoise, Part, Task, TaskLoss, TrainError, TrainOptions, TrainingGraph};
use crate::checkpoint::TrainingState;
use crate::data::Batch;
use crate::device::{Device, DeviceError, Executor};
use crate::graph::{Graph, MemoryReport, Parameter, Plan};
use crate::network::{Tensors, from_tensors, initial_weights};
use crate::ops::loss_scale::LossScale;
use crate::pipeline::Pipeline;
use crate::random::Stream;

/// The training step of one task and batch size, before it is prepared on a device.
struct Step<T: Task> {
    graph: Graph,
    training: TrainingGraph,
    inputs: T::Inputs,
}

impl<T: Task> Step<T> {
    fn build(task: &T, options: &TrainOptions) -> Result<Self, TrainError> {
        options.check()?;
        let mut graph = Graph::with_numbering(options.random_streams);
        let (TaskLoss { loss, per_sample }, inputs) = task.build(&mut graph, options)?;
        freeze(&mut graph, &options.freeze)?;
        let training =
            TrainingGraph::new(&mut graph, loss, &per_sample, options.optimizer(), options.checkpointing)?;
        Ok(Self { graph, training, inputs })
    }

    /// Numbers of the parameters that are trained, and of those that are not.
    fn parameters(&self) -> [usize; 2] {
        let length = |parameter: &Parameter| self.graph.ty(parameter.value).len();
        [self.graph.trained_parameters().map(length).sum(), self.graph.fixed_parameters().map(length).sum()]
    }
}

/// What is known of a training step before anything is allocated.
#[derive(Clone, Debug)]
pub struct DryRun {
    /// Number of parameters that are trained.
    pub trained: usize,
    /// Number of those that are not.
    pub fixed: usize,
    /// The step.
    pub plan: Plan,
}

/// A network in training.
pub struct Trainer<T: Task = Denoise> {
    options: TrainOptions,
    task: T,
    step: Step<T>,
    executor: Executor,
    /// Steps done.
    done: u64,
}

impl<T: Task> Trainer<T> {
    /// The numbers of parameters, and the plan of a step on `device`; nothing is allocated.
    ///
    /// # Errors
    /// [`TrainError`] for a network that cannot be built.
    pub fn dry_run(device: &Device, task: &T, options: &TrainOptions) -> Result<DryRun, TrainError> {
        let step = Step::build(task, options)?;
        let [trained, fixed] = step.parameters();
        Ok(DryRun { trained, fixed, plan: device.plan(&step.graph, &step.training.read_back()) })
    }

    /// The network of `task` with fresh weights, or with those of `resume`, prepared on `device`.
    ///
    /// # Errors
    /// [`TrainError`] for a network that cannot be built or does not fit, or weights of another one.
    pub async fn new(
        device: &Device,
        mut task: T,
        mut options: TrainOptions,
        resume: Option<(Pipeline, TrainingState)>,
    ) -> Result<Self, TrainError> {
        // A run goes on with the numbers that it began with.
        if let Some((_, state)) = &resume {
            options.random_streams = TrainOptions::random_streams_of(&state.options)?;
        }
        let step = Step::build(&task, &options)?;
        task.begin(&options)?;
        let executor = device.prepare(&step.graph, &step.training.read_back()).await?;
        let mut trainer = Self { options, task, step, executor, done: 0 };
        match resume {
            None => {
                let weights = initial_weights(&trainer.step.graph, trainer.options.seed);
                trainer.initialize(&weights)?;
            }
            Some((pipeline, state)) => {
                let model = &pipeline.network_of(T::ROLE)?.weights;
                let Self { step: Step { graph, training, .. }, executor, .. } = &mut trainer;
                training.restore(graph, executor, model, &state)?;
                trainer.task.restore(&state)?;
                trainer.done = state.step;
            }
        }
        Ok(trainer)
    }

    /// Replaces the weights, and their average, by those of a checkpoint.
    ///
    /// # Errors
    /// [`TrainError`] for weights of another model.
    pub fn set_weights(&mut self, weights: &Tensors) -> Result<(), TrainError> {
        let graph = &self.step.graph;
        let weights = from_tensors(graph, graph.parameters(), weights)?;
        self.initialize(&weights)?;
        Ok(())
    }

    fn initialize(&mut self, weights: &[Vec<f32>]) -> Result<(), DeviceError> {
        self.step.training.initialize(&self.step.graph, &mut self.executor, weights)
    }

    /// Steps done so far.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Numbers of the parameters that are trained, and of those that are not.
    pub fn parameters(&self) -> [usize; 2] {
        self.step.parameters()
    }

    /// Bytes by role.
    pub fn memory(&self) -> MemoryReport {
        self.executor.memory()
    }

    /// What is trained.
    pub(super) fn task(&self) -> &T {
        &self.task
    }

    /// Trains on one batch.
    ///
    /// What it draws depends on (seed, step, image). After it, [`Trainer::observe`] looks at the losses.
    ///
    /// # Errors
    /// [`TrainError::Device`], also for trouble in earlier steps.
    pub fn step(&mut self, batch: &Batch) -> Result<(), TrainError> {
        self.prepare_step(batch)?.run()?;
        Ok(())
    }

    /// Writes the inputs of the next step and gives the executor, which is then to run once: for profiles, and for
    /// checks that look into a step. Micro-batches before the last have run.
    ///
    /// # Errors
    /// [`TrainError::Device`], also for trouble in earlier steps.
    pub fn prepare_step(&mut self, batch: &Batch) -> Result<&mut Executor, TrainError> {
        let (schedule, extra_decays) = self.options.schedule_at(self.done);
        self.step.training.write_schedule(&mut self.executor, schedule, &extra_decays)?;
        self.task.draw(&self.options, self.stream());
        for (index, images) in self.options.micro_batches().enumerate() {
            self.write(batch, images)?;
            self.step.training.micro_batches.run_unless_last(&mut self.executor, index)?;
        }
        self.done += 1;
        Ok(&mut self.executor)
    }

    /// Writes the inputs of some of the batch's images.
    fn write(&mut self, batch: &Batch, images: Range<usize>) -> Result<(), TrainError> {
        let part = Part { batch, images, stream: self.stream() };
        self.task.write(&self.options, &self.step.inputs, &mut self.executor, part)
    }

    /// The first parameter with a number that is not finite, in words.
    pub(super) async fn bad_parameter(&mut self) -> Result<Option<String>, TrainError> {
        let Step { graph, training, .. } = &self.step;
        Ok(training.bad_parameter(graph, &mut self.executor).await?)
    }

    /// Writes the inputs that a micro-batch, its number and its images, of step `step`, counted from 1, had: to run it
    /// node by node with the weights as they are. No step may follow.
    pub(super) fn replay(
        &mut self,
        step: u64,
        batch: &Batch,
        (index, images): (usize, Range<usize>),
    ) -> Result<&mut Executor, TrainError> {
        self.done = step.saturating_sub(1);
        self.task.draw(&self.options, self.stream());
        self.write(batch, images)?;
        self.step.training.micro_batches.begin(&mut self.executor, index)?;
        Ok(&mut self.executor)
    }

    /// Steps that were skipped, from the first whose gradients were not finite to the last, so that the weights stay as
    /// they were; 0 with loss scaling, which skips such steps and goes on.
    ///
    /// # Errors
    /// [`TrainError::Device`]
    pub async fn skipped_steps(&mut self) -> Result<u64, TrainError> {
        Ok(self.step.training.read_skipped_steps(&mut self.executor).await?)
    }

    /// The numbers that the next step draws.
    fn stream(&self) -> Stream {
        timestep_sampler::stream(self.options.random_streams, self.options.seed, self.done)
    }

    /// The plan of a step.
    pub fn plan(&self) -> &Plan {
        self.executor.plan()
    }

    /// Losses of the single images of the last step, one list for each kind of loss.
    async fn read_losses(&mut self) -> Result<Vec<Vec<f32>>, TrainError> {
        let mut losses = Vec::new();
        for &value in &self.step.training.per_sample {
            losses.push(self.executor.read(value).await?);
        }
        Ok(losses)
    }

    /// What each image of the last step contributed to the loss; this reads from the device. `None` where the task has
    /// no timesteps.
    ///
    /// # Errors
    /// [`TrainError::Device`]
    pub async fn contributions(&mut self) -> Result<Option<Contributions>, TrainError> {
        let losses = self.read_losses().await?;
        Ok(self.task.contributions(&self.options, &losses))
    }

    /// What the last step's images contributed to the loss on average, by quarter of the timesteps, the least noisy
    /// first; `None` where no image was, and for a task without timesteps.
    ///
    /// # Errors
    /// [`TrainError::Device`]
    pub async fn loss_quartiles(&mut self) -> Result<Option<[Option<f32>; 4]>, TrainError> {
        let found = self.contributions().await?;
        let quartiles =
            |of: Contributions| mean_by_quartile(&of.timesteps, &of.losses, of.num_train_timesteps);
        Ok(found.map(quartiles))
    }

    /// Lets what learns from the losses of the last step learn. Reads nothing from the device where nothing does.
    ///
    /// # Errors
    /// [`TrainError::Device`]
    pub async fn observe(&mut self) -> Result<(), TrainError> {
        if !self.task.learns_from_losses() {
            return Ok(());
        }
        let losses = self.read_losses().await?;
        self.task.learn(&self.options, &losses)
    }

    /// Loss of the last step.
    ///
    /// # Errors
    /// [`TrainError::Device`]
    pub async fn loss(&mut self) -> Result<f32, TrainError> {
        Ok(self.step.training.read_loss(&mut self.executor).await?)
    }

    /// Norm of the gradient of all parameters in the last step, before it was clipped.
    ///
    /// # Errors
    /// [`TrainError::Device`]
    pub async fn gradient_norm(&mut self) -> Result<f32, TrainError> {
        Ok(self.step.training.read_gradient_norm(&mut self.executor).await?)
    }

    /// Where loss scaling stands; `None` for a precision that needs none.
    ///
    /// # Errors
    /// [`TrainError::Device`]
    pub async fn loss_scale(&mut self) -> Result<Option<LossScale>, TrainError> {
        Ok(self.step.training.read_loss_scale(&mut self.executor).await?)
    }

    /// The network with its averaged weights, as others use it.
    ///
    /// # Errors
    /// [`TrainError::Device`]
    pub async fn pipeline(&mut self) -> Result<Pipeline, TrainError> {
        let Step { graph, training, .. } = &self.step;
        let weights = training.read_model(graph, &mut self.executor).await?;
        let (network, scheduler) = (self.task.network().clone(), self.task.scheduler().clone());
        Ok(Pipeline::new(T::ROLE, network, weights, scheduler))
    }

    /// What a resumed run needs beside the pipeline.
    ///
    /// # Errors
    /// [`TrainError::Device`]
    pub async fn state(&mut self) -> Result<TrainingState, TrainError> {
        let Step { graph, training, .. } = &self.step;
        let mut state = training.read_state(graph, &mut self.executor, &self.options, self.done).await?;
        self.task.save(&mut state);
        Ok(state)
    }
}
