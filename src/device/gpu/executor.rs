//! The GPU executor: pipelines and bind groups are made once, each run encodes the same list and submits it in pieces.

use std::ops::Range;
use std::sync::Arc;

use super::pace::{Load, Pace};
use super::plan::GpuPlan;
use super::prepare::{Prepare, allocate};
use super::{GpuDevice, Kernel, timestamps};
use crate::device::executor::{place_to_read, place_to_write};
use crate::device::{DeviceError, Margin, Timing, half_precision};
use crate::graph::{BufferRole, DType, Graph, Plan, PlannedNode, ValueId};
use crate::ops::Types;

/// What runs while a step does, for errors.
const STEP: &str = " while it ran a step";
const STEP_OF_DISPATCHES: &str = " while it ran a step";

/// Runs a plan on a wgpu device.
pub struct GpuExecutor {
    device: Arc<GpuDevice>,
    plan: Plan,
    buffers: Vec<wgpu::Buffer>,
    dispatches: Vec<Dispatch>,
    uploads: Uploads,
    pub(super) pace: Pace,
    /// The last submissions of the last two runs: a run waits for that of the one before the last, so that the queue stays
    /// short.
    submitted: [Option<wgpu::SubmissionIndex>; 2],
    /// How many there have been.
    #[cfg(test)]
    pub(super) submissions: usize,
}

/// What the host writes before a run, through staging buffers that are used again and again: `Queue::write_buffer`
/// would allocate one for each call.
struct Uploads {
    belt: wgpu::util::StagingBelt,
    /// Copies that go before the next run.
    pending: Option<wgpu::CommandEncoder>,
}

impl Uploads {
    fn new(device: &GpuDevice, plan: &Plan) -> Self {
        let inputs = plan.buffers.iter().filter(|buffer| buffer.role == BufferRole::Inputs);
        // A chunk holds all inputs of a run.
        let chunk: usize = inputs.map(|buffer| buffer.bytes.next_multiple_of(16)).sum();
        let chunk = chunk.max(16) as u64;
        let mut belt = wgpu::util::StagingBelt::new(device.device.clone(), chunk);
        // Two runs may be under way while the next one's inputs are written, and a chunk may wait to be mapped again:
        // four chunks are enough for ever.
        if let Some(size) = wgpu::BufferSize::new(chunk) {
            let alignment = wgpu::BufferSize::MIN;
            for _ in 0..4 {
                belt.allocate(size, alignment);
            }
        }
        belt.finish();
        belt.recall();
        Self { belt, pending: None }
    }
}

/// One prepared dispatch.
pub(super) struct Dispatch {
    /// Index of the plan's node that it belongs to.
    pub(super) node: usize,
    /// The variant that it belongs to.
    pub(super) variant: &'static str,
    /// What it takes; see [`work`](super::pace::work).
    pub(super) work: f64,
    pub(super) kernel: Arc<Kernel>,
    pub(super) bind_group: wgpu::BindGroup,
    pub(super) workgroups: [u32; 2],
}

impl Dispatch {
    fn load(&self) -> Load {
        Load { kernel: Arc::as_ptr(&self.kernel).addr(), work: self.work }
    }

    pub(super) fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.kernel.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.workgroups[0], self.workgroups[1], 1);
    }
}

