//! That kernels run where we cannot run them: a second WGSL compiler, translations for Vulkan, Metal and DX12, and
//! WebGPU's default limits. None of this needs a GPU; tools/setup-validators brings the compilers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is how a test fails

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use ddpm_gpu::device::{
    DeviceError, Target, Translation, adapters, default_limits, footprint, source, translate,
};
use ddpm_gpu::graph::{DType, TensorType};
use ddpm_gpu::ops::{self, Op, Pass, Requirements, Types};
use ddpm_gpu::workbench::in_f16;

/// A pipeline that some case needs.
struct Pipeline {
    /// Op, activations, entry point, overrides.
    name: String,
    op: Arc<dyn Op>,
    inputs: Vec<TensorType>,
    outputs: Vec<TensorType>,
    pass: Pass,
    requires: Requirements,
}

impl Pipeline {
    fn types(&self) -> Types<'_> {
        Types { inputs: &self.inputs, outputs: &self.outputs }
    }

    fn translate(&self, target: Target) -> Result<Translation, DeviceError> {
        translate(self.op.as_ref(), self.types(), &self.pass, target)
    }
}

/// Every entry point of every variant of every case, with activations of 32 and of 16 bits, each set of overrides once.
fn pipelines() -> Vec<Pipeline> {
    let mut found = BTreeMap::new();
    let cases = ops::ALL.iter().flat_map(|op_file| (op_file.cases)());
    for case in cases.flat_map(|case| [in_f16(&case).unwrap(), Some(case)]).flatten() {
        let (inputs, outputs) = (case.input_types(), case.output_types().unwrap());
        let types = Types { inputs: &inputs, outputs: &outputs };
        // The general variant first: a pass that several share needs what the least demanding of them needs.
        for variant in case.op.variants(types).into_iter().rev() {
            for pass in variant.passes {
                let overrides: String =
                    pass.overrides.iter().map(|(name, value)| format!(" {name}={value}")).collect();
                let activation = types.activation();
                let name = format!("{}.{} {activation:?}{overrides}", case.op.file().name, pass.entry);
                let (op, inputs, outputs) = (case.op.clone(), inputs.clone(), outputs.clone());
                let requires = variant.requires;
                found.entry(name.clone()).or_insert_with(|| Pipeline {
                    name,
                    op,
                    inputs,
                    outputs,
                    pass,
                    requires,
                });
            }
        }
    }
    let found: Vec<Pipeline> = found.into_values().collect();
    assert!(found.len() > 100, "only {} pipelines were found", found.len());
    found
}

/// Prints a line that is shown for passing tests too.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "\n{text}");
}

/// A file that tools/setup-validators brings, or a word on its absence.
fn tool(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".setup/validators").join(name);
    if path.exists() {
        return Some(path);
    }
    say(&format!("SKIPPED: there is no .setup/validators/{name} (tools/setup-validators brings it)"));
    None
}

