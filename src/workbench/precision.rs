//! Cases again, with their activations in 16 bits.

use crate::device::{DeviceError, activations};
use crate::ops::{Case, Fill, Types};

/// The case with 16-bit activations; `None` for a call that has no form for them.
///
/// Which inputs are activations is what the op's WGSL declares so; the types of the outputs follow by the op's rule.
///
/// # Errors
/// [`DeviceError::Shader`] for WGSL that does not compile.
pub fn in_f16(case: &Case) -> Result<Option<Case>, DeviceError> {
    let Ok(outputs) = case.output_types() else { return Ok(None) };
    let inputs = case.input_types();
    let names = activations(case.op.as_ref(), Types { inputs: &inputs, outputs: &outputs })?;
    let mut case = case.clone();
    let mut changed = false;
    for (name, fill) in case.op.inputs().iter().zip(&mut case.inputs) {
        if names.contains(name) && !matches!(fill, Fill::F16(_)) {
            *fill = Fill::F16(Box::new(fill.clone()));
            changed = true;
        }
    }
    Ok(changed.then_some(case))
}
