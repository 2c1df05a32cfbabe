//! Rematerialisation: the reverse pass computes forward values again rather than keeping them until it reads them.
//!
//! After [`gradients`](super::gradients) a forward value lives from the node that writes it to the last node of the
//! reverse pass that reads it. A value that is *dropped* dies with the forward pass instead: the node that wrote it runs
//! a second time, on the same inputs, just before the first node of the reverse pass that reads it. The second call is
//! of the same op, random stream included, so that results are the same to the bit; the plan turns the shorter lives
//! into less memory.

use std::collections::{HashMap, HashSet};

use super::{Graph, Node, Segment, Storage, ValueId};

/// Drops the values inside [segments](Graph::segment) and keeps only their inputs: gradient checkpointing
/// (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost").
///
/// The first `forward` nodes of `graph` are the forward pass, the others the reverse pass. A value stays if a node
/// outside its segment reads it.
pub fn recompute_segments(graph: &mut Graph, forward: usize) {
    let nodes = &graph.nodes()[..forward];
    let mut dropped: HashMap<ValueId, Segment> = HashMap::new();
    for node in nodes {
        if let Some(segment) = node.segment {
            dropped.extend(recomputable(graph, node).map(|id| (id, segment)));
        }
    }
    for node in nodes {
        for input in &node.inputs {
            if dropped.get(input).is_some_and(|&made_in| node.segment != Some(made_in)) {
                dropped.remove(input);
            }
        }
    }
    let dropped = dropped.into_keys().collect();
    rewrite(graph, forward, &dropped);
}

/// Drops the results of ops that [cost next to nothing](crate::ops::Op::is_cheap), where that makes fewer bytes live on.
///
/// The first `forward` nodes of `graph` are the forward pass, the others the reverse pass.
pub fn recompute_cheap(graph: &mut Graph, forward: usize) {
    let (nodes, reverse) = graph.nodes().split_at(forward);
    let mut kept: HashSet<ValueId> = reverse.iter().flat_map(|node| &node.inputs).copied().collect();
    let mut dropped = HashSet::new();
    // From the last node to the first: an input that is kept for one node may itself be the result of a cheap one.
    for node in nodes.iter().rev().filter(|node| node.op.is_cheap()) {
        let is_new =
            |id: &ValueId| !kept.contains(id) && matches!(graph.value(*id).storage, Storage::Activation);
        let new: HashSet<ValueId> = node.inputs.iter().copied().filter(is_new).collect();
        let old: Vec<ValueId> = recomputable(graph, node).filter(|id| kept.contains(id)).collect();
        let bytes = |id: &ValueId| graph.ty(*id).bytes();
        if new.iter().map(bytes).sum::<usize>() < old.iter().map(bytes).sum() {
            old.iter().for_each(|id| _ = kept.remove(id));
            kept.extend(new);
            dropped.extend(old);
        }
    }
    rewrite(graph, forward, &dropped);
}

/// The results of a node that a second call would give again.
fn recomputable<'g>(graph: &'g Graph, node: &'g Node) -> impl Iterator<Item = ValueId> + 'g {
    let is_written_once = |id: &ValueId| matches!(graph.value(*id).storage, Storage::Activation);
    node.outputs.iter().copied().filter(is_written_once).filter(|_| !node.op.updates_in_place())
}

/// Makes the reverse pass read copies of the dropped values.
fn rewrite(graph: &mut Graph, forward: usize, dropped: &HashSet<ValueId>) {
    let reverse = graph.nodes.split_off(forward);
    let mut makers = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        makers.extend(node.outputs.iter().filter(|id| dropped.contains(id)).map(|&id| (id, index)));
    }
    let mut copies = Copies { makers, made: HashMap::new() };
    for mut node in reverse {
        node.inputs = node.inputs.iter().map(|&id| copies.of(graph, id)).collect();
        graph.nodes.push(node);
    }
}

/// The copies of dropped values that have been appended so far.
struct Copies {
    /// Dropped values and the nodes that write them.
    makers: HashMap<ValueId, usize>,
    made: HashMap<ValueId, ValueId>,
}

impl Copies {
    /// The copy of a dropped value, appended on first use with all that it needs; any other value itself.
    fn of(&mut self, graph: &mut Graph, id: ValueId) -> ValueId {
        if let Some(&copy) = self.made.get(&id) {
            return copy;
        }
        let Some(&maker) = self.makers.get(&id) else { return id };
        let Node { op, inputs, outputs, path, phase, segment } = graph.nodes[maker].clone();
        let inputs = inputs.into_iter().map(|input| self.of(graph, input)).collect();
        let copies: Vec<ValueId> = outputs.iter().map(|&output| graph.copy_value(output)).collect();
        // Results of a node that are kept for their own sake, such as statistics, are still read where they were.
        let pairs = outputs.iter().copied().zip(copies.iter().copied());
        self.made.extend(pairs.filter(|(output, _)| self.makers.contains_key(output)));
        graph.nodes.push(Node { op, inputs, outputs: copies, path, phase, segment });
        self.made[&id]
    }
}

impl Graph {
    /// A new value of the same name and type.
    fn copy_value(&mut self, id: ValueId) -> ValueId {
        let value = self.value(id).clone();
        self.values.push(value);
        ValueId(self.values.len() - 1)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
