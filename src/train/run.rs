//! A whole training run: from its options to its last checkpoint.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::sample_grid::{self, SAMPLES_FOLDER};
use super::soundness::Soundness;
use super::{CheckpointEvery, TrainError, TrainOptions, Trainer};
use crate::checkpoint::{self, CheckpointError, TrainingState};
use crate::data::{Batch, DataError, Dataset, Fingerprint, Loader, LoaderOptions};
use crate::device::{Device, Executor};
use crate::diffusion::SchedulerConfig;
use crate::log::{Log, Scalars};
use crate::model::UNetConfig;
use crate::ops::loss_scale::LossScale;
use crate::output::{Grid, remove_leftovers, write_text};

/// A training run.
pub struct Run {
    /// Where it runs.
    pub device: Device,
    /// The images.
    pub dataset: Arc<dyn Dataset>,
    /// The model.
    pub config: UNetConfig,
    /// The diffusion process.
    pub scheduler: SchedulerConfig,
    /// The settings.
    pub options: TrainOptions,
    /// Folder of checkpoints and samples.
    pub output: PathBuf,
    /// Whether to go on from the newest checkpoint in `output`.
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

/// Trains until `run.options.steps` steps are done or `stop` becomes true, and saves.
///
/// # Errors
/// [`TrainError`]; checkpoints written before stay whole.
pub async fn train(
    run: &Run,
    stop: &AtomicBool,
    report: &mut (dyn FnMut(Event) + Send),
) -> Result<Outcome, TrainError> {
    train_on(run, stop, report).await.map_err(|error| error.of_run(&run.output))
}

async fn train_on(
    run: &Run,
    stop: &AtomicBool,
    report: &mut (dyn FnMut(Event) + Send),
) -> Result<Outcome, TrainError> {
    run.options.check()?;
    check_fit(run)?;
    let mut saved = None;
    let mut resume = None;
    if let Some(folder) = checkpoint_to_resume(run)? {
        let pipeline = checkpoint::Pipeline::load(&folder)?;
        let state = TrainingState::load(&folder)?;
        let mut scheduler = pipeline.scheduler.clone();
        if run.options.learned_schedule && state.learned_schedule.is_some() {
            // The betas are what has been learned; its ends are compared.
            scheduler.trained_betas = None;
        }
        check_resume(run, pipeline.unet == run.config && scheduler == run.scheduler, &state)?;
        saved = Some(Saved { step: state.step, folder });
        resume = Some((pipeline, state));
    }
    let mut trainer =
        Trainer::new(&run.device, run.config.clone(), run.scheduler.clone(), run.options.clone(), resume)
            .await?;
    go_on(run, &mut trainer, saved, stop, report).await
}

/// What [`go_on`] trains: a denoiser or a classifier.
pub(super) trait Training {
    /// Steps done.
    fn done(&self) -> u64;
    /// Bytes of all buffers.
    fn bytes(&self) -> usize;
    /// Trains on one batch.
    fn step(&mut self, batch: &Batch) -> Result<(), TrainError>;
    /// Lets what learns from the losses of the last step learn.
    async fn observe(&mut self) -> Result<(), TrainError>;
    /// Loss of the last step.
    async fn loss(&mut self) -> Result<f32, TrainError>;
    /// Mean loss of the last step by quarter of the timesteps.
    async fn loss_quartiles(&mut self) -> Result<[Option<f32>; 4], TrainError>;
    /// Norm of the gradient in the last step, before it was clipped.
    async fn gradient_norm(&mut self) -> Result<f32, TrainError>;
    /// Where loss scaling stands.
    async fn loss_scale(&mut self) -> Result<Option<LossScale>, TrainError>;
    /// Steps that were skipped, from the first whose gradients were not finite to the last; 0 with loss scaling, which skips
    /// such steps and goes on.
    async fn skipped_steps(&mut self) -> Result<u64, TrainError>;
    /// The first parameter with a number that is not finite, in words.
    async fn bad_parameter(&mut self) -> Result<Option<String>, TrainError>;
    /// Writes the inputs that a micro-batch, its number and its images, of step `step`, counted from 1, had: to run it node by
    /// node with the weights as they are. No step may follow.
    fn replay(
        &mut self,
        step: u64,
        batch: &Batch,
        micro_batch: (usize, Range<usize>),
    ) -> Result<&mut Executor, TrainError>;
    /// Writes a checkpoint and gives its folder.
    async fn save(&mut self, output: &Path, dataset: &Fingerprint) -> Result<PathBuf, TrainError>;
    /// Reports what the averaged weights can do.
    async fn show(
        &mut self,
        run: &Run,
        log: &mut Log,
        report: &mut (dyn FnMut(Event) + Send),
    ) -> Result<(), TrainError>;
}

impl Training for Trainer {
    fn done(&self) -> u64 {
        self.done()
    }
    fn bytes(&self) -> usize {
        self.memory().total()
    }
    fn step(&mut self, batch: &Batch) -> Result<(), TrainError> {
        self.step(batch)
    }
    async fn observe(&mut self) -> Result<(), TrainError> {
        self.observe().await
    }
    async fn loss(&mut self) -> Result<f32, TrainError> {
        self.loss().await
    }
    async fn loss_quartiles(&mut self) -> Result<[Option<f32>; 4], TrainError> {
        self.loss_quartiles().await
    }
    async fn gradient_norm(&mut self) -> Result<f32, TrainError> {
        self.gradient_norm().await
    }
    async fn loss_scale(&mut self) -> Result<Option<LossScale>, TrainError> {
        self.loss_scale().await
    }
    async fn skipped_steps(&mut self) -> Result<u64, TrainError> {
        self.skipped_steps().await
    }
    async fn bad_parameter(&mut self) -> Result<Option<String>, TrainError> {
        self.bad_parameter().await
    }
    fn replay(
        &mut self,
        step: u64,
        batch: &Batch,
        micro_batch: (usize, Range<usize>),
    ) -> Result<&mut Executor, TrainError> {
        self.replay(step, batch, micro_batch)
    }
    async fn save(&mut self, output: &Path, dataset: &Fingerprint) -> Result<PathBuf, TrainError> {
        let pipeline = self.pipeline().await?;
        let state = TrainingState { dataset: Some(dataset.clone()), ..self.state().await? };
        Ok(checkpoint::save(output, &state, |folder| pipeline.write(folder))?)
    }
    async fn show(
        &mut self,
        run: &Run,
        log: &mut Log,
        report: &mut (dyn FnMut(Event) + Send),
    ) -> Result<(), TrainError> {
        sample_grid::draw(run, self, log, report).await
    }
}

/// The newest checkpoint, where the run is to go on from one.
pub(super) fn checkpoint_to_resume(run: &Run) -> Result<Option<PathBuf>, TrainError> {
    match (run.resume, checkpoint::newest(&run.output)?) {
        (true, Some(folder)) => Ok(Some(folder)),
        (false, Some(folder)) => Err(CheckpointError::AlreadyThere { folder }.into()),
        (true, None) => Err(CheckpointError::NothingToResume { folder: run.output.clone() }.into()),
        (false, None) => Ok(None),
    }
}

/// Trains to the last step, or until `stop` becomes true, and saves.
pub(super) async fn go_on(
    run: &Run,
    trainer: &mut impl Training,
    mut saved: Option<Saved>,
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
    let mut dataset = Fingerprint::of(run.dataset.as_ref())?;
    let mut log = Log::open(&run.output, trainer.done())?;
    report(Event::Started { step: trainer.done(), bytes: trainer.bytes() });
    let mut loader = run.loader(trainer.done())?;

    let mut soundness = Soundness::default();
    let mut since = (Instant::now(), trainer.done());
    let mut saved_at = Instant::now();
    while trainer.done() < run.options.steps && !stop.load(Ordering::Relaxed) {
        let batch = match loader.next() {
            Ok(batch) => batch,
            Err(error) => {
                if let Some(image) = loader.failed_image() {
                    dataset.mark_bad(run.dataset.as_ref(), image);
                }
                if trainer.done() == 0 {
                    return Err(error.into());
                }
                let checkpoint = match saved {
                    // that one does not know of the bad image yet
                    Some(saved) if saved.step == trainer.done() => {
                        checkpoint::record_dataset(&saved.folder, &dataset)?;
                        saved.folder
                    }
                    saved => {
                        soundness.check(run, trainer, saved.as_ref()).await?;
                        log.sync()?;
                        save(run, trainer, &dataset, report).await?.folder
                    }
                };
                return Err(TrainError::BadImage { source: error, step: trainer.done(), checkpoint });
            }
        };
        trainer.step(&batch)?;
        trainer.observe().await?;
        let done = trainer.done();
        let is_last = done == run.options.steps;
        let checkpoint_is_due = run.checkpoint_every.is_due(done, saved_at.elapsed()) || is_last;
        let samples_are_due = run.sample_every > 0 && (done.is_multiple_of(run.sample_every) || is_last);
        if soundness.is_unknown() {
            soundness.check(run, trainer, saved.as_ref()).await?;
        }
        if done.is_multiple_of(LOSS_EVERY) || checkpoint_is_due {
            let (loss, loss_scale) = soundness.check(run, trainer, saved.as_ref()).await?;
            let images = (done - since.1) as f64 * run.options.batch_size as f64;
            let images_per_second = images / since.0.elapsed().as_secs_f64();
            let scalars = Scalars {
                step: done,
                loss,
                loss_quartiles: Some(trainer.loss_quartiles().await?),
                gradient_norm: Some(trainer.gradient_norm().await?),
                learning_rate: run.options.learning_rate_at(done - 1),
                images_per_second,
            };
            log.scalars(&scalars)?;
            report(Event::Progress { scalars, loss_scale });
            since = (Instant::now(), done);
        }
        // First, so that a run that is killed in between draws them again. If they cannot be drawn, the step is saved all
        // the same.
        let shown = if samples_are_due { trainer.show(run, &mut log, report).await } else { Ok(()) };
        if checkpoint_is_due && !soundness.is_doubtful() {
            log.sync()?;
            saved = Some(save(run, trainer, &dataset, report).await?);
            saved_at = Instant::now();
        }
        shown?;
        if checkpoint_is_due || samples_are_due {
            // Sampling and saving are not counted as training time.
            since = (Instant::now(), done);
        }
    }
    let checkpoint = match saved {
        Some(saved) if saved.step == trainer.done() => saved.folder,
        saved => {
            soundness.check(run, trainer, saved.as_ref()).await?;
            log.sync()?;
            save(run, trainer, &dataset, report).await?.folder
        }
    };
    Ok(if trainer.done() < run.options.steps {
        Outcome::Interrupted { checkpoint, step: trainer.done() }
    } else {
        Outcome::Finished { checkpoint }
    })
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

    /// Refuses images of another shape than the model's.
    pub(super) fn check_images(&self) -> Result<(), TrainError> {
        let shape = self.dataset.image_shape();
        let [height, width] = self.config.image_size()?;
        let channels = self.config.image_channels();
        let shift = self.options.random_shift;
        if shift >= height.min(width) {
            return Err(TrainError::Options(format!(
                "--random-shift is {shift}; the images are {width}x{height}, of which something must remain"
            )));
        }
        if [shape.height, shape.width, shape.channels] == [height, width, channels] {
            return Ok(());
        }
        let describe = |h: usize, w: usize, c: usize| format!("{w}x{h} with {c} channels");
        Err(TrainError::Shape {
            dataset: self.dataset.name().to_owned(),
            found: describe(shape.height, shape.width, shape.channels),
            expected: describe(height, width, channels),
        })
    }
}

pub(super) fn check_fit(run: &Run) -> Result<(), TrainError> {
    run.check_images()?;
    if !run.resume {
        run.dataset.check()?;
    }
    let classes = run.dataset.classes().len();
    match run.config.classes() {
        Some(embeds) if embeds < classes || classes == 0 => Err(TrainError::Options(format!(
            "the model has num_class_embeds {embeds}, {} has {classes} classes; use --model with a fitting config.json",
            run.dataset.name()
        ))),
        _ => Ok(()),
    }
}

/// Refuses to go on from a checkpoint of another model or with other settings.
pub(super) fn check_resume(run: &Run, is_same_model: bool, state: &TrainingState) -> Result<(), TrainError> {
    if !is_same_model {
        return Err(TrainError::Options(format!(
            "the checkpoint in {} is of another model or noise schedule; give the same --model and schedule, or \
             another --output",
            run.output.display()
        )));
    }
    if let Some(then) = &state.dataset {
        let dataset = Fingerprint::of(run.dataset.as_ref())?;
        if let Some(difference) = then.difference(&dataset, run.dataset.as_ref())? {
            return Err(TrainError::Options(format!(
                "the run in {} was started with other images: they were {then}, now they are {dataset}; {difference}; give \
                 the same --dataset, or another --output",
                run.output.display()
            )));
        }
    }
    // The number of steps may change, and how much is computed twice; anything else would change the course of the run.
    let now = run.options.to_json()?;
    let then = match serde_json::from_value::<TrainOptions>(state.options.clone()) {
        Ok(then) => then.to_json()?,
        Err(_) => state.options.clone(),
    };
    let settings = now
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| !["steps", "checkpointing"].contains(&key.as_str()));
    let changed: Vec<String> = settings
        .filter_map(|(key, now)| {
            let then = then.get(key).unwrap_or(&serde_json::Value::Null);
            (then != now).then(|| format!("{key} was {then}, now it is {now}"))
        })
        .collect();
    if !changed.is_empty() {
        return Err(TrainError::Options(format!(
            "the run in {} was started with other settings; give the same ones to go on exactly: {}",
            run.output.display(),
            changed.join("; ")
        )));
    }
    if state.step >= run.options.steps {
        return Err(TrainError::Options(format!(
            "the run in {} already has {} steps; give a larger --steps to go on",
            run.output.display(),
            state.step
        )));
    }
    Ok(())
}

async fn save(
    run: &Run,
    trainer: &mut impl Training,
    dataset: &Fingerprint,
    report: &mut (dyn FnMut(Event) + Send),
) -> Result<Saved, TrainError> {
    let folder = trainer.save(&run.output, dataset).await?;
    report(Event::Checkpoint(folder.clone()));
    checkpoint::prune(&run.output, run.checkpoints_to_keep, &folder)?;
    Ok(Saved { step: trainer.done(), folder })
}
