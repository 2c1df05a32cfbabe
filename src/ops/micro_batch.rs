//! Gradient accumulation: the gradients and the losses of a step's micro-batches, put together.

use super::cpu::par_chunks;
use super::{Case, Fill, Grid, Op, Operands, Types, Variant, expect, expect_shape};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// Adds packed `gradients` `[L]` to `sum` `[L]`, or writes them there if `number` `[1]`, which counts a step's
/// micro-batches, is 0.
///
/// # Errors
/// [`GraphError::Shape`] unless L is a multiple of 4, as packed buffers are.
pub fn add(graph: &mut Graph, gradients: ValueId, number: ValueId, sum: ValueId) -> Result<(), GraphError> {
    graph.update(Add, &[gradients, number], &[sum])
}

/// Writes `part` `[N]` as row `number` `[1]` of `whole` `[micro_batches N]`, whose other rows stay.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn gather(
    graph: &mut Graph,
    part: ValueId,
    number: ValueId,
    whole: ValueId,
    micro_batches: usize,
) -> Result<(), GraphError> {
    graph.update(Gather { micro_batches }, &[part, number], &[whole])
}

#[derive(Debug)]
struct Add;

#[derive(Debug)]
struct Gather {
    micro_batches: usize,
}

impl Op for Add {
    fn name(&self) -> &'static str {
        "micro_batch.add"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["gradients", "number"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["sum"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let length = inputs[0].len();
        expect(length.is_multiple_of(4), || "the number of gradients must be a multiple of 4".to_owned())?;
        expect_shape("number", inputs[1], &[1])?;
        Ok(vec![inputs[0].clone()])
    }
    fn updates_in_place(&self) -> bool {
        true
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let length = types.inputs[0].len();
        vec![Variant::single("add", Grid::Invocations(length / 4), vec![("length", length.into())])]
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([gradients, number], [sum]) = operands.split();
        for (sum, &gradient) in sum.data.iter_mut().zip(gradients.data) {
            *sum = if number.u32()[0] == 0 { gradient } else { *sum + gradient };
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([gradients, number], [sum]) = operands.split();
        if number.u32()[0] == 0 {
            sum.data.copy_from_slice(gradients.data);
            return;
        }
        par_chunks(sum.data, |first, sum| {
            for (sum, gradient) in sum.iter_mut().zip(&gradients.data[first..]) {
                *sum += gradient;
            }
        });
    }
}

impl Op for Gather {
    fn name(&self) -> &'static str {
        "micro_batch.gather"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["part", "number"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["whole"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_shape("part", inputs[0], &[inputs[0].len()])?;
        expect_shape("number", inputs[1], &[1])?;
        Ok(vec![TensorType::f32([self.micro_batches * inputs[0].len()])])
    }
    fn updates_in_place(&self) -> bool {
        true
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let length = types.inputs[0].len();
        vec![Variant::single("gather", Grid::Invocations(length), vec![("length", length.into())])]
    }
    fn tolerance(&self) -> f32 {
        0.0
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([part, number], [whole]) = operands.split();
        let length = part.data.len();
        whole.data[number.u32()[0] as usize * length..][..length].copy_from_slice(part.data);
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let add = |name: &str, length: usize, number: u32, sum: Fill| Case {
        targets: vec![sum],
        ..Case::new(name, Add, vec![Fill::normal([length]), Fill::integers([number])])
    };
    let gather = |name: &str, images: usize, micro_batches: usize, number: u32| Case {
        targets: vec![Fill::normal([micro_batches * images])],
        ..Case::new(name, Gather { micro_batches }, vec![Fill::normal([images]), Fill::integers([number])])
    };
    let real = 701_345 / 4 * 4;
    vec![
        add("the first, after an overflow", 20, 0, Fill::floats([f32::NAN; 20])),
        add("the third", 20, 2, Fill::offset([20])),
        add("U-Net S", real, 1, Fill::normal([real])),
        gather("the first of three", 5, 3, 0),
        gather("the last of three", 5, 3, 2),
        gather("more than a workgroup", 70, 2, 1),
    ]
}
