//! Results beside those of the reference.

use crate::graph::DType;
use crate::ops::{Case, Input, Operands, Output};

/// The first element of an output that is off by more than the op's tolerance, which is relative to the output's
/// largest.
pub(super) fn difference(case: &Case, outputs: &[Vec<f32>]) -> Option<String> {
    let (input_types, output_types) = (case.input_types(), case.output_types().unwrap());
    let data: Vec<Vec<f32>> = (0..).zip(&case.inputs).map(|(index, fill)| fill.data(index)).collect();
    let mut expected: Vec<Vec<f32>> = output_types.iter().map(|ty| vec![0.0; ty.len()]).collect();
    for (index, target) in case.targets.iter().enumerate() {
        expected[index] = target.data(100 + index as u32);
    }
    case.op.reference(Operands {
        inputs: input_types.iter().zip(&data).map(|(ty, data)| Input { ty, data }).collect(),
        outputs: output_types.iter().zip(&mut expected).map(|(ty, data)| Output { ty, data }).collect(),
    });
    for (name, ((ty, expected), got)) in
        case.op.outputs().iter().zip(output_types.iter().zip(&expected).zip(outputs))
    {
        let finite = expected.iter().filter(|value| value.is_finite());
        let scale = finite.fold(f32::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
        for (index, (&expected, &got)) in expected.iter().zip(got).enumerate() {
            let is_right = match ty.dtype {
                DType::U32 => expected.to_bits() == got.to_bits(),
                _ if expected == got || (expected.is_nan() && got.is_nan()) => true,
                _ => (expected - got).abs() <= case.op.tolerance() * scale,
            };
            if !is_right {
                return Some(format!("{name}[{index}] is {got:?}, expected {expected:?}"));
            }
        }
    }
    None
}
