//! The complete text of an op: its file, and the shared modules that it imports.

use std::borrow::Cow;

use super::Extensions;
use crate::device::DeviceError;
use crate::graph::DType;
use crate::{host, ops};

/// The text of `kernels/<file>.wgsl`: `built_in`, unless the host has another one to try out.
pub(in crate::device) fn source(
    op_file: &'static str,
    file: &str,
    built_in: &'static str,
) -> Result<Cow<'static, str>, DeviceError> {
    match host::kernel(file) {
        None => Ok(built_in.into()),
        Some(Ok(text)) => Ok(text.into()),
        Some(Err(message)) => Err(DeviceError::Shader { op_file, message }),
    }
}

/// First lines of shared modules that use subgroup operations, or cooperative matrices.
const REQUIRES_SUBGROUPS: &str = "// #requires subgroups";
const REQUIRES_COOPERATIVE_MATRIX: &str = "// #requires cooperative_matrix";

pub(in crate::device) fn path(op_file: &str) -> String {
    format!("kernels/{op_file}.wgsl")
}

/// An op's text followed by the shared modules that its imports ask for.
///
/// `// #import name` appends `shared/name.wgsl`. `// #import name FROM=to ...` appends it with every `FROM` in its text
/// replaced by `to`: so an algorithm is written once, and an op imports it once for each of its passes.
///
/// WGSL does not care about the order of declarations, so this needs no parser; naga_oil, which has one, loses the
/// workgroup sizes that are overrides.
///
/// The 16-bit form has another `Activation`. Modules that begin with a `// #requires` line are left out for a device that
/// would not compile them. What must be enabled is enabled on the first line, so that line numbers stay.
pub(in crate::device) fn with_imports(
    op_file: &'static str,
    source_text: &str,
    activation: DType,
    extensions: Extensions,
) -> Result<(String, Vec<Part>), DeviceError> {
    let fault = |message: String| DeviceError::Shader { op_file, message };
    let mut uses_cooperative_matrix = false;
    let mut parts = vec![Part { file: path(op_file), start: 0 }];
    let mut text = source_text.to_owned();
    for import in source_text.lines().filter_map(|line| line.strip_prefix("// #import ")) {
        let mut words = import.split_whitespace();
        let name = match (words.next().unwrap_or_default(), activation) {
            ("activation", DType::F16) => ops::ACTIVATION_F16,
            (name, _) => name,
        };
        let (_, module) = ops::SHARED_WGSL
            .iter()
            .find(|(shared, _)| *shared == name)
            .ok_or_else(|| fault(format!("there is no kernels/shared/{name}.wgsl to import")))?;
        let mut module = source(op_file, &format!("shared/{name}"), module)?.into_owned();
        if module.starts_with(REQUIRES_SUBGROUPS) && !extensions.subgroups {
            continue;
        }
        if module.starts_with(REQUIRES_COOPERATIVE_MATRIX) {
            if !extensions.cooperative_matrix {
                continue;
            }
            uses_cooperative_matrix = true;
        }
        for word in words {
            let (from, to) =
                word.split_once('=').filter(|(from, _)| module.contains(from)).ok_or_else(|| {
                    fault(format!("kernels/shared/{name}.wgsl has nothing to replace by {word}"))
                })?;
            module = module.replace(from, to);
        }
        text.push('\n');
        parts.push(Part { file: path(&format!("shared/{name}")), start: text.len() });
        text.push_str(&module);
    }
    let mut enabled = String::new();
    if activation == DType::F16 {
        enabled.push_str("enable f16; ");
    }
    if uses_cooperative_matrix {
        enabled.push_str("enable wgpu_cooperative_matrix; ");
    }
    for part in &mut parts[1..] {
        part.start += enabled.len();
    }
    Ok((enabled + &text, parts))
}

/// Where a file begins in an op's complete text.
#[derive(Debug)]
pub(in crate::device) struct Part {
    pub(in crate::device) file: String,
    pub(in crate::device) start: usize,
}