/// An empty folder for one test's files.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn kernels_stay_within_webgpus_default_limits_and_those_of_each_adapter() {
    let mut limits = vec![("WebGPU's defaults".to_owned(), default_limits())];
    limits.extend(pollster::block_on(adapters()).into_iter().map(|adapter| (adapter.name, adapter.limits)));
    let pipelines = pipelines();
    let mut most: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    let mut faults = Vec::new();
    for pipeline in &pipelines {
        for (name, taken) in footprint(pipeline.op.as_ref(), pipeline.types(), &pipeline.pass).unwrap() {
            for (whose, limits) in &limits {
                let (_, limit) = limits.iter().find(|(limit, _)| *limit == name).unwrap();
                if taken > *limit {
                    faults.push(format!("{}: {taken} {name}, {limit} by {whose}", pipeline.name));
                }
            }
            let most = most.entry(name).or_default();
            if taken > most.0 {
                *most = (taken, &pipeline.name);
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    say(&format!("limits: {} pipelines within those of {} devices; at most", pipelines.len(), limits.len()));
    for (name, (taken, pipeline)) in most {
        println!("  {taken} {name} ({pipeline})");
    }
}

#[test]
fn naga_translates_every_pipeline_for_vulkan_metal_and_dx12() {
    let folder = folder("spirv");
    let spirv_val = tool("spirv-val");
    let mut written: BTreeMap<Target, usize> = BTreeMap::new();
    let mut validated = 0;
    let mut faults = Vec::new();
    for (index, pipeline) in pipelines().iter().enumerate() {
        for target in [Target::Spirv, Target::Msl, Target::Hlsl, Target::Wgsl] {
            // HLSL has no cooperative matrices. Who runs DX12 cannot ask for them.
            if target == Target::Hlsl && pipeline.requires.cooperative_matrix {
                assert!(matches!(pipeline.translate(target), Err(DeviceError::Translation { .. })));
                continue;
            }
            match pipeline.translate(target) {
                Ok(Translation::Text(text)) => assert!(text.len() > 100, "{}: {text}", pipeline.name),
                Ok(Translation::Spirv(words)) => {
                    if let Some(spirv_val) = &spirv_val {
                        let file = folder.join(format!("{index}.spv"));
                        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                        std::fs::write(&file, bytes).unwrap();
                        let output =
                            Command::new(spirv_val).args(["--target-env", "vulkan1.3"]).arg(&file).output();
                        let output = output.unwrap();
                        if output.status.success() {
                            validated += 1;
                        } else {
                            let said = String::from_utf8_lossy(&output.stderr).into_owned();
                            faults.push(format!("{}: spirv-val: {said}", pipeline.name));
                        }
                    }
                }
                Err(error) => faults.push(error.to_string()),
            }
            *written.entry(target).or_default() += 1;
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    let written: Vec<String> = written.iter().map(|(target, count)| format!("{count} to {target}")).collect();
    say(&format!("naga: translated {}; spirv-val: {validated} valid", written.join(", ")));
}

/// What naga makes of cooperative matrices is what they are for.
#[test]
fn products_by_matrix_units_compile_for_vulkan_and_metal() {
    let pipelines = pipelines();
    let pipelines: Vec<&Pipeline> =
        pipelines.iter().filter(|pipeline| pipeline.requires.cooperative_matrix).collect();
    let mut entries = BTreeSet::new();
    for pipeline in pipelines.iter().filter(|pipeline| pipeline.pass.entry.ends_with("_cooperative")) {
        entries.insert(pipeline.op.name());
        let Translation::Text(msl) = pipeline.translate(Target::Msl).unwrap() else { panic!("no text") };
        assert!(msl.contains("simdgroup_multiply_accumulate"), "{}: {msl}", pipeline.name);
        let Translation::Spirv(words) = pipeline.translate(Target::Spirv).unwrap() else {
            panic!("no words")
        };
        // OpCapability CooperativeMatrixKHR, and OpCooperativeMatrixMulAddKHR of a result type, a result and three
        // operands
        assert!(words.windows(2).any(|pair| pair == [2 << 16 | 17, 6022]), "{}", pipeline.name);
        assert!(words.iter().any(|word| word & 0xffff == 4459 && word >> 16 >= 6), "{}", pipeline.name);
    }
    let expected = [
        "conv2d.backward_input",
        "conv2d.forward",
        "linear.backward_input",
        "linear.forward",
        "linear.forward_unbiased",
    ];
    assert_eq!(entries, BTreeSet::from(expected));
}

#[test]
fn tint_compiles_every_pipeline() {
    let (Some(node), Some(dawn)) = (tool("node"), tool("webgpu/dawn.node")) else { return };
    let folder = folder("tint");
    let pipelines = pipelines();
    // One module for each op, element type and set of extensions.
    let mut modules: BTreeMap<String, (String, Vec<serde_json::Value>)> = BTreeMap::new();
    let mut entries = BTreeSet::new();
    let mut left_out = 0;
    for pipeline in &pipelines {
        // Chromium has other words for cooperative matrices.
        if pipeline.requires.cooperative_matrix {
            left_out += 1;
            continue;
        }
        let activation = pipeline.types().activation();
        let mut text = source(pipeline.op.as_ref(), pipeline.types(), pipeline.requires).unwrap();
        let mut name = pipeline.op.file().name.to_owned();
        if activation == DType::F16 {
            name += "_f16";
        }
        if pipeline.requires.subgroup_size.is_some() {
            name += "_subgroups";
            // naga knows subgroups without this line and rejects it; WebGPU wants it.
            text.insert_str(0, "enable subgroups; ");
        }
        entries.insert((pipeline.op.file().name, pipeline.pass.entry));
        let constants: BTreeMap<&str, f64> = pipeline.pass.overrides.iter().copied().collect();
        let (_, pipelines) = modules.entry(name).or_insert((text, Vec::new()));
        pipelines.push(serde_json::json!({
            "name": pipeline.name, "entryPoint": pipeline.pass.entry, "constants": constants,
        }));
    }
    let mut manifest = Vec::new();
    for (name, (text, pipelines)) in &modules {
        let file = folder.join(name).with_extension("wgsl");
        std::fs::write(&file, text).unwrap();
        manifest.push(serde_json::json!({ "name": name, "file": file, "pipelines": pipelines }));
    }
    let file = folder.join("manifest.json");
    std::fs::write(&file, serde_json::to_vec(&manifest).unwrap()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/portability/tint.mjs");
    let output = Command::new(node).arg(script).arg(dawn).arg(file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let faults: Vec<&str> = said.lines().filter(|line| line.starts_with("fault ")).collect();
    assert!(faults.is_empty(), "Tint finds {} faults:\n{said}", faults.len());
    let expected = pipelines.len() - left_out;
    assert!(
        said.lines().any(|line| line == format!("valid {expected}")),
        "not {expected} pipelines: {said}{errors}"
    );
    say(&format!("Tint: {expected} pipelines of {} entry points valid", entries.len()));
}
