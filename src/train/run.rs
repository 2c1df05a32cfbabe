//! A whole training run: from its options to its last checkpoint.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::divergence::DivergenceCheck;
use super::resume::{check_resume, checkpoint_to_resume};
use super::sample_grid::SAMPLES_FOLDER;
use super::{CheckpointEvery, LargestBatch, Task, TrainError, TrainOptions, Trainer, largest_batch};
use crate::checkpoint::{self, BaseModel, TrainingState};
use crate::data::{BATCHES_AT_ONCE, DataError, Dataset, Fingerprint, Loader, LoaderOptions};
use crate::device::{Device, DeviceError};
use crate::image_size::{image_in_words, in_words};
use crate::log::{Log, Scalars};
use crate::memory;
use crate::network::Tensors;
use crate::ops::loss_scale::LossScale;
use crate::output::{Grid, remove_leftovers, write_text};
use crate::pipeline::Pipeline;

/// A training run.
pub struct Run {
    /// Where it runs.
    pub device: Device,
    /// The images.
    pub dataset: Arc<dyn Dataset>,
    /// The settings.
    pub options: TrainOptions,
    /// The weights that a new run starts from; `None` for fresh ones.
    pub initial_weights: Option<Tensors>,
    /// The model of a new run that trains adapters of it: checkpoints hold the adapters alone.
    pub base: Option<BaseModel>,
    /// Folder of checkpoints and samples.
    pub output: PathBuf,
    /// Whether to go on from the newest checkpoint in `output`, if there is one.
    pub resume: bool,
    /// When checkpoints are written; one is also written at the end.
    pub checkpoint_every: CheckpointEvery,
    /// How many of the newest checkpoints stay.
    pub checkpoints_to_keep: usize,
    /// Steps between sample grids, or measurements of a classifier; 0 for none.
    pub sample_every: u64,
    /// What is written into `output` as [`SETTINGS_FILE`]: the settings as the program was given them.
    pub settings: Option<String>,
}

/// The file in the output folder of a run that holds its settings.
pub const SETTINGS_FILE: &str = "run.toml";

/// What happens during a run.
#[derive(Clone, Debug)]
pub enum Event {
    /// Training starts after this many steps, with this much memory.
    Started {
        /// Steps done in earlier sessions.
        step: u64,
        /// Bytes of all buffers.
        bytes: usize,
        /// Number of parameters that are trained.
        trained: usize,
        /// Number of those that are not.
        fixed: usize,
    },
    /// Some steps are done.
    Progress {
        /// What was measured, of the last step; the speed since the last event.
        scalars: Scalars,
        /// Where loss scaling stands; `None` for a precision that needs none.
        loss_scale: Option<LossScale>,
    },
    /// A checkpoint was written.
    Checkpoint(PathBuf),
    /// Something outside the training went wrong, in words; it goes on.
    Warning(String),
    /// A sample grid was written.
    Samples {
        /// The file.
        path: PathBuf,
        /// What is in it.
        grid: Grid,
    },
    /// A classifier was measured.
    Accuracy {
        /// Share of images given their class, for timesteps of each quarter of 0..T, the least noisy first.
        quartiles: [f64; 4],
        /// Whether the images were held out from training.
        is_held_out: bool,
    },
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished {
        /// The last checkpoint.
        checkpoint: PathBuf,
    },
    /// It was asked to stop, and saved.
    Interrupted {
        /// The last checkpoint.
        checkpoint: PathBuf,
        /// Steps done.
        step: u64,
    },
}

/// The newest checkpoint.
pub(super) struct Saved {
    pub(super) step: u64,
    pub(super) folder: PathBuf,
}

/// The loss is read back this often: each reading waits for the device.
const LOSS_EVERY: u64 = 10;

/// Trains `task` until `run.options.steps` steps are done or `stop` becomes true, and saves.
///
/// # Errors
/// [`TrainError`]; checkpoints written before stay whole, and where the cause is outside the training, such as an image
/// that cannot be read, the steps that are done are saved first.
pub async fn train<T: Task>(
    run: &Run,
    task: T,
    stop: &AtomicBool,
    report: &mut (dyn FnMut(Event) + Send),
) -> Result<Outcome, TrainError> {
    train_on(run, task, stop, report).await.map_err(|error| error.of_run(&run.output))
}

