//! Whether a run diverges: when its numbers are no longer finite, when they first were not and where; and whether the
//! loss has exploded.

use super::micro_batches::first_of_optimizer;
use super::run::Saved;
use super::{Advice, Run, Task, TrainError, TrainOptions, Trainer};
use crate::data::Batch;
use crate::device::{DeviceError, Executor};
use crate::graph::{DType, Phase, PlannedNode};
use crate::ops::loss_scale::LossScale;

/// Below this, gradients do not overflow because of the scale: the network itself does.
const SMALLEST_LOSS_SCALE: f32 = 1e-4;

/// What the loss is compared with: its running mean, and what it was at first.
#[derive(Clone, Copy, Debug)]
struct Level {
    first: f64,
    mean: f64,
    /// Readings in a row that were far too high.
    high: u32,
}

impl Level {
    /// A loss has exploded that is so many times its running mean...
    const TIMES_MEAN: f64 = 1000.0;
    /// ...and so many times the first one, which a mean may be far below...
    const TIMES_FIRST: f64 = 10.0;
    /// ...at so many readings in a row: the loss of single batches varies much where timesteps have different weights.
    const READINGS: u32 = 3;
    /// Share of a new reading in the mean.
    const SHARE: f64 = 0.1;

    fn new(loss: f64) -> Self {
        Self { first: loss, mean: loss, high: 0 }
    }

    /// Takes a reading.
    fn read(&mut self, loss: f64) {
        if loss > (Self::TIMES_MEAN * self.mean).max(Self::TIMES_FIRST * self.first) {
            self.high += 1;
        } else {
            self.high = 0;
            self.mean += Self::SHARE * (loss - self.mean);
        }
    }
}

/// Watches over the numbers of a run.
#[derive(Debug, Default)]
pub(super) struct DivergenceCheck {
    /// `None` before the first reading.
    level: Option<Level>,
}

impl DivergenceCheck {
    /// Whether the loss was never read: the first one is what later ones are compared with.
    pub(super) fn is_unknown(&self) -> bool {
        self.level.is_none()
    }

    /// Whether the loss was far too high at the last reading: such weights are not saved.
    pub(super) fn is_doubtful(&self) -> bool {
        self.level.is_some_and(|level| level.high > 0)
    }

    /// The loss of the last step, where the run does not diverge: other weights are never saved. And where loss scaling stands.
    pub(super) async fn check(
        &mut self,
        run: &Run,
        trainer: &mut Trainer<impl Task>,
        saved: Option<&Saved>,
    ) -> Result<(f32, Option<LossScale>), TrainError> {
        let last_checkpoint = saved.map_or(0, |saved| saved.step);
        let step = trainer.done();
        // A run that was stopped before its first step has no loss yet.
        let loss = if step > last_checkpoint { trainer.loss().await? } else { 0.0 };
        let scale = trainer.loss_scale().await?;
        // A step that overflows in 16 bits is skipped, so the weights are good, unless all do.
        if let Some(LossScale { scale, .. }) = scale
            && scale < SMALLEST_LOSS_SCALE
        {
            let place = locate(run, trainer, step).await?.text;
            return Err(TrainError::LossScale { step, scale, place, last_checkpoint });
        }
        let skipped = trainer.skipped_steps().await?;
        if skipped > 0 || (scale.is_none() && !loss.is_finite()) {
            // All steps since the first that went wrong were skipped, so the weights are those that it had.
            let step = step + 1 - skipped.max(1);
            let place = locate(run, trainer, step).await?;
            return Err(TrainError::NotFinite {
                step,
                place: place.text,
                last_checkpoint,
                advice: place.advice,
            });
        }
        if step > last_checkpoint && loss.is_finite() {
            let level = self.level.get_or_insert(Level::new(loss.into()));
            let mean = level.mean;
            level.read(loss.into());
            if level.high == Level::READINGS {
                let batch = run.loader(step - 1)?.next()?;
                let place = largest_activation(&run.options, trainer, step, &batch).await?;
                return Err(TrainError::Exploded { step, loss, mean, place, last_checkpoint });
            }
        }
        Ok((loss, scale))
    }
}

/// Where numbers that are not finite first appear.
struct BadPlace {
    text: String,
    /// What to do.
    advice: Advice,
}

