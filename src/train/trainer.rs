//! One training step after another on one device.

use std::ops::Range;

use super::objective::{self, Loss};
use super::quartiles::mean_by_quartile;
use super::timestep_sampler::{self, LossSecondMoments};
use super::{TimestepSampling, TrainError, TrainOptions, TrainingGraph};
use crate::checkpoint::{Pipeline, TrainingState};
use crate::data::Batch;
use crate::device::{Device, DeviceError, Executor};
use crate::diffusion::{LearnedSchedule, Schedule, SchedulerConfig};
use crate::graph::{Graph, MemoryReport, Plan, TensorType, ValueId};
use crate::model::{SuperResolution, Tensors, UNetConfig, UNetInputs, from_tensors, initial_weights};
use crate::ops::loss_scale::LossScale;
use crate::ops::philox::Stream;
use crate::ops::{concat, q_sample};

/// Streams of which labels are dropped, and of the noise levels of smaller images; the top bit is set in those of initial
/// weights too.
const LABEL_STREAM: u32 = 0x8000_0001;
const AUGMENTATION_STREAM: u32 = 0x8000_0002;

/// The training step of one model and batch size, before it is prepared on a device.
struct Step {
    graph: Graph,
    training: TrainingGraph,
    loss: Loss,
    inputs: Inputs,
}

/// What the host writes before each step.
#[derive(Clone, Copy, Debug)]
struct Inputs {
    /// Images `[N, H, W, C]`.
    x_start: ValueId,
    /// Rows of factors for q_sample, `[N, 4]`.
    coefficients: ValueId,
    /// Timesteps `[N]`.
    timesteps: ValueId,
    /// Classes `[N]`.
    class_labels: Option<ValueId>,
    /// For a super-resolution model, the enlarged images `[N, H, W, C]` and rows of factors for q_sample, `[N, 4]`.
    low: Option<[ValueId; 2]>,
    /// The generator's key `[4]`.
    key_step_sample: ValueId,
}

impl Step {
    fn build(
        config: &UNetConfig,
        scheduler: &SchedulerConfig,
        options: &TrainOptions,
    ) -> Result<Self, TrainError> {
        options.check()?;
        objective::check(options, scheduler)?;
        let mut graph = Graph::new();
        let [height, width] = config.image_size()?;
        let batch = options.images_at_once();
        let channels = config.image_channels();
        let out_channels = scheduler.variance_type.output_channels(channels);
        if config.out_channels != out_channels {
            let message = format!(
                "the model has {} output channels for images of {channels}; training with this `variance_type` needs \
                 {out_channels}",
                config.out_channels
            );
            return Err(TrainError::setting(&["config", "scheduler.variance_type"], message));
        }
        if options.label_dropout > 0.0 && !config.null_class {
            let message = "dropping labels needs a model with classes, the last of which means none; this one has no such class";
            return Err(TrainError::setting(&["label_dropout", "config"], message));
        }
        let image = || TensorType::f32([batch, height, width, channels]);
        let inputs = Inputs {
            x_start: graph.input("x_start", image()),
            coefficients: graph.input("coefficients", TensorType::f32([batch, 4])),
            timesteps: graph.input("timesteps", TensorType::f32([batch])),
            class_labels: config
                .num_class_embeds
                .map(|_| graph.input("class_labels", TensorType::u32([batch]))),
            low: config.super_resolution.map(|_| {
                [graph.input("low", image()), graph.input("low_coefficients", TensorType::f32([batch, 4]))]
            }),
            key_step_sample: graph.input("key_step_sample", TensorType::u32([4])),
        };
        let (x_t, target) = graph.scoped("q_sample", |graph| {
            q_sample(graph, inputs.x_start, inputs.coefficients, inputs.key_step_sample)
        })?;
        let sample = match inputs.low {
            Some([low, coefficients]) => graph.scoped("low_resolution", |graph| {
                let (noised, _) = q_sample(graph, low, coefficients, inputs.key_step_sample)?;
                concat(graph, x_t, noised)
            })?,
            None => x_t,
        };
        let unet_inputs = UNetInputs {
            sample,
            timesteps: inputs.timesteps,
            class_labels: inputs.class_labels,
            key_step_sample: Some(inputs.key_step_sample),
        };
        let output = options.precision.unet(&mut graph, config, unet_inputs)?;
        let loss = Loss::build(&mut graph, options, output, target, inputs.x_start)?;
        let training = TrainingGraph::new(
            &mut graph,
            loss.loss,
            &loss.per_sample(),
            options.optimizer(),
            options.checkpointing,
        )?;
        Ok(Self { graph, training, loss, inputs })
    }
}

