//! How fast a kernel is: verified, then timed, as a share of what the device can do.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::roofline::Ceilings;
use super::{ModelCall, WorkbenchError, check};
use crate::device::{Device, Executor, Margin};
use crate::graph::{BufferRole, Graph, Storage, ValueId};
use crate::ops::Case;

/// Runs of a call go on for this long.
const ENOUGH: Duration = Duration::from_millis(300);

/// Runs at least, and at most.
const RUNS: std::ops::Range<usize> = 5..100;

/// One variant of one call, timed.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// Op and entry point.
    pub kernel: &'static str,
    /// Name of the variant.
    pub variant: &'static str,
    /// The case, or the module that made the call.
    pub case: String,
    /// Shapes of the operands.
    pub shapes: String,
    /// How many such calls a training step of the model has.
    pub count: usize,
    /// Median of the runs.
    pub seconds: f64,
    /// Bytes that the op moves at least, per second.
    pub bytes_per_second: f64,
    /// Floating point operations that the op does, per second.
    pub flops_per_second: f64,
    /// What the device would take at its ceilings, over what it took.
    pub share_of_roofline: f64,
    /// Which ceiling is the lower one for this call: `memory` or `arithmetic`.
    pub bound_by: &'static str,
    /// What was wrong with the result; then nothing was timed.
    pub failure: Option<String>,
}

/// Checks a variant of a call against its reference and then times it: by the device's timestamps where it has them.
///
/// # Errors
/// [`WorkbenchError::Device`] if the call cannot run.
pub async fn bench(
    device: &Device,
    call: &ModelCall,
    variant: &'static str,
    ceilings: &Ceilings,
) -> Result<Measurement, WorkbenchError> {
    let case = &call.case;
    let cost = case.cost();
    let failure = check(device, case, variant).await?.failure.map(|failure| failure.to_string());
    let seconds = match failure {
        None => median(PreparedCall::new(device, case, variant).await?.times().await?),
        Some(_) => f64::NAN,
    };
    Ok(Measurement {
        kernel: case.op.name(),
        variant,
        case: case.name.clone(),
        shapes: case.shapes(),
        count: call.count,
        seconds,
        bytes_per_second: cost.bytes as f64 / seconds,
        flops_per_second: cost.flops as f64 / seconds,
        share_of_roofline: ceilings.seconds(cost) / seconds,
        bound_by: if ceilings.is_bound_by_memory(cost) { "memory" } else { "arithmetic" },
        failure,
    })
}

/// The middle one, or the mean of the middle two; NaN of nothing.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

/// One call, ready to run again and again on the case's contents.
pub struct PreparedCall {
    executor: Executor,
}

impl PreparedCall {
    /// Prepares a variant of a call; `variant` is one of [`subjects`](super::subjects).
    ///
    /// # Errors
    /// [`WorkbenchError::Device`] if the call cannot run.
    pub async fn new(device: &Device, case: &Case, variant: &str) -> Result<Self, WorkbenchError> {
        let mut graph = Graph::new();
        // State rather than input: inputs are staged for being written again and again.
        let state = |graph: &mut Graph, ty| graph.state("operand", ty, BufferRole::Activations);
        let inputs: Vec<ValueId> = case.input_types().into_iter().map(|ty| state(&mut graph, ty)).collect();
        let outputs = graph.apply_dyn(case.op.clone(), &inputs)?;
        for &output in &outputs {
            graph.set_storage(output, Storage::State(BufferRole::Activations));
        }
        let mut executor = device.prepare_variant(&graph, variant, Margin::default()).await?;
        for ((&id, fill), index) in inputs.iter().zip(&case.inputs).zip(0..) {
            executor.write(id, &fill.data(index))?;
        }
        for ((&id, fill), index) in outputs.iter().zip(&case.targets).zip(100..) {
            executor.write(id, &fill.data(index))?;
        }
        // Uploads the contents, and compiles where the driver puts that off until a kernel runs.
        executor.run_and_wait(1)?;
        Ok(Self { executor })
    }

    /// Runs the call so many times and waits for it.
    ///
    /// # Errors
    /// [`WorkbenchError::Device`]
    pub fn run(&mut self, times: usize) -> Result<(), WorkbenchError> {
        Ok(self.executor.run_and_wait(times)?)
    }

    /// Seconds of each of several runs.
    pub(super) async fn times(&mut self) -> Result<Vec<f64>, WorkbenchError> {
        let has_timestamps = self.executor.has_timestamps();
        let started = Instant::now();
        let clock = || started.elapsed().as_secs_f64();
        // Without timestamps, a run is as many calls as take much longer than their submission.
        let mut calls = 1;
        if !has_timestamps {
            self.executor.run_and_wait(1)?;
            calls = (5e-3 / clock()).clamp(1.0, 1000.0) as usize;
        }
        let mut seconds = Vec::new();
        while seconds.len() < RUNS.start || (started.elapsed() < ENOUGH && seconds.len() < RUNS.end) {
            if has_timestamps {
                let dispatches = self.executor.run_timed(&clock).await?;
                seconds.push(dispatches.iter().map(|dispatch| dispatch.seconds).sum());
            } else {
                let start = clock();
                self.executor.run_and_wait(calls)?;
                seconds.push((clock() - start) / calls as f64);
            }
        }
        Ok(seconds)
    }
}
