//! Training: the step as a graph, the loop, and what is saved.

mod checkpoint_every;
mod classifier;
mod dry_run;
mod graph;
mod micro_batches;
mod objective;
mod options;
mod quartiles;
mod run;
mod sample_grid;
mod soundness;
mod timestep_sampler;
mod trainer;

pub use checkpoint_every::CheckpointEvery;
pub use classifier::{accuracy, train_classifier};
pub use dry_run::{LargestBatch, Limit, largest_batch, time_steps};
pub use graph::{Optimizer, TrainingGraph};
pub use objective::{LossType, Objective};
pub use options::{EmaWarmup, LrSchedule, OptimizerKind, TrainOptions};
pub use run::{Event, Outcome, Run, SETTINGS_FILE, train};
pub use timestep_sampler::{LossSecondMoments, TimestepSampling};
pub use trainer::Trainer;

use std::path::{Path, PathBuf};

use crate::checkpoint::{self, CheckpointError};
use crate::data::DataError;
use crate::device::DeviceError;
use crate::diffusion::ScheduleError;
use crate::graph::GraphError;
use crate::log::LogError;
use crate::model::{ModelError, WeightsError};
use crate::output::OutputError;
use crate::sample::SampleError;

/// A training run that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Options that make no sense.
    #[error("{0}")]
    Options(String),
    /// The data and the model do not fit each other.
    #[error(
        "{dataset} has images of {found}, the model takes {expected}; choose another --model or --dataset"
    )]
    Shape {
        /// Name of the data set.
        dataset: String,
        /// Channels, height and width of its images.
        found: String,
        /// Those of the model.
        expected: String,
    },
    /// The gradients are not numbers any more.
    #[error(
        "step {step} gives numbers that are not finite, first in {place}; checkpoints up to step {last_checkpoint} are kept; \
         try a smaller --learning-rate"
    )]
    NotFinite {
        /// The first such step.
        step: u64,
        /// Module path and kernel; or the parameter or the image that was not finite before the step.
        place: String,
        /// Step of the last checkpoint, 0 for none.
        last_checkpoint: u64,
    },
    /// The loss is far above what it was.
    #[error(
        "the loss has exploded: it is {loss} at step {step} and was about {mean:.4} before; the largest activation is {place}; \
         checkpoints up to step {last_checkpoint} are kept; try a smaller --learning-rate"
    )]
    Exploded {
        /// The step.
        step: u64,
        /// The loss.
        loss: f32,
        /// Its running mean before.
        mean: f64,
        /// The largest number of the forward pass, its module path and kernel.
        place: String,
        /// Step of the last checkpoint, 0 for none.
        last_checkpoint: u64,
    },
    /// Every step overflows in 16 bits.
    #[error(
        "gradients overflow in 16 bits at step {step}, even with the loss scaled by {scale}, first in {place}; checkpoints up \
         to step {last_checkpoint} are kept; try a smaller --learning-rate, or --precision f32"
    )]
    LossScale {
        /// The step.
        step: u64,
        /// The scale.
        scale: f32,
        /// Module path and kernel; or the parameter or the image that was not finite before the step.
        place: String,
        /// Step of the last checkpoint, 0 for none.
        last_checkpoint: u64,
    },
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An image cannot be read, and the run has saved and stopped.
    #[error(
        "{source}; step {step} is saved in {}, and --resume goes on from there, also when the image is gone or left out",
        checkpoint.display()
    )]
    BadImage {
        /// What is wrong.
        source: DataError,
        /// Steps done.
        step: u64,
        /// The last checkpoint.
        checkpoint: PathBuf,
    },
    /// The device cannot go on.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device was lost during a run.
    #[error("{error}; {}", what_is_left(.checkpoint.as_deref()))]
    Lost {
        /// What was running, and the driver's words.
        error: DeviceError,
        /// The newest checkpoint of the run, from before.
        checkpoint: Option<PathBuf>,
    },
    /// The noise schedule makes no sense.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The training step cannot be built.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The weights are of another model.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A checkpoint cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Samples cannot be drawn.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// A log cannot be written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A picture cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// What a run that cannot go on has left, in words.
fn what_is_left(checkpoint: Option<&Path>) -> String {
    match checkpoint {
        Some(folder) => format!("{} is whole, and --resume goes on from it", folder.display()),
        None => "there was no checkpoint yet".to_owned(),
    }
}

impl TrainError {
    /// Adds to the error of a lost device what the run in the folder `output` has left.
    fn of_run(self, output: &Path) -> Self {
        match self {
            Self::Device(error @ DeviceError::Lost { .. })
            | Self::Sample(SampleError::Device(error @ DeviceError::Lost { .. })) => {
                // What cannot be read now is not promised.
                Self::Lost { error, checkpoint: checkpoint::newest(output).ok().flatten() }
            }
            other => other,
        }
    }
}