async fn train_on<T: Task>(
    run: &Run,
    task: T,
    stop: &AtomicBool,
    report: &mut (dyn FnMut(Event) + Send),
) -> Result<Outcome, TrainError> {
    run.options.check()?;
    run.check_fit(&task)?;
    run.check_host_memory()?;
    let mut saved = None;
    let mut resume = None;
    let newest = checkpoint_to_resume(run)?;
    let dataset = Fingerprint::of(run.dataset.as_ref())?;
    let mut base = run.base.clone();
    if let Some(folder) = newest {
        base = BaseModel::of_checkpoint(&folder)?;
        let pipeline = Pipeline::load_with(&folder, task.network())?;
        let state = TrainingState::load(&folder)?;
        check_resume(run, &task, &dataset, &pipeline, &state)?;
        saved = Some(Saved { step: state.step, folder });
        resume = Some((pipeline, state));
    }
    let is_new = resume.is_none();
    if task.network().adapted().is_some() && base.is_none() {
        let message =
            "the run trains adapters, and `base` does not say of which model; checkpoints need that";
        return Err(TrainError::Options(message.to_owned()));
    }
    let trainer = Trainer::new(&run.device, task.clone(), run.options.clone(), resume).await;
    let mut trainer = trainer.map_err(|error| with_largest_batch(run, &task, error))?;
    if let Some(weights) = run.initial_weights.as_ref().filter(|_| is_new) {
        trainer.set_weights(weights)?;
    }
    go_on(run, &mut trainer, Known { saved, dataset, base }, stop, report).await
}

/// What is known when a run begins or goes on.
struct Known {
    saved: Option<Saved>,
    dataset: Fingerprint,
    base: Option<BaseModel>,
}

/// The error of a plan that is too large for the device, with the largest batch that is not.
fn with_largest_batch<T: Task>(run: &Run, task: &T, error: TrainError) -> TrainError {
    let is_of_size = matches!(
        error,
        TrainError::Device(
            DeviceError::HostMemory(_)
                | DeviceError::OutOfMemory { .. }
                | DeviceError::BindingTooLarge { .. }
        )
    );
    let asked = run.options.images_at_once();
    match is_of_size.then(|| largest_batch(run, task, run.device.free_memory())) {
        // What a GPU has left is not known: there a batch may be too large that no limit speaks against.
        Some(Ok(LargestBatch { batch_size, .. })) if batch_size < asked => {
            TrainError::DoesNotFit { error: Box::new(error), largest: batch_size }
        }
        _ => error,
    }
}

/// A run on its way.
struct Course<'a, T: Task> {
    run: &'a Run,
    trainer: &'a mut Trainer<T>,
    dataset: Fingerprint,
    base: Option<BaseModel>,
    log: Log,
    divergence: DivergenceCheck,
    saved: Option<Saved>,
    report: &'a mut (dyn FnMut(Event) + Send),
}

/// Why a run ends before its last step.
enum Halt {
    /// What is trained may be of no use any more.
    Inside(TrainError),
    /// The steps that are done are as good as any.
    Beside(TrainError),
}

impl<E: Into<TrainError>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Inside(error.into())
    }
}

/// Trains to the last step, or until `stop` becomes true, and saves.
async fn go_on<T: Task>(
    run: &Run,
    trainer: &mut Trainer<T>,
    Known { saved, dataset, base }: Known,
    stop: &AtomicBool,
    report: &mut (dyn FnMut(Event) + Send),
) -> Result<Outcome, TrainError> {
    checkpoint::create_folder(&run.output)?;
    let _occupied = checkpoint::occupy(&run.output)?;
    remove_leftovers(&run.output);
    remove_leftovers(&run.output.join(SAMPLES_FOLDER));
    if let Some(settings) = &run.settings {
        write_text(&run.output.join(SETTINGS_FILE), settings)?;
    }
    let log = Log::open(&run.output, trainer.done());
    let divergence = DivergenceCheck::default();
    let mut course = Course { run, trainer, dataset, base, log, divergence, saved, report };
    let outcome = match course.steps(stop).await {
        Ok(()) => course.save_last().await,
        Err(Halt::Inside(error)) => Err(error),
        Err(Halt::Beside(error)) => {
            // Why the run ends is what is to be reported, also where it cannot be saved.
            if let Err(unsaved) = course.save_last().await {
                course.say(format!("the steps since the last checkpoint could not be saved: {unsaved}"));
                course.record_dataset();
            }
            Err(error)
        }
    };
    course.warn();
    let checkpoint =
        outcome.map_err(|error| error.halted(course.saved.as_ref().map(|saved| saved.folder.clone())))?;
    let step = course.trainer.done();
    Ok(if step < run.options.steps {
        Outcome::Interrupted { checkpoint, step }
    } else {
        Outcome::Finished { checkpoint }
    })
}

