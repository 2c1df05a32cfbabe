//! From a graph to an ordered list of nodes over buffers that are shared by lifetime.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Graph, Node, Storage, TensorType, ValueId};

/// What a buffer is for; the memory report sums by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
        self.bytes.values().sum()
    }
}

/// A tensor that shares memory with others whose lifetimes do not overlap.
struct Tenant {
    value: Option<ValueId>,
    scratch: Option<(usize, usize)>,
    bytes: usize,
    /// First and last node that touch it.
    first: usize,
    last: usize,
}

impl Plan {
    /// Plans `graph` so that the values of `keep` can be read after a run.
    ///
    /// Nodes that contribute neither to `keep` nor to a state value are left out. `scratch` gives, for each node, the
    /// sizes in bytes of the scratch tensors that its executor needs.
    pub fn new(graph: &Graph, keep: &[ValueId], scratch: impl Fn(&Node) -> Vec<usize>) -> Self {
        let nodes: Vec<&Node> = live_nodes(graph, keep);
        let scratch: Vec<Vec<usize>> = nodes.iter().map(|node| scratch(node)).collect();
        let mut buffers = Vec::new();
        let mut places = HashMap::new();
        place_states(graph, &nodes, keep, &mut buffers, &mut places);
        let tenants = lifetimes(graph, &nodes, keep, &scratch);
        let placed = share(tenants, &mut buffers);
        let mut scratch_places: Vec<Vec<Place>> =
            scratch.iter().map(|sizes| vec![Place { buffer: 0, offset: 0, bytes: 0 }; sizes.len()]).collect();
        for (tenant, place) in placed {
            if let Some(value) = tenant.value {
                places.insert(value, place);
            }
            if let Some((node, index)) = tenant.scratch {
                scratch_places[node][index] = place;
            }
        }
        for (id, _) in graph.values() {
            insert_slice(graph, id, &mut places);
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
        Self { nodes, buffers, places, names, types }
    }

    /// Where a value lies; `None` if nothing that runs touches it.
    pub fn place(&self, value: ValueId) -> Option<Place> {
        self.places.get(&value).copied()
    }

    /// The name of a value, for messages.
    pub fn name(&self, value: ValueId) -> &str {
        self.names.get(value.0).map_or("a value of another graph", String::as_str)
    }

    /// Shape and element type of a value of the graph that was planned.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        &self.types[value.0]
    }

    /// Every value that has a place.
    pub fn placed(&self) -> impl Iterator<Item = (ValueId, Place)> {
        self.places.iter().map(|(&value, &place)| (value, place))
    }

    /// Bytes by role.
    pub fn memory(&self) -> MemoryReport {
        let mut report = MemoryReport::default();
        for buffer in &self.buffers {
            *report.bytes.entry(buffer.role).or_default() += buffer.bytes;
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
            let bytes = graph.ty(id).bytes();
            buffers.push(BufferPlan { bytes, role });
            Place { buffer: buffers.len() - 1, offset: 0, bytes }
        });
    }
}

fn insert_slice(graph: &Graph, id: ValueId, places: &mut HashMap<ValueId, Place>) {
    if let Storage::Slice { of, offset } = graph.value(id).storage
        && let Some(&whole) = places.get(&of)
    {
        let ty = graph.ty(id);
        let place = Place { buffer: whole.buffer, offset: ty.dtype.bytes() * offset, bytes: ty.bytes() };
        places.insert(id, place);
    }
}

fn lifetimes(graph: &Graph, nodes: &[&Node], keep: &[ValueId], scratch: &[Vec<usize>]) -> Vec<Tenant> {
    let mut index_of: HashMap<ValueId, usize> = HashMap::new();
    let mut tenants: Vec<Tenant> = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        for &id in node.outputs.iter().chain(&node.inputs) {
            if !matches!(graph.value(id).storage, Storage::Activation) {
                continue;
            }
            let tenant = *index_of.entry(id).or_insert_with(|| {
                let bytes = graph.ty(id).bytes();
                tenants.push(Tenant { value: Some(id), scratch: None, bytes, first: index, last: index });
                tenants.len() - 1
            });
            tenants[tenant].last = index;
        }
        for (slot, &bytes) in scratch[index].iter().enumerate() {
            tenants.push(Tenant {
                value: None,
                scratch: Some((index, slot)),
                bytes,
                first: index,
                last: index,
            });
        }
    }
    for id in keep {
        if let Some(&tenant) = index_of.get(id) {
            tenants[tenant].last = usize::MAX;
        }
    }
    tenants
}

/// Largest first, each tenant takes the smallest buffer that is free for its whole life.
///
/// Tenants of one buffer never live at the same time, so that no dispatch binds a buffer twice: WebGPU forbids one
/// buffer bound for reading and for writing in the same dispatch.
fn share(mut tenants: Vec<Tenant>, buffers: &mut Vec<BufferPlan>) -> Vec<(Tenant, Place)> {
    tenants.sort_by_key(|tenant| (std::cmp::Reverse(tenant.bytes), tenant.first));
    let mut lives: Vec<(usize, Vec<(usize, usize)>)> = Vec::new();
    let mut placed = Vec::with_capacity(tenants.len());
    for tenant in tenants {
        let free = |lives: &[(usize, usize)]| {
            lives.iter().all(|&(first, last)| tenant.last < first || last < tenant.first)
        };
        // Buffers are in order of falling size: the last free one is the smallest.
        let buffer = match lives.iter_mut().rev().find(|(_, lives)| free(lives)) {
            Some((buffer, lives)) => {
                lives.push((tenant.first, tenant.last));
                *buffer
            }
            None => {
                let role =
                    if tenant.value.is_some() { BufferRole::Activations } else { BufferRole::Workspace };
                buffers.push(BufferPlan { bytes: tenant.bytes, role });
                lives.push((buffers.len() - 1, vec![(tenant.first, tenant.last)]));
                buffers.len() - 1
            }
        };
        let place = Place { buffer, offset: 0, bytes: tenant.bytes };
        placed.push((tenant, place));
    }
    placed
}
