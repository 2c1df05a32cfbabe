//! Training a network to denoise (Ho et al. 2020, algorithm 1).

use std::sync::Arc;

use super::objective::{self, Loss};
use super::task::check_timesteps;
use super::timestep_sampler::{self, LossSecondMoments};
use super::{
    Contributions, Event, Part, Run, Task, TaskLoss, TimestepSampling, TrainError, TrainOptions, sample_grid,
};
use crate::checkpoint::TrainingState;
use crate::conditions::{Condition, Numbers};
use crate::data::Dataset;
use crate::device::Executor;
use crate::diffusion::{LearnedSchedule, Mixing, Schedule, SchedulerConfig};
use crate::graph::{Graph, TensorType, ValueId};
use crate::image_size::image_in_words;
use crate::log::Log;
use crate::network::{
    CONDITION_IMAGE, Element, Input, NamedValues, Network, SAMPLE, SuperResolution, TIMESTEPS,
};
use crate::ops::q_sample;
use crate::pipeline::{Pipeline, Role};
use crate::random::{Purpose, Stream};
use crate::sample::Noised;

/// The task of predicting the noise in images.
#[derive(Clone, Debug)]
pub struct Denoise {
    network: Arc<dyn Network>,
    scheduler: SchedulerConfig,
    schedule: Schedule,
    /// Learns how likely timesteps are to be drawn, for importance sampling.
    moments: Option<LossSecondMoments>,
    /// The schedule, where it is learned.
    learned_schedule: Option<LearnedSchedule>,
    /// Timesteps of the images of the last step, and what the loss of each counts.
    timesteps: Vec<usize>,
    importance: Vec<f64>,
}

/// What the host writes before each step.
#[derive(Debug)]
pub struct Inputs {
    noised: Noised,
    /// Timesteps `[N]`.
    timesteps: ValueId,
    /// What else the network is told of each image.
    conditions: Vec<(Input, ValueId)>,
    /// For a super-resolution model, the enlarged images `[N, H, W, C]` and rows of factors for q_sample, `[N, 4]`.
    low: Option<[ValueId; 2]>,
    loss: Loss,
}

/// Refuses condition images that are not those that the network takes.
fn check_condition_images(network: &dyn Network, dataset: &dyn Dataset) -> Result<(), TrainError> {
    let taken = network.input(CONDITION_IMAGE).ok().filter(|_| network.super_resolution().is_none());
    let given = dataset.condition_image();
    let name = dataset.name();
    let message = match (taken, given) {
        (None, None) => return Ok(()),
        (Some(taken), Some(given)) if taken.shape == [given.height, given.width, given.channels] => {
            return Ok(());
        }
        (Some(taken), Some(given)) => {
            let found = image_in_words([given.height, given.width, given.channels]);
            let wanted = image_in_words([taken.shape[0], taken.shape[1], taken.shape[2]]);
            format!("the condition images of {name} are of {found}, the model takes {wanted}")
        }
        (Some(_), None) => {
            format!("the model is given a condition image beside each image, and {name} has none")
        }
        (None, Some(_)) => format!("{name} has a condition image for each image, and the model takes none"),
    };
    Err(TrainError::setting(&["dataset", "condition_image", "config"], message))
}

/// A checkpoint whose training state is not whole.
fn lacks(what: &str) -> TrainError {
    let message = format!(
        "the checkpoint's training_state has no {what}, without which the run cannot go on; start anew in another folder"
    );
    TrainError::setting(&["output"], message)
}

impl Denoise {
    /// Training `network` for the process of `scheduler`.
    ///
    /// # Errors
    /// [`TrainError`] for a process that makes no sense.
    pub fn new(network: Arc<dyn Network>, scheduler: SchedulerConfig) -> Result<Self, TrainError> {
        let schedule = scheduler.schedule()?;
        Ok(Self {
            network,
            scheduler,
            schedule,
            moments: None,
            learned_schedule: None,
            timesteps: Vec::new(),
            importance: Vec::new(),
        })
    }

    /// Takes the betas of a schedule that is learned.
    fn discretise(&mut self) -> Result<(), TrainError> {
        if let Some(learned) = &self.learned_schedule {
            self.schedule = learned.schedule()?;
            self.scheduler.trained_betas = Some(self.schedule.betas().to_vec());
        }
        Ok(())
    }

    /// Refuses settings that do not go with the network.
    fn check(&self, options: &TrainOptions) -> Result<(), TrainError> {
        objective::check(options, &self.scheduler)?;
        check_timesteps(self)?;
        let [_, _, channels] = self.network.image()?;
        let out_channels = self.scheduler.variance_type.output_channels(channels);
        let found = self.network.out_channels()?;
        if found != out_channels {
            let message = format!(
                "the model has {found} output channels for images of {channels}; training with this `variance_type` needs \
                 {out_channels}"
            );
            return Err(TrainError::setting(&["config", "scheduler.variance_type"], message));
        }
        if options.label_dropout > 0.0 && self.network.null_class().is_none() {
            let message = "dropping labels needs a model with classes, the last of which means none; this one has no such class";
            return Err(TrainError::setting(&["label_dropout", "config"], message));
        }
        Ok(())
    }