/// A checkpoint whose training state is not whole.
fn lacks(what: &str) -> TrainError {
    let message = format!(
        "the checkpoint's training_state has no {what}, without which the run cannot go on; start anew in another folder"
    );
    TrainError::setting(&["output"], message)
}

/// A model in training.
pub struct Trainer {
    options: TrainOptions,
    config: UNetConfig,
    scheduler: SchedulerConfig,
    schedule: Schedule,
    step: Step,
    executor: Executor,
    /// Learns how likely timesteps are to be drawn, for importance sampling.
    moments: Option<LossSecondMoments>,
    /// The schedule, where it is learned.
    learned_schedule: Option<LearnedSchedule>,
    /// Timesteps of the images of the last step.
    timesteps: Vec<usize>,
    /// Steps done.
    done: u64,
}

impl Trainer {
    /// The number of parameters, and the plan of a step on `device`; nothing is allocated.
    ///
    /// # Errors
    /// [`TrainError`] for a model that cannot be built.
    pub fn dry_run(
        device: &Device,
        config: &UNetConfig,
        scheduler: &SchedulerConfig,
        options: &TrainOptions,
    ) -> Result<(usize, Plan), TrainError> {
        let step = Step::build(config, scheduler, options)?;
        let parameters = step.graph.parameters().iter().map(|p| step.graph.ty(p.value).len()).sum();
        Ok((parameters, device.plan(&step.graph, &step.training.read_back())))
    }

