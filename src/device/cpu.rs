//! The CPU executor: runs a plan by their CPU kernels.

use std::ops::Range;

use super::executor::{place_to_read, place_to_write};
use super::{DeviceError, Timing, half_precision};
use crate::graph::{BufferRole, DType, Graph, Node, Place, Plan, PlannedNode, TensorType, ValueId};
use crate::memory;
use crate::ops::{Case, Fill, Input, Operands, Output};

/// Which CPU kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuKernels {
    /// The naive one, the oracle of tests.
    Reference,
    /// The fast one.
    Fast,
}

/// Memory of a plan that begins with a cache line: vectors that straddle two lines take twice as long to load.
#[derive(Default)]
struct Buffer {
    data: Vec<f32>,
    first: usize,
}

impl Buffer {
    /// Zeros; `None` where the allocator has no memory for them.
    fn new(length: usize) -> Option<Self> {
        let line = 64 / size_of::<f32>();
        // `vec!` takes pages that are zero already, but ends the program where there are none: ask first.
        Vec::<f32>::new().try_reserve_exact(length.checked_add(line)?).ok()?;
        let data = vec![0.0; length + line];
        let first = data.as_ptr().align_offset(64).min(line);
        Some(Self { data, first })
    }

    fn as_slice(&self) -> &[f32] {
        &self.data[self.first..]
    }

    fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.data[self.first..]
    }
}

/// Every element takes 32 bits, and no call needs scratch tensors.
pub(super) fn plan(graph: &Graph, keep: &[ValueId]) -> Plan {
    Plan::sized(graph, keep, |ty| ty.len().saturating_mul(4), |_| Vec::new())
}

/// Refuses a plan whose buffers the host has no memory for: of the CPU executor, or of an adapter that is a driver on
/// the CPU.
///
/// # Errors
/// [`DeviceError::HostMemory`]
pub(super) fn check_host_memory(plan: &Plan) -> Result<(), DeviceError> {
    Ok(memory::check(plan.memory().total(), || what(plan))?)
}

fn what(plan: &Plan) -> String {
    format!("the buffers ({})", plan.memory())
}

/// Runs a plan on the CPU.
///
/// Every element takes 32 bits: what is stored as f16 elsewhere is rounded to f16 here, so that this executor remains the
/// oracle of the others.
pub struct CpuExecutor {
    plan: Plan,
    buffers: Vec<Buffer>,
    kernels: CpuKernels,
}

impl CpuExecutor {
    /// Plans `graph` and allocates its buffers, zero-filled.
    ///
    /// # Errors
    /// [`DeviceError::HostMemory`] where the machine has less memory free.
    pub fn new(graph: &Graph, keep: &[ValueId], kernels: CpuKernels) -> Result<Self, DeviceError> {
        let plan = plan(graph, keep);
        check_host_memory(&plan)?;
        let buffers = plan.buffers.iter().map(|buffer| Buffer::new(buffer.bytes / 4));
        let buffers: Option<Vec<Buffer>> = buffers.collect();
        let refused =
            || memory::TooLarge { what: what(&plan), bytes: plan.memory().total(), free: memory::free() };
        let buffers = buffers.ok_or_else(refused)?;
        Ok(Self { plan, buffers, kernels })
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
        if let Some(place) = place_to_write(&self.plan, value, data.len())? {
            let stored = &mut self.buffers[place.buffer].as_mut_slice()[range(place)];
            stored.copy_from_slice(data);
            if self.plan.ty(value).dtype == DType::F16 {
                half_precision::round(stored);
            }
        }
        Ok(())
    }

    /// Reads a kept or state value.
    ///
    /// # Errors
    /// [`DeviceError::NotKept`].
    pub fn read(&self, value: ValueId) -> Result<Vec<f32>, DeviceError> {
        let place = place_to_read(&self.plan, value)?;
        Ok(self.buffers[place.buffer].as_slice()[range(place)].to_vec())
    }

    /// Fills all buffers of activations and workspace with NaN, so that what is read before it is written shows.
    pub fn poison(&mut self) {
        for (buffer, plan) in self.buffers.iter_mut().zip(&self.plan.buffers) {
            if matches!(plan.role, BufferRole::Activations | BufferRole::Workspace) {
                buffer.as_mut_slice().fill(f32::NAN);
            }
        }
    }

    /// Runs every node once.
    pub fn run(&mut self) {
        self.run_nodes(0..self.plan.nodes.len());
    }

    /// Runs some of the nodes once, by their numbers in the plan.
    pub fn run_nodes(&mut self, nodes: Range<usize>) {
        for node in &self.plan.nodes[nodes] {
            run_node(&self.plan, &mut self.buffers, node, self.kernels);
        }
    }

