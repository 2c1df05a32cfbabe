//! Kernels looked at by those who write and port them: where they stand, what they take, what drivers are given.

mod footprint;
mod translate;

pub use footprint::footprint;
pub use translate::{Target, Translation, source, translate};

use super::DeviceError;
use super::shader::imports::{path, source as source_of, with_imports};
use super::shader::{Extensions, Shader};
use crate::graph::DType;
use crate::ops::{Op, OpFile, Types};

/// File and line of an entry point, such as `kernels/silu.wgsl:44`.
///
/// # Errors
/// [`DeviceError::Shader`] for WGSL that cannot be read, or has no such entry point.
pub(crate) fn location(op_file: &OpFile, entry: &str) -> Result<String, DeviceError> {
    let own = source_of(op_file.name, op_file.name, op_file.source)?;
    let (text, parts) = with_imports(op_file.name, &own, DType::F32, Extensions::ALL)?;
    let message = format!("there is no entry point {entry}");
    let at =
        text.find(&format!("fn {entry}(")).ok_or(DeviceError::Shader { op_file: op_file.name, message })?;
    let (file, start) = parts
        .iter()
        .rfind(|part| part.start <= at)
        .map_or((path(op_file.name), 0), |part| (part.file.clone(), part.start));
    Ok(format!("{file}:{}", 1 + text[start..at].matches('\n').count()))
}

/// Names of the inputs of a call that may be stored in 16 bits: those that its op declares as `Activation`.
///
/// # Errors
/// [`DeviceError::Shader`] for WGSL that does not compile.
pub(crate) fn activations(op: &dyn Op, types: Types<'_>) -> Result<Vec<&'static str>, DeviceError> {
    let shader = Shader::load(op.file(), DType::F16, Extensions::ALL)?;
    let mut names = Vec::new();
    for pass in op.variants(types).iter().flat_map(|variant| &variant.passes) {
        names.extend(shader.bindings(pass.entry)?.into_iter().filter(|b| b.dtype == Some(DType::F16)));
    }
    let is_f16 = |name: &str| names.iter().any(|binding| binding.name == name);
    Ok(op.inputs().iter().copied().filter(|name| is_f16(name)).collect())
}