    /// A model with fresh weights, or with those of `resume`, prepared on `device`.
    ///
    /// # Errors
    /// [`TrainError`] for a model that cannot be built or does not fit, or weights of another one.
    pub async fn new(
        device: &Device,
        config: UNetConfig,
        scheduler: SchedulerConfig,
        options: TrainOptions,
        resume: Option<(Pipeline, TrainingState)>,
    ) -> Result<Self, TrainError> {
        let schedule = scheduler.schedule()?;
        if let Some(SuperResolution { augmentation, .. }) = config.super_resolution
            && augmentation > schedule.num_train_timesteps()
        {
            let message = format!(
                "`super_resolution.augmentation` is {augmentation}, 200 by default; the process has {} steps of noise: give at \
                 most so many",
                schedule.num_train_timesteps()
            );
            return Err(TrainError::setting(&["super_resolution.augmentation"], message));
        }
        let step = Step::build(&config, &scheduler, &options)?;
        let executor = device.prepare(&step.graph, &step.training.read_back()).await?;
        let is_importance = options.timestep_sampling == TimestepSampling::Importance;
        let moments = is_importance.then(|| LossSecondMoments::new(schedule.num_train_timesteps()));
        let learned_schedule = options.learned_schedule.then(|| LearnedSchedule::new(&schedule));
        let mut trainer = Self {
            options,
            config,
            scheduler,
            schedule,
            step,
            executor,
            moments,
            learned_schedule,
            timesteps: Vec::new(),
            done: 0,
        };
        trainer.discretise()?;
        match resume {
            None => {
                let weights = initial_weights(&trainer.step.graph, trainer.options.seed);
                trainer.initialize(&weights, &weights)?;
            }
            Some((pipeline, state)) => {
                let Self { step: Step { graph, training, .. }, executor, .. } = &mut trainer;
                training.restore(graph, executor, &pipeline.weights, &state)?;
                if let Some(moments) = &mut trainer.moments {
                    let saved = state.timestep_sampler.as_ref();
                    let found = saved.and_then(|saved| {
                        LossSecondMoments::from_tensors(saved, trainer.schedule.num_train_timesteps())
                    });
                    *moments = found.ok_or_else(|| lacks("losses of the timesteps"))?;
                }
                if trainer.learned_schedule.is_some() {
                    let timesteps = trainer.schedule.num_train_timesteps();
                    let saved = state
                        .learned_schedule
                        .filter(|saved| saved.num_train_timesteps() == timesteps)
                        .ok_or_else(|| lacks(&format!("learned noise schedule of {timesteps} timesteps")))?;
                    trainer.learned_schedule = Some(saved);
                    trainer.discretise()?;
                }
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
        let weights = from_tensors(&self.step.graph, weights)?;
        self.initialize(&weights, &weights)?;
        Ok(())
    }

    fn initialize(&mut self, weights: &[Vec<f32>], ema: &[Vec<f32>]) -> Result<(), DeviceError> {
        self.step.training.initialize(&self.step.graph, &mut self.executor, weights, ema)
    }

    /// Steps done so far.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Bytes by role.
    pub fn memory(&self) -> MemoryReport {
        self.executor.memory()
    }

    /// Trains on one batch.
    ///
    /// Timesteps are drawn from (seed, step, image). After it, [`Trainer::observe`] looks at the losses.
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
        let importance = self.draw_timesteps();
        for (index, images) in self.options.micro_batches().enumerate() {
            self.write_images(batch, &importance, images)?;
            self.step.training.micro_batches.run_unless_last(&mut self.executor, index)?;
        }
        self.done += 1;
        Ok(&mut self.executor)
    }

    /// The first parameter with a number that is not finite, in words.
    pub(super) async fn bad_parameter(&mut self) -> Result<Option<String>, TrainError> {
        let Step { graph, training, .. } = &self.step;
        Ok(training.bad_parameter(graph, &mut self.executor).await?)
    }

    /// Writes the inputs that a micro-batch, its number and its images, of step `step`, counted from 1, had. No step may follow.
    pub(super) fn replay(
        &mut self,
        step: u64,
        batch: &Batch,
        (index, images): (usize, Range<usize>),
    ) -> Result<&mut Executor, TrainError> {
        self.done = step.saturating_sub(1);
        let importance = self.draw_timesteps();
        self.write_images(batch, &importance, images)?;
        self.step.training.micro_batches.begin(&mut self.executor, index)?;
        Ok(&mut self.executor)
    }

    /// Steps that were skipped, from the first whose gradients were not finite to the last, so that the weights stay as they
    /// were; 0 with loss scaling, which skips such steps and goes on.
    ///
    /// # Errors
    /// [`TrainError::Device`]
    pub async fn skipped_steps(&mut self) -> Result<u64, TrainError> {
        Ok(self.step.training.read_skipped_steps(&mut self.executor).await?)
    }

    /// The numbers that the next step draws.
    fn stream(&self) -> Stream {
        timestep_sampler::stream(self.options.seed, self.done)
    }

    /// Draws the timesteps of the next step, and gives what the loss of each image counts, so that the losses of all
    /// micro-batches add up to that of the batch.
    fn draw_timesteps(&mut self) -> Vec<f64> {
        let (timesteps, mut importance) = timestep_sampler::draw(
            self.options.timestep_sampling,
            self.moments.as_ref(),
            self.schedule.num_train_timesteps(),
            self.options.batch_size,
            self.stream(),
        );
        let count = self.options.micro_batches().len() as f64;
        importance.iter_mut().for_each(|importance| *importance /= count);
        self.timesteps = timesteps;
        importance
    }

    /// The plan of a step.
    pub fn plan(&self) -> &Plan {
        self.executor.plan()
    }

    /// Writes what belongs to some of the batch's images; `importance` of all is what their losses count.
    fn write_images(
        &mut self,
        batch: &Batch,
        importance: &[f64],
        images: Range<usize>,
    ) -> Result<(), TrainError> {
        let stream = self.stream();
        let inputs = self.step.inputs;
        let drawn = &self.timesteps[images.clone()];
        let coefficients: Vec<f32> = drawn
            .iter()
            .flat_map(|&t| self.schedule.q_sample_coefficients(t, self.scheduler.prediction_type))
            .map(|value| value as f32)
            .collect();
        let timesteps: Vec<f32> = drawn.iter().map(|&t| t as f32).collect();
        let loss_inputs = self.step.loss.inputs(
            &self.options,
            &self.scheduler,
            &self.schedule,
            drawn,
            &importance[images.clone()],
        );
        let elements = batch.images.len() / self.options.batch_size;
        let pixels = &batch.images[images.start * elements..images.end * elements];
        let executor = &mut self.executor;
        for (value, contents) in &loss_inputs {
            executor.write(*value, contents)?;
        }
        executor.write(inputs.x_start, pixels)?;
        executor.write(inputs.coefficients, &coefficients)?;
        executor.write(inputs.timesteps, &timesteps)?;
        // Image n of the batch draws the same numbers whatever micro-batch it is in.
        let of_image = |stream_of: u32, n: usize| Stream { stream: stream_of, sample: n as u32, ..stream };
        if let Some(labels) = inputs.class_labels {
            let null_class = self.config.null_class();
            let is_dropped =
                |n: usize| f64::from(of_image(LABEL_STREAM, n).uniform(0)) < self.options.label_dropout;
            let label = |n: usize| null_class.filter(|_| is_dropped(n)).or(batch.labels.get(n).copied());
            executor.write(labels, &images.clone().filter_map(label).collect::<Vec<u32>>())?;
        }
        if let (Some([low, low_coefficients]), Some(model)) = (inputs.low, self.config.super_resolution) {
            let [height, width] = self.config.image_size()?;
            let channels = self.config.image_channels();
            let shrunk = model.shrink(pixels, [images.len(), height, width, channels]);
            executor.write(low, &model.enlarge(&shrunk, channels, height))?;
            let coefficients = |n: usize| {
                let levels = model.augmentation + 1;
                let drawn = f64::from(of_image(AUGMENTATION_STREAM, n).uniform(0));
                let level = ((drawn * levels as f64) as usize).min(model.augmentation);
                let alpha_cumprod = self.schedule.alphas_cumprod_after(level);
                [alpha_cumprod.sqrt(), (1.0 - alpha_cumprod).sqrt(), 0.0, 0.0].map(|value| value as f32)
            };
            let factors: Vec<f32> = images.clone().flat_map(coefficients).collect();
            executor.write(low_coefficients, &factors)?;
        }
        let first = Stream { sample: images.start as u32, ..stream };
        Ok(executor.write(inputs.key_step_sample, &first.key_step_sample())?)
    }

    /// The timesteps of the last step's images, and what each image contributed to the objective, before importance
    /// sampling; this reads from the device.
    ///
    /// # Errors
    /// [`TrainError::Device`]
    pub async fn contributions(&mut self) -> Result<(Vec<usize>, Vec<f64>), TrainError> {
        let mut losses = Vec::new();
        for &value in &self.step.training.per_sample {
            losses.push(self.executor.read(value).await?);
        }
        let loss = &self.step.loss;
        let contributions =
            loss.contributions(&self.options, &self.scheduler, &self.schedule, &self.timesteps, &losses);
        Ok((self.timesteps.clone(), contributions))
    }

    /// What the last step's images contributed to the objective on average, by quarter of the timesteps, the least noisy
    /// first; `None` where no image was.
    ///
    /// # Errors
    /// [`TrainError::Device`]
    pub async fn loss_quartiles(&mut self) -> Result<[Option<f32>; 4], TrainError> {
        let (timesteps, contributions) = self.contributions().await?;
        Ok(mean_by_quartile(&timesteps, &contributions, self.schedule.num_train_timesteps()))
    }

    /// Takes the betas of a schedule that is learned.
    fn discretise(&mut self) -> Result<(), TrainError> {
        if let Some(learned) = &self.learned_schedule {
            self.schedule = learned.schedule()?;
            self.scheduler.trained_betas = Some(self.schedule.betas().to_vec());
        }
        Ok(())
    }

    /// Lets what learns from the losses of the last step learn: importance sampling of timesteps, the noise schedule. Reads
    /// nothing from the device where nothing does.
    ///
    /// # Errors
    /// [`TrainError::Device`]
    pub async fn observe(&mut self) -> Result<(), TrainError> {
        if let (Some(learned), Some(&value)) =
            (&mut self.learned_schedule, self.step.training.per_sample.last())
        {
            let errors = self.executor.read(value).await?;
            // From the error of what the network predicts to that of eps.
            let of_eps = |(&t, &error): (&usize, &f32)| {
                let [_, of_output] =
                    self.scheduler.prediction_type.eps_factors(self.schedule.alphas_cumprod(t));
                f64::from(error) * of_output.powi(2)
            };
            let errors: Vec<f64> = self.timesteps.iter().zip(&errors).map(of_eps).collect();
            learned.update(&self.timesteps, &errors);
            self.discretise()?;
        }
        if self.moments.is_none() {
            return Ok(());
        }
        let (timesteps, contributions) = self.contributions().await?;
        if let Some(moments) = &mut self.moments {
            moments.update(&timesteps, &contributions);
        }
        Ok(())
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

    /// The model with its averaged weights, as others use it.
    ///
    /// # Errors
    /// [`TrainError::Device`]
    pub async fn pipeline(&mut self) -> Result<Pipeline, TrainError> {
        let Step { graph, training, .. } = &self.step;
        let weights = training.read_ema(graph, &mut self.executor).await?;
        Ok(Pipeline { unet: self.config.clone(), scheduler: self.scheduler.clone(), weights })
    }

    /// What a resumed run needs beside the pipeline.
    ///
    /// # Errors
    /// [`TrainError::Device`]
    pub async fn state(&mut self) -> Result<TrainingState, TrainError> {
        let Step { graph, training, .. } = &self.step;
        Ok(TrainingState {
            timestep_sampler: self.moments.as_ref().map(LossSecondMoments::to_tensors),
            learned_schedule: self.learned_schedule.clone(),
            ..training.read_state(graph, &mut self.executor, &self.options, self.done).await?
        })
    }
}
