//! Where the time and the memory of a step go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::bench::median;
use super::{WorkbenchError, random_batch};
use crate::data::Batch;
use crate::device::{Device, Executor, Timing};
use crate::diffusion::SchedulerConfig;
use crate::graph::{BufferRole, Plan};
use crate::network::{Network, Precision};
use crate::ops::Types;
use crate::pipeline::{Pipeline, Role};
use crate::sample::{Denoiser, Guidance, SampleError};
use crate::sampler::{self, SamplerOptions, Step};
use crate::train::Trainer;

/// A program that takes one step after another by one plan.
pub trait Steps {
    /// Writes the inputs of the next step and gives the executor, which is then to run once.
    ///
    /// # Errors
    /// [`WorkbenchError`] if the device fails.
    fn prepare(&mut self) -> Result<&mut Executor, WorkbenchError>;
}

/// Training steps on the same batch.
pub struct TrainingSteps {
    /// The model in training.
    pub trainer: Trainer,
    /// The batch.
    pub batch: Batch,
}

impl Steps for TrainingSteps {
    fn prepare(&mut self) -> Result<&mut Executor, WorkbenchError> {
        Ok(self.trainer.prepare_step(&self.batch)?)
    }
}

/// Denoising steps of a model with fresh weights, by DDIM: each evaluates the network once, as most samplers' do.
pub struct SamplingSteps {
    denoiser: Denoiser,
    steps: Vec<Step>,
    taken: usize,
}

impl SamplingSteps {
    /// Prepares `network` on `device` for batches of `batch_size` images, with activations of `precision`.
    ///
    /// # Errors
    /// [`WorkbenchError`] for a model that cannot be built or does not fit the device.
    pub async fn new(
        device: &Device,
        network: &Arc<dyn Network>,
        batch_size: usize,
        precision: Precision,
    ) -> Result<Self, WorkbenchError> {
        let scheduler = SchedulerConfig::default();
        let weights = network.fresh_weights(0)?;
        let pipeline = Pipeline::new(Role::Denoises, network.clone(), weights, scheduler.clone());
        let ddim = sampler::by_name("ddim").map_err(SampleError::from)?;
        let options = SamplerOptions::new(&scheduler);
        let guidance = Guidance::default();
        let mut denoiser =
            Denoiser::new(device, &pipeline, batch_size, precision, ddim, options.clip, &guidance).await?;
        let Batch { images, conditions } = random_batch(network.as_ref(), batch_size)?;
        denoiser.start(&images, &conditions)?;
        let steps = ddim.start(&scheduler, &options).map_err(SampleError::from)?;
        let mut run = steps.run(batch_size);
        let steps = std::iter::from_fn(|| run.next(&[]).transpose()).collect::<Result<Vec<_>, _>>();
        let steps = steps.map_err(SampleError::from)?.concat();
        Ok(Self { denoiser, steps, taken: 0 })
    }
}

impl Steps for SamplingSteps {
    fn prepare(&mut self) -> Result<&mut Executor, WorkbenchError> {
        // After the last step comes the first again.
        let step = self.taken % self.steps.len().max(1);
        self.taken += 1;
        let next = self.steps.get(step..=step).unwrap_or_default();
        Ok(self.denoiser.prepare_step(next, 0, 0)?)
    }
}

/// One dispatch of a step.
#[derive(Clone, Debug, Serialize)]
pub struct Dispatch {
    /// Module path.
    pub path: String,
    /// Op and entry point of the op.
    pub op: &'static str,
    /// Op and entry point of the kernel, such as `conv2d.forward_tiled`.
    pub kernel: String,
    /// Whether it computes a forward value again, for the backward pass.
    pub is_recomputed: bool,
    /// When it began in the last of the timed steps, in seconds.
    pub start: f64,
    /// Median over the steps, in seconds.
    pub seconds: f64,
    /// Bytes that the call moves at least; of a call of several dispatches, the longest one has them all.
    pub bytes: usize,
    /// Floating point operations; likewise.
    pub flops: usize,
    /// Bytes of activations and scratch tensors that are alive while it runs.
    pub alive_bytes: usize,
}

