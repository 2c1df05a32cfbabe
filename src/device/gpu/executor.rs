//! The GPU executor: pipelines and bind groups are made once, each run encodes the same list and submits it.

use std::ops::Range;
use std::sync::Arc;

use super::prepare::{Prepare, allocate, plan};
use super::timestamps::Timestamps;
use super::{GpuDevice, Kernel};
use crate::device::{
    ChooseVariant, DeviceError, Margin, Timing, half_precision, place_to_read, place_to_write,
};
use crate::graph::{BufferRole, DType, Graph, Plan, PlannedNode, ValueId};
use crate::ops::{Op, Types};

/// Runs a plan on a wgpu device.
pub struct GpuExecutor {
    device: Arc<GpuDevice>,
    plan: Plan,
    buffers: Vec<wgpu::Buffer>,
    dispatches: Vec<Dispatch>,
    uploads: Uploads,
    /// The last two submissions: a run waits for the one before the last, so that the queue stays short.
    submitted: [Option<wgpu::SubmissionIndex>; 2],
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
    pub(super) kernel: Arc<Kernel>,
    pub(super) bind_group: wgpu::BindGroup,
    pub(super) workgroups: [u32; 2],
}

impl Dispatch {
    pub(super) fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.kernel.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.workgroups[0], self.workgroups[1], 1);
    }
}

