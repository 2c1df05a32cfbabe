//! The GPU executor: pipelines and bind groups are made once, each run encodes the same list and submits it.

use std::ops::Range;
use std::sync::Arc;

use super::timestamps::Timestamps;
use super::{GpuDevice, Kernel};
use crate::device::shader::Usage;
use crate::device::{ChooseVariant, DeviceError, Timing, half_precision, place_to_read, place_to_write};
use crate::graph::{BufferRole, DType, Graph, Place, Plan, PlannedNode, Storage, TensorType, ValueId};
use crate::ops::{Grid, Op, Types, Variant};

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
    node: usize,
    kernel: Arc<Kernel>,
    bind_group: wgpu::BindGroup,
    workgroups: [u32; 2],
}

impl Dispatch {
    pub(super) fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.kernel.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.workgroups[0], self.workgroups[1], 1);
    }
}

/// Uniform bindings start at multiples of 256 bytes.
const PARAMS_ALIGNMENT: usize = 256;

impl GpuExecutor {
    /// Plans `graph`, allocates its buffers and prepares every dispatch.
    ///
    /// `choose` picks the variant of each call. `tail` bytes more than an output's own are bound behind each output
    /// that is a slice of a state value, so that a test sees what a kernel writes there.
    ///
    /// # Errors
    /// What the adapter cannot do, by kernel and shape.
    pub async fn new(
        device: Arc<GpuDevice>,
        graph: &Graph,
        keep: &[ValueId],
        choose: ChooseVariant<'_>,
        tail: usize,
    ) -> Result<Self, DeviceError> {
        let pick = |op: &dyn Op, types: Types<'_>| choose(op, types, device.variants(op, types));
        let plan = Plan::new(graph, keep, |node| {
            let types = |ids: &[ValueId]| ids.iter().map(|&id| graph.ty(id).clone()).collect::<Vec<_>>();
            let (inputs, outputs) = (types(&node.inputs), types(&node.outputs));
            let variant = pick(node.op.as_ref(), Types { inputs: &inputs, outputs: &outputs });
            variant.map_or_else(Vec::new, |variant| {
                variant.scratch.iter().map(|(_, length)| 4 * length).collect()
            })
        });
        let types = |node: &PlannedNode| Types { inputs: &node.inputs, outputs: &node.outputs }.activation();
        if !device.supports_f16() && plan.nodes.iter().any(|node| types(node) == DType::F16) {
            return Err(DeviceError::NoF16 { adapter: device.name.clone() });
        }
        let buffers = allocate(&device, &plan).await?;
        let mut prepare =
            Prepare { device: &device, graph, plan: &plan, buffers: &buffers, tail, params: Vec::new() };
        let mut pending = Vec::new();
        for (index, node) in plan.nodes.iter().enumerate() {
            let op = node.node.op.as_ref();
            let variant = pick(op, Types { inputs: &node.inputs, outputs: &node.outputs });
            let variant = variant.ok_or_else(|| DeviceError::NoVariant {
                adapter: device.name.clone(),
                kernel: op.name().to_owned(),
                path: node.node.path.clone(),
            })?;
            prepare.node(index, node, &variant, &mut pending).await?;
        }
        let params = upload_params(&device, &prepare.params);
        let dispatches =
            pending.into_iter().map(|dispatch| dispatch.bind(&device, &buffers, &params)).collect();
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

async fn allocate(device: &GpuDevice, plan: &Plan) -> Result<Vec<wgpu::Buffer>, DeviceError> {
    let largest = || {
        let sized = |node: &PlannedNode| node.inputs.iter().chain(&node.outputs).map(|ty| ty.bytes()).max();
        let node = plan.nodes.iter().max_by_key(|node| sized(node));
        node.map_or_else(String::new, |node| format!("largest at {} {}", node.node.path, shapes(node)))
    };
    let out_of_memory = || DeviceError::OutOfMemory {
        adapter: device.name.clone(),
        total: plan.memory().total(),
        largest: largest(),
    };
    if plan.buffers.iter().any(|buffer| buffer.bytes as u64 > device.limits.max_buffer_size) {
        return Err(out_of_memory());
    }
    let memory = device.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let internal = device.device.push_error_scope(wgpu::ErrorFilter::Internal);
    let buffers = plan
        .buffers
        .iter()
        .map(|buffer| {
            device.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(&format!("{:?}", buffer.role)),
                size: buffer.bytes.next_multiple_of(16) as u64,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_SRC
                    | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })
        .collect();
    let (internal, memory) = (internal.pop(), memory.pop());
    match memory.await.or(internal.await) {
        Some(_) => Err(out_of_memory()),
        None => Ok(buffers),
    }
}

/// A dispatch whose parameters are not uploaded yet.
struct PendingDispatch {
    node: usize,
    kernel: Arc<Kernel>,
    /// Number of the binding and its range of a buffer.
    storage: Vec<(u32, Place)>,
    /// Number of the binding and its range of the parameter buffer.
    params: Option<(u32, usize, usize)>,
    workgroups: [u32; 2],
}

impl PendingDispatch {
    fn bind(self, device: &GpuDevice, buffers: &[wgpu::Buffer], params: &wgpu::Buffer) -> Dispatch {
        let range = |buffer, offset: usize, bytes: usize| {
            wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer,
                offset: offset as u64,
                size: std::num::NonZeroU64::new(bytes as u64),
            })
        };
        let storage = self.storage.iter().map(|&(binding, place)| wgpu::BindGroupEntry {
            binding,
            resource: range(&buffers[place.buffer], place.offset, place.bytes),
        });
        let uniform = self.params.map(|(binding, offset, bytes)| wgpu::BindGroupEntry {
            binding,
            resource: range(params, offset, bytes),
        });
        let entries: Vec<wgpu::BindGroupEntry<'_>> = storage.chain(uniform).collect();
        let bind_group = device.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.kernel.layout,
            entries: &entries,
        });
        Dispatch { node: self.node, kernel: self.kernel, bind_group, workgroups: self.workgroups }
    }
}

