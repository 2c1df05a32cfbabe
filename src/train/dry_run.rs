//! What can be known of a run before it: the largest batch that fits, and how long a step takes.

use std::fmt::{self, Display};
use std::time::Instant;

use super::{Run, Task, TrainError, TrainOptions, Trainer};
use crate::device::Device;
use crate::graph::Plan;

/// The largest batch of a run that fits, and what keeps it from being larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LargestBatch {
    /// Images in a step.
    pub batch_size: usize,
    /// What a step of one image more exceeds; `None` where the search ended before that.
    pub limit: Option<Limit>,
}

/// What a plan can be too large for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// So many bytes of memory.
    Memory(usize),
    /// The adapter's largest buffer, in bytes.
    Buffer(u64),
    /// The adapter's largest part of a buffer that a kernel sees, in bytes.
    Binding(u64),
}

impl Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes / (1 << 20);
        match *self {
            Self::Memory(bytes) => write!(f, "the memory that is free, {} MiB", mib(bytes as u64)),
            Self::Buffer(bytes) => write!(f, "the adapter's largest buffer, {} MiB", mib(bytes)),
            Self::Binding(bytes) => write!(f, "the adapter's largest storage binding, {} MiB", mib(bytes)),
        }
    }
}

/// The search for the largest batch ends here.
const MOST_IMAGES: usize = 1 << 24;

/// The largest batch, or micro-batch, that fits on the run's device; 0 where not even one image does.
///
/// `memory` is the number of bytes that may be taken, where it is known: wgpu does not say how much an adapter has.
///
/// # Errors
/// [`TrainError`] for a model that cannot be built.
pub fn largest_batch<T: Task>(
    run: &Run,
    task: &T,
    memory: Option<usize>,
) -> Result<LargestBatch, TrainError> {
    let exceeded = |batch_size: usize| -> Result<Option<Limit>, TrainError> {
        let options = TrainOptions { batch_size, micro_batch_size: None, ..run.options.clone() };
        let plan = Trainer::dry_run(&run.device, task, &options)?.plan;
        Ok(exceeded_limit(&run.device, &plan, memory))
    };
    let (mut fits, mut too_large) = (0, 1);
    let mut limit = exceeded(too_large)?;
    while limit.is_none() && too_large < MOST_IMAGES {
        (fits, too_large) = (too_large, 2 * too_large);
        limit = exceeded(too_large)?;
    }
    if limit.is_none() {
        return Ok(LargestBatch { batch_size: too_large, limit });
    }
    while fits + 1 < too_large {
        let middle = fits + (too_large - fits) / 2;
        match exceeded(middle)? {
            None => fits = middle,
            found => (too_large, limit) = (middle, found),
        }
    }
    Ok(LargestBatch { batch_size: fits, limit })
}

fn exceeded_limit(device: &Device, plan: &Plan, memory: Option<usize>) -> Option<Limit> {
    if let Device::Gpu(device) = device {
        let [buffer, binding] = device.largest_buffer_and_binding();
        if plan.largest_binding() as u64 > binding {
            return Some(Limit::Binding(binding));
        }
        if plan.largest_buffer() as u64 > buffer {
            return Some(Limit::Buffer(buffer));
        }
    }
    memory.filter(|&memory| plan.memory().total() > memory).map(Limit::Memory)
}

/// Seconds of a training step: the mean of `count` on the run's own images, after one that is not counted. Nothing is
/// written.
///
/// # Errors
/// What the run would fail with.
pub async fn time_steps<T: Task>(run: &Run, task: T, count: usize) -> Result<f64, TrainError> {
    run.check_fit(&task)?;
    run.check_host_memory()?;
    let mut trainer = Trainer::new(&run.device, task, run.options.clone(), None).await?;
    let mut loader = run.loader(0)?;
    let mut started = Instant::now();
    for step in 0..=count {
        if step == 1 {
            started = Instant::now();
        }
        trainer.step(&loader.next()?)?;
        trainer.observe().await?;
        // Waits for the device.
        trainer.loss().await?;
    }
    Ok(started.elapsed().as_secs_f64() / count as f64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::data::{OpenOptions, open};
    use crate::diffusion::SchedulerConfig;
    use crate::network::Preset;
    use crate::train::{CheckpointEvery, Denoise};

    fn run() -> Run {
        Run {
            device: Device::Cpu,
            dataset: open("digits", &OpenOptions::default()).unwrap().into(),
            options: TrainOptions::default(),
            initial_weights: None,
            base: None,
            output: "none".into(),
            resume: false,
            checkpoint_every: CheckpointEvery::Steps(1),
            checkpoints_to_keep: 1,
            sample_every: 0,
            settings: None,
        }
    }

    #[test]
    fn the_largest_batch_fits_and_one_image_more_does_not() {
        let run = run();
        let network = Arc::new((Preset::named("digits").unwrap().config)());
        let task = Denoise::new(network, SchedulerConfig::default()).unwrap();
        let bytes = |batch_size: usize| {
            let options = TrainOptions { batch_size, micro_batch_size: None, ..run.options.clone() };
            Trainer::dry_run(&run.device, &task, &options).unwrap().plan.memory().total()
        };
        for memory in [bytes(7), bytes(8) - 1, bytes(21)] {
            let LargestBatch { batch_size, limit } = largest_batch(&run, &task, Some(memory)).unwrap();
            assert!(
                bytes(batch_size) <= memory && memory < bytes(batch_size + 1),
                "{batch_size} of {memory}"
            );
            assert_eq!(limit, Some(Limit::Memory(memory)));
        }
        assert_eq!(largest_batch(&run, &task, Some(bytes(1) - 1)).unwrap().batch_size, 0);
    }
}
