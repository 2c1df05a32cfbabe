//! Why a training run cannot go on.

use std::path::{Path, PathBuf};

use crate::checkpoint::{self, CheckpointError};
use crate::data::DataError;
use crate::device::DeviceError;
use crate::diffusion::ScheduleError;
use crate::evaluate::EvaluateError;
use crate::graph::GraphError;
use crate::memory::TooLarge;
use crate::network::{ModelError, WeightsError};
use crate::output::OutputError;
use crate::pipeline::PipelineError;
use crate::sample::SampleError;
use crate::setting::SettingError;

/// A training run that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Options that make no sense.
    #[error("{0}")]
    Options(String),
    /// A setting makes no sense, or does not fit the others, the data or the run.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The data and the model do not fit each other.
    #[error("{dataset} has images of {found}, the model takes {expected}; choose another model or dataset")]
    Shape {
        /// Name of the data set.
        dataset: String,
        /// Size and channels of its images.
        found: String,
        /// Those of the model.
        expected: String,
    },
    /// The gradients are not numbers any more.
    #[error(
        "step {step} gives numbers that are not finite, first in {place}; {}; {advice}",
        kept(.last_checkpoint)
    )]
    NotFinite {
        /// The first such step.
        step: u64,
        /// Module path and kernel; or the parameter or the image that was not finite before the step.
        place: String,
        /// Step of the last checkpoint, 0 for none.
        last_checkpoint: u64,
        /// What to do.
        advice: Advice,
    },
    /// The loss is far above what it was.
    #[error(
        "the loss has exploded: it is {loss} at step {step} and was about {mean:.4} before; the largest activation is {place}; \
         {}; {STEADIER}",
        kept(.last_checkpoint)
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
        "gradients overflow in 16 bits at step {step}, even with the loss scaled by {scale}, first in {place}; {}; \
         activations of 32 bits have a larger range; if it overflows there too, {STEADIER}",
        kept(.last_checkpoint)
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
    /// A step takes more memory than the device has or allows.
    #[error("{error}; {}", fits(*.largest))]
    DoesNotFit {
        /// What it exceeds.
        error: Box<TrainError>,
        /// The most images at once that fit.
        largest: usize,
    },
    /// The host has no memory for the images.
    #[error("{0}; choose a smaller batch")]
    Memory(#[from] TooLarge),
    /// The run ended for a reason outside the training, or on a device that is gone.
    #[error("{error}; {}", what_is_left(.checkpoint.as_deref()))]
    Halted {
        /// Why.
        error: Box<TrainError>,
        /// The last checkpoint.
        checkpoint: Option<PathBuf>,
    },
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The device cannot go on.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The noise schedule makes no sense.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The training step cannot be built.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The network is not for that.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// A classifier cannot be measured.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
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
    /// A picture cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// What to do about numbers that are not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Settings that make steps smaller.
    SmallerSteps,
    /// An image has such a number.
    RepairImage,
}

impl std::fmt::Display for Advice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::SmallerSteps => STEADIER,
            Self::RepairImage => "remove that image, or repair it",
        })
    }
}

/// What makes steps smaller or less different from each other, whatever it was that made them too large.
const STEADIER: &str = "smaller steps may help: a lower learning rate, a longer warm-up, less weight decay, a smaller bound on the \
                        norm of the gradients";

fn kept(last_checkpoint: &u64) -> String {
    match last_checkpoint {
        0 => "no checkpoint was written".to_owned(),
        step => format!("checkpoints up to step {step} are kept"),
    }
}

fn fits(largest: usize) -> String {
    match largest {
        0 => "not even one image at a time fits: choose a smaller model or smaller images, or recompute the inside of blocks"
            .to_owned(),
        most => format!("{most} images at once fit, as a batch or as a part of one"),
    }
}

/// What a run that cannot go on has left, in words.
fn what_is_left(checkpoint: Option<&Path>) -> String {
    match checkpoint {
        Some(folder) => format!("{} is whole, and the run can go on from it", folder.display()),
        None => "there was no checkpoint yet".to_owned(),
    }
}

impl TrainError {
    pub(super) fn setting(names: &'static [&'static str], message: impl Into<String>) -> Self {
        Self::Setting(SettingError::new(names, message))
    }

    /// Adds to the error of a device that was lost before the first step what the run in the folder `output` has left.
    pub(super) fn of_run(self, output: &Path) -> Self {
        match self {
            Self::Device(DeviceError::Lost { .. }) => {
                // What cannot be read now is not promised.
                Self::Halted { error: Box::new(self), checkpoint: checkpoint::newest(output).ok().flatten() }
            }
            other => other,
        }
    }

    /// Adds what the run has left to what does not speak of its checkpoints itself; `checkpoint` is the last one.
    pub(super) fn halted(self, checkpoint: Option<PathBuf>) -> Self {
        match self {
            Self::NotFinite { .. } | Self::Exploded { .. } | Self::LossScale { .. } => self,
            error => Self::Halted { error: Box::new(error), checkpoint },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_promised_only_where_there_is_one() {
        let said = |checkpoint: Option<&str>| {
            let error = TrainError::Options("the disk is full".to_owned());
            error.halted(checkpoint.map(PathBuf::from)).to_string()
        };
        assert_eq!(said(None), "the disk is full; there was no checkpoint yet");
        assert!(
            said(Some("run/checkpoint-000020")).contains("checkpoint-000020 is whole, and the run can go on")
        );
        let exploded = |last_checkpoint| {
            let place = "2e9 in conv_in".to_owned();
            TrainError::Exploded { step: 7, loss: 1e9, mean: 1.0, place, last_checkpoint }.to_string()
        };
        assert!(exploded(0).contains("no checkpoint was written"));
        assert!(exploded(5).contains("checkpoints up to step 5 are kept"));
    }
}
