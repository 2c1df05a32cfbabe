//! WGSL files, parsed and validated.

pub(super) mod imports;
mod reflection;

pub(crate) use self::reflection::{Binding, Usage};

use self::imports::{path, source, with_imports};
use super::DeviceError;
use crate::graph::DType;
use crate::ops::{OpFile, Requirements};

/// The WGSL of one op with its imports, parsed and validated.
pub(crate) struct Shader {
    /// Stem of the file.
    pub(crate) op_file: &'static str,
    /// Element type of what is declared `Activation`: F32 or F16.
    pub(crate) activation: DType,
    /// Complete text: the op's file, then the shared modules it imports, so that line numbers stay those of the file.
    pub(crate) text: String,
    module: naga::Module,
    info: naga::valid::ModuleInfo,
}

/// What a device compiles beyond WebGPU's core: decides which shared modules an op's text holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extensions {
    /// Subgroup operations.
    pub(crate) subgroups: bool,
    /// wgpu's cooperative matrices.
    pub(crate) cooperative_matrix: bool,
}

impl Extensions {
    /// Everything that any device compiles.
    pub(crate) const ALL: Self = Self { subgroups: true, cooperative_matrix: true };

    /// What a variant needs, and no more.
    pub(crate) fn of(requires: Requirements) -> Self {
        Self { subgroups: requires.subgroup_size.is_some(), cooperative_matrix: requires.cooperative_matrix }
    }
}

impl Shader {
    /// Loads the WGSL of an op, in the form for activations of F32 or F16, for a device with these extensions.
    pub(crate) fn load(
        op_file: &OpFile,
        activation: DType,
        extensions: Extensions,
    ) -> Result<Self, DeviceError> {
        let own = source(op_file.name, op_file.name, op_file.source)?;
        let (text, _) = with_imports(op_file.name, &own, activation, extensions)?;
        let fault = |message: String| DeviceError::Shader { op_file: op_file.name, message };
        let module = naga::front::wgsl::parse_str(&text)
            .map_err(|error| fault(error.emit_to_string_with_path(&text, &path(op_file.name))))?;
        let flags = naga::valid::ValidationFlags::all();
        let info = naga::valid::Validator::new(flags, naga::valid::Capabilities::all())
            .validate(&module)
            .map_err(|error| fault(error.emit_to_string_with_path(&text, &path(op_file.name))))?;
        Ok(Self { op_file: op_file.name, activation, text, module, info })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
