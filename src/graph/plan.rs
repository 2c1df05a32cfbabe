//! From a graph to an ordered list of nodes over buffers that are shared by lifetime.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{self, Display};

use super::offsets::{Allocation, pack};
use super::{Graph, Node, Storage, TensorType, ValueId};

/// What a buffer is for; the memory report sums by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BufferRole {
    /// Trained tensors.
    Weights,
    /// Their gradients.
    Gradients,
    /// The optimiser's moments.
    Moments,
    /// The exponential moving average of the weights.
    Ema,
    /// What the host writes.
    Inputs,
    /// Results of nodes, shared by lifetime.
    Activations,
    /// Scratch space of single nodes, shared with the activations.
    Workspace,
}

impl Display for BufferRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}").to_lowercase())
    }
}

/// Where a value lies: bytes `offset..offset + bytes` of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the buffer.
    pub buffer: usize,
    /// First byte.
    pub offset: usize,
    /// Length in bytes.
    pub bytes: usize,
}

/// A node with its scratch space placed.
#[derive(Clone, Debug)]
pub struct PlannedNode {
    /// The node.
    pub node: Node,
    /// Shapes of the inputs.
    pub inputs: Vec<TensorType>,
    /// Shapes of the outputs.
    pub outputs: Vec<TensorType>,
    /// Where the scratch tensors lie, in the order asked for.
    pub scratch: Vec<Place>,
}

/// A buffer of the plan.
#[derive(Clone, Copy, Debug)]
pub struct BufferPlan {
    /// Size in bytes.
    pub bytes: usize,
    /// What it is for.
    pub role: BufferRole,
}

/// The order of the nodes and the place of every value: all that an executor needs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The nodes, in the order in which they run.
    pub nodes: Vec<PlannedNode>,
    /// The buffers to allocate.
    pub buffers: Vec<BufferPlan>,
    places: HashMap<ValueId, Place>,
    names: Vec<String>,
    types: Vec<TensorType>,
    alive: Vec<usize>,
    peak: Peak,
}

/// The moment of a plan at which its activations and scratch tensors take most.
///
/// No arrangement of them in memory takes less than `bytes`; what [`Plan::memory`] reports beyond that is lost to gaps.
#[derive(Clone, Debug, Default)]
pub struct Peak {
    /// Index of the node that runs at that moment.
    pub node: usize,
    /// Bytes of all tensors that are alive.
    pub bytes: usize,
    /// The values that are alive, largest first, each with the name of the op that wrote it and its bytes.
    pub alive: Vec<(ValueId, &'static str, usize)>,
}

/// Bytes by role, known before anything runs.
#[derive(Clone, Debug, Default)]
pub struct MemoryReport {
    /// Bytes of each role that occurs.
    pub bytes: BTreeMap<BufferRole, usize>,
}

impl MemoryReport {
    /// Bytes of all roles together.
    pub fn total(&self) -> usize {
        self.bytes.values().fold(0, |sum, &bytes| sum.saturating_add(bytes))
    }
}

impl Display for MemoryReport {
    /// `weights 1 MiB, activations 20 MiB`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (role, bytes)) in self.bytes.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{role} {} MiB", bytes.div_ceil(1 << 20))?;
        }
        Ok(())
    }
}

/// What an allocation of shared memory is.
enum Tensor {
    Value(ValueId),
    /// Number of the node and of its scratch tensor.
    Scratch(usize, usize),
}

impl Plan {
    /// Plans `graph` so that the values of `keep` can be read after a run.
    ///
    /// Nodes that contribute neither to `keep` nor to a state value are left out. `scratch` gives, for each node that is
    /// left, in their order, the sizes in bytes of the scratch tensors that its executor needs.
    pub fn new(graph: &Graph, keep: &[ValueId], scratch: impl FnMut(&Node) -> Vec<usize>) -> Self {
        Self::sized(graph, keep, TensorType::bytes, scratch)
    }

