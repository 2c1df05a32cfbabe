//! Training a noise-conditional classifier, for classifier guidance (Dhariwal and Nichol 2021, section 4).

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::quartiles::mean_by_quartile;
use super::resume::{changes, check_resume, checkpoint_to_resume};
use super::run::{Saved, Training, go_on};
use super::{Event, Outcome, Run, TimestepSampling, TrainError, TrainingGraph, timestep_sampler};
use crate::checkpoint::{self, Classifier, ClassifierConfig, TrainingState};
use crate::data::{Batch, Dataset, Fingerprint};
use crate::device::{Device, Executor};
use crate::diffusion::{Schedule, SchedulerConfig};
use crate::graph::{Graph, GraphError, Phase, TensorType, ValueId};
use crate::log::Log;
use crate::model::{Precision, UNetInputs, from_tensors, initial_weights};
use crate::ops::cross_entropy::most_likely_class;
use crate::ops::loss_scale::LossScale;
use crate::ops::philox::Stream;
use crate::ops::{cross_entropy, q_sample, weighted_mean};

/// Images that a classifier is measured with, and how many of them at once.
const MEASURED_IMAGES: usize = 1024;
const MEASURED_BATCH: usize = 64;

/// The noised images and the network: what training and measuring share.
struct Network {
    /// Images `[N, H, W, C]`.
    x_start: ValueId,
    /// Rows of factors for q_sample `[N, 4]`.
    coefficients: ValueId,
    /// Timesteps `[N]`.
    timesteps: ValueId,
    /// The generator's key `[4]`.
    key_step_sample: ValueId,
    /// `[N, classes]`
    logits: ValueId,
}

impl Network {
    /// `trains` says whether there is dropout.
    fn build(
        graph: &mut Graph,
        config: &ClassifierConfig,
        batch: usize,
        precision: Precision,
        trains: bool,
    ) -> Result<Self, TrainError> {
        let encoder = &config.encoder;
        let [height, width] = encoder.image_size()?;
        let x_start = graph.input("x_start", TensorType::f32([batch, height, width, encoder.in_channels]));
        let coefficients = graph.input("coefficients", TensorType::f32([batch, 4]));
        let timesteps = graph.input("timesteps", TensorType::f32([batch]));
        let key_step_sample = graph.input("key_step_sample", TensorType::u32([4]));
        let (sample, _) =
            graph.scoped("q_sample", |graph| q_sample(graph, x_start, coefficients, key_step_sample))?;
        let key = trains.then_some(key_step_sample);
        let inputs = UNetInputs { sample, timesteps, class_labels: None, key_step_sample: key };
        let logits = precision.classifier(graph, encoder, config.num_classes, inputs)?.logits;
        Ok(Self { x_start, coefficients, timesteps, key_step_sample, logits })
    }

    /// Sets images, timesteps and the noise that `stream` names.
    fn write(
        &self,
        executor: &mut Executor,
        schedule: &Schedule,
        images: &[f32],
        timesteps: &[usize],
        stream: Stream,
    ) -> Result<(), TrainError> {
        let factors = |&t: &usize| {
            let abar = schedule.alphas_cumprod(t);
            [abar.sqrt(), (1.0 - abar).sqrt(), 0.0, 0.0].map(|factor| factor as f32)
        };
        executor.write(self.x_start, images)?;
        executor.write(self.coefficients, &timesteps.iter().flat_map(factors).collect::<Vec<f32>>())?;
        executor.write(self.timesteps, &timesteps.iter().map(|&t| t as f32).collect::<Vec<f32>>())?;
        Ok(executor.write(self.key_step_sample, &stream.key_step_sample())?)
    }
}

/// A classifier in training.
struct Trainer<'a> {
    run: &'a Run,
    held_out: Option<&'a Arc<dyn Dataset>>,
    config: ClassifierConfig,
    schedule: Schedule,
    graph: Graph,
    network: Network,
    labels: ValueId,
    training: TrainingGraph,
    executor: Executor,
    /// Timesteps of the images of the last step.
    timesteps: Vec<usize>,
    done: u64,
}

/// Trains a classifier: the encoder of `run.config`, with cross-entropy, on images noised to timesteps uniform in 0..T.
///
/// Its accuracy is measured every `run.sample_every` steps on images of `held_out`, or of the training set.
///
/// # Errors
/// [`TrainError`]; checkpoints written before stay whole.
pub async fn train_classifier(
    run: &Run,
    held_out: Option<&Arc<dyn Dataset>>,
    stop: &AtomicBool,
    report: &mut (dyn FnMut(Event) + Send),
) -> Result<Outcome, TrainError> {
    train_on(run, held_out, stop, report).await.map_err(|error| error.of_run(&run.output))
}