/// Where numbers that are not finite first appear when a step is done again.
async fn locate(run: &Run, trainer: &mut Trainer<impl Task>, step: u64) -> Result<BadPlace, TrainError> {
    let batch = run.loader(step - 1)?.next()?;
    let place = bad_place(&run.options, trainer, step, &batch).await?;
    // where what is drawn depends on losses, the same step may be drawn otherwise the second time
    let unknown = || "a place that was not found when the step was done again".to_owned();
    Ok(place.unwrap_or_else(|| BadPlace { text: unknown(), advice: Advice::SmallerSteps }))
}

/// The first of them in the order in which a step reads and computes: a parameter, an image, or the result of a node.
async fn bad_place(
    options: &TrainOptions,
    trainer: &mut Trainer<impl Task>,
    step: u64,
    batch: &Batch,
) -> Result<Option<BadPlace>, TrainError> {
    let found = |text: String| Ok(Some(BadPlace { text, advice: Advice::SmallerSteps }));
    if let Some(parameter) = trainer.bad_parameter().await? {
        return found(parameter);
    }
    if let Some(text) = bad_image(&batch.images, options.batch_size) {
        return Ok(Some(BadPlace { text, advice: Advice::RepairImage }));
    }
    for micro_batch in options.micro_batches().enumerate() {
        let executor = trainer.replay(step, batch, micro_batch)?;
        for node in 0..first_of_optimizer(executor) {
            if !run_node(executor, node).await?.is_finite() {
                return found(name(executor, node));
            }
        }
    }
    Ok(None)
}

/// The largest number of the forward pass when a step is done again, and where it is.
async fn largest_activation(
    options: &TrainOptions,
    trainer: &mut Trainer<impl Task>,
    step: u64,
    batch: &Batch,
) -> Result<String, TrainError> {
    let (mut largest, mut place) = (0.0, "no node".to_owned());
    for micro_batch in options.micro_batches().enumerate() {
        let executor = trainer.replay(step, batch, micro_batch)?;
        let is_loss = |node: &PlannedNode| node.node.phase == Phase::Loss;
        let forward = executor.plan().nodes.iter().position(is_loss).unwrap_or(0);
        for node in 0..forward {
            let found = run_node(executor, node).await?;
            if found > largest {
                (largest, place) = (found, name(executor, node));
            }
        }
    }
    Ok(format!("{largest:.1e} in {place}"))
}

/// The first number that is not finite among those of a batch's images, in words.
fn bad_image(images: &[f32], batch_size: usize) -> Option<String> {
    let at = images.iter().position(|value| !value.is_finite())?;
    let image = at / (images.len() / batch_size).max(1);
    Some(format!("the data: image {image} of the step's batch has a pixel that is no finite number"))
}

/// Module path and kernel of a node.
fn name(executor: &Executor, index: usize) -> String {
    let node = &executor.plan().nodes[index].node;
    format!("{} / {}", node.path, node.op.name())
}

