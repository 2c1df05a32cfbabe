//! Gradient rules against finite differences.

use super::WorkbenchError;
use crate::device::{CpuExecutor, CpuKernels};
use crate::graph::{DType, Graph, GraphError, TensorType, ValueId, gradients};
use crate::ops::{Case, Fill};

/// Elements of each input that are nudged.
const PROBES: usize = 12;

/// The largest relative error of a case's gradient rule, over a dozen elements of each float input.
///
/// The loss is the sum of all outputs' elements with random factors; both the analytic gradient and the differences
/// come from the references. `None` for an op without a gradient rule.
///
/// # Errors
/// [`WorkbenchError`] if the case does not fit its op, or its rule breaks its contract.
pub fn check_gradient(case: &Case) -> Result<Option<f64>, WorkbenchError> {
    let mut graph = Graph::new();
    let inputs: Vec<ValueId> = case.input_types().into_iter().map(|ty| graph.input("input", ty)).collect();
    let outputs = graph.apply_dyn(case.op.clone(), &inputs)?;
    // Only the first output carries a gradient; the others are statistics that backward kernels read again.
    let y = outputs[0];
    let d_y = graph.input("d_y", graph.ty(y).clone());
    let wrt: Vec<ValueId> = (0..inputs.len()).filter(|&i| case.is_float(i)).map(|i| inputs[i]).collect();
    let mut differentiable = Vec::new();
    let mut d_inputs = Vec::new();
    for &input in &wrt {
        // An op may refuse some of its inputs, such as a loss its target.
        match gradients(&mut graph, &[(y, d_y)], &[input]) {
            Ok(found) => {
                for d_input in found.into_iter().flatten() {
                    differentiable.push(input);
                    d_inputs.push(d_input);
                }
            }
            Err(GraphError::NoGradient { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if differentiable.is_empty() || graph.ty(y).dtype != DType::F32 {
        return Ok(None);
    }

    let factors = Fill::normal(graph.ty(y).shape.clone()).data(1000);
    let data: Vec<Vec<f32>> = (0..).zip(&case.inputs).map(|(index, fill)| fill.data(index)).collect();
    let mut executor =
        CpuExecutor::new(&graph, &[&[y], d_inputs.as_slice()].concat(), CpuKernels::Reference)?;
    for (&id, data) in inputs.iter().zip(&data) {
        executor.write(id, data)?;
    }
    executor.write(d_y, &factors)?;
    executor.run();
    let analytic: Vec<Vec<f32>> = d_inputs.iter().map(|&id| executor.read(id)).collect::<Result<_, _>>()?;

    let mut forward = single_call(case, &data)?;
    let mut worst = 0.0f64;
    for (&input, analytic) in differentiable.iter().zip(&analytic) {
        let position = inputs.iter().position(|&id| id == input).unwrap_or_default();
        let scale = analytic.iter().fold(1e-3f64, |largest, &d| largest.max(f64::from(d.abs())));
        let stride = (analytic.len() / PROBES).max(1);
        // An odd stride visits all channels of the power-of-two sizes that networks have.
        for element in (0..analytic.len()).step_by(stride | 1) {
            let x = data[position][element];
            let step = 1e-2f32 * x.abs().max(1.0);
            let mut loss_at = |x: f32| -> Result<f64, WorkbenchError> {
                let mut nudged = data[position].clone();
                nudged[element] = x;
                let y = forward.run(position, &nudged)?;
                Ok(y.iter().zip(&factors).map(|(y, factor)| f64::from(*y) * f64::from(*factor)).sum())
            };
            // Five points: the error of the difference itself is of fourth order in the step.
            let difference = (8.0 * (loss_at(x + step)? - loss_at(x - step)?)
                - (loss_at(x + 2.0 * step)? - loss_at(x - 2.0 * step)?))
                / (12.0 * f64::from(step));
            worst = worst.max((difference - f64::from(analytic[element])).abs() / scale);
        }
    }
    Ok(Some(worst))
}

/// The case's op by itself.
struct SingleCall {
    executor: CpuExecutor,
    inputs: Vec<ValueId>,
    data: Vec<Vec<f32>>,
    y: ValueId,
}

fn single_call(case: &Case, data: &[Vec<f32>]) -> Result<SingleCall, WorkbenchError> {
    let mut graph = Graph::new();
    let types: Vec<TensorType> = case.input_types();
    let inputs: Vec<ValueId> = types.into_iter().map(|ty| graph.input("input", ty)).collect();
    let y = graph.apply_dyn(case.op.clone(), &inputs)?[0];
    let executor = CpuExecutor::new(&graph, &[y], CpuKernels::Reference)?;
    Ok(SingleCall { executor, inputs, data: data.to_vec(), y })
}

impl SingleCall {
    /// The first output with the input at `position` replaced.
    fn run(&mut self, position: usize, replaced: &[f32]) -> Result<Vec<f32>, WorkbenchError> {
        for (index, (&id, data)) in self.inputs.iter().zip(&self.data).enumerate() {
            self.executor.write(id, if index == position { replaced } else { data })?;
        }
        self.executor.run();
        Ok(self.executor.read(self.y)?)
    }
}
