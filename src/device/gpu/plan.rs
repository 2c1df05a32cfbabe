//! A plan, and the variant of each of its calls.

use crate::graph::{Graph, Plan, ValueId};
use crate::ops::{Op, Types, Variant};

/// A plan with the scratch tensors of the variants that its calls run by.
pub(in crate::device) struct GpuPlan {
    pub(in crate::device) plan: Plan,
    /// Of each node, in the order of the plan's; `None` where the device can run none.
    pub(super) variants: Vec<Option<Variant>>,
}

impl GpuPlan {
    /// Plans `graph` so that the values of `keep` can be read; `choose` is asked once for each call, and what it gives
    /// is what runs.
    pub(in crate::device) fn new(
        graph: &Graph,
        keep: &[ValueId],
        choose: &dyn Fn(&dyn Op, Types<'_>) -> Option<Variant>,
    ) -> Self {
        let mut variants = Vec::new();
        let plan = Plan::new(graph, keep, |node| {
            let types = |ids: &[ValueId]| ids.iter().map(|&id| graph.ty(id).clone()).collect::<Vec<_>>();
            let (inputs, outputs) = (types(&node.inputs), types(&node.outputs));
            let variant = choose(node.op.as_ref(), Types { inputs: &inputs, outputs: &outputs });
            let scratch = variant.iter().flat_map(|variant| &variant.scratch);
            let bytes = scratch.map(|(_, length)| 4 * length).collect();
            variants.push(variant);
            bytes
        });
        Self { plan, variants }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::graph::TensorType;
    use crate::ops;

    /// Variants belong to the nodes that run, by their numbers in the plan, also where the graph has others between them.
    #[test]
    fn each_call_of_a_plan_is_asked_about_once() {
        let mut graph = Graph::new();
        let x = graph.input("x", TensorType::f32([2, 8, 8, 16]));
        let y = ops::silu(&mut graph, x).unwrap();
        ops::upsample(&mut graph, y).unwrap();
        let weight = graph.input("weight", TensorType::f32([16, 1, 1, 16]));
        let bias = graph.input("bias", TensorType::f32([16]));
        let y = ops::conv2d(&mut graph, y, weight, bias, 1, ops::conv2d::Padding::Same).unwrap();
        let d_y = graph.input("d_y", TensorType::f32([2, 8, 8, 16]));
        let d_weight = crate::graph::gradients(&mut graph, &[(y, d_y)], &[weight]).unwrap();
        let asked = RefCell::new(Vec::new());
        let planned = GpuPlan::new(&graph, &[y, d_weight[0].unwrap()], &|op, types| {
            asked.borrow_mut().push(op.name());
            op.variants(types).into_iter().next()
        });
        let names: Vec<&str> = planned.plan.nodes.iter().map(|node| node.node.op.name()).collect();
        assert_eq!(names, asked.into_inner());
        assert!(
            !names.contains(&"upsample.forward") && names.contains(&"conv2d.backward_weight"),
            "{names:?}"
        );
        for (node, variant) in planned.plan.nodes.iter().zip(&planned.variants) {
            let types = Types { inputs: &node.inputs, outputs: &node.outputs };
            assert_eq!(*variant, node.node.op.variants(types).into_iter().next(), "{}", node.node.op.name());
            assert_eq!(node.scratch.len(), variant.as_ref().unwrap().scratch.len());
        }
        assert_eq!(planned.variants.len(), names.len());
    }
}