    /// As [`Plan::new`], for a device on which a tensor takes other than [`TensorType::bytes`].
    pub fn sized(
        graph: &Graph,
        keep: &[ValueId],
        bytes: fn(&TensorType) -> usize,
        mut scratch: impl FnMut(&Node) -> Vec<usize>,
    ) -> Self {
        let nodes: Vec<&Node> = live_nodes(graph, keep);
        let scratch: Vec<Vec<usize>> = nodes.iter().map(|node| scratch(node)).collect();
        let mut buffers = Vec::new();
        let mut places = HashMap::new();
        place_states(graph, &nodes, keep, bytes, &mut buffers, &mut places);
        let (tensors, allocations) = lifetimes(graph, &nodes, keep, bytes, &scratch);
        let alive = alive_bytes(nodes.len(), &allocations);
        let peak = find_peak(&nodes, &tensors, &allocations, &alive);
        let mut scratch_places: Vec<Vec<Place>> =
            scratch.iter().map(|sizes| vec![Place { buffer: 0, offset: 0, bytes: 0 }; sizes.len()]).collect();
        for (tensor, place) in tensors.iter().zip(pack(&allocations, &mut buffers)) {
            match *tensor {
                Tensor::Value(value) => _ = places.insert(value, place),
                Tensor::Scratch(node, index) => scratch_places[node][index] = place,
            }
        }
        for (id, _) in graph.values() {
            insert_slice(graph, id, bytes, &mut places);
        }
        let types = |ids: &[ValueId]| ids.iter().map(|&id| graph.ty(id).clone()).collect();
        let nodes = nodes
            .into_iter()
            .zip(scratch_places)
            .map(|(node, scratch)| PlannedNode {
                inputs: types(&node.inputs),
                outputs: types(&node.outputs),
                node: node.clone(),
                scratch,
            })
            .collect();
        let names = graph.values().map(|(_, value)| value.name.clone()).collect();
        let types = graph.values().map(|(_, value)| value.ty.clone()).collect();
        Self { nodes, buffers, places, names, types, alive, peak }
    }

    /// Where a value lies; `None` if nothing that runs touches it.
    pub fn place(&self, value: ValueId) -> Option<Place> {
        self.places.get(&value).copied()
    }

    /// The name of a value, for messages.
    pub fn name(&self, value: ValueId) -> &str {
        self.names.get(value.0).map_or("a value of another graph", String::as_str)
    }

    /// Bytes of the activations and scratch tensors that are alive while each node runs.
    pub fn alive(&self) -> &[usize] {
        &self.alive
    }

    /// When activations and scratch tensors take most, and which.
    pub fn peak(&self) -> &Peak {
        &self.peak
    }

    /// Shape and element type of a value of the graph that was planned.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        &self.types[value.0]
    }

    /// Bytes of the largest buffer.
    pub fn largest_buffer(&self) -> usize {
        self.buffers.iter().map(|buffer| buffer.bytes).max().unwrap_or(0)
    }

    /// Bytes of the largest tensor that a node reads or writes.
    pub fn largest_binding(&self) -> usize {
        let bound = |node: &PlannedNode| {
            let operands = node.node.inputs.iter().chain(&node.node.outputs);
            let places = operands.filter_map(|&id| self.place(id)).chain(node.scratch.iter().copied());
            places.map(|place| place.bytes).max()
        };
        self.nodes.iter().filter_map(bound).max().unwrap_or(0)
    }

    /// Bytes by role.
    pub fn memory(&self) -> MemoryReport {
        let mut report = MemoryReport::default();
        for buffer in &self.buffers {
            let bytes = report.bytes.entry(buffer.role).or_default();
            *bytes = bytes.saturating_add(buffer.bytes);
        }
        report
    }
}

/// The state value behind a slice, or the value itself.
fn base(graph: &Graph, id: ValueId) -> ValueId {
    match graph.value(id).storage {
        Storage::Slice { of, .. } => of,
        _ => id,
    }
}

/// Nodes that contribute to a state value or to one of `keep`, in order.
fn live_nodes<'g>(graph: &'g Graph, keep: &[ValueId]) -> Vec<&'g Node> {
    let mut wanted: HashSet<ValueId> = keep.iter().copied().collect();
    let mut live = Vec::new();
    for node in graph.nodes().iter().rev() {
        let used = node.outputs.iter().any(|&output| {
            wanted.contains(&output) || !matches!(graph.value(output).storage, Storage::Activation)
        });
        if used {
            wanted.extend(&node.inputs);
            live.push(node);
        }
    }
    live.reverse();
    live
}

/// Inputs and states each get a buffer of their own.
fn place_states(
    graph: &Graph,
    nodes: &[&Node],
    keep: &[ValueId],
    bytes: fn(&TensorType) -> usize,
    buffers: &mut Vec<BufferPlan>,
    places: &mut HashMap<ValueId, Place>,
) {
    let touched = nodes.iter().flat_map(|node| node.inputs.iter().chain(&node.outputs)).chain(keep);
    for &id in touched {
        let id = base(graph, id);
        let role = match graph.value(id).storage {
            Storage::Input => BufferRole::Inputs,
            Storage::State(role) => role,
            Storage::Activation | Storage::Slice { .. } => continue,
        };
        places.entry(id).or_insert_with(|| {
            let bytes = bytes(graph.ty(id));
            buffers.push(BufferPlan { bytes, role });
            Place { buffer: buffers.len() - 1, offset: 0, bytes }
        });
    }
}