/// Runs one node and gives the largest absolute value of its results; NaN where one of them is.
async fn run_node(executor: &mut Executor, index: usize) -> Result<f32, DeviceError> {
    executor.run_nodes(index..index + 1)?;
    let node = executor.plan().nodes[index].node.clone();
    let mut largest = 0.0;
    for &output in &node.outputs {
        if executor.plan().place(output).is_none() || executor.plan().ty(output).dtype == DType::U32 {
            continue;
        }
        for value in executor.read(output).await? {
            if value.is_nan() || value.abs() > largest {
                largest = value.abs();
            }
            if largest.is_nan() {
                return Ok(largest);
            }
        }
    }
    Ok(largest)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use pollster::block_on;

    use super::*;
    use crate::device::Device;
    use crate::diffusion::SchedulerConfig;
    use crate::network::UNetConfig;
    use crate::train::{Denoise, TrainOptions, Trainer};
    use crate::workbench::random_batch;

    const MODEL: &str = r#"{
        "_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 1, "out_channels": 1,
        "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, "num_class_embeds": null,
        "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"]
    }"#;

    fn options(learning_rate: f64) -> TrainOptions {
        TrainOptions {
            batch_size: 4,
            micro_batch_size: Some(2),
            warmup_steps: 0,
            learning_rate,
            ..TrainOptions::default()
        }
    }

    fn trainer(learning_rate: f64) -> (Trainer, Batch) {
        let config = UNetConfig::from_json(MODEL).unwrap();
        let batch = random_batch(&config, 4).unwrap();
        let options = options(learning_rate);
        let task = Denoise::new(Arc::new(config), SchedulerConfig::default()).unwrap();
        (block_on(Trainer::new(&Device::Cpu, task, options, None)).unwrap(), batch)
    }

    fn find(trainer: &mut Trainer, step: u64, batch: &Batch) -> Option<String> {
        block_on(bad_place(&options(1.0), trainer, step, batch)).unwrap().map(|place| place.text)
    }

    #[test]
    fn the_weights_stay_as_they_were_at_the_first_step_that_went_wrong() {
        let (mut trainer, good) = trainer(1e-3);
        trainer.step(&good).unwrap();
        let before = block_on(trainer.state()).unwrap();
        let mut bad = good.clone();
        bad.images[2 * 64 + 5] = f32::NAN;
        for (batch, skipped) in [(&bad, 1), (&good, 2), (&good, 3)] {
            trainer.step(batch).unwrap();
            assert_eq!(block_on(trainer.skipped_steps()).unwrap(), skipped);
        }
        let after = block_on(trainer.state()).unwrap();
        assert!(after.weights == before.weights && after.second_moment == before.second_moment);
        let place = find(&mut trainer, 2, &bad).unwrap();
        assert!(place.contains("image 2 of the step's batch"), "{place}");
        assert_eq!(find(&mut trainer, 2, &good), None);
    }

    #[test]
    fn an_absurd_learning_rate_is_found_at_the_module_that_overflows() {
        let (mut trainer, batch) = trainer(1e25);
        for skipped in [0, 1, 2] {
            trainer.step(&batch).unwrap();
            assert_eq!(block_on(trainer.skipped_steps()).unwrap(), skipped);
        }
        let place = find(&mut trainer, 2, &batch).unwrap();
        // two layers of weights of 1e25 give 1e50
        assert_eq!(place, "time_embedding.linear_2 / linear.forward");
    }

    #[test]
    fn a_parameter_that_is_no_number_is_named() {
        let (mut trainer, batch) = trainer(1e-3);
        let mut weights = block_on(trainer.state()).unwrap().weights;
        weights.get_mut("mid_block.resnets.0.conv1.bias").unwrap().data[3] = f32::NAN;
        trainer.set_weights(&weights).unwrap();
        trainer.step(&batch).unwrap();
        let place = find(&mut trainer, 1, &batch).unwrap();
        assert_eq!(place, "the parameter mid_block.resnets.0.conv1.bias, before the step");
    }

    #[test]
    fn the_largest_activation_is_that_of_the_weights_that_grew() {
        let (mut trainer, batch) = trainer(1e-3);
        let mut weights = block_on(trainer.state()).unwrap().weights;
        weights.get_mut("up_blocks.0.resnets.1.conv2.bias").unwrap().data[2] = -7e3;
        trainer.set_weights(&weights).unwrap();
        trainer.step(&batch).unwrap();
        let place = block_on(largest_activation(&options(1e-3), &mut trainer, 1, &batch)).unwrap();
        assert!(place.starts_with("7.0e3 in up_blocks.0.resnets.1"), "{place}");
    }

    /// The number of the reading at which the loss counts as exploded.
    fn exploded(losses: impl IntoIterator<Item = f64>) -> Option<usize> {
        let mut losses = losses.into_iter();
        let mut level = Level::new(losses.next()?);
        losses.position(|loss| {
            level.read(loss);
            level.high == Level::READINGS
        })
    }

    #[test]
    fn a_loss_that_stays_far_above_its_level_has_exploded() {
        let falling = || (0..200).map(|step| 1.0 / f64::from(1 + step));
        assert_eq!(exploded(falling().chain([1e4; 5])), Some(201));
        assert_eq!(exploded([1.0, 1e9, 1e9, 1e9]), Some(2));
    }

    #[test]
    fn a_loss_that_leaps_for_a_moment_or_falls_has_not() {
        let leaping = (0..300).map(|step| if step % 9 < 2 { 1e6 } else { 0.01 });
        assert_eq!(exploded([0.01].into_iter().chain(leaping)), None);
        // a classifier that knows its images by heart, until they are others
        assert_eq!(exploded([2.3].into_iter().chain([1e-6; 500]).chain([4.0; 50])), None);
        // the loss of a few images whose timesteps have weights from 0.001 to 1000
        let weights = (0..10_000u32)
            .map(|step| 10f64.powf(f64::from(step.wrapping_mul(2_654_435_761) % 6001) / 1000.0 - 3.0));
        assert_eq!(exploded(weights), None);
    }

    #[test]
    fn a_bad_pixel_is_found_by_its_image() {
        let mut images = vec![0.0; 12];
        assert_eq!(bad_image(&images, 3), None);
        images[7] = f32::INFINITY;
        assert!(bad_image(&images, 3).is_some_and(|text| text.contains("image 1 of")));
    }
}