async fn train_on(
    run: &Run,
    held_out: Option<&Arc<dyn Dataset>>,
    stop: &AtomicBool,
    report: &mut (dyn FnMut(Event) + Send),
) -> Result<Outcome, TrainError> {
    run.options.check()?;
    run.check_images()?;
    run.check_host_memory()?;
    if !run.resume {
        run.dataset.check()?;
    }
    let num_classes = run.dataset.classes().len();
    if num_classes < 2 {
        return Err(TrainError::Options(format!(
            "{} has {num_classes} classes; a classifier needs images of at least two",
            run.dataset.name()
        )));
    }
    let config = ClassifierConfig { num_classes, encoder: run.config.clone() };
    let mut resume = None;
    let newest = checkpoint_to_resume(run)?;
    let dataset = Fingerprint::of(run.dataset.as_ref())?;
    if let Some(folder) = newest {
        let (classifier, state) = (Classifier::load(&folder)?, TrainingState::load(&folder)?);
        let of_schedule = changes(&classifier.scheduler, &run.scheduler);
        let of_model = [changes(&classifier.config, &config), of_schedule].concat();
        check_resume(run, &dataset, &of_model, &state)?;
        resume = Some((classifier, state, folder));
    }
    let mut graph = Graph::new();
    let options = &run.options;
    let batch = options.images_at_once();
    let network = Network::build(&mut graph, &config, batch, options.precision, true)?;
    let labels = graph.input("class_labels", TensorType::u32([batch]));
    let weights = graph.input("weights", TensorType::f32([batch]));
    let (loss, per_sample) = graph.in_phase(Phase::Loss, |graph| {
        let per_sample = cross_entropy(graph, network.logits, labels)?;
        Ok::<_, GraphError>((weighted_mean(graph, per_sample, weights)?, per_sample))
    })?;
    let training =
        TrainingGraph::new(&mut graph, loss, &[per_sample], options.optimizer(), options.checkpointing)?;
    let mut executor = run.device.prepare(&graph, &training.read_back()).await?;
    let mut saved = None;
    match resume {
        None => {
            let weights = initial_weights(&graph, options.seed);
            training.initialize(&graph, &mut executor, &weights, &weights)?;
        }
        Some((classifier, state, folder)) => {
            training.restore(&graph, &mut executor, &classifier.weights, &state)?;
            saved = Some(Saved { step: state.step, folder });
        }
    }
    let schedule = run.scheduler.schedule()?;
    // so that the losses of the micro-batches add up to that of the batch
    executor.write(weights, &vec![batch as f32 / options.batch_size as f32; batch])?;
    let done = saved.as_ref().map_or(0, |saved| saved.step);
    let mut trainer = Trainer {
        run,
        held_out,
        config,
        schedule,
        graph,
        network,
        labels,
        training,
        executor,
        timesteps: Vec::new(),
        done,
    };
    go_on(run, &mut trainer, saved, dataset, stop, report).await
}

impl Trainer<'_> {
    /// The numbers that the next step draws.
    fn stream(&self) -> Stream {
        timestep_sampler::stream(self.run.options.seed, self.done)
    }

    /// Draws the timesteps of the next step.
    fn draw_timesteps(&mut self) {
        let (steps, count) = (self.schedule.num_train_timesteps(), self.run.options.batch_size);
        let stream = self.stream();
        (self.timesteps, _) = timestep_sampler::draw(TimestepSampling::Uniform, None, steps, count, stream);
    }

    /// Writes what belongs to some of the batch's images.
    fn write_images(&mut self, batch: &Batch, images: Range<usize>) -> Result<(), TrainError> {
        let elements = batch.images.len() / self.run.options.batch_size;
        let pixels = &batch.images[images.start * elements..images.end * elements];
        let stream = Stream { sample: images.start as u32, ..self.stream() };
        let timesteps = &self.timesteps[images.clone()];
        self.network.write(&mut self.executor, &self.schedule, pixels, timesteps, stream)?;
        Ok(self.executor.write(self.labels, batch.labels.get(images).unwrap_or_default())?)
    }

    async fn classifier(&mut self) -> Result<Classifier, TrainError> {
        let weights = self.training.read_ema(&self.graph, &mut self.executor).await?;
        Ok(Classifier { config: self.config.clone(), scheduler: self.run.scheduler.clone(), weights })
    }
}

