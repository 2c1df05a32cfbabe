//! What naga makes of a kernel: the text that each kind of driver is given, with overrides resolved.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use naga::back::{glsl, hlsl, msl, pipeline_constants, spv, wgsl};
use naga::compact::{KeepUnused, compact};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{ArraySize, Expression, Literal, Module, ShaderStage, Span, Type, TypeInner};

use crate::device::DeviceError;
use crate::device::shader::{Extensions, Shader};
use crate::ops::{Op, Pass, Requirements, Types};

/// A language that kernels are translated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// SPIR-V 1.6 for Vulkan 1.3.
    Spirv,
    /// Metal Shading Language 2.4.
    Msl,
    /// HLSL of shader model 6.2, for DX12.
    Hlsl,
    /// GLSL 4.60.
    Glsl,
    /// WGSL, as naga writes it.
    Wgsl,
}

impl Target {
    /// All targets.
    pub const ALL: [Self; 5] = [Self::Spirv, Self::Msl, Self::Hlsl, Self::Glsl, Self::Wgsl];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Spirv => "spirv",
            Self::Msl => "msl",
            Self::Hlsl => "hlsl",
            Self::Glsl => "glsl",
            Self::Wgsl => "wgsl",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|target| target.name() == name).ok_or_else(|| {
            format!("there is no target {name}; there are {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// One entry point in another language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Translation {
    /// Source text.
    Text(String),
    /// The words of a SPIR-V module.
    Spirv(Vec<u32>),
}

/// The entry point of a pass in another language: no other entry point, and the pass's overrides in place.
///
/// The options are those that wgpu gives naga for a driver of the version that [`Target`] names.
///
/// # Errors
/// [`DeviceError::Shader`] for WGSL that does not compile; [`DeviceError::Translation`] for what naga cannot say in the
/// target language, such as 16-bit floats in GLSL.
pub fn translate(
    op: &dyn Op,
    types: Types<'_>,
    pass: &Pass,
    target: Target,
) -> Result<Translation, DeviceError> {
    let shader = Shader::load(op.file(), types.activation(), Extensions::ALL)?;
    let (module, info) = shader.resolved(pass)?;
    let has_matrices =
        module.types.iter().any(|(_, ty)| matches!(ty.inner, TypeInner::CooperativeMatrix { .. }));
    let written = match target {
        // naga panics rather than to say so.
        Target::Hlsl | Target::Glsl if has_matrices => {
            Err("naga writes cooperative matrices in SPIR-V, MSL and WGSL only".to_owned())
        }
        Target::Spirv => spirv(&module, &info, pass.entry).map(Translation::Spirv),
        Target::Msl => metal(&module, &info, pass.entry).map(Translation::Text),
        Target::Hlsl => direct3d(&module, &info, pass.entry).map(Translation::Text),
        Target::Glsl => opengl(&module, &info, pass.entry).map(Translation::Text),
        Target::Wgsl => web(module.into_owned()).map(Translation::Text),
    };
    written.map_err(|message| DeviceError::Translation {
        kernel: format!("{}.{}", shader.op_file, pass.entry),
        target: target.name(),
        message,
    })
}

/// The WGSL of a call's op with its imports, as a device is given it that meets `requires` and has nothing more.
///
/// # Errors
/// [`DeviceError::Shader`] for WGSL that does not compile.
pub fn source(op: &dyn Op, types: Types<'_>, requires: Requirements) -> Result<String, DeviceError> {
    Ok(Shader::load(op.file(), types.activation(), Extensions::of(requires))?.text)
}

impl Shader {
    /// The module with the entry point of a pass alone, and numbers in place of overrides.
    pub(in crate::device) fn resolved(
        &self,
        pass: &Pass,
    ) -> Result<(Cow<'_, Module>, Cow<'_, ModuleInfo>), DeviceError> {
        let (module, info) = self.module();
        let constants = pass.overrides.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let entry = Some((ShaderStage::Compute, pass.entry));
        pipeline_constants::process_overrides(module, info, entry, &constants)
            .map_err(|error| self.fault(format!("the overrides of {}: {error}", pass.entry)))
    }
}

/// wgpu's policy for drivers that do not check bounds themselves.
const CHECKED: BoundsCheckPolicies = BoundsCheckPolicies {
    index: BoundsCheckPolicy::Restrict,
    buffer: BoundsCheckPolicy::Restrict,
    image_load: BoundsCheckPolicy::Restrict,
    binding_array: BoundsCheckPolicy::Unchecked,
};

fn spirv(module: &Module, info: &ModuleInfo, entry: &str) -> Result<Vec<u32>, String> {
    let options = spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::DEBUG, // names
        bounds_check_policies: CHECKED,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..spv::Options::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: entry.to_owned() };
    spv::write_vec(module, info, &options, Some(&pipeline)).map_err(|error| error.to_string())
}

fn metal(module: &Module, info: &ModuleInfo, entry: &str) -> Result<String, String> {
    // wgpu numbers a pipeline's buffers from 0 up, and puts the lengths of runtime-sized arrays behind them.
    let mut resources = msl::BindingMap::new();
    let mut slots = 0u8..;
    for (_, variable) in module.global_variables.iter() {
        let Some(binding) = variable.binding else { continue };
        resources
            .insert(binding, msl::BindTarget { buffer: slots.next(), mutable: true, ..Default::default() });
    }
    let sizes_buffer = slots.next();
    let resources = msl::EntryPointResources { resources, sizes_buffer, ..Default::default() };
    let options = msl::Options {
        lang_version: (2, 4),
        per_entry_point_map: [(entry.to_owned(), resources)].into(),
        fake_missing_bindings: false,
        bounds_check_policies: CHECKED,
        zero_initialize_workgroup_memory: false,
        ..msl::Options::default()
    };
    let pipeline = msl::PipelineOptions {
        entry_point: Some((ShaderStage::Compute, entry.to_owned())),
        ..msl::PipelineOptions::default()
    };
    let (text, names) =
        msl::write_string(module, info, &options, &pipeline).map_err(|error| error.to_string())?;
    match names.entry_point_names.into_iter().find_map(Result::err) {
        None => Ok(text),
        Some(error) => Err(error.to_string()),
    }
}

fn direct3d(module: &Module, info: &ModuleInfo, entry: &str) -> Result<String, String> {
    let options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_2,
        zero_initialize_workgroup_memory: false,
        ..hlsl::Options::default()
    };
    let pipeline = hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, entry.to_owned())) };
    let mut text = String::new();
    let names = hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(module, info, None)
        .map_err(|error| error.to_string())?;
    match names.entry_point_names.into_iter().find_map(Result::err) {
        None => Ok(text),
        Some(error) => Err(error.to_string()),
    }
}