impl GpuExecutor {
    /// Plans `graph`, allocates its buffers and prepares every dispatch; `choose` picks the variant of each call.
    ///
    /// # Errors
    /// What the adapter cannot do, by kernel and shape.
    pub async fn new(
        device: Arc<GpuDevice>,
        graph: &Graph,
        keep: &[ValueId],
        choose: ChooseVariant<'_>,
        margin: Margin,
    ) -> Result<Self, DeviceError> {
        let pick = |op: &dyn Op, types: Types<'_>| choose(op, types, device.variants(op, types));
        let plan = plan(graph, keep, &pick);
        let types = |node: &PlannedNode| Types { inputs: &node.inputs, outputs: &node.outputs }.activation();
        if !device.supports_f16() && plan.nodes.iter().any(|node| types(node) == DType::F16) {
            return Err(DeviceError::NoF16 { adapter: device.name.clone() });
        }
        let buffers = allocate(&device, &plan).await?;
        let mut prepare = Prepare::new(&device, graph, &plan, &buffers, margin);
        for (index, node) in plan.nodes.iter().enumerate() {
            let op = node.node.op.as_ref();
            let variant = pick(op, Types { inputs: &node.inputs, outputs: &node.outputs });
            let variant = variant.ok_or_else(|| DeviceError::NoVariant {
                adapter: device.name.clone(),
                kernel: op.name().to_owned(),
                path: node.node.path.clone(),
            })?;
            prepare.node(index, node, &variant).await?;
        }
        let dispatches = prepare.finish();
        device.check(" while it prepared a plan")?;
        let uploads = Uploads::new(&device, &plan);
        Ok(Self { device, plan, buffers, dispatches, uploads, submitted: [None, None] })
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
        // A lost device maps nothing.
        self.device.check(" while its inputs were written")?;
        let Uploads { belt, pending } = &mut self.uploads;
        let encoder =
            pending.get_or_insert_with(|| self.device.device.create_command_encoder(&Default::default()));
        belt.write_buffer(encoder, buffer, offset, size).copy_from_slice(bytes);
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
        index
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

    /// Queues every dispatch once, as one submission.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] or [`DeviceError::Failed`], also for trouble in earlier runs.
    pub fn run(&mut self) -> Result<(), DeviceError> {
        self.run_nodes(0..self.plan.nodes.len())
    }

    /// Queues the dispatches of some of the nodes once, by their numbers in the plan, as one submission.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] or [`DeviceError::Failed`], also for trouble in earlier runs.
    pub fn run_nodes(&mut self, nodes: Range<usize>) -> Result<(), DeviceError> {
        let index = self.submit(|executor, encoder| {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for dispatch in executor.dispatches.iter().filter(|dispatch| nodes.contains(&dispatch.node)) {
                dispatch.encode(&mut pass);
            }
        });
        let [older, last] = std::mem::take(&mut self.submitted);
        self.submitted = [last, Some(index)];
        if let Some(submission_index) = older {
            self.wait(Some(submission_index))?;
        }
        self.device.check(" while it ran a step")
    }

    /// Whether [`GpuExecutor::run_timed`] reads the device's own clock.
    pub fn has_timestamps(&self) -> bool {
        self.device.has_timestamps()
    }

    /// Runs every dispatch once and times each: in one submission by the device's timestamps, where it has them; else each
    /// as a submission of its own that is waited for, by `clock`, which gives seconds.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] or [`DeviceError::Failed`], also for trouble in earlier runs.
    pub async fn run_timed(&mut self, clock: &dyn Fn() -> f64) -> Result<Vec<Timing>, DeviceError> {
        self.submit(|_, _| {});
        self.wait(None)?;
        let spans = if self.has_timestamps() {
            let timestamps = Timestamps::new(&self.device, self.dispatches.len());
            self.submit(|executor, encoder| timestamps.encode(encoder, &executor.dispatches));
            let bytes = self.read_back(&timestamps.readable).await?;
            timestamps.spans(&bytes)
        } else {
            let first = clock();
            let mut spans = Vec::new();
            for index in 0..self.dispatches.len() {
                let start = clock();
                self.submit(|executor, encoder| {
                    executor.dispatches[index].encode(&mut encoder.begin_compute_pass(&Default::default()));
                });
                self.wait(None)?;
                spans.push((start - first, clock() - start));
            }
            spans
        };
        self.device.check(" while it ran a step")?;
        let timing = |(dispatch, (start, seconds)): (&Dispatch, (f64, f64))| Timing {
            node: dispatch.node,
            kernel: dispatch.kernel.name.clone(),
            start,
            seconds,
        };
        Ok(self.dispatches.iter().zip(spans).map(timing).collect())
    }

    /// Runs every node `times` times as one submission and waits for it: what a stopwatch needs.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] or [`DeviceError::Failed`], also for trouble in earlier runs.
    pub fn run_and_wait(&mut self, times: usize) -> Result<(), DeviceError> {
        let index = self.submit(|executor, encoder| {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for dispatch in (0..times).flat_map(|_| &executor.dispatches) {
                dispatch.encode(&mut pass);
            }
        });
        self.wait(Some(index))?;
        self.device.check(" while it timed a kernel")
    }

    fn wait(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<(), DeviceError> {
        let poll = wgpu::PollType::Wait { submission_index, timeout: None };
        self.device.device.poll(poll).map(|_| ()).map_err(|error| DeviceError::Failed {
            adapter: self.device.name.clone(),
            during: " while waiting for a step".to_owned(),
            message: error.to_string(),
        })
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
        let view = self.read_back(&staging).await?;
        let ty = self.plan.ty(value);
        let data = match ty.dtype {
            DType::F16 => half_precision::decode(&view, ty.len()),
            DType::F32 | DType::U32 => bytemuck::pod_collect_to_vec(&view),
        };
        Ok(data)
    }

    /// Waits for what is queued and gives the contents of a buffer that can be mapped.
    async fn read_back(&self, buffer: &wgpu::Buffer) -> Result<wgpu::BufferView, DeviceError> {
        const DURING: &str = " while reading a result back";
        let (sender, mapped) = futures_channel::oneshot::channel();
        buffer.map_async(wgpu::MapMode::Read, .., move |result| {
            // The receiver is dropped only if this future is, and then nobody wants the result.
            let _ = sender.send(result);
        });
        self.wait(None)?;
        let failed = |message: String| DeviceError::Failed {
            adapter: self.device.name.clone(),
            during: DURING.to_owned(),
            message,
        };
        match mapped.await {
            Ok(Ok(())) => {}
            outcome => {
                self.device.check(DURING)?;
                return Err(failed(format!("{outcome:?}")));
            }
        }
        let view = buffer.get_mapped_range(..).map_err(|error| failed(error.to_string()))?;
        self.device.check(DURING)?;
        Ok(view)
    }
}
