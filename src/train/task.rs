//! What is particular to a kind of training. All else belongs to the loop: weights and their averages, micro-batches,
//! 16-bit activations, schedules, checkpoints, what is logged, and the check for divergence.

use std::ops::Range;
use std::sync::Arc;

use super::{Event, Run, TrainError, TrainOptions};
use crate::checkpoint::TrainingState;
use crate::data::{Batch, Dataset};
use crate::device::Executor;
use crate::diffusion::SchedulerConfig;
use crate::graph::{Graph, ValueId};
use crate::log::Log;
use crate::network::Network;
use crate::pipeline::{Pipeline, Role};
use crate::random::{Numbering, Purpose, Stream};

/// The loss in the graph of a training step.
#[derive(Clone, Debug)]
pub struct TaskLoss {
    /// `[1]`
    pub loss: ValueId,
    /// Values `[N]` of the single images, which can be read after a step.
    pub per_sample: Vec<ValueId>,
}

/// What single images contributed to the loss of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Contributions {
    /// The timestep of each image.
    pub timesteps: Vec<usize>,
    /// What each image contributed, before importance sampling.
    pub losses: Vec<f64>,
    /// How many timesteps there are.
    pub num_train_timesteps: usize,
}

/// The images of a micro-batch.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// The step's batch.
    pub batch: &'a Batch,
    /// Which of its images.
    pub images: Range<usize>,
    /// The random numbers of the step; image n of the batch draws the same whatever micro-batch it is in.
    pub stream: Stream,
}

impl Part<'_> {
    /// The pixels of its images, `[n, H, W, C]`.
    pub fn pixels(&self, options: &TrainOptions) -> &[f32] {
        let elements = self.batch.images.len() / options.batch_size.max(1);
        &self.batch.images[self.images.start * elements..self.images.end * elements]
    }

    /// The random numbers of image `n` of the batch for a purpose.
    pub fn of_image(&self, numbering: Numbering, purpose: Purpose, n: usize) -> Stream {
        Stream { stream: numbering.stream(purpose), sample: n as u32, ..self.stream }
    }
}

/// A kind of training: the graph of its step, what the host writes for it, and what is shown of it.
pub trait Task: Clone {
    /// The values of the graph that the host writes before a step.
    type Inputs;

    /// What the trained network does in a pipeline.
    const ROLE: Role;

    /// The network that is trained.
    fn network(&self) -> &Arc<dyn Network>;

    /// The diffusion process, with what has been learned of it.
    fn scheduler(&self) -> &SchedulerConfig;

    /// Refuses images that do not go with the network.
    ///
    /// # Errors
    /// [`TrainError`] naming the dataset.
    fn check_dataset(&self, dataset: &dyn Dataset) -> Result<(), TrainError>;

    /// Prepares for a run, once the graph is built and before the first step.
    ///
    /// # Errors
    /// [`TrainError::Setting`] for settings that do not go with the task.
    fn begin(&mut self, _options: &TrainOptions) -> Result<(), TrainError> {
        Ok(())
    }

    /// Appends inputs, network and loss of a step.
    ///
    /// # Errors
    /// [`TrainError`] for a network that cannot be built, or settings that do not go with it.
    fn build(
        &self,
        graph: &mut Graph,
        options: &TrainOptions,
    ) -> Result<(TaskLoss, Self::Inputs), TrainError>;

    /// Draws what the next step needs of all its images, such as their timesteps.
    fn draw(&mut self, options: &TrainOptions, stream: Stream);

    /// Writes the inputs of a micro-batch. The losses of all micro-batches of a step add up to that of the batch.
    ///
    /// # Errors
    /// [`TrainError::Device`]
    fn write(
        &self,
        options: &TrainOptions,
        inputs: &Self::Inputs,
        executor: &mut Executor,
        part: Part<'_>,
    ) -> Result<(), TrainError>;

    /// Whether it learns from the losses of single images after every step.
    fn learns_from_losses(&self) -> bool {
        false
    }

    /// Learns from the losses of single images, the contents of [`TaskLoss::per_sample`].
    ///
    /// # Errors
    /// [`TrainError`]
    fn learn(&mut self, _options: &TrainOptions, _per_sample: &[Vec<f32>]) -> Result<(), TrainError> {
        Ok(())
    }

    /// What the images of the last step contributed to the loss, by the contents of [`TaskLoss::per_sample`]; `None`
    /// where images have no timesteps.
    fn contributions(&self, options: &TrainOptions, per_sample: &[Vec<f32>]) -> Option<Contributions>;

    /// Adds what a resumed run needs of the task to the state in a checkpoint.
    fn save(&self, _state: &mut TrainingState) {}

    /// Takes over what [`Task::save`] saved.
    ///
    /// # Errors
    /// [`TrainError::Setting`] for a state that lacks it.
    fn restore(&mut self, _state: &TrainingState) -> Result<(), TrainError> {
        Ok(())
    }

    /// The process that the run of a checkpoint began with: the one that the checkpoint has, without what the task has
    /// learned of it.
    fn began_with(&self, saved: &SchedulerConfig, _state: &TrainingState) -> SchedulerConfig {
        saved.clone()
    }

    /// Shows after `step` steps what the averaged weights can do.
    #[allow(async_fn_in_trait)] // runs are driven where they are started
    async fn show(
        &self,
        run: &Run,
        step: u64,
        averaged: &Pipeline,
        log: &mut Log,
        report: &mut (dyn FnMut(Event) + Send),
    ) -> Result<(), TrainError>;
}

/// Refuses a process whose timesteps are not those of the network.
pub(super) fn check_timesteps<T: Task>(task: &T) -> Result<(), TrainError> {
    let last = task.scheduler().num_train_timesteps.saturating_sub(1) as f64;
    task.network().check_timesteps(0.0, last).map_err(|text| TrainError::setting(&["config"], text))
}
