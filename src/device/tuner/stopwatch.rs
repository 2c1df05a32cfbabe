//! Timing one call on buffers of its own.

use std::sync::Arc;

use crate::device::gpu::GpuPlan;
use crate::device::{DeviceError, GpuDevice, GpuExecutor, Margin};
use crate::graph::{BufferRole, DType, Graph, Storage, TensorType, ValueId};
use crate::host::Clock;

use super::ladder::Call;

/// Runs after the first; the fastest counts.
const RUNS: usize = 4;

/// Short calls are repeated within a run to take about this many seconds. Otherwise the submission would be timed.
const RUN: f64 = 0.002;

/// Runs of a candidate end after this many seconds: long calls need fewer repetitions to be told apart.
const ENOUGH: f64 = 0.2;

/// A candidate that takes this many times as long as the best one is not run again.
const SLOWER: f64 = 2.0;

/// A call as a graph of one node, with contents for its operands.
pub(super) struct Stopwatch {
    graph: Graph,
    contents: Vec<(ValueId, Vec<f32>)>,
    clock: Clock,
}

impl Stopwatch {
    /// Makes up contents for a call.
    pub(super) fn new(
        Call { op, inputs: input_types, outputs: output_types }: &Call,
        clock: Clock,
    ) -> Result<Self, DeviceError> {
        let mut graph = Graph::new();
        let mut contents = Vec::new();
        let mut inputs = Vec::new();
        for (name, ty) in op.inputs().iter().zip(input_types) {
            // State rather than input: inputs are staged for being written again and again.
            let id = graph.state(name, ty.clone(), BufferRole::Activations);
            inputs.push(id);
            contents.push((id, finite_numbers(ty)));
        }
        let Ok(outputs) = graph.apply_dyn(op.clone(), &inputs) else {
            unreachable!("operands of these shapes were accepted when the plan's graph was built")
        };
        for (&id, ty) in outputs.iter().zip(output_types) {
            graph.set_storage(id, Storage::State(BufferRole::Activations));
            if op.updates_in_place() {
                contents.push((id, finite_numbers(ty)));
            }
        }
        Ok(Self { graph, contents, clock })
    }

    /// A call by `variant` with its contents on the device.
    async fn executor(&self, device: &Arc<GpuDevice>, variant: &str) -> Result<GpuExecutor, DeviceError> {
        let planned = GpuPlan::new(&self.graph, &[], &|op, types| device.variant(op, types, variant));
        let mut executor = GpuExecutor::new(device.clone(), &self.graph, planned, Margin::default()).await?;
        for (id, data) in &self.contents {
            executor.write(*id, data)?;
        }
        // Uploads the contents.
        executor.run_and_wait(0)?;
        Ok(executor)
    }

    /// About the seconds that one call by `variant` takes, of the second of two.
    ///
    /// # Errors
    /// What the adapter cannot do.
    pub(super) async fn glance(&self, device: &Arc<GpuDevice>, variant: &str) -> Result<f64, DeviceError> {
        let mut executor = self.executor(device, variant).await?;
        // Compiles where the driver puts that off until a kernel runs.
        executor.run_and_wait(1)?;
        let start = (self.clock)();
        executor.run_and_wait(1)?;
        Ok(((self.clock)() - start).max(1e-6))
    }

    /// Seconds that one call by `variant` takes. `best` is the time of the best candidate so far. `is_compiled` says
    /// that the variant has run before, so that its first run already shows whether it is slow.
    ///
    /// # Errors
    /// What the adapter cannot do.
    pub(super) async fn time(
        &self,
        device: &Arc<GpuDevice>,
        variant: &str,
        best: Option<f64>,
        is_compiled: bool,
    ) -> Result<f64, DeviceError> {
        let mut executor = self.executor(device, variant).await?;
        let mut run = |times: usize| -> Result<f64, DeviceError> {
            let start = (self.clock)();
            executor.run_and_wait(times)?;
            Ok(((self.clock)() - start) / times as f64)
        };
        let is_slow = |seconds: f64| best.is_some_and(|best| seconds > SLOWER * best);
        // Compiles where the driver puts that off until a kernel runs.
        let first = run(1)?;
        if is_compiled && is_slow(first) {
            return Ok(first);
        }
        let mut fastest = run(1)?;
        if is_slow(fastest) {
            return Ok(fastest);
        }
        let times = (RUN / fastest).clamp(1.0, 100.0) as usize;
        let started = (self.clock)();
        for _ in 0..RUNS {
            fastest = fastest.min(run(times)?);
            if (self.clock)() - started > ENOUGH {
                break;
            }
        }
        Ok(fastest)
    }
}

/// Positive numbers below 1, so that no square root, quotient or exponential is out of the ordinary; of integers zeros,
/// which are a class of every model.
fn finite_numbers(ty: &TensorType) -> Vec<f32> {
    match ty.dtype {
        DType::U32 => vec![0.0; ty.len()],
        // Multiples of the golden ratio modulo 1.
        _ => (0..ty.len() as u32)
            .map(|index| (index.wrapping_mul(0x9e37_79b9) >> 8) as f32 / (1 << 24) as f32)
            .collect(),
    }
}