impl<T: Task> Course<'_, T> {
    /// Trains to the last step, or until `stop` becomes true.
    async fn steps(&mut self, stop: &AtomicBool) -> Result<(), Halt> {
        let run = self.run;
        let [trained, fixed] = self.trainer.parameters();
        let bytes = self.trainer.memory().total();
        (self.report)(Event::Started { step: self.trainer.done(), bytes, trained, fixed });
        self.warn();
        let mut loader = run.loader(self.trainer.done()).map_err(TrainError::from)?;
        let mut since = (Instant::now(), self.trainer.done());
        let mut saved_at = Instant::now();
        while self.trainer.done() < run.options.steps && !stop.load(Ordering::Relaxed) {
            let batch = match loader.next() {
                Ok(batch) => batch,
                Err(error) => return Err(self.bad_data(error, loader.failed_image())),
            };
            self.trainer.step(&batch)?;
            self.trainer.observe().await?;
            let done = self.trainer.done();
            let is_last = done == run.options.steps;
            let checkpoint_is_due = run.checkpoint_every.is_due(done, saved_at.elapsed()) || is_last;
            let samples_are_due = run.sample_every > 0 && (done.is_multiple_of(run.sample_every) || is_last);
            if self.divergence.is_unknown() {
                self.divergence.check(run, self.trainer, self.saved.as_ref()).await?;
            }
            if done.is_multiple_of(LOSS_EVERY) || checkpoint_is_due {
                let (loss, loss_scale) =
                    self.divergence.check(run, self.trainer, self.saved.as_ref()).await?;
                let images = (done - since.1) as f64 * run.options.batch_size as f64;
                let images_per_second = images / since.0.elapsed().as_secs_f64();
                let scalars = Scalars {
                    step: done,
                    loss,
                    loss_quartiles: self.trainer.loss_quartiles().await?,
                    gradient_norm: Some(self.trainer.gradient_norm().await?),
                    learning_rate: run.options.learning_rate_at(done - 1),
                    images_per_second,
                };
                self.log.scalars(&scalars);
                (self.report)(Event::Progress { scalars, loss_scale });
                since = (Instant::now(), done);
            }
            // First, so that a run that is killed in between draws them again. If they cannot be drawn, the step is
            // saved all the same.
            let shown = if samples_are_due { self.show().await } else { Ok(()) };
            if checkpoint_is_due && !self.divergence.is_doubtful() {
                self.save().await?;
                saved_at = Instant::now();
            }
            shown.map_err(Halt::Beside)?;
            self.warn();
            if checkpoint_is_due || samples_are_due {
                // Sampling and saving are not counted as training time.
                since = (Instant::now(), done);
            }
        }
        Ok(())
    }

    /// Why a run ends whose images cannot be read; the image that is at fault is marked, so that the run may go on
    /// without it.
    fn bad_data(&mut self, error: DataError, image: Option<usize>) -> Halt {
        if let Some(image) = image {
            self.dataset.mark_bad(self.run.dataset.as_ref(), image);
        }
        let done = self.trainer.done();
        if self.saved.as_ref().is_some_and(|saved| saved.step == done) {
            self.record_dataset();
        }
        // Before the first step there is nothing to save.
        if done == 0 { Halt::Inside(error.into()) } else { Halt::Beside(error.into()) }
    }

    /// Writes what is known of the images by now into the last checkpoint, which was saved before.
    fn record_dataset(&mut self) {
        let Some(saved) = &self.saved else { return };
        if let Err(error) = checkpoint::record_dataset(&saved.folder, &self.dataset) {
            self.say(format!("the bad image could not be noted in {}: {error}", saved.folder.display()));
        }
    }

    fn say(&mut self, text: String) {
        (self.report)(Event::Warning(text));
    }

    /// Reports what the averaged weights can do. Pictures that cannot be written are left out.
    async fn show(&mut self) -> Result<(), TrainError> {
        let (step, averaged) = (self.trainer.done(), self.trainer.pipeline().await?);
        match self.trainer.task().show(self.run, step, &averaged, &mut self.log, self.report).await {
            Err(error @ (TrainError::Output(_) | TrainError::Checkpoint(_))) => {
                (self.report)(Event::Warning(format!("no samples of step {}: {error}", self.trainer.done())));
                Ok(())
            }
            shown => shown,
        }
    }

    /// Says what went wrong with the logs.
    fn warn(&mut self) {
        if let Some(text) = self.log.take_warning() {
            (self.report)(Event::Warning(text));
        }
    }

    async fn save(&mut self) -> Result<PathBuf, TrainError> {
        self.log.sync();
        let pipeline = self.trainer.pipeline().await?;
        let state = TrainingState { dataset: Some(self.dataset.clone()), ..self.trainer.state().await? };
        let folder = checkpoint::save(&self.run.output, &state, |folder| match &self.base {
            Some(base) => pipeline.write_adapters(folder, base),
            None => pipeline.write(folder),
        })?;
        (self.report)(Event::Checkpoint(folder.clone()));
        self.saved = Some(Saved { step: self.trainer.done(), folder: folder.clone() });
        checkpoint::prune(&self.run.output, self.run.checkpoints_to_keep, &folder)?;
        Ok(folder)
    }

    /// Saves the last step, unless it is saved, and gives its folder.
    async fn save_last(&mut self) -> Result<PathBuf, TrainError> {
        match &self.saved {
            Some(saved) if saved.step == self.trainer.done() => Ok(saved.folder.clone()),
            saved => {
                self.divergence.check(self.run, self.trainer, saved.as_ref()).await?;
                self.save().await
            }
        }
    }
}