    /// Runs every node once and times each by `clock`, which gives seconds.
    pub fn run_timed(&mut self, clock: &dyn Fn() -> f64) -> Vec<Timing> {
        let first = clock();
        let mut timings = Vec::new();
        for (index, node) in self.plan.nodes.iter().enumerate() {
            let start = clock();
            run_node(&self.plan, &mut self.buffers, node, self.kernels);
            let kernel = node.node.op.name().to_owned();
            timings.push(Timing { node: index, kernel, start: start - first, seconds: clock() - start });
        }
        timings
    }

    /// Runs every node once, one for each call of the iterator, and gives the calls that `wanted` picks with the contents
    /// that their operands had before. The run is whole when the iterator has come to its end.
    pub fn run_capturing(
        &mut self,
        wanted: impl Fn(usize, &PlannedNode) -> bool,
    ) -> impl Iterator<Item = Case> {
        (0..self.plan.nodes.len()).filter_map(move |index| {
            let node = &self.plan.nodes[index];
            let case = wanted(index, node).then(|| self.capture(node));
            run_node(&self.plan, &mut self.buffers, node, self.kernels);
            case
        })
    }

    /// A call of the plan with what its operands hold now.
    fn capture(&self, node: &PlannedNode) -> Case {
        let contents = |ids: &[ValueId], types: &[TensorType]| {
            let fills = ids.iter().zip(types).map(|(id, ty)| self.contents(*id, ty));
            fills.collect::<Vec<Fill>>()
        };
        let Node { op, inputs, outputs, path, .. } = &node.node;
        let targets = if op.updates_in_place() { contents(outputs, &node.outputs) } else { Vec::new() };
        Case { name: path.clone(), op: op.clone(), inputs: contents(inputs, &node.inputs), targets }
    }

    fn contents(&self, id: ValueId, ty: &TensorType) -> Fill {
        let place = self.plan.place(id);
        let data = place.map_or(&[][..], |place| &self.buffers[place.buffer].as_slice()[range(place)]);
        let floats = || Fill::Floats { shape: ty.shape.clone(), data: data.to_vec() };
        match ty.dtype {
            DType::F32 => floats(),
            DType::F16 => Fill::F16(Box::new(floats())),
            DType::U32 => {
                Fill::Integers { shape: ty.shape.clone(), data: bytemuck::cast_slice(data).to_vec() }
            }
        }
    }
}

fn range(place: Place) -> std::ops::Range<usize> {
    place.offset / 4..(place.offset + place.bytes) / 4
}

/// Runs one node: the buffers it writes are taken out, so that the others can be borrowed beside them.
fn run_node(plan: &Plan, buffers: &mut [Buffer], node: &PlannedNode, kernels: CpuKernels) {
    let place = |id: &ValueId| {
        plan.place(*id).unwrap_or_else(|| unreachable!("the plan places the operands of all nodes it runs"))
    };
    let outputs: Vec<Place> = node.node.outputs.iter().map(place).collect();
    let mut taken: Vec<(usize, Buffer)> = Vec::new();
    for output in &outputs {
        if taken.iter().all(|(buffer, _)| *buffer != output.buffer) {
            taken.push((output.buffer, std::mem::take(&mut buffers[output.buffer])));
        }
    }
    let inputs = node
        .node
        .inputs
        .iter()
        .zip(&node.inputs)
        .map(|(id, ty)| Input { ty, data: &buffers[place(id).buffer].as_slice()[range(place(id))] })
        .collect();
    let operands = Operands { inputs, outputs: disjoint(&mut taken, &outputs, &node.outputs) };
    match kernels {
        CpuKernels::Reference => node.node.op.reference(operands),
        CpuKernels::Fast => node.node.op.compute(operands),
    }
    for output in disjoint(&mut taken, &outputs, &node.outputs) {
        if output.ty.dtype == DType::F16 {
            half_precision::round(output.data);
        }
    }
    for (index, buffer) in taken {
        buffers[index] = buffer;
    }
}

/// Mutable slices of several places at once.
fn disjoint<'a>(
    taken: &'a mut [(usize, Buffer)],
    places: &[Place],
    types: &'a [TensorType],
) -> Vec<Output<'a>> {
    let mut slices: Vec<(usize, &mut [f32])> = Vec::new();
    for (buffer, data) in taken {
        let mut inside: Vec<(usize, &Place)> =
            places.iter().enumerate().filter(|(_, place)| place.buffer == *buffer).collect();
        inside.sort_by_key(|(_, place)| place.offset);
        let (mut rest, mut at) = (data.as_mut_slice(), 0);
        for (index, place) in inside {
            let range = range(*place);
            let (_, tail) = rest.split_at_mut(range.start - at);
            let (slice, tail) = tail.split_at_mut(range.len());
            slices.push((index, slice));
            (rest, at) = (tail, range.end);
        }
    }
    slices.sort_by_key(|(index, _)| *index);
    slices.into_iter().zip(types).map(|((_, data), ty)| Output { ty, data }).collect()
}