    /// A condition of the images of a part, some of which are told nothing.
    fn condition(
        &self,
        options: &TrainOptions,
        input: &Input,
        part: &Part<'_>,
    ) -> Result<Condition, TrainError> {
        let given = part.batch.conditions.rows(part.images.clone());
        let images = part.images.len();
        let Some(condition) = given.get(input.name).filter(|condition| condition.rows() == images) else {
            let message = format!(
                "the network is told `{}` of each image, and not all images of a batch have it",
                input.name
            );
            return Err(TrainError::setting(&["dataset"], message));
        };
        let (Element::Class { none: Some(none), .. }, Numbers::Whole(labels)) =
            (input.element, condition.numbers())
        else {
            return Ok(condition.clone());
        };
        let is_dropped = |n: usize| {
            let stream = part.of_image(options.random_streams, Purpose::LabelDropout, n);
            f64::from(stream.uniform(0)) < options.label_dropout
        };
        let pairs = part.images.clone().zip(labels);
        let labels = pairs.map(|(n, &label)| if is_dropped(n) { none } else { label }).collect();
        Ok(Condition::classes(labels))
    }

    /// Writes the smaller images of a part, enlarged, and how far each is noised.
    fn write_low(
        &self,
        options: &TrainOptions,
        model: SuperResolution,
        [low, low_coefficients]: [ValueId; 2],
        executor: &mut Executor,
        pixels: &[f32],
        part: &Part<'_>,
    ) -> Result<(), TrainError> {
        let [height, width, channels] = self.network.image()?;
        let shrunk = model.shrink(pixels, [part.images.len(), height, width, channels]);
        executor.write(low, &model.enlarge(&shrunk, channels, [height, width]))?;
        let coefficients = |n: usize| {
            let levels = model.augmentation + 1;
            let stream = part.of_image(options.random_streams, Purpose::NoiseAugmentation, n);
            let drawn = f64::from(stream.uniform(0));
            let level = ((drawn * levels as f64) as usize).min(model.augmentation);
            let mixing = Mixing::at(self.schedule.alphas_cumprod_after(level));
            mixing.q_sample_row([0.0; 2]).map(|value| value as f32)
        };
        let factors: Vec<f32> = part.images.clone().flat_map(coefficients).collect();
        Ok(executor.write(low_coefficients, &factors)?)
    }
}

impl Task for Denoise {
    type Inputs = Inputs;

    const ROLE: Role = Role::Denoises;

    fn network(&self) -> &Arc<dyn Network> {
        &self.network
    }

    fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    fn check_dataset(&self, dataset: &dyn Dataset) -> Result<(), TrainError> {
        check_condition_images(self.network.as_ref(), dataset)?;
        let classes = dataset.classes().len();
        match self.network.num_classes() {
            Some(embeds) if embeds < classes || classes == 0 => {
                let message = format!(
                    "the model has {embeds} classes, {} has {classes}; use a model with as many",
                    dataset.name()
                );
                Err(TrainError::setting(&["config", "unconditional"], message))
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, options: &TrainOptions) -> Result<(), TrainError> {
        let timesteps = self.schedule.num_train_timesteps();
        if let Some(SuperResolution { augmentation, .. }) = self.network.super_resolution()
            && augmentation > timesteps
        {
            let message = format!(
                "`super_resolution.augmentation` is {augmentation}, 200 by default; the process has {timesteps} steps of \
                 noise: give at most so many"
            );
            return Err(TrainError::setting(&["super_resolution.augmentation"], message));
        }
        let is_importance = options.timestep_sampling == TimestepSampling::Importance;
        self.moments = is_importance.then(|| LossSecondMoments::new(timesteps));
        self.learned_schedule = options.learned_schedule.then(|| LearnedSchedule::new(&self.schedule));
        self.discretise()
    }

    fn build(&self, graph: &mut Graph, options: &TrainOptions) -> Result<(TaskLoss, Inputs), TrainError> {
        self.check(options)?;
        let batch = options.images_at_once();
        let image = self.network.image()?;
        let noised = Noised::build(graph, batch, image)?;
        let timesteps = graph.input(TIMESTEPS, TensorType::f32([batch]));
        let mut given = NamedValues::default().with(TIMESTEPS, timesteps);
        let mut conditions = Vec::new();
        let mut low = None;
        for input in self.network.conditions()? {
            if input.name == CONDITION_IMAGE && self.network.super_resolution().is_some() {
                let images = graph.input("low", input.ty(batch));
                let coefficients = graph.input("low_coefficients", TensorType::f32([batch, 4]));
                let (noised_low, _) = graph.scoped("low_resolution", |graph| {
                    q_sample(graph, images, coefficients, noised.key_step_sample)
                })?;
                given = given.with(input.name, noised_low);
                low = Some([images, coefficients]);
                continue;
            }
            let value = graph.input(input.name, input.ty(batch));
            given = given.with(input.name, value);
            conditions.push((input, value));
        }
        let given = given.with(SAMPLE, noised.x_t);
        let dropout = Some(noised.key_step_sample);
        let output = self.network.apply(graph, options.precision, &given, dropout)?.get(SAMPLE)?;
        let loss = Loss::build(graph, options, output, noised.target, noised.x_start)?;
        let task_loss = TaskLoss { loss: loss.loss, per_sample: loss.per_sample() };
        Ok((task_loss, Inputs { noised, timesteps, conditions, low, loss }))
    }

    fn draw(&mut self, options: &TrainOptions, stream: Stream) {
        let (timesteps, mut importance) = timestep_sampler::draw(
            options.timestep_sampling,
            self.moments.as_ref(),
            self.schedule.num_train_timesteps(),
            options.batch_size,
            stream,
        );
        let count = options.micro_batches().len() as f64;
        importance.iter_mut().for_each(|importance| *importance /= count);
        (self.timesteps, self.importance) = (timesteps, importance);
    }

    fn write(
        &self,
        options: &TrainOptions,
        inputs: &Inputs,
        executor: &mut Executor,
        part: Part<'_>,
    ) -> Result<(), TrainError> {
        let drawn = &self.timesteps[part.images.clone()];
        let importance = &self.importance[part.images.clone()];
        let loss_inputs = inputs.loss.inputs(options, &self.scheduler, &self.schedule, drawn, importance);
        for (value, contents) in &loss_inputs {
            executor.write(*value, contents)?;
        }
        let pixels = part.pixels(options);
        let factors =
            drawn.iter().map(|&t| self.schedule.q_sample_coefficients(t, self.scheduler.prediction_type));
        let first = Stream { sample: part.images.start as u32, ..part.stream };
        inputs.noised.write(executor, pixels, factors, first)?;
        executor.write(inputs.timesteps, &drawn.iter().map(|&t| t as f32).collect::<Vec<f32>>())?;
        for (input, value) in &inputs.conditions {
            input.write(executor, *value, &self.condition(options, input, &part)?)?;
        }
        match (inputs.low, self.network.super_resolution()) {
            (Some(low), Some(model)) => self.write_low(options, model, low, executor, pixels, &part),
            _ => Ok(()),
        }
    }

    fn learns_from_losses(&self) -> bool {
        self.moments.is_some() || self.learned_schedule.is_some()
    }

    fn learn(&mut self, options: &TrainOptions, per_sample: &[Vec<f32>]) -> Result<(), TrainError> {
        if let (Some(learned), Some(errors)) = (&mut self.learned_schedule, per_sample.last()) {
            // From the error of what the network predicts to that of eps.
            let of_eps = |(&t, &error): (&usize, &f32)| {
                let [_, of_output] =
                    self.scheduler.prediction_type.eps_factors(self.schedule.alphas_cumprod(t));
                f64::from(error) * of_output.powi(2)
            };
            let errors: Vec<f64> = self.timesteps.iter().zip(errors).map(of_eps).collect();
            learned.update(&self.timesteps, &errors);
            self.discretise()?;
        }
        if let (Some(found), Some(moments)) = (self.contributions(options, per_sample), &mut self.moments) {
            moments.update(&found.timesteps, &found.losses);
        }
        Ok(())
    }

    fn contributions(&self, options: &TrainOptions, per_sample: &[Vec<f32>]) -> Option<Contributions> {
        let losses =
            objective::contributions(options, &self.scheduler, &self.schedule, &self.timesteps, per_sample);
        let num_train_timesteps = self.schedule.num_train_timesteps();
        Some(Contributions { timesteps: self.timesteps.clone(), losses, num_train_timesteps })
    }

    fn save(&self, state: &mut TrainingState) {
        state.timestep_sampler = self.moments.as_ref().map(LossSecondMoments::to_tensors);
        state.learned_schedule = self.learned_schedule.clone();
    }

    fn restore(&mut self, state: &TrainingState) -> Result<(), TrainError> {
        let timesteps = self.schedule.num_train_timesteps();
        if let Some(moments) = &mut self.moments {
            let saved = state.timestep_sampler.as_ref();
            let found = saved.and_then(|saved| LossSecondMoments::from_tensors(saved, timesteps));
            *moments = found.ok_or_else(|| lacks("losses of the timesteps"))?;
        }
        if self.learned_schedule.is_some() {
            let saved = state.learned_schedule.clone();
            let found = saved.filter(|saved| saved.num_train_timesteps() == timesteps);
            let missing = || lacks(&format!("learned noise schedule of {timesteps} timesteps"));
            self.learned_schedule = Some(found.ok_or_else(missing)?);
            self.discretise()?;
        }
        Ok(())
    }

    fn began_with(&self, saved: &SchedulerConfig, state: &TrainingState) -> SchedulerConfig {
        let mut scheduler = saved.clone();
        if state.learned_schedule.is_some() {
            // The betas are what has been learned; its ends are compared.
            scheduler.trained_betas = None;
        }
        scheduler
    }

    async fn show(
        &self,
        run: &Run,
        step: u64,
        averaged: &Pipeline,
        log: &mut Log,
        report: &mut (dyn FnMut(Event) + Send),
    ) -> Result<(), TrainError> {
        sample_grid::draw(run, step, averaged, log, report).await
    }
}
