//! WGSL files: imports, and what naga says of their entry points.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use naga::{AddressSpace, BinaryOperator, Expression, Literal, ScalarKind, StorageAccess, TypeInner};

use super::DeviceError;
use crate::files::read_regular_text;
use crate::graph::DType;
use crate::ops::{self, Op, OpFile, Pass, Requirements, Types, Word};

/// The suffix of a binding that views an operand as `array<vec4<f32>>`.
const VEC4_SUFFIX: &str = "_vec4";

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

    /// Names of all entry points.
    #[cfg(test)]
    pub(super) fn entry_points(&self) -> impl Iterator<Item = &str> {
        self.module.entry_points.iter().map(|entry| entry.name.as_str())
    }

    fn entry(&self, name: &str) -> Result<usize, DeviceError> {
        self.module
            .entry_points
            .iter()
            .position(|entry| entry.name == name)
            .ok_or_else(|| self.fault(format!("there is no entry point {name} in {}", path(self.op_file))))
    }

    pub(super) fn fault(&self, message: String) -> DeviceError {
        DeviceError::Shader { op_file: self.op_file, message }
    }

    /// What naga parsed, and found in validating it.
    pub(super) fn module(&self) -> (&naga::Module, &naga::valid::ModuleInfo) {
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

/// Names a folder to read `<op>.wgsl` and `shared/<module>.wgsl` from, in place of the text in the program: for trying
/// out a changed kernel without a build.
const KERNELS_FOLDER: &str = "DDPM_GPU_KERNELS";

/// The text of `kernels/<file>.wgsl`: `built_in`, or that file of the folder in [`KERNELS_FOLDER`].
fn source(
    op_file: &'static str,
    file: &str,
    built_in: &'static str,
) -> Result<Cow<'static, str>, DeviceError> {
    let Some(folder) = std::env::var_os(KERNELS_FOLDER) else { return Ok(built_in.into()) };
    let file = Path::new(&folder).join(file).with_extension("wgsl");
    read_regular_text(&file).map(Cow::Owned).map_err(|error| DeviceError::Shader {
        op_file,
        message: format!("{} ({KERNELS_FOLDER} names the folder): {error}", file.display()),
    })
}

/// First lines of shared modules that use subgroup operations, or cooperative matrices.
const REQUIRES_SUBGROUPS: &str = "// #requires subgroups";
const REQUIRES_COOPERATIVE_MATRIX: &str = "// #requires cooperative_matrix";