/// What a step takes.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// Steps that were run as usual, and as many more that were timed dispatch by dispatch.
    pub steps: usize,
    /// Whether the device's own clock timed the dispatches, rather than the host's.
    pub by_device_clock: bool,
    /// Seconds of a dispatch that does nothing, by the same clock; `None` for the CPU executor.
    pub empty_dispatch_seconds: Option<f64>,
    /// Seconds of a whole step, median.
    pub step_seconds: f64,
    /// Seconds of it until the device has its work: inputs, encoding, submission; the CPU executor has only inputs.
    pub host_seconds: f64,
    /// The dispatches in the order in which they run.
    pub dispatches: Vec<Dispatch>,
    /// Bytes of buffers by what they are for.
    pub memory: Vec<(BufferRole, usize)>,
}

impl Profile {
    /// Seconds of all dispatches together.
    pub fn kernel_seconds(&self) -> f64 {
        self.dispatches.iter().map(|dispatch| dispatch.seconds).sum()
    }
}

/// Steps that do not count: drivers compile in the first one, and the executor finds its pace in the first two.
const WARM_UP: usize = 2;

/// Runs `count` steps as usual and `count` that are timed dispatch by dispatch, in turn, after some that do not count.
///
/// # Errors
/// [`WorkbenchError`] if the device fails.
pub async fn profile(
    steps: &mut dyn Steps,
    count: usize,
    done: &mut dyn FnMut(usize),
) -> Result<Profile, WorkbenchError> {
    let clock = Instant::now();
    let now = || clock.elapsed().as_secs_f64();
    let (mut whole, mut host) = (Vec::new(), Vec::new());
    let mut timed: Vec<Vec<Timing>> = Vec::new();
    for step in 0.. {
        let start = now();
        let executor = steps.prepare()?;
        let prepared = now();
        executor.run()?;
        let queued = now();
        executor.run_and_wait(0)?;
        let end = now();
        let executor = steps.prepare()?;
        let timings = executor.run_timed(&now).await?;
        if step >= WARM_UP {
            whole.push(end - start);
            // The CPU executor has done the step when it returns; a GPU only has it in its queue.
            let is_cpu = matches!(executor, Executor::Cpu(_));
            host.push(if is_cpu { prepared - start } else { queued - start });
            timed.push(timings);
            done(step + 1 - WARM_UP);
        }
        if step + 1 == count + WARM_UP {
            return Ok(Profile {
                steps: count,
                by_device_clock: executor.has_timestamps(),
                empty_dispatch_seconds: executor.time_of_empty_dispatch(&now).await?,
                step_seconds: median(whole),
                host_seconds: median(host),
                dispatches: dispatches(executor.plan(), &timed),
                memory: executor.memory().bytes.into_iter().collect(),
            });
        }
    }
    unreachable!("the loop ends at `count`")
}

/// The dispatches of a plan with their times in several steps.
fn dispatches(plan: &Plan, timed: &[Vec<Timing>]) -> Vec<Dispatch> {
    let last = timed.last().map_or(&[][..], Vec::as_slice);
    let mut dispatches: Vec<Dispatch> = Vec::new();
    // A call that is made again has the very op of the first one.
    let mut first_calls = HashMap::new();
    for (index, timing) in last.iter().enumerate() {
        let node = &plan.nodes[timing.node];
        let first = *first_calls.entry(Arc::as_ptr(&node.node.op).cast::<()>()).or_insert(timing.node);
        dispatches.push(Dispatch {
            path: node.node.path.clone(),
            op: node.node.op.name(),
            kernel: timing.kernel.clone(),
            is_recomputed: first != timing.node,
            start: timing.start,
            seconds: median(timed.iter().map(|step| step[index].seconds).collect()),
            bytes: 0,
            flops: 0,
            alive_bytes: plan.alive()[timing.node],
        });
    }
    let mut first = 0;
    for call in last.chunk_by(|a, b| a.node == b.node) {
        let node = &plan.nodes[call[0].node];
        let cost = node.node.op.cost(Types { inputs: &node.inputs, outputs: &node.outputs });
        let own = &mut dispatches[first..first + call.len()];
        if let Some(main) = own.iter_mut().max_by(|a, b| a.seconds.total_cmp(&b.seconds)) {
            (main.bytes, main.flops) = (cost.bytes, cost.flops);
        }
        first += call.len();
    }
    dispatches
}