impl Training for Trainer<'_> {
    fn done(&self) -> u64 {
        self.done
    }
    fn bytes(&self) -> usize {
        self.executor.memory().total()
    }
    fn step(&mut self, batch: &Batch) -> Result<(), TrainError> {
        let (schedule, extra_decays) = self.run.options.schedule_at(self.done);
        self.training.write_schedule(&mut self.executor, schedule, &extra_decays)?;
        self.draw_timesteps();
        for (index, images) in self.run.options.micro_batches().enumerate() {
            self.write_images(batch, images)?;
            self.training.micro_batches.run_unless_last(&mut self.executor, index)?;
        }
        self.executor.run()?;
        self.done += 1;
        Ok(())
    }
    async fn skipped_steps(&mut self) -> Result<u64, TrainError> {
        Ok(self.training.read_skipped_steps(&mut self.executor).await?)
    }
    async fn bad_parameter(&mut self) -> Result<Option<String>, TrainError> {
        Ok(self.training.bad_parameter(&self.graph, &mut self.executor).await?)
    }
    fn replay(
        &mut self,
        step: u64,
        batch: &Batch,
        (index, images): (usize, Range<usize>),
    ) -> Result<&mut Executor, TrainError> {
        self.done = step.saturating_sub(1);
        self.draw_timesteps();
        self.write_images(batch, images)?;
        self.training.micro_batches.begin(&mut self.executor, index)?;
        Ok(&mut self.executor)
    }
    async fn observe(&mut self) -> Result<(), TrainError> {
        Ok(())
    }
    async fn loss(&mut self) -> Result<f32, TrainError> {
        Ok(self.training.read_loss(&mut self.executor).await?)
    }
    async fn loss_quartiles(&mut self) -> Result<[Option<f32>; 4], TrainError> {
        let losses = self.executor.read(self.training.per_sample[0]).await?;
        let losses: Vec<f64> = losses.into_iter().map(f64::from).collect();
        Ok(mean_by_quartile(&self.timesteps, &losses, self.schedule.num_train_timesteps()))
    }
    async fn gradient_norm(&mut self) -> Result<f32, TrainError> {
        Ok(self.training.read_gradient_norm(&mut self.executor).await?)
    }
    async fn loss_scale(&mut self) -> Result<Option<LossScale>, TrainError> {
        Ok(self.training.read_loss_scale(&mut self.executor).await?)
    }
    async fn save(&mut self, output: &Path, dataset: &Fingerprint) -> Result<PathBuf, TrainError> {
        let classifier = self.classifier().await?;
        let Self { run, graph, training, executor, done, .. } = self;
        let state = TrainingState {
            dataset: Some(dataset.clone()),
            ..training.read_state(graph, executor, &run.options, *done).await?
        };
        Ok(checkpoint::save(output, &state, |folder| classifier.write(folder))?)
    }
    async fn show(
        &mut self,
        run: &Run,
        _log: &mut Log,
        report: &mut (dyn FnMut(Event) + Send),
    ) -> Result<(), TrainError> {
        let dataset = self.held_out.unwrap_or(&run.dataset).as_ref();
        let quartiles = accuracy(&run.device, &self.classifier().await?, dataset, run.options.seed).await?;
        report(Event::Accuracy { quartiles, is_held_out: self.held_out.is_some() });
        Ok(())
    }
}

/// Share of images that are given their class, for timesteps uniform in each quarter of 0..T, the least noisy first.
///
/// Measured on up to 1024 images of `dataset`, evenly taken, each noised once in each quarter.
///
/// # Errors
/// [`TrainError`] for images that do not fit the classifier.
pub async fn accuracy(
    device: &Device,
    classifier: &Classifier,
    dataset: &dyn Dataset,
    seed: u64,
) -> Result<[f64; 4], TrainError> {
    let Classifier { config, scheduler, weights } = classifier;
    let schedule = SchedulerConfig::schedule(scheduler)?;
    let steps = schedule.num_train_timesteps();
    let mut graph = Graph::new();
    let network = Network::build(&mut graph, config, MEASURED_BATCH, Precision::F32, false)?;
    let weights = from_tensors(&graph, weights)?;
    let mut executor = device.prepare(&graph, &[network.logits]).await?;
    for (parameter, data) in graph.parameters().iter().zip(&weights) {
        executor.write(parameter.value, data)?;
    }
    let count = dataset.len().min(MEASURED_IMAGES);
    let chosen: Vec<usize> = (0..count).map(|image| image * dataset.len() / count).collect();
    let elements = dataset.image_shape().elements();
    let mut right = [0usize; 4];
    for (index, chosen) in chosen.chunks(MEASURED_BATCH).enumerate() {
        let Batch { mut images, labels } = Batch::read(dataset, chosen.iter().copied())?;
        images.resize(MEASURED_BATCH * elements, 0.0);
        for (quarter, right) in right.iter_mut().enumerate() {
            // No training step has this number.
            let stream = timestep_sampler::stream(seed, u64::from(u32::MAX) - quarter as u64);
            let stream = Stream { sample: (index * MEASURED_BATCH) as u32, ..stream };
            let timestep = |n: usize| {
                let u = f64::from(Stream { sample: stream.sample + n as u32, ..stream }.uniform(0));
                (((quarter as f64 + u) / 4.0 * steps as f64) as usize).min(steps - 1)
            };
            let timesteps: Vec<usize> = (0..MEASURED_BATCH).map(timestep).collect();
            network.write(&mut executor, &schedule, &images, &timesteps, stream)?;
            executor.run()?;
            let logits = executor.read(network.logits).await?;
            let is_right = |(logits, &label): (&[f32], &u32)| most_likely_class(logits) == label as usize;
            *right += logits.chunks(config.num_classes).zip(&labels).filter(|&pair| is_right(pair)).count();
        }
    }
    Ok(right.map(|right| right as f64 / count as f64))
}