struct Prepare<'a> {
    device: &'a GpuDevice,
    graph: &'a Graph,
    plan: &'a Plan,
    buffers: &'a [wgpu::Buffer],
    tail: usize,
    params: Vec<u8>,
}

impl Prepare<'_> {
    /// Prepares the dispatches of one node.
    async fn node(
        &mut self,
        index: usize,
        node: &PlannedNode,
        variant: &Variant,
        pending: &mut Vec<PendingDispatch>,
    ) -> Result<(), DeviceError> {
        let op = node.node.op.as_ref();
        let types = Types { inputs: &node.inputs, outputs: &node.outputs };
        let shader = self.device.shader(op.room(), types.activation())?;
        let room = shader.shader.room;
        let shapes = shapes(node);
        for pass in &variant.passes {
            let kernel = self.device.kernel(&shader, pass, &node.node.path, &shapes).await?;
            let mut storage = Vec::new();
            let mut params = None;
            for binding in &kernel.bindings {
                if binding.usage == Usage::Params {
                    let bytes = shader.shader.params(pass)?;
                    params = Some((binding.index, self.params.len(), bytes.len()));
                    self.params.extend(bytes);
                    self.params.resize(self.params.len().next_multiple_of(PARAMS_ALIGNMENT), 0);
                    continue;
                }
                let place =
                    self.operand(node, variant, &binding.name).ok_or_else(|| DeviceError::Shader {
                        room: shader.shader.room,
                        message: format!(
                            "{} binds {}, which {} does not have",
                            pass.entry,
                            binding.name,
                            op.name()
                        ),
                    })?;
                if let (Some(declared), Some(ty)) = (binding.dtype, operand_type(node, &binding.name))
                    && declared != ty.dtype
                {
                    return Err(DeviceError::Shader {
                        room,
                        message: format!(
                            "{} declares {} as {declared:?}, the call at {} has {shapes}; what may be of 16 bits is \
                             declared array<Activation>",
                            pass.entry, binding.name, node.node.path
                        ),
                    });
                }
                let limit = self.device.limits.max_storage_buffer_binding_size;
                if place.bytes as u64 > limit {
                    return Err(DeviceError::BindingTooLarge {
                        kernel: format!("{room}.{}", pass.entry),
                        path: node.node.path.clone(),
                        name: binding.name.clone(),
                        bytes: place.bytes as u64,
                        shapes,
                        adapter: self.device.name.clone(),
                        limit,
                    });
                }
                storage.push((binding.index, place));
            }
            let workgroups = self.workgroups(pass.grid, shader.shader.workgroup_size(pass)?);
            pending.push(PendingDispatch { node: index, kernel, storage, params, workgroups });
        }
        Ok(())
    }

    /// Where the operand or scratch tensor called `name` lies.
    fn operand(&self, node: &PlannedNode, variant: &Variant, name: &str) -> Option<Place> {
        let op = node.node.op.as_ref();
        if let Some(index) = op.inputs().iter().position(|input| *input == name) {
            return self.plan.place(node.node.inputs[index]);
        }
        if let Some(index) = op.outputs().iter().position(|output| *output == name) {
            let id = node.node.outputs[index];
            let mut place = self.plan.place(id)?;
            if matches!(self.graph.value(id).storage, Storage::Slice { .. }) {
                let available = self.buffers[place.buffer].size() as usize - place.offset;
                place.bytes = (place.bytes + self.tail).min(available);
            }
            return Some(place);
        }
        let index = variant.scratch.iter().position(|(scratch, _)| *scratch == name)?;
        node.scratch.get(index).copied()
    }

    /// Workgroups in x and y, folded where x alone would be over the limit.
    fn workgroups(&self, grid: Grid, size: [u32; 3]) -> [u32; 2] {
        let count = match grid {
            Grid::Workgroups(count) => count,
            Grid::Invocations(count) => count.div_ceil(size.iter().product::<u32>() as usize),
        };
        let limit = self.device.limits.max_compute_workgroups_per_dimension as usize;
        let y = count.div_ceil(limit).max(1);
        [count.div_ceil(y) as u32, y as u32]
    }
}

fn upload_params(device: &GpuDevice, params: &[u8]) -> wgpu::Buffer {
    let buffer = device.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("params"),
        size: params.len().max(PARAMS_ALIGNMENT) as u64,
        usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    device.queue.write_buffer(&buffer, 0, params);
    buffer
}

/// Shape and element type of the operand called `name`; `None` for a scratch tensor.
fn operand_type<'a>(node: &'a PlannedNode, name: &str) -> Option<&'a TensorType> {
    let op = node.node.op.as_ref();
    let names = op.inputs().iter().chain(op.outputs());
    names
        .zip(node.inputs.iter().chain(&node.outputs))
        .find(|(operand, _)| **operand == name)
        .map(|(_, ty)| ty)
}

/// The operands of a call with their shapes, for errors.
fn shapes(node: &PlannedNode) -> String {
    let op = node.node.op.as_ref();
    let names = op.inputs().iter().chain(op.outputs());
    let types = node.inputs.iter().chain(&node.outputs);
    names.zip(types).map(|(name, ty)| format!("{name} {ty}")).collect::<Vec<_>>().join(", ")
}
