//! What naga says of entry points: what they bind, how large their workgroups are, how their parameters lie.

use std::collections::BTreeMap;

use naga::{AddressSpace, BinaryOperator, Expression, Literal, ScalarKind, StorageAccess, TypeInner};

use super::Shader;
use super::imports::path;
use crate::device::DeviceError;
use crate::graph::DType;
use crate::ops::{Pass, Word};

/// The suffix of a binding that views an operand as `array<vec4<f32>>`.
const VEC4_SUFFIX: &str = "_vec4";

/// A buffer that an entry point uses.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    /// Number within bind group 0.
    pub(crate) index: u32,
    /// Name of the operand, or `params`.
    pub(crate) name: String,
    /// What the shader does with it.
    pub(crate) usage: Usage,
    /// Its element type; `None` for what is no array of numbers.
    pub(crate) dtype: Option<DType>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    Params,
    Read,
    Write,
}

impl Shader {
    /// Names of all entry points.
    #[cfg(test)]
    pub(in crate::device) fn entry_points(&self) -> impl Iterator<Item = &str> {
        self.module.entry_points.iter().map(|entry| entry.name.as_str())
    }

    pub(super) fn entry(&self, name: &str) -> Result<usize, DeviceError> {
        self.module
            .entry_points
            .iter()
            .position(|entry| entry.name == name)
            .ok_or_else(|| self.fault(format!("there is no entry point {name} in {}", path(self.op_file))))
    }

    pub(in crate::device) fn fault(&self, message: String) -> DeviceError {
        DeviceError::Shader { op_file: self.op_file, message }
    }

    /// What naga parsed, and found in validating it.
    pub(in crate::device) fn module(&self) -> (&naga::Module, &naga::valid::ModuleInfo) {
        (&self.module, &self.info)
    }

    /// The buffers that an entry point uses, in order of their numbers.
    pub(crate) fn bindings(&self, entry: &str) -> Result<Vec<Binding>, DeviceError> {
        let info = self.info.get_entry_point(self.entry(entry)?);
        let mut bindings = Vec::new();
        for (handle, variable) in self.module.global_variables.iter() {
            let (Some(binding), Some(name)) = (&variable.binding, &variable.name) else { continue };
            if info[handle].is_empty() {
                continue;
            }
            let usage = match variable.space {
                AddressSpace::Uniform => Usage::Params,
                AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => Usage::Write,
                AddressSpace::Storage { .. } => Usage::Read,
                _ => continue,
            };
            let name = name.strip_suffix(VEC4_SUFFIX).unwrap_or(name).to_owned();
            let dtype = self.dtype(variable.ty);
            bindings.push(Binding { index: binding.binding, name, usage, dtype });
        }
        bindings.sort_by_key(|binding| binding.index);
        Ok(bindings)
    }

    /// Element type of an array of scalars or vectors.
    fn dtype(&self, ty: naga::Handle<naga::Type>) -> Option<DType> {
        let TypeInner::Array { base, .. } = self.module.types[ty].inner else { return None };
        let scalar = match self.module.types[base].inner {
            TypeInner::Scalar(scalar) | TypeInner::Vector { scalar, .. } => scalar,
            _ => return None,
        };
        match (scalar.kind, scalar.width) {
            (ScalarKind::Float, 4) => Some(DType::F32),
            (ScalarKind::Float, 2) => Some(DType::F16),
            (ScalarKind::Uint, 4) => Some(DType::U32),
            _ => None,
        }
    }

    /// Workgroup size of a pass with its overrides applied.
    pub(crate) fn workgroup_size(&self, pass: &Pass) -> Result<[u32; 3], DeviceError> {
        let entry = &self.module.entry_points[self.entry(pass.entry)?];
        let Some(overrides) = entry.workgroup_size_overrides else { return Ok(entry.workgroup_size) };
        let mut size = entry.workgroup_size;
        for (size, expression) in size.iter_mut().zip(overrides) {
            let Some(expression) = expression else { continue };
            *size = self.constant(expression, &pass.overrides).ok_or_else(|| {
                self.fault(format!(
                    "the workgroup size of {} is neither a number, an override nor a quotient",
                    pass.entry
                ))
            })?;
        }
        Ok(size)
    }

    /// Value of a literal, of an override set in `overrides` or by its default, or of a quotient of those.
    fn constant(
        &self,
        expression: naga::Handle<Expression>,
        overrides: &[(&'static str, f64)],
    ) -> Option<u32> {
        match &self.module.global_expressions[expression] {
            Expression::Literal(Literal::U32(value)) => Some(*value),
            Expression::Literal(Literal::I32(value)) => u32::try_from(*value).ok(),
            Expression::Constant(constant) => self.constant(self.module.constants[*constant].init, overrides),
            Expression::Override(handle) => {
                let declared = &self.module.overrides[*handle];
                let set = overrides.iter().find(|(name, _)| declared.name.as_deref() == Some(name));
                match set {
                    Some((_, value)) => Some(*value as u32),
                    None => self.constant(declared.init?, overrides),
                }
            }
            Expression::Binary { op: BinaryOperator::Divide, left, right } => {
                self.constant(*left, overrides)?.checked_div(self.constant(*right, overrides)?)
            }
            _ => None,
        }
    }

    /// Bytes of the uniform `Params` of a pass, laid out as WGSL lays them out.
    pub(crate) fn params(&self, pass: &Pass) -> Result<Vec<u8>, DeviceError> {
        let declared = self.module.global_variables.iter().find_map(|(_, variable)| {
            match (&variable.space, &self.module.types[variable.ty].inner) {
                (AddressSpace::Uniform, TypeInner::Struct { members, span }) => Some((members, *span)),
                _ => None,
            }
        });
        let Some((members, span)) = declared else { return Ok(Vec::new()) };
        let mut bytes = vec![0; span as usize];
        let mut given: BTreeMap<&str, Word> = pass.params.iter().copied().collect();
        for member in members {
            let name = member.name.as_deref().unwrap_or_default();
            let word = given
                .remove(name)
                .ok_or_else(|| self.fault(format!("Params.{name} is not given to {}", pass.entry)))?;
            let kind = match self.module.types[member.ty].inner {
                TypeInner::Scalar(scalar) => scalar.kind,
                _ => return Err(self.fault(format!("Params.{name} must be a u32 or an f32"))),
            };
            let value = match (word, kind) {
                (Word::U32(value), ScalarKind::Uint) => value.to_le_bytes(),
                (Word::F32(value), ScalarKind::Float) => value.to_le_bytes(),
                _ => return Err(self.fault(format!("Params.{name} is a {kind:?}, {word:?} was given"))),
            };
            bytes[member.offset as usize..][..4].copy_from_slice(&value);
        }
        match given.keys().next() {
            None => Ok(bytes),
            Some(name) => Err(self.fault(format!("{} is given {name}, which Params has not", pass.entry))),
        }
    }
}