impl Run {
    /// The batches from step `first_step` on.
    pub(super) fn loader(&self, first_step: u64) -> Result<Loader, DataError> {
        let options = LoaderOptions {
            batch_size: self.options.batch_size,
            seed: self.options.seed,
            first_step,
            random_flip: self.options.random_flip,
            random_shift: self.options.random_shift,
        };
        Loader::new(self.dataset.clone(), options)
    }

    /// Refuses batches that the host has no memory for. The device's part is checked where its buffers are made.
    pub(super) fn check_host_memory(&self) -> Result<(), TrainError> {
        let images = self.options.batch_size;
        let elements = self.dataset.image_shape().elements();
        let bytes = elements.saturating_mul(4 * BATCHES_AT_ONCE).saturating_mul(images);
        Ok(memory::check(bytes, || {
            format!("{BATCHES_AT_ONCE} batches of {images} images, which are read ahead of the training,")
        })?)
    }

    /// Refuses images that do not go with the task's network, or that cannot be read.
    pub(super) fn check_fit(&self, task: &impl Task) -> Result<(), TrainError> {
        self.check_images(task)?;
        if !self.resume || checkpoint::newest(&self.output)?.is_none() {
            self.dataset.check()?;
        }
        task.check_dataset(self.dataset.as_ref())
    }

    /// Refuses images of another shape than the network's.
    fn check_images(&self, task: &impl Task) -> Result<(), TrainError> {
        let shape = self.dataset.image_shape();
        let [height, width, channels] = task.network().image()?;
        let shift = self.options.random_shift;
        if shift >= height.min(width) {
            let message = format!(
                "`random_shift` is {shift}; the images are {}, of which something must remain",
                in_words([height, width])
            );
            return Err(TrainError::setting(&["random_shift"], message));
        }
        if [shape.height, shape.width, shape.channels] == [height, width, channels] {
            return Ok(());
        }
        Err(TrainError::Shape {
            dataset: self.dataset.name().to_owned(),
            found: image_in_words([shape.height, shape.width, shape.channels]),
            expected: image_in_words([height, width, channels]),
        })
    }
}
