//! Kernels as text, and what is put into them.

use std::collections::BTreeMap;
use std::fmt::Write;

use naga::AddressSpace;

use super::bench::Bench;
use crate::device::shader::Shader;
use crate::graph::DType;
use crate::ops::OpFile;

/// What a kernel's text is changed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// As it is, with workgroup memory zeroed by wgpu.
    Zeroed,
    /// Workgroup memory is full of NaN when an entry point begins.
    NanInWorkgroupMemory,
    /// Indices of storage bindings are compared with the bindings' lengths.
    CheckedIndices,
}

/// The binding that [`Form::CheckedIndices`] notes in, by one bit for each binding, which index was too large.
pub(super) const NOTES: u32 = 99;

/// An edit of an op's text: what stands there, and what is put in its place.
pub(super) type Edit<'a> = (&'a str, &'a str);

/// An op's text in one of the forms, and what is compiled of it.
pub(super) struct Rewritten {
    pub(super) shader: Shader,
    pub(super) form: Form,
    pub(super) text: String,
    /// Names and numbers of the storage bindings.
    pub(super) storage: Vec<(String, u32)>,
    pub(super) module: Option<wgpu::ShaderModule>,
    /// By entry point and overrides.
    pub(super) pipelines: BTreeMap<String, wgpu::ComputePipeline>,
}

impl Rewritten {
    pub(super) fn new(bench: &Bench, op_file: &OpFile, form: Form, edits: &[Edit<'_>]) -> Self {
        let shader = Shader::load(op_file, DType::F32, bench.extensions()).unwrap();
        let mut text = shader.text.clone();
        for (from, to) in edits {
            assert!(text.contains(from), "{} has no {from}", op_file.name);
            text = text.replace(from, to);
        }
        // No comment takes part.
        let mut text: String =
            text.lines().map(|line| line.split("//").next().unwrap().to_owned() + "\n").collect();
        let storage: Vec<(String, u32)> = shader
            .module()
            .0
            .global_variables
            .iter()
            .filter(|(_, variable)| matches!(variable.space, AddressSpace::Storage { .. }))
            .map(|(_, variable)| (variable.name.clone().unwrap(), variable.binding.unwrap().binding))
            .collect();
        match form {
            Form::Zeroed => {}
            Form::NanInWorkgroupMemory => fill_workgroup_memory(&shader, &mut text),
            Form::CheckedIndices => check_indices(&shader, &storage, &mut text),
        }
        Self { shader, form, text, storage, module: None, pipelines: BTreeMap::new() }
    }

    /// Workgroup variables of an entry point.
    pub(super) fn workgroup_variables(&self, entry: &str) -> Vec<String> {
        workgroup_variables(&self.shader, entry)
    }
}

pub(super) fn workgroup_variables(shader: &Shader, entry: &str) -> Vec<String> {
    let (module, info) = shader.module();
    let index = module.entry_points.iter().position(|known| known.name == entry).unwrap();
    let used = info.get_entry_point(index);
    let is_used = |(handle, variable): &(naga::Handle<naga::GlobalVariable>, &naga::GlobalVariable)| {
        variable.space == AddressSpace::WorkGroup && !used[*handle].is_empty()
    };
    module
        .global_variables
        .iter()
        .filter(is_used)
        .map(|(_, variable)| variable.name.clone().unwrap())
        .collect()
}

/// Before all else, the first invocation of each entry point sets all bits of the workgroup variables that it uses.
pub(super) fn fill_workgroup_memory(shader: &Shader, text: &mut String) {
    let names: Vec<String> = shader.entry_points().map(str::to_owned).collect();
    for entry in names {
        let variables = workgroup_variables(shader, &entry);
        if variables.is_empty() {
            continue;
        }
        let mut fill = format!("fn fill_{entry}(local: u32) {{ if local == 0u {{\n");
        for name in variables {
            // `var<workgroup> name: array<element, length>;`
            let declared = text.split(&format!("var<workgroup> {name}: array<")).nth(1).unwrap();
            let (element, length) = declared.split(">;").next().unwrap().rsplit_once(',').unwrap();
            let value = match element {
                "u32" => "0xffffffffu - local".to_owned(),
                _ => format!("{element}(bitcast<f32>(0xffffffffu - local))"),
            };
            writeln!(fill, "for (var i = 0u; i < {length}; i++) {{ {name}[i] = {value}; }}").unwrap();
        }
        fill += "} }\n";
        let start = text.find(&format!("fn {entry}(")).unwrap();
        let body = start + text[start..].find("{").unwrap() + 1;
        assert!(text[start..body].contains("local: u32"), "{entry} does not know its invocation");
        text.insert_str(body, &format!(" fill_{entry}(local); workgroupBarrier();"));
        text.push_str(&fill);
    }
}

/// Wherever a storage binding is indexed, a function looks at the index first; when an entry point returns, what was
/// found is noted.
pub(super) fn check_indices(shader: &Shader, storage: &[(String, u32)], text: &mut String) {
    for (name, number) in storage {
        let mut from = 0;
        while let Some(found) = text[from..].find(&format!("{name}[")) {
            let start = from + found;
            let open = start + name.len();
            let is_part_of_a_name = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
            from = open + 1;
            if text[..start].ends_with(is_part_of_a_name) {
                continue;
            }
            let mut depth = 0;
            let length = text[open..].find(|c| {
                depth += i32::from(c == '[') - i32::from(c == ']');
                depth == 0
            });
            text.insert_str(open + length.unwrap(), &format!(", arrayLength(&{name}), {number}u)"));
            text.insert_str(open + 1, "within(");
        }
    }
    for entry in shader.entry_points() {
        // `@compute @workgroup_size(...) fn entry(@builtin(...) name: type, ...) {`
        let start = text.find(&format!("fn {entry}(")).unwrap();
        let attributes = text[..start].rfind("@compute").unwrap();
        let open = start + "fn ".len() + entry.len() + 1;
        let close = open + text[open..].find(") {").unwrap();
        let parameters = text[open..close].to_owned();
        let plain: Vec<&str> =
            parameters.split(',').filter_map(|parameter| Some(parameter.rsplit_once(") ")?.1)).collect();
        let names: Vec<&str> = plain.iter().filter_map(|plain| Some(plain.split_once(':')?.0)).collect();
        let called = format!(
            "{}fn {entry}({parameters}) {{ body_of_{entry}({}); if past != 0u {{ atomicOr(&notes[0], past); }} }}\n\
             fn body_of_{entry}({}",
            &text[attributes..start],
            names.join(", "),
            plain.join(", ")
        );
        text.replace_range(attributes..close, &called);
    }
    write!(
        text,
        "@group(0) @binding({NOTES}) var<storage, read_write> notes: array<atomic<u32>>;\n\
         var<private> past: u32;\n\
         fn within(index: u32, length: u32, number: u32) -> u32 {{\n\
         past |= select(0u, 1u << number, index >= length);\n\
         return min(index, length - 1u); }}\n"
    )
    .unwrap();
}