fn insert_slice(
    graph: &Graph,
    id: ValueId,
    bytes: fn(&TensorType) -> usize,
    places: &mut HashMap<ValueId, Place>,
) {
    if let Storage::Slice { of, offset } = graph.value(id).storage
        && let Some(&whole) = places.get(&of)
    {
        let ty = graph.ty(id);
        let before = TensorType { shape: vec![offset], dtype: ty.dtype };
        places.insert(id, Place { buffer: whole.buffer, offset: bytes(&before), bytes: bytes(ty) });
    }
}

/// Values and scratch tensors that live for a part of a run, and from when to when.
fn lifetimes(
    graph: &Graph,
    nodes: &[&Node],
    keep: &[ValueId],
    bytes: fn(&TensorType) -> usize,
    scratch: &[Vec<usize>],
) -> (Vec<Tensor>, Vec<Allocation>) {
    let mut index_of: HashMap<ValueId, usize> = HashMap::new();
    let (mut tensors, mut allocations): (Vec<Tensor>, Vec<Allocation>) = (Vec::new(), Vec::new());
    let mut begin = |tensor: Tensor, bytes: usize, node: usize| {
        let is_scratch = matches!(tensor, Tensor::Scratch(..));
        tensors.push(tensor);
        allocations.push(Allocation { bytes, first: node, last: node, conflicts: Vec::new(), is_scratch });
        allocations.len() - 1
    };
    // The allocations that each node touches, those it writes first, and the number of these.
    let mut touched: Vec<(Vec<usize>, usize)> = Vec::new();
    for (node, call) in nodes.iter().enumerate() {
        let mut own: Vec<usize> = scratch[node]
            .iter()
            .enumerate()
            .map(|(slot, &bytes)| begin(Tensor::Scratch(node, slot), bytes, node))
            .collect();
        let mut written = own.len();
        for (operand, &id) in call.outputs.iter().chain(&call.inputs).enumerate() {
            if matches!(graph.value(id).storage, Storage::Activation) {
                let bytes = bytes(graph.ty(id));
                own.push(*index_of.entry(id).or_insert_with(|| begin(Tensor::Value(id), bytes, node)));
                written += usize::from(operand < call.outputs.len());
            }
        }
        touched.push((own, written));
    }
    for (node, (own, written)) in touched.iter().enumerate() {
        own.iter().for_each(|&allocation| allocations[allocation].last = node);
        for &one in &own[..*written] {
            for &other in own.iter().filter(|&&other| other != one) {
                allocations[one].conflicts.push(other);
                allocations[other].conflicts.push(one);
            }
        }
    }
    for id in keep {
        if let Some(&allocation) = index_of.get(id) {
            allocations[allocation].last = usize::MAX;
        }
    }
    (tensors, allocations)
}

/// Bytes of the allocations that are alive while each node runs.
fn alive_bytes(nodes: usize, allocations: &[Allocation]) -> Vec<usize> {
    let mut begun = vec![0; nodes + 1];
    let mut ended = vec![0; nodes + 1];
    for allocation in allocations {
        begun[allocation.first] += allocation.bytes;
        ended[allocation.last.saturating_add(1).min(nodes)] += allocation.bytes;
    }
    let mut alive = 0;
    let changes = begun.into_iter().zip(ended).take(nodes);
    changes
        .map(|(begun, ended)| {
            alive = alive + begun - ended;
            alive
        })
        .collect()
}

fn find_peak(nodes: &[&Node], tensors: &[Tensor], allocations: &[Allocation], bytes: &[usize]) -> Peak {
    let Some(node) = (0..nodes.len()).rev().max_by_key(|&node| bytes[node]) else {
        return Peak::default();
    };
    let alive_at = |node: usize| {
        let pairs = tensors.iter().zip(allocations);
        pairs.filter(move |(_, allocation)| allocation.first <= node && node <= allocation.last)
    };
    let mut alive: Vec<_> = alive_at(node)
        .filter_map(|(tensor, allocation)| match *tensor {
            Tensor::Value(value) => Some((value, nodes[allocation.first].op.name(), allocation.bytes)),
            Tensor::Scratch(..) => None,
        })
        .collect();
    alive.sort_by_key(|&(_, _, bytes)| std::cmp::Reverse(bytes));
    Peak { node, bytes: bytes[node], alive }
}