fn opengl(module: &Module, info: &ModuleInfo, entry: &str) -> Result<String, String> {
    let mut binding_map = glsl::BindingMap::new();
    for (_, variable) in module.global_variables.iter() {
        let Some(binding) = variable.binding else { continue };
        let slot = u8::try_from(binding.binding).map_err(|_| format!("binding {binding:?} is over 255"))?;
        binding_map.insert(binding, slot);
    }
    let options = glsl::Options {
        version: glsl::Version::Desktop(460),
        binding_map,
        zero_initialize_workgroup_memory: false,
        ..glsl::Options::default()
    };
    let pipeline = glsl::PipelineOptions {
        shader_stage: ShaderStage::Compute,
        entry_point: entry.to_owned(),
        multiview: None,
    };
    let mut text = String::new();
    glsl::Writer::new(&mut text, module, info, &options, &pipeline, CHECKED)
        .and_then(|mut writer| writer.write())
        .map_err(|error| error.to_string())?;
    Ok(text)
}

fn web(mut module: Module) -> Result<String, String> {
    // Where naga resolves overrides it leaves their declarations, and arrays that are sized by one, which its WGSL writer
    // then gets wrong: such arrays get numbers here, and what nothing refers to any more goes.
    for (_, variable) in module.global_variables.iter_mut() {
        let ty = &module.types[variable.ty];
        let TypeInner::Array { base, size: ArraySize::Pending(length), stride } = ty.inner else { continue };
        let init = module.overrides[length].init.map(|init| &module.global_expressions[init]);
        let Some(Expression::Literal(Literal::U32(length))) = init else {
            return Err("the length of an array in workgroup memory is no number".to_owned());
        };
        let length = NonZeroU32::new(*length).ok_or("an array in workgroup memory is empty")?;
        let ty = Type {
            name: ty.name.clone(),
            inner: TypeInner::Array { base, size: ArraySize::Constant(length), stride },
        };
        variable.ty = module.types.insert(ty, Span::UNDEFINED);
    }
    compact(&mut module, KeepUnused::No);
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .map_err(|error| error.emit_to_string(""))?;
    wgsl::write_string(&module, &info, wgsl::WriterFlags::empty()).map_err(|error| error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::ops;

    /// The text of the first case's last variant.
    fn text(op_file: &str, entry: &str, target: Target) -> String {
        let cases = ops::ALL.iter().flat_map(|op_file| (op_file.cases)());
        for case in cases.filter(|case| case.op.file().name == op_file) {
            let (inputs, outputs) = (case.input_types(), case.output_types().unwrap());
            let types = Types { inputs: &inputs, outputs: &outputs };
            let variants = case.op.variants(types);
            if let Some(pass) = variants.iter().flat_map(|variant| &variant.passes).find(|p| p.entry == entry)
            {
                return match translate(case.op.as_ref(), types, pass, target).unwrap() {
                    Translation::Text(text) => text,
                    Translation::Spirv(words) => panic!("{} words", words.len()),
                };
            }
        }
        panic!("no case of {op_file} has a pass {entry}")
    }

    #[test]
    fn overrides_are_numbers_in_translations() {
        let wgsl = text("linear", "forward_workgroup_4x4", Target::Wgsl);
        assert!(wgsl.contains("@workgroup_size(8, 8, 1)") && !wgsl.contains("override"), "{wgsl}");
        let hlsl = text("linear", "forward_workgroup_4x4", Target::Hlsl);
        assert!(hlsl.contains("[numthreads(8, 8, 1)]"), "{hlsl}");
    }

    #[test]
    fn a_translation_holds_one_entry_point() {
        let msl = text("linear", "forward_tiled", Target::Msl);
        assert_eq!(msl.matches("kernel void ").count(), 1, "{msl}");
        assert!(!msl.contains("fake"), "{msl}");
        let wgsl = text("linear", "forward_tiled", Target::Wgsl);
        assert_eq!(wgsl.matches("@compute").count(), 1, "{wgsl}");
        let glsl = text("linear", "forward_tiled", Target::Glsl);
        assert!(glsl.contains("layout(local_size_x = 64") && glsl.contains("binding = 11"), "{glsl}");
    }

    #[test]
    fn targets_are_found_by_name() {
        for target in Target::ALL {
            assert_eq!(target.name().parse(), Ok(target));
        }
        assert!("metal".parse::<Target>().unwrap_err().contains("spirv, msl, hlsl, glsl, wgsl"));
    }
}
