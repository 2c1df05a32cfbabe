//! From a plan to dispatches: buffers, parameters, bindings and grids.

use std::sync::Arc;

use super::executor::Dispatch;
use super::pace;
use super::{GpuDevice, Kernel};
use crate::device::cpu::check_host_memory;
use crate::device::shader::Usage;
use crate::device::webgpu::BINDING_ALIGNMENT;
use crate::device::{DeviceError, Margin};
use crate::graph::{Graph, Place, Plan, PlannedNode, Storage, TensorType};
use crate::ops::{Grid, Types, Variant};

fn out_of_memory(device: &GpuDevice, plan: &Plan) -> DeviceError {
    let sized = |node: &PlannedNode| node.inputs.iter().chain(&node.outputs).map(|ty| ty.bytes()).max();
    let node = plan.nodes.iter().max_by_key(|node| sized(node));
    let largest =
        node.map_or_else(String::new, |node| format!("largest at {} {}", node.node.path, shapes(node)));
    DeviceError::OutOfMemory { adapter: device.name.clone(), total: plan.memory().total(), largest }
}

/// Refuses a plan with buffers beyond the adapter's limit; or beyond the host's memory, where that is what the adapter
/// has.
///
/// # Errors
/// [`DeviceError::OutOfMemory`], [`DeviceError::HostMemory`]
pub(in crate::device) fn check_size(device: &GpuDevice, plan: &Plan) -> Result<(), DeviceError> {
    if plan.buffers.iter().any(|buffer| buffer.bytes as u64 > device.limits.max_buffer_size) {
        return Err(out_of_memory(device, plan));
    }
    if device.report().is_hardware { Ok(()) } else { check_host_memory(plan) }
}

/// The buffers of a plan.
///
/// # Errors
/// As [`check_size`]; [`DeviceError::OutOfMemory`] from the driver.
pub(super) async fn allocate(device: &GpuDevice, plan: &Plan) -> Result<Vec<wgpu::Buffer>, DeviceError> {
    check_size(device, plan)?;
    let out_of_memory = || out_of_memory(device, plan);
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
        Some(_) => Err(device.lost(" while its memory was allocated").unwrap_or_else(out_of_memory)),
        None => Ok(buffers),
    }
}

/// A dispatch whose parameters are not uploaded yet.
struct PendingDispatch {
    node: usize,
    variant: &'static str,
    work: f64,
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
        Dispatch {
            node: self.node,
            variant: self.variant,
            work: self.work,
            kernel: self.kernel,
            bind_group,
            workgroups: self.workgroups,
        }
    }
}

/// Prepares dispatches one after another, and binds them once the parameters of all are known.
pub(super) struct Prepare<'a> {
    device: &'a GpuDevice,
    graph: &'a Graph,
    plan: &'a Plan,
    buffers: &'a [wgpu::Buffer],
    margin: Margin,
    params: Vec<u8>,
    pending: Vec<PendingDispatch>,
}

impl<'a> Prepare<'a> {
    pub(super) fn new(
        device: &'a GpuDevice,
        graph: &'a Graph,
        plan: &'a Plan,
        buffers: &'a [wgpu::Buffer],
        margin: Margin,
    ) -> Self {
        Self { device, graph, plan, buffers, margin, params: Vec::new(), pending: Vec::new() }
    }

    /// Prepares the dispatches of node number `index`.
    ///
    /// # Errors
    /// What the adapter cannot do, by kernel and shape.
    pub(super) async fn node(
        &mut self,
        index: usize,
        node: &PlannedNode,
        variant: &Variant,
    ) -> Result<(), DeviceError> {
        let op = node.node.op.as_ref();
        let types = Types { inputs: &node.inputs, outputs: &node.outputs };
        let shader = self.device.shader(op.file(), types.activation())?;
        let op_file = shader.shader.op_file;
        let shapes = shapes(node);
        // Which of several passes does the work is not known.
        let work = pace::work(op.cost(types)) / variant.passes.len().max(1) as f64;
        for pass in &variant.passes {
            let kernel = self.device.kernel(&shader, pass, &node.node.path, &shapes).await?;
            let mut storage = Vec::new();
            let mut params = None;
            for binding in &kernel.bindings {
                if binding.usage == Usage::Params {
                    let bytes = shader.shader.params(pass)?;
                    params = Some((binding.index, self.params.len(), bytes.len()));
                    self.params.extend(bytes);
                    self.params.resize(self.params.len().next_multiple_of(BINDING_ALIGNMENT), 0);
                    continue;
                }
                let place =
                    self.operand(node, variant, &binding.name).ok_or_else(|| DeviceError::Shader {
                        op_file: shader.shader.op_file,
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
                        op_file,
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
                        kernel: format!("{op_file}.{}", pass.entry),
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
            self.pending.push(PendingDispatch {
                node: index,
                variant: variant.name,
                work,
                kernel,
                storage,
                params,
                workgroups,
            });
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
                place.bytes = (place.bytes + self.margin.tail).min(available);
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
        // A single workgroup is never folded.
        if self.margin.surplus_workgroups && count > 1 {
            let y = y + 1;
            return [(count.div_ceil(y) + 1) as u32, y as u32];
        }
        [count.div_ceil(y) as u32, y as u32]
    }

    /// The dispatches, with their parameters uploaded.
    pub(super) fn finish(self) -> Vec<Dispatch> {
        let params = upload_params(self.device, &self.params);
        self.pending.into_iter().map(|dispatch| dispatch.bind(self.device, self.buffers, &params)).collect()
    }
}

fn upload_params(device: &GpuDevice, params: &[u8]) -> wgpu::Buffer {
    let buffer = device.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("params"),
        size: params.len().max(BINDING_ALIGNMENT) as u64,
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