fn path(op_file: &str) -> String {
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
fn with_imports(
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
struct Part {
    file: String,
    start: usize,
}

/// File and line of an entry point, such as `kernels/silu.wgsl:44`.
///
/// # Errors
/// [`DeviceError::Shader`] for WGSL that cannot be read, or has no such entry point.
pub(crate) fn location(op_file: &OpFile, entry: &str) -> Result<String, DeviceError> {
    let own = source(op_file.name, op_file.name, op_file.source)?;
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ops::Case;

    /// What a case names in Rust exists in WGSL with the type that the call has, and no entry point is left without a case.
    #[test]
    fn cases_and_kernels_agree() {
        for op_file in ops::ALL {
            let [f32, f16] =
                [DType::F32, DType::F16].map(|dtype| Shader::load(op_file, dtype, Extensions::ALL).unwrap());
            let mut reached = BTreeSet::new();
            for case in (op_file.cases)() {
                assert!(case.op.name().starts_with(&format!("{}.", op_file.name)), "{}", case.op.name());
                agree(&f32, &case, &mut reached);
                if let Some(half) = crate::workbench::in_f16(&case).unwrap() {
                    agree(&f16, &half, &mut reached);
                }
            }
            let declared: BTreeSet<String> = f32.entry_points().map(str::to_owned).collect();
            assert_eq!(declared, reached, "{}: declared in WGSL, and reached by cases", op_file.name);
        }
    }

    /// Checks a case against the op's WGSL, and notes the entry points that it reaches.
    fn agree(shader: &Shader, case: &Case, reached: &mut BTreeSet<String>) {
        let (inputs, outputs) = (case.input_types(), case.output_types().unwrap());
        let types = Types { inputs: &inputs, outputs: &outputs };
        let of_call = types.activation();
        for variant in case.op.variants(types) {
            for pass in &variant.passes {
                reached.insert(pass.entry.to_owned());
                shader.params(pass).unwrap();
                for binding in shader.bindings(pass.entry).unwrap() {
                    let name = binding.name.as_str();
                    let what = format!("{} [{}]: {} binds {name}", case.op.name(), case.name, pass.entry);
                    if binding.usage == Usage::Params
                        || variant.scratch.iter().any(|(known, _)| *known == name)
                    {
                        continue;
                    }
                    let names = case.op.inputs().iter().chain(case.op.outputs());
                    let operand = names.zip(inputs.iter().chain(&outputs)).find(|(known, _)| **known == name);
                    let (_, ty) = operand.unwrap_or_else(|| panic!("{what}, which is no operand"));
                    if of_call == shader.activation {
                        assert_eq!(binding.dtype, Some(ty.dtype), "{what}");
                    }
                }
            }
        }
    }

    /// An adapter without extensions compiles every op, and misses nothing but the variants that say so.
    #[test]
    fn rooms_compile_without_extensions() {
        for op_file in ops::ALL {
            let none = Extensions { subgroups: false, cooperative_matrix: false };
            let shader = Shader::load(op_file, DType::F32, none).unwrap();
            let capabilities = naga::valid::Capabilities::default();
            let mut validator =
                naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities);
            validator.validate(&shader.module).unwrap_or_else(|error| panic!("{}: {error:?}", op_file.name));
            for case in (op_file.cases)() {
                let (inputs, outputs) = (case.input_types(), case.output_types().unwrap());
                let mut variants = case.op.variants(Types { inputs: &inputs, outputs: &outputs });
                variants.retain(|variant| Extensions::of(variant.requires) == none);
                assert!(!variants.is_empty(), "{} has no variant without extensions", case.op.name());
                for pass in variants.iter().flat_map(|variant| &variant.passes) {
                    shader.entry(pass.entry).unwrap();
                }
            }
        }
    }

    /// Functions that an op's kernels call though WGSL bounds a driver's error in them absolutely, or by that of such
    /// a function: next to a zero of theirs, no digit of the result need be right.
    fn loose_functions(shader: &Shader) -> Vec<naga::MathFunction> {
        use naga::MathFunction as F;
        let loose = [
            F::Log,
            F::Log2,
            F::Pow,
            F::Sin,
            F::Cos,
            F::Tan,
            F::Asin,
            F::Acos,
            F::Atan,
            F::Atan2,
            F::Sinh,
            F::Cosh,
            F::Tanh,
            F::Asinh,
            F::Acosh,
            F::Atanh,
        ];
        let functions = shader.module.functions.iter().map(|(_, function)| function);
        let entry_points = shader.module.entry_points.iter().map(|entry| &entry.function);
        let expressions = functions.chain(entry_points).flat_map(|function| function.expressions.iter());
        let called = expressions.filter_map(|(_, expression)| match expression {
            Expression::Math { fun, .. } => Some(*fun),
            _ => None,
        });
        called.filter(|fun| loose.contains(fun)).collect()
    }

    #[test]
    fn kernels_call_no_function_that_a_driver_may_get_wrong() {
        for op_file in ops::ALL {
            let shader = Shader::load(op_file, DType::F32, Extensions::ALL).unwrap();
            let found = loose_functions(&shader);
            assert!(found.is_empty(), "{}: {found:?}; see kernels/shared/logarithm.wgsl", op_file.name);
        }
        let source = "fn f(x: f32) -> f32 { return sqrt(log(x)); }";
        let loose =
            Shader::load(&OpFile { name: "loose", source, cases: Vec::new }, DType::F32, Extensions::ALL);
        assert_eq!(loose_functions(&loose.unwrap()), [naga::MathFunction::Log]);
    }

    /// A module imported twice under different names gives two sets of declarations.
    #[test]
    fn imports_replace_words() {
        let tiles = "// #import product_tiles PASS=first\n// #import product_tiles PASS=second\n";
        let (text, _) = with_imports("op", tiles, DType::F32, Extensions::ALL).unwrap();
        assert!(text.starts_with(tiles), "the op's own lines come first");
        assert!(text.contains("fn first_tiled(") && text.contains("fn second_tiled("), "{text}");
        assert!(!text[tiles.len()..].contains("PASS"), "{text}");
    }

    #[test]
    fn imports_of_nothing_say_so() {
        let message =
            |text: &str| with_imports("op", text, DType::F32, Extensions::ALL).unwrap_err().to_string();
        assert!(message("// #import missing").contains("there is no kernels/shared/missing.wgsl"));
        let unknown = message("// #import index WORD=other");
        assert!(
            unknown.contains("kernels/shared/index.wgsl has nothing to replace by WORD=other"),
            "{unknown}"
        );
    }
}
