//! Training a noise-conditional classifier, for classifier guidance (Dhariwal and Nichol 2021, section 4).

use std::sync::Arc;

use super::task::check_timesteps;
use super::{
    Contributions, Event, Part, Run, Task, TaskLoss, TimestepSampling, TrainError, TrainOptions,
    timestep_sampler,
};
use crate::conditions::CLASS_LABELS;
use crate::data::Dataset;
use crate::device::Executor;
use crate::diffusion::{Schedule, SchedulerConfig};
use crate::evaluate::accuracy;
use crate::graph::{Graph, GraphError, Phase, TensorType, ValueId};
use crate::log::Log;
use crate::network::{LOGITS, NamedValues, Network, SAMPLE, TIMESTEPS};
use crate::ops::{cross_entropy, weighted_mean};
use crate::pipeline::{Pipeline, Role};
use crate::random::Stream;
use crate::sample::Noised;

/// The task of telling the class of images noised to timesteps uniform in 0..T, by cross-entropy.
#[derive(Clone)]
pub struct Classify {
    network: Arc<dyn Network>,
    scheduler: SchedulerConfig,
    schedule: Schedule,
    /// Images to measure it with; those of the run without them.
    held_out: Option<Arc<dyn Dataset>>,
    /// Timesteps of the images of the last step.
    timesteps: Vec<usize>,
}

/// What the host writes before each step.
#[derive(Debug)]
pub struct Inputs {
    noised: Noised,
    /// Timesteps `[N]`.
    timesteps: ValueId,
    /// Classes `[N]`.
    labels: ValueId,
    /// What the loss of each image counts `[N]`.
    weights: ValueId,
}

impl Classify {
    /// Training `network` for images of the process of `scheduler`, measured with images of `held_out`.
    ///
    /// # Errors
    /// [`TrainError`] for a process that makes no sense.
    pub fn new(
        network: Arc<dyn Network>,
        scheduler: SchedulerConfig,
        held_out: Option<Arc<dyn Dataset>>,
    ) -> Result<Self, TrainError> {
        let schedule = scheduler.schedule()?;
        Ok(Self { network, scheduler, schedule, held_out, timesteps: Vec::new() })
    }
}

impl Task for Classify {
    type Inputs = Inputs;

    const ROLE: Role = Role::Classifies;

    fn network(&self) -> &Arc<dyn Network> {
        &self.network
    }

    fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    fn check_dataset(&self, dataset: &dyn Dataset) -> Result<(), TrainError> {
        let classes = dataset.classes().len();
        if classes < 2 {
            let message = format!(
                "{} has {classes} classes; a classifier needs images of at least two",
                dataset.name()
            );
            return Err(TrainError::setting(&["dataset"], message));
        }
        let told = self.network.classes_told()?;
        if told < classes {
            let message = format!("the classifier tells {told} classes, {} has {classes}", dataset.name());
            return Err(TrainError::setting(&["config", "dataset"], message));
        }
        Ok(())
    }

    fn build(&self, graph: &mut Graph, options: &TrainOptions) -> Result<(TaskLoss, Inputs), TrainError> {
        check_timesteps(self)?;
        let batch = options.images_at_once();
        let noised = Noised::build(graph, batch, self.network.image()?)?;
        let timesteps = graph.input(TIMESTEPS, TensorType::f32([batch]));
        let given = NamedValues::default().with(SAMPLE, noised.x_t).with(TIMESTEPS, timesteps);
        let dropout = Some(noised.key_step_sample);
        let logits = self.network.apply(graph, options.precision, &given, dropout)?.get(LOGITS)?;
        let labels = graph.input(CLASS_LABELS, TensorType::u32([batch]));
        let weights = graph.input("weights", TensorType::f32([batch]));
        let (loss, per_sample) = graph.in_phase(Phase::Loss, |graph| {
            let per_sample = cross_entropy(graph, logits, labels)?;
            Ok::<_, GraphError>((weighted_mean(graph, per_sample, weights)?, per_sample))
        })?;
        let task_loss = TaskLoss { loss, per_sample: vec![per_sample] };
        Ok((task_loss, Inputs { noised, timesteps, labels, weights }))
    }

    fn draw(&mut self, options: &TrainOptions, stream: Stream) {
        let steps = self.schedule.num_train_timesteps();
        let uniform = TimestepSampling::Uniform;
        (self.timesteps, _) = timestep_sampler::draw(uniform, None, steps, options.batch_size, stream);
    }

    fn write(
        &self,
        options: &TrainOptions,
        inputs: &Inputs,
        executor: &mut Executor,
        part: Part<'_>,
    ) -> Result<(), TrainError> {
        let drawn = &self.timesteps[part.images.clone()];
        let factors =
            drawn.iter().map(|&t| self.schedule.q_sample_coefficients(t, self.scheduler.prediction_type));
        let first = Stream { sample: part.images.start as u32, ..part.stream };
        inputs.noised.write(executor, part.pixels(options), factors, first)?;
        executor.write(inputs.timesteps, &drawn.iter().map(|&t| t as f32).collect::<Vec<f32>>())?;
        let count = part.images.len();
        let share = count as f32 / options.batch_size as f32;
        executor.write(inputs.weights, &vec![share; count])?;
        let labels = part.batch.labels().get(part.images).unwrap_or_default();
        Ok(executor.write(inputs.labels, labels)?)
    }

    fn contributions(&self, _options: &TrainOptions, per_sample: &[Vec<f32>]) -> Option<Contributions> {
        Some(Contributions {
            timesteps: self.timesteps.clone(),
            losses: per_sample.first()?.iter().copied().map(f64::from).collect(),
            num_train_timesteps: self.schedule.num_train_timesteps(),
        })
    }

    async fn show(
        &self,
        run: &Run,
        _step: u64,
        averaged: &Pipeline,
        _log: &mut Log,
        report: &mut (dyn FnMut(Event) + Send),
    ) -> Result<(), TrainError> {
        let dataset = self.held_out.as_ref().unwrap_or(&run.dataset).as_ref();
        let quartiles = accuracy(&run.device, averaged, dataset, run.options.seed).await?;
        report(Event::Accuracy { quartiles, is_held_out: self.held_out.is_some() });
        Ok(())
    }
}
