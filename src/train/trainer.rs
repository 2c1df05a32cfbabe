//! One training step after another on one device.

use super::{TrainError, TrainOptions, TrainingGraph};
use crate::checkpoint::{Pipeline, TrainingState};
use crate::data::Batch;
use crate::device::{Device, DeviceError, Executor};
use crate::diffusion::{Schedule, SchedulerConfig};
use crate::graph::{Graph, MemoryReport, Plan, PlannedNode, TensorType, ValueId};
use crate::model::{SuperResolution, Tensors, UNetConfig, UNetInputs, initial_weights, to_tensors};
use crate::ops::loss_scale::LossScale;
use crate::ops::philox::Stream;
use crate::ops::{Case, concat, q_sample};

/// Stream of the timesteps; the nodes of a graph count from 1.
const TIMESTEP_STREAM: u32 = 0;

/// Streams of which labels are dropped, and of the noise levels of smaller images; the top bit is set in those of initial
/// weights too.
const LABEL_STREAM: u32 = 0x8000_0001;
const AUGMENTATION_STREAM: u32 = 0x8000_0002;

/// The training step of one model and batch size, before it is prepared on a device.
struct Step {
    graph: Graph,
    training: TrainingGraph,
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
    fn build(config: &UNetConfig, options: &TrainOptions) -> Result<Self, TrainError> {
        let mut graph = Graph::new();
        let [height, width] = config.image_size()?;
        let batch = options.batch_size;
        let channels = config.image_channels();
        if config.out_channels != channels {
            return Err(TrainError::Options(format!(
                "the model has {} output channels for {channels} input channels; training predicts noise and needs as many",
                config.out_channels
            )));
        }
        if options.label_dropout > 0.0 && !config.null_class {
            return Err(TrainError::Options(
                "--label-dropout needs a model with classes, the last of which means none; this one has no such class"
                    .to_owned(),
            ));
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
        let training =
            TrainingGraph::new(&mut graph, output, target, options.optimizer(), options.checkpointing)?;
        Ok(Self { graph, training, inputs })
    }
}

/// A model in training.
pub struct Trainer {
    options: TrainOptions,
    config: UNetConfig,
    scheduler: SchedulerConfig,
    schedule: Schedule,
    step: Step,
    executor: Executor,
    /// Steps done.
    done: u64,
}

impl Trainer {
    /// The number of parameters, and the bytes that training takes, without running or allocating anything.
    ///
    /// # Errors
    /// [`TrainError`] for a model that cannot be built.
    pub fn dry_run(config: &UNetConfig, options: &TrainOptions) -> Result<(usize, MemoryReport), TrainError> {
        options.check()?;
        let step = Step::build(config, options)?;
        let plan = Plan::new(&step.graph, &step.training.kept(), |_| Vec::new());
        let parameters = step.graph.parameters().iter().map(|p| step.graph.ty(p.value).len()).sum();
        Ok((parameters, plan.memory()))
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
        options.check()?;
        let schedule = scheduler.schedule()?;
        if let Some(SuperResolution { augmentation, .. }) = config.super_resolution
            && augmentation > schedule.num_train_timesteps()
        {
            return Err(TrainError::Options(format!(
                "--noise-augmentation is {augmentation}; the process has {} steps of noise",
                schedule.num_train_timesteps()
            )));
        }
        let step = Step::build(&config, &options)?;
        let executor = device.prepare(&step.graph, &step.training.kept()).await?;
        let mut trainer = Self { options, config, scheduler, schedule, step, executor, done: 0 };
        match resume {
            None => {
                let weights = initial_weights(&trainer.step.graph, trainer.options.seed);
                trainer.initialize(&weights, &weights)?;
            }
            Some((pipeline, state)) => {
                let Self { step: Step { graph, training, .. }, executor, .. } = &mut trainer;
                training.restore(graph, executor, &pipeline.weights, &state)?;
                trainer.done = state.step;
            }
        }
        Ok(trainer)
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
    /// Timesteps are uniform in 0..T (Ho et al. 2020, algorithm 1), drawn from (seed, step, image).
    ///
    /// # Errors
    /// [`TrainError::Device`], also for trouble in earlier steps.
    pub fn step(&mut self, batch: &Batch) -> Result<(), TrainError> {
        self.write_inputs(batch)?;
        self.executor.run()?;
        self.done += 1;
        Ok(())
    }

    /// Trains on one batch, one dispatch after another; see [`Executor::run_each`].
    ///
    /// # Errors
    /// [`TrainError::Device`], also for trouble in earlier steps.
    pub fn step_each(&mut self, batch: &Batch, done: &mut dyn FnMut(usize, &str)) -> Result<(), TrainError> {
        self.write_inputs(batch)?;
        self.executor.run_each(done)?;
        self.done += 1;
        Ok(())
    }

    /// Trains on one batch and gives the calls that `wanted` picks with their contents, for checks and benchmarks of
    /// kernels; on the CPU executor only.
    ///
    /// # Errors
    /// [`TrainError::Options`] on another device.
    pub fn step_capturing(
        &mut self,
        batch: &Batch,
        wanted: &dyn Fn(&PlannedNode) -> bool,
    ) -> Result<Vec<Case>, TrainError> {
        self.write_inputs(batch)?;
        let Executor::Cpu(executor) = &mut self.executor else {
            return Err(TrainError::Options("calls are captured on --device cpu only".to_owned()));
        };
        let cases = executor.run_capturing(wanted);
        self.done += 1;
        Ok(cases)
    }

    /// The plan of a step.
    pub fn plan(&self) -> &Plan {
        self.executor.plan()
    }

    fn write_inputs(&mut self, batch: &Batch) -> Result<(), TrainError> {
        let (steps, inputs) = (self.schedule.num_train_timesteps(), self.step.inputs);
        // The generator counts steps in 32 bits; a run of four billion steps repeats its noise.
        let stream =
            Stream { seed: self.options.seed, step: self.done as u32, stream: TIMESTEP_STREAM, sample: 0 };
        let timesteps: Vec<usize> = (0..self.options.batch_size)
            .map(|n| {
                let u = f64::from(Stream { sample: n as u32, ..stream }.uniform(0));
                ((u * steps as f64) as usize).min(steps - 1)
            })
            .collect();
        let coefficients: Vec<f32> = timesteps
            .iter()
            .flat_map(|&t| self.schedule.q_sample_coefficients(t, self.scheduler.prediction_type))
            .map(|value| value as f32)
            .collect();
        let timesteps: Vec<f32> = timesteps.into_iter().map(|t| t as f32).collect();
        let executor = &mut self.executor;
        executor.write(inputs.x_start, &batch.images)?;
        executor.write(inputs.coefficients, &coefficients)?;
        executor.write(inputs.timesteps, &timesteps)?;
        if let Some(labels) = inputs.class_labels {
            let null_class = self.config.null_class();
            let is_dropped = |n: usize| {
                let stream = Stream { stream: LABEL_STREAM, sample: n as u32, ..stream };
                f64::from(stream.uniform(0)) < self.options.label_dropout
            };
            let dropped = |(n, &label): (usize, &u32)| null_class.filter(|_| is_dropped(n)).unwrap_or(label);
            executor.write(labels, &batch.labels.iter().enumerate().map(dropped).collect::<Vec<u32>>())?;
        }
        if let (Some([low, low_coefficients]), Some(model)) = (inputs.low, self.config.super_resolution) {
            let [height, width] = self.config.image_size()?;
            let channels = self.config.image_channels();
            let shrunk = model.shrink(&batch.images, [self.options.batch_size, height, width, channels]);
            executor.write(low, &model.enlarge(&shrunk, channels, height))?;
            let coefficients = |n: usize| {
                let stream = Stream { stream: AUGMENTATION_STREAM, sample: n as u32, ..stream };
                let levels = model.augmentation + 1;
                let level = ((f64::from(stream.uniform(0)) * levels as f64) as usize).min(model.augmentation);
                let alpha_cumprod = self.schedule.alphas_cumprod_after(level);
                [alpha_cumprod.sqrt(), (1.0 - alpha_cumprod).sqrt(), 0.0, 0.0].map(|value| value as f32)
            };
            let factors: Vec<f32> = (0..self.options.batch_size).flat_map(coefficients).collect();
            executor.write(low_coefficients, &factors)?;
        }
        executor.write(inputs.key_step_sample, &stream.key_step_sample())?;
        let schedule = self.options.optimizer().adamw.schedule(
            self.done + 1,
            self.options.learning_rate_at(self.done),
            self.options.ema_decay_at(self.done),
        );
        self.step.training.write_schedule(executor, schedule)?;
        Ok(())
    }

    /// Loss of the last step.
    ///
    /// # Errors
    /// [`TrainError::Device`]
    pub async fn loss(&mut self) -> Result<f32, TrainError> {
        Ok(self.executor.read(self.step.training.loss).await?[0])
    }

    /// Where loss scaling stands; `None` for a precision that needs none.
    ///
    /// # Errors
    /// [`TrainError::Device`]
    pub async fn loss_scale(&mut self) -> Result<Option<LossScale>, TrainError> {
        Ok(self.step.training.read_loss_scale(&mut self.executor).await?)
    }

    async fn read(&mut self, packed: &[ValueId]) -> Result<Tensors, TrainError> {
        let contents = self.step.training.read(&self.step.graph, &mut self.executor, packed).await?;
        Ok(to_tensors(&self.step.graph, &contents))
    }

    /// The model with its averaged weights, as others use it.
    ///
    /// # Errors
    /// [`TrainError::Device`]
    pub async fn pipeline(&mut self) -> Result<Pipeline, TrainError> {
        let weights = self.read(&self.step.training.ema.clone()).await?;
        Ok(Pipeline { unet: self.config.clone(), scheduler: self.scheduler.clone(), weights })
    }

    /// What a resumed run needs beside the pipeline.
    ///
    /// # Errors
    /// [`TrainError::Device`]
    pub async fn state(&mut self) -> Result<TrainingState, TrainError> {
        let training = self.step.training.clone();
        Ok(TrainingState {
            step: self.done,
            options: self.options.to_json()?,
            weights: self.read(&training.weights).await?,
            first_moment: self.read(&training.first_moment).await?,
            second_moment: self.read(&training.second_moment).await?,
            loss_scale: self.loss_scale().await?,
        })
    }
}
