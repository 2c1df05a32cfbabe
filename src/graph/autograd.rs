//! Reverse-mode differentiation: a walk over the nodes that knows no op by name.

use std::collections::{HashMap, HashSet};

use super::{Graph, GraphError, Node, ValueId};
use crate::ops::{self, GradientCall};

/// Appends the reverse pass to `graph` and returns the gradient of each value of `wrt`.
///
/// `seeds` pairs outputs with their gradients, for a loss usually the constant 1. The result is `None` for a value
/// that no seed depends on. The appended nodes carry the module paths of the nodes that they differentiate.
///
/// # Errors
/// [`GraphError::NoGradient`] if the path from `wrt` to a seed leads through an op without a gradient rule.
pub fn gradients(
    graph: &mut Graph,
    seeds: &[(ValueId, ValueId)],
    wrt: &[ValueId],
) -> Result<Vec<Option<ValueId>>, GraphError> {
    let forward: Vec<Node> = graph.nodes().to_vec();

    // Values that depend on `wrt`: only these need a gradient.
    let mut needed: HashSet<ValueId> = wrt.iter().copied().collect();
    for node in &forward {
        if node.inputs.iter().any(|input| needed.contains(input)) {
            needed.extend(&node.outputs);
        }
    }

    let mut d_values: HashMap<ValueId, ValueId> = seeds.iter().copied().collect();
    for node in forward.iter().rev() {
        let d_outputs: Vec<Option<ValueId>> =
            node.outputs.iter().map(|output| d_values.get(output).copied()).collect();
        let needs: Vec<bool> = node.inputs.iter().map(|input| needed.contains(input)).collect();
        if d_outputs.iter().all(Option::is_none) || !needs.contains(&true) {
            continue;
        }
        let call = GradientCall {
            inputs: &node.inputs,
            outputs: &node.outputs,
            d_outputs: &d_outputs,
            needs: &needs,
        };
        graph.scoped_at(&node.path, |graph| -> Result<(), GraphError> {
            let d_inputs = node.op.gradient(graph, &call)?;
            check_rule(graph, node, &needs, &d_inputs)?;
            for (&input, d_input) in node.inputs.iter().zip(d_inputs) {
                let Some(d_input) = d_input else { continue };
                let sum = match d_values.get(&input) {
                    Some(&earlier) => ops::add(graph, earlier, d_input)?,
                    None => d_input,
                };
                d_values.insert(input, sum);
            }
            Ok(())
        })?;
    }
    Ok(wrt.iter().map(|value| d_values.get(value).copied()).collect())
}

/// One gradient per input that needs one, each of its input's own shape and element type.
fn check_rule(
    graph: &Graph,
    node: &Node,
    needs: &[bool],
    d_inputs: &[Option<ValueId>],
) -> Result<(), GraphError> {
    let fault =
        |fault: String| Err(GraphError::GradientRule { path: node.path.clone(), op: node.op.name(), fault });
    if d_inputs.len() != node.inputs.len() {
        return fault(format!("returned {} gradients for {} inputs", d_inputs.len(), node.inputs.len()));
    }
    for (index, d_input) in d_inputs.iter().enumerate() {
        let name = node.op.inputs()[index];
        match d_input {
            None if needs[index] => return fault(format!("returned no gradient for {name}")),
            Some(d_input) if graph.ty(*d_input) != graph.ty(node.inputs[index]) => {
                let (got, want) = (graph.ty(*d_input), graph.ty(node.inputs[index]));
                return fault(format!("returned a gradient {got} for {name} {want}"));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Graph {
    /// Runs `build` with the module path replaced by `path`.
    fn scoped_at<T>(&mut self, path: &str, build: impl FnOnce(&mut Self) -> T) -> T {
        let outer = std::mem::replace(&mut self.scope, vec![path.to_owned()]);
        let result = build(self);
        self.scope = outer;
        result
    }
}