impl GpuExecutor {
    /// Allocates the buffers of a plan of `graph`, and prepares every dispatch.
    ///
    /// # Errors
    /// What the adapter cannot do, by kernel and shape.
    pub(in crate::device) async fn new(
        device: Arc<GpuDevice>,
        graph: &Graph,
        planned: GpuPlan,
        margin: Margin,
    ) -> Result<Self, DeviceError> {
        let GpuPlan { plan, variants } = planned;
        let types = |node: &PlannedNode| Types { inputs: &node.inputs, outputs: &node.outputs }.activation();
        if !device.supports_f16() && plan.nodes.iter().any(|node| types(node) == DType::F16) {
            return Err(DeviceError::NoF16 { adapter: device.name.clone() });
        }
        let buffers = allocate(&device, &plan).await?;
        let mut prepare = Prepare::new(&device, graph, &plan, &buffers, margin);
        for (index, (node, variant)) in plan.nodes.iter().zip(&variants).enumerate() {
            let variant = variant.as_ref().ok_or_else(|| DeviceError::NoVariant {
                adapter: device.name.clone(),
                kernel: node.node.op.name().to_owned(),
                path: node.node.path.clone(),
            })?;
            prepare.node(index, node, variant).await?;
        }
        let dispatches = prepare.finish();
        device.check(" while it prepared a plan")?;
        let uploads = Uploads::new(&device, &plan);
        Ok(Self {
            device,
            plan,
            buffers,
            dispatches,
            uploads,
            pace: Pace::default(),
            submitted: [None, None],
            #[cfg(test)]
            submissions: 0,
        })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Writes the contents of an input or state value; integers by their bits.
    ///
    /// # Errors
    /// [`DeviceError::Length`] for another number of elements.
    pub fn write(&mut self, value: ValueId, data: &[f32]) -> Result<(), DeviceError> {
        let Some(place) = place_to_write(&self.plan, value, data.len())? else { return Ok(()) };
        let (buffer, offset) = (&self.buffers[place.buffer], place.offset as u64);
        let Some(size) = wgpu::BufferSize::new(place.bytes as u64) else { return Ok(()) };
        let halves;
        let bytes: &[u8] = match self.plan.ty(value).dtype {
            DType::F32 | DType::U32 => bytemuck::cast_slice(data),
            DType::F16 => {
                halves = half_precision::encode(data);
                &halves
            }
        };
        if self.plan.buffers[place.buffer].role != BufferRole::Inputs {
            self.device.queue.write_buffer(buffer, offset, bytes);
            return Ok(());
        }
        const DURING: &str = " while its inputs were written";
        self.device.check(DURING)?;
        let Uploads { belt, pending } = &mut self.uploads;
        let encoder =
            pending.get_or_insert_with(|| self.device.device.create_command_encoder(&Default::default()));
        // Not StagingBelt::write_buffer, which panics where a device is lost just now and maps nothing.
        let staged = belt.allocate(size, wgpu::BufferSize::MIN);
        encoder.copy_buffer_to_buffer(staged.buffer(), staged.offset(), buffer, offset, size.get());
        let mapped = staged.get_mapped_range_mut();
        mapped.map_err(|error| self.device.trouble(DURING, error.to_string()))?.copy_from_slice(bytes);
        Ok(())
    }

    /// Submits `encode` behind the inputs written so far.
    fn submit(&mut self, encode: impl FnOnce(&Self, &mut wgpu::CommandEncoder)) -> wgpu::SubmissionIndex {
        let pending = self.uploads.pending.take();
        let mut encoder =
            pending.unwrap_or_else(|| self.device.device.create_command_encoder(&Default::default()));
        encode(self, &mut encoder);
        self.uploads.belt.finish();
        let index = self.device.queue.submit([encoder.finish()]);
        self.uploads.belt.recall();
        #[cfg(test)]
        {
            self.submissions += 1;
        }
        index
    }

    /// Queues dispatches by their numbers, of which those past the last one begin anew, in submissions of the plan's pace;
    /// gives the last submission. `during` says what runs.
    fn submit_dispatches(
        &mut self,
        range: Range<usize>,
        during: &str,
    ) -> Result<wgpu::SubmissionIndex, DeviceError> {
        let measures = self.pace.measures() && !range.is_empty();
        if measures {
            // What is queued already is no part of it.
            self.device.wait(None, during)?;
        }
        let loads: Vec<Load> = self.dispatches.iter().map(Dispatch::load).collect();
        let load = |index: usize| loads[index % loads.len()];
        let mut from = range.start;
        loop {
            let end = self.pace.end_of_piece(from..range.end, load);
            let index = if measures {
                let mut pace = std::mem::take(&mut self.pace);
                let timed = pace.time((from..end).map(load), || {
                    let index = self.submit_piece(from..end);
                    self.device.wait(Some(index.clone()), during)?;
                    Ok::<_, DeviceError>(index)
                });
                self.pace = pace;
                timed?
            } else {
                self.submit_piece(from..end)
            };
            from = end;
            if from >= range.end {
                if measures {
                    let work = |range: Range<usize>| range.map(|index| load(index).work).sum();
                    self.pace.has_measured(work(range), work(0..loads.len()));
                }
                return Ok(index);
            }
        }
    }

    fn submit_piece(&mut self, piece: Range<usize>) -> wgpu::SubmissionIndex {
        self.submit(|executor, encoder| {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for index in piece {
                executor.dispatches[index % executor.dispatches.len()].encode(&mut pass);
            }
        })
    }

    /// Submits each dispatch by itself, waits for it, and names it if it fails; gives the last submission.
    fn submit_each(&mut self, range: Range<usize>) -> Result<wgpu::SubmissionIndex, DeviceError> {
        let mut last = self.submit_piece(0..0);
        for index in range {
            last = self.submit_piece(index..index + 1);
            self.device.wait(Some(last.clone()), &self.during(index % self.dispatches.len()))?;
        }
        Ok(last)
    }

    /// What runs while a dispatch does: module path, kernel, variant.
    fn during(&self, index: usize) -> String {
        let dispatch = &self.dispatches[index];
        let node = &self.plan.nodes[dispatch.node].node;
        let at = if node.path.is_empty() { String::new() } else { format!(" at {}", node.path) };
        format!(
            " while it ran {} (variant {}, entry point {}){at}",
            node.op.name(),
            dispatch.variant,
            dispatch.kernel.name,
        )
    }

    /// Fills all buffers of activations and workspace with NaN, so that what is read before it is written shows.
    pub fn poison(&mut self) {
        for (buffer, plan) in self.buffers.iter().zip(&self.plan.buffers) {
            if matches!(plan.role, BufferRole::Activations | BufferRole::Workspace) {
                // All bits set is a NaN of 32 bits, and two of 16.
                let nan = vec![u32::MAX; plan.bytes / 4];
                self.device.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&nan));
            }
        }
    }

    /// Queues every dispatch once.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] or [`DeviceError::Failed`], also for trouble in earlier runs.
    pub fn run(&mut self) -> Result<(), DeviceError> {
        self.run_nodes(0..self.plan.nodes.len())
    }

    /// Queues the dispatches of some of the nodes once, by their numbers in the plan.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] or [`DeviceError::Failed`], also for trouble in earlier runs.
    pub fn run_nodes(&mut self, nodes: Range<usize>) -> Result<(), DeviceError> {
        // Dispatches are in the order of their nodes.
        let first_of = |node| self.dispatches.partition_point(|dispatch| dispatch.node < node);
        let range = first_of(nodes.start)..first_of(nodes.end);
        let (index, during) = match self.device.submits_each_dispatch() {
            true => (self.submit_each(range)?, STEP_OF_DISPATCHES),
            false => (self.submit_dispatches(range, STEP)?, STEP),
        };
        let [older, last] = std::mem::take(&mut self.submitted);
        self.submitted = [last, Some(index)];
        if let Some(submission_index) = older {
            self.device.wait(Some(submission_index), during)?;
        }
        self.device.check(during)
    }

    /// Whether [`GpuExecutor::run_timed`] reads the device's own clock.
    pub fn has_timestamps(&self) -> bool {
        self.device.has_timestamps()
    }

    /// Runs every dispatch once and times each: by the device's timestamps, where it has them; else each as a submission of
    /// its own that is waited for, by `clock`, which gives seconds.
    ///
    /// # Errors
    /// [`DeviceError::Timestamps`] for times that cannot be; [`DeviceError::Lost`] or [`DeviceError::Failed`], also for
    /// trouble in earlier runs.
    pub async fn run_timed(&mut self, clock: &dyn Fn() -> f64) -> Result<Vec<Timing>, DeviceError> {
        self.submit_piece(0..0);
        self.device.wait(None, STEP)?;
        let count = self.dispatches.len();
        let spans = if self.has_timestamps() {
            let mut from = 0;
            let pieces = std::iter::from_fn(|| {
                let piece = from..self.pace.end_of_piece(from..count, |index| self.dispatches[index].load());
                from = piece.end;
                (!piece.is_empty()).then_some(piece)
            });
            timestamps::time(&self.device, &self.dispatches, pieces).await?
        } else {
            let first = clock();
            let mut spans = Vec::new();
            for index in 0..count {
                let start = clock();
                let submitted = self.submit_piece(index..index + 1);
                self.device.wait(Some(submitted), &self.during(index))?;
                spans.push((start - first, clock() - start));
            }
            spans
        };
        let timing = |(dispatch, (start, seconds)): (&Dispatch, (f64, f64))| Timing {
            node: dispatch.node,
            kernel: dispatch.kernel.name.clone(),
            start,
            seconds,
        };
        Ok(self.dispatches.iter().zip(spans).map(timing).collect())
    }

    /// Seconds that [`GpuExecutor::run_timed`] finds for a dispatch that does nothing.
    ///
    /// # Errors
    /// As [`GpuExecutor::run_timed`].
    pub async fn time_of_empty_dispatch(&self, clock: &dyn Fn() -> f64) -> Result<f64, DeviceError> {
        self.device.time_of_empty_dispatch(clock).await
    }

    /// Runs every node `times` times and waits for it: what a stopwatch needs. Never dispatch by dispatch, which would time
    /// the waiting; a call by itself is named all the same if it fails.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] or [`DeviceError::Failed`], also for trouble in earlier runs.
    pub fn run_and_wait(&mut self, times: usize) -> Result<(), DeviceError> {
        let during = match self.plan.nodes.len() {
            1 if !self.dispatches.is_empty() => self.during(0),
            _ => " while it timed a step".to_owned(),
        };
        let index = self.submit_dispatches(0..times * self.dispatches.len(), &during)?;
        self.device.wait(Some(index), &during)
    }

    /// Reads a kept or state value.
    ///
    /// # Errors
    /// [`DeviceError::NotKept`]; [`DeviceError::Lost`].
    pub async fn read(&mut self, value: ValueId) -> Result<Vec<f32>, DeviceError> {
        let place = place_to_read(&self.plan, value)?;
        let size = place.bytes as u64;
        let staging = self.device.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read-back"),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.submit(|executor, encoder| {
            let buffer = &executor.buffers[place.buffer];
            encoder.copy_buffer_to_buffer(buffer, place.offset as u64, &staging, 0, size);
        });
        let view = self.device.read_back(&staging).await?;
        let ty = self.plan.ty(value);
        let data = match ty.dtype {
            DType::F16 => half_precision::decode(&view, ty.len()),
            DType::F32 | DType::U32 => bytemuck::pod_collect_to_vec(&view),
        };
        Ok(data)
    }
}
