//! A further exponential moving average of the weights, beside the one that AdamW keeps.

use super::cpu::par_chunks;
use super::{Case, Fill, Grid, Op, Operands, Types, Variant, expect, expect_shape};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// Appends one step of the average `ema` `[L]` towards packed `weights` `[L]`, with `decay` `[1]`.
///
/// `norm_and_scale` `[2]` comes from the clip. A scale of 0 means that the step was skipped.
///
/// # Errors
/// [`GraphError::Shape`] unless the buffers have the same length, a multiple of 4.
pub fn step(
    graph: &mut Graph,
    weights: ValueId,
    norm_and_scale: ValueId,
    decay: ValueId,
    ema: ValueId,
) -> Result<(), GraphError> {
    graph.update(Step, &[weights, norm_and_scale, decay], &[ema])
}

#[derive(Debug)]
struct Step;

impl Op for Step {
    fn name(&self) -> &'static str {
        "ema.step"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["weights", "norm_and_scale", "decay"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["ema"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let length = inputs[0].len();
        expect(length.is_multiple_of(4), || "the number of weights must be a multiple of 4".to_owned())?;
        expect_shape("norm_and_scale", inputs[1], &[2])?;
        expect_shape("decay", inputs[2], &[1])?;
        Ok(vec![inputs[0].clone()])
    }
    fn updates_in_place(&self) -> bool {
        true
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let length = types.inputs[0].len();
        vec![Variant::single("step", Grid::Invocations(length / 4), vec![("length", length.into())])]
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([weights, norm_and_scale, decay], [ema]) = operands.split();
        if norm_and_scale.data[1] == 0.0 {
            return;
        }
        let decay = f64::from(decay.data[0]);
        for (ema, &weight) in ema.data.iter_mut().zip(weights.data) {
            *ema = (decay * f64::from(*ema) + (1.0 - decay) * f64::from(weight)) as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([weights, norm_and_scale, decay], [ema]) = operands.split();
        if norm_and_scale.data[1] == 0.0 {
            return;
        }
        let decay = decay.data[0];
        par_chunks(ema.data, |first, ema| {
            for (ema, weight) in ema.iter_mut().zip(&weights.data[first..]) {
                *ema = decay * *ema + (1.0 - decay) * weight;
            }
        });
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let length = 701_345 / 4 * 4;
    [("less than a workgroup", 20, 0.25), ("skipped", 20, 0.0), ("U-Net S", length, 0.25)]
        .into_iter()
        .map(|(name, length, scale)| {
            let inputs = vec![Fill::offset([length]), Fill::floats([4.0, scale]), Fill::floats([0.75])];
            Case { targets: vec![Fill::normal([length])], ..Case::new(name, Step, inputs) }
        })
        .collect()
}
