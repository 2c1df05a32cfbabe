//! Kernels rewritten so that they betray what no result shows: workgroup memory that is read before it is written,
//! which the engine does not have zeroed, and indices past the end of a binding, whose values a `select` throws away.
//! And functions that all kernels share, over all their arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use naga::AddressSpace;
use pollster::block_on;

use crate::device::shader::{Extensions, Shader, Usage};
use crate::graph::DType;
use crate::ops::{self, Case, Grid, Input, OpFile, Operands, Output, Pass, Variant};

/// Cases of more elements are run where no smaller one reaches a kernel.
const SMALL: usize = 6000;

/// What a kernel's text is changed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    /// As it is, with workgroup memory zeroed by wgpu.
    Zeroed,
    /// Workgroup memory is full of NaN when an entry point begins.
    NanInWorkgroupMemory,
    /// Indices of storage bindings are compared with the bindings' lengths.
    CheckedIndices,
}

/// The binding that [`Form::CheckedIndices`] notes in, by one bit for each binding, which index was too large.
const NOTES: u32 = 99;

/// An edit of an op's text: what stands there, and what is put in its place.
type Edit<'a> = (&'a str, &'a str);

/// An adapter opened with all it has: the notes are a binding more than WebGPU promises.
struct Bench {
    name: String,
    device: wgpu::Device,
    queue: wgpu::Queue,
    subgroup_size: Option<u32>,
}

/// What a run left.
struct Outcome {
    outputs: Vec<Vec<f32>>,
    /// Names of the bindings that an index reached past.
    past_the_end: BTreeSet<String>,
}

/// All adapters; a word on their absence if there are none.
fn benches() -> Vec<Bench> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    if adapters.is_empty() {
        eprintln!("SKIPPED: no wgpu adapter is present");
    }
    let open = |adapter: wgpu::Adapter| {
        let info = adapter.get_info();
        let features = adapter.features() & wgpu::Features::SUBGROUP;
        let opened = block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            required_features: features,
            required_limits: adapter.limits(),
            ..Default::default()
        }));
        let (device, queue) = opened.unwrap();
        let sizes = [info.subgroup_min_size, info.subgroup_max_size];
        let has_one = !features.is_empty() && sizes[0] == sizes[1];
        Bench { name: info.name, device, queue, subgroup_size: has_one.then_some(sizes[0]) }
    };
    adapters.into_iter().map(open).collect()
}

impl Bench {
    fn extensions(&self) -> Extensions {
        Extensions { subgroups: self.subgroup_size.is_some(), cooperative_matrix: false }
    }

    fn supports(&self, variant: &Variant) -> bool {
        let requires = variant.requires;
        let has_lanes = requires.subgroup_size.is_none_or(|size| self.subgroup_size == Some(size));
        has_lanes && !requires.cooperative_matrix && !requires.f16
    }

    fn buffer(&self, contents: &[u8], usage: wgpu::BufferUsages) -> wgpu::Buffer {
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: contents.len() as u64,
            usage: usage | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        self.queue.write_buffer(&buffer, 0, contents);
        buffer
    }

    fn storage<T: bytemuck::Pod>(&self, contents: &[T]) -> wgpu::Buffer {
        self.buffer(bytemuck::cast_slice(contents), wgpu::BufferUsages::STORAGE)
    }

    fn module(&self, text: &str) -> wgpu::ShaderModule {
        self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(text.into()),
        })
    }

    fn pipeline(
        &self,
        module: &wgpu::ShaderModule,
        entry: &str,
        overrides: &[(&str, f64)],
        zeroed: bool,
    ) -> wgpu::ComputePipeline {
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry),
            layout: None,
            module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: overrides,
                zero_initialize_workgroup_memory: zeroed,
            },
            cache: None,
        })
    }

    /// Runs a pipeline with what it binds.
    fn dispatch(
        &self,
        pipeline: &wgpu::ComputePipeline,
        bindings: &[(u32, &wgpu::Buffer)],
        [x, y]: [u32; 2],
    ) {
        let entries: Vec<wgpu::BindGroupEntry<'_>> = bindings
            .iter()
            .map(|&(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
            .collect();
        let bind_group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        pass.dispatch_workgroups(x, y, 1);
        drop(pass);
        self.queue.submit([encoder.finish()]);
    }

    fn read<T: bytemuck::Pod>(&self, buffer: &wgpu::Buffer) -> Vec<T> {
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: buffer.size(),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
        self.queue.submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |result| result.unwrap());
        self.device.poll(wgpu::PollType::Wait { submission_index: None, timeout: None }).unwrap();
        let view = staging.get_mapped_range(..).unwrap();
        bytemuck::pod_collect_to_vec(&view)
    }

    /// Runs a case by one of its variants, in buffers that are exactly as long as the operands.
    fn run(&self, case: &Case, variant: &Variant, rewritten: &mut Rewritten) -> Outcome {
        let mut buffers: BTreeMap<&str, wgpu::Buffer> = BTreeMap::new();
        for (index, (name, fill)) in case.op.inputs().iter().zip(&case.inputs).enumerate() {
            buffers.insert(name, self.storage(&fill.data(index as u32)));
        }
        for (index, (name, ty)) in case.op.outputs().iter().zip(case.output_types().unwrap()).enumerate() {
            let contents = match case.targets.get(index) {
                Some(fill) => fill.data(100 + index as u32),
                None => vec![f32::from_bits(u32::MAX); ty.len()],
            };
            buffers.insert(name, self.storage(&contents));
        }
        for &(name, length) in &variant.scratch {
            buffers.insert(name, self.storage(&vec![u32::MAX; length]));
        }
        let notes = self.storage(&[0u32]);
        for pass in &variant.passes {
            let params = rewritten.shader.params(pass).unwrap();
            let params = (!params.is_empty()).then(|| self.buffer(&params, wgpu::BufferUsages::UNIFORM));
            let mut bindings: Vec<(u32, &wgpu::Buffer)> = Vec::new();
            for binding in rewritten.shader.bindings(pass.entry).unwrap() {
                let buffer = match binding.usage {
                    Usage::Params => params.as_ref().unwrap(),
                    _ => &buffers[binding.name.as_str()],
                };
                bindings.push((binding.index, buffer));
            }
            if rewritten.form == Form::CheckedIndices {
                bindings.push((NOTES, &notes));
            }
            let key = format!("{} {:?}", pass.entry, pass.overrides);
            let pipeline = rewritten.pipelines.entry(key).or_insert_with(|| {
                let module = rewritten.module.get_or_insert_with(|| self.module(&rewritten.text));
                self.pipeline(module, pass.entry, &pass.overrides, rewritten.form == Form::Zeroed)
            });
            self.dispatch(pipeline, &bindings, workgroups(&rewritten.shader, pass));
        }
        let bits: Vec<u32> = self.read(&notes);
        let is_noted = |number: u32| bits[0] >> number & 1 == 1;
        Outcome {
            outputs: case.op.outputs().iter().map(|name| self.read(&buffers[name])).collect(),
            past_the_end: rewritten
                .storage
                .iter()
                .filter(|(_, at)| is_noted(*at))
                .map(|(name, _)| name.clone())
                .collect(),
        }
    }
}

/// As an executor folds a grid, with a surplus workgroup where there may be one.
fn workgroups(shader: &Shader, pass: &Pass) -> [u32; 2] {
    let count = match pass.grid {
        Grid::Workgroups(count) => count,
        Grid::Invocations(count) => {
            count.div_ceil(shader.workgroup_size(pass).unwrap().iter().product::<u32>() as usize)
        }
    };
    if count > 1 { [count.div_ceil(2) as u32 + 1, 2] } else { [count as u32, 1] }
}

/// An op's text in one of the forms, and what is compiled of it.
struct Rewritten {
    shader: Shader,
    form: Form,
    text: String,
    /// Names and numbers of the storage bindings.
    storage: Vec<(String, u32)>,
    module: Option<wgpu::ShaderModule>,
    /// By entry point and overrides.
    pipelines: BTreeMap<String, wgpu::ComputePipeline>,
}

impl Rewritten {
    fn new(bench: &Bench, op_file: &OpFile, form: Form, edits: &[Edit<'_>]) -> Self {
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
    fn workgroup_variables(&self, entry: &str) -> Vec<String> {
        workgroup_variables(&self.shader, entry)
    }
}

fn workgroup_variables(shader: &Shader, entry: &str) -> Vec<String> {
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
fn fill_workgroup_memory(shader: &Shader, text: &mut String) {
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
fn check_indices(shader: &Shader, storage: &[(String, u32)], text: &mut String) {
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

/// The first element of an output that is off by more than the op's tolerance, which is relative to the output's
/// largest.
fn difference(case: &Case, outputs: &[Vec<f32>]) -> Option<String> {
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

fn elements(case: &Case) -> usize {
    case.input_types().iter().chain(&case.output_types().unwrap()).map(|ty| ty.len()).sum()
}

/// Runs the small cases of every variant that the adapter can run and `wanted` picks, and of variants that no small
/// case has the smallest. Gives the entry points that were reached.
fn run_all(bench: &Bench, form: Form, wanted: impl Fn(&Rewritten, &Variant) -> bool) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut faults = Vec::new();
    for op_file in ops::ALL {
        let mut rewritten = Rewritten::new(bench, op_file, form, &[]);
        let mut cases = (op_file.cases)();
        cases.sort_by_key(elements);
        let mut seen = BTreeSet::new();
        for case in cases.iter().filter(|case| case.activation() == DType::F32) {
            for variant in case.variants() {
                let is_new = seen.insert((case.op.name(), variant.name));
                let is_wanted = bench.supports(&variant) && wanted(&rewritten, &variant);
                if !is_wanted || !(is_new || elements(case) < SMALL) {
                    continue;
                }
                let outcome = bench.run(case, &variant, &mut rewritten);
                let what = format!("{} {} [{}]", case.op.name(), variant.name, case.name);
                if let Some(difference) = difference(case, &outcome.outputs) {
                    faults.push(format!("{what}: {difference}"));
                }
                if !outcome.past_the_end.is_empty() {
                    faults.push(format!("{what}: an index reaches past {:?}", outcome.past_the_end));
                }
                reached.extend(variant.passes.iter().map(|pass| format!("{}.{}", op_file.name, pass.entry)));
            }
        }
    }
    assert!(faults.is_empty(), "{}: {} faults:\n{}", bench.name, faults.len(), faults.join("\n"));
    reached
}

/// Entry points that the adapter compiles and `wanted` picks.
fn entry_points(bench: &Bench, wanted: impl Fn(&Shader, &str) -> bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for op_file in ops::ALL {
        let shader = Shader::load(op_file, DType::F32, bench.extensions()).unwrap();
        let wanted = shader.entry_points().filter(|entry| wanted(&shader, entry));
        found.extend(wanted.map(|entry| format!("{}.{entry}", op_file.name)));
    }
    found
}

/// The case called `name` of an op, and a variant of it that the adapter can run.
fn case_and_variant(bench: &Bench, op: &str, name: &str, variant: &str) -> Option<(Case, Variant)> {
    let mut cases = ops::ALL.iter().flat_map(|op_file| (op_file.cases)());
    let case = cases.find(|case| case.op.name() == op && case.name == name).unwrap();
    let variant = case.variants().into_iter().find(|known| known.name == variant).unwrap();
    bench.supports(&variant).then_some((case, variant))
}

/// No result depends on what workgroup memory holds when a kernel begins, so nobody need zero it.
#[test]
fn kernels_write_workgroup_memory_before_they_read_it() {
    for bench in benches() {
        let uses = |shader: &Shader, entry: &str| !workgroup_variables(shader, entry).is_empty();
        let reached = run_all(&bench, Form::NanInWorkgroupMemory, |shader, variant| {
            variant.passes.iter().any(|pass| !shader.workgroup_variables(pass.entry).is_empty())
        });
        let missed: Vec<String> = entry_points(&bench, uses).difference(&reached).cloned().collect();
        // Kernels for subgroups of another size may be there; none of them has workgroup memory.
        assert!(missed.is_empty(), "{}: no case reached {missed:?}", bench.name);
    }
}

/// A sum that adds to what is there: right where memory is zeroed, and found where it is not.
#[test]
fn a_read_of_workgroup_memory_before_the_write_is_found() {
    for bench in benches() {
        let (case, variant) =
            case_and_variant(&bench, "weighted_mean.forward", "more than a workgroup", "forward").unwrap();
        let edit = [("tree[local] = term;", "tree[local] += term;")];
        for (form, is_found) in [(Form::Zeroed, false), (Form::NanInWorkgroupMemory, true)] {
            let mut rewritten = Rewritten::new(&bench, case.op.file(), form, &edit);
            let outcome = bench.run(&case, &variant, &mut rewritten);
            assert_eq!(difference(&case, &outcome.outputs).is_some(), is_found, "{}: {form:?}", bench.name);
        }
    }
}

/// On the adapter with the fewest variants, since an index is the same on all, and LLVM takes minutes over the
/// rewritten kernels for subgroups of 8 lanes; the next test has some of those.
#[test]
fn no_index_reaches_past_the_end_of_a_binding() {
    let cases: Vec<Case> = ops::ALL.iter().flat_map(|op_file| (op_file.cases)()).collect();
    let variants = |bench: &Bench| {
        cases.iter().flat_map(Case::variants).filter(|variant| bench.supports(variant)).count()
    };
    if let Some(bench) = benches().into_iter().min_by_key(variants) {
        let reached = run_all(&bench, Form::CheckedIndices, |_, _| true);
        assert!(reached.len() > 70, "{}: {reached:?}", bench.name);
    }
}

/// The index as it was before it was clamped, at the places where a `select` hid what was read. The second is how
/// matrix units read B, in the kernels for them and here.
#[test]
fn an_index_past_the_end_is_found_behind_a_select() {
    let depth = "forward_a(tap.at + min(step, steps - 1u))";
    let step_of_b = "return line + min(step, steps - 1u);";
    let row = "d_y_vec4[select(d_at, d_at + 3u * o_quads, counts3)]";
    let pixel = "forward_a(select(tap0.at, tap3.at, counts3) + x_offset)";
    for (op, variant, binding, edit) in [
        ("linear.forward", "forward_workgroup_32", "x_vec4", (depth, "forward_a(tap.at + step)")),
        ("linear.forward", "forward_workgroup_32", "weight_vec4", (step_of_b, "return line + step;")),
        (
            "linear.backward_weight",
            "backward_weight_shuffle",
            "d_y_vec4",
            (row, "d_y_vec4[d_at + 3u * o_quads]"),
        ),
        (
            "linear.backward_weight",
            "backward_weight_shuffle",
            "x_vec4",
            (pixel, "forward_a(tap3.at + x_offset)"),
        ),
    ] {
        for bench in benches() {
            let Some((case, variant)) = case_and_variant(&bench, op, RAGGED, variant) else {
                eprintln!("SKIPPED: {} cannot run {variant}", bench.name);
                continue;
            };
            for (edits, past) in [(&[][..], None), (&[edit][..], Some(binding))] {
                let mut rewritten = Rewritten::new(&bench, case.op.file(), Form::CheckedIndices, edits);
                let outcome = bench.run(&case, &variant, &mut rewritten);
                // The result is right all the same, which is why no other test sees it.
                assert_eq!(difference(&case, &outcome.outputs), None, "{}: {op}", bench.name);
                let past = past.map(str::to_owned).into_iter().collect::<BTreeSet<String>>();
                assert_eq!(outcome.past_the_end, past, "{}: {op}", bench.name);
            }
        }
    }
}

const RAGGED: &str = "tiles, rows not a multiple of 4";

/// All 2^23 of them, relative to the radius itself, so also next to u = 1.
#[test]
fn every_radius_of_a_pair_of_normals_is_right() {
    const COUNT: usize = 1 << 23;
    let text = "
        @group(0) @binding(0) var<storage, read_write> radii: array<f32>;
        @compute @workgroup_size(256)
        fn all(@builtin(global_invocation_id) id: vec3<u32>) {
            radii[id.x] = radius(to_uniform(vec4(id.x << 9u)).x);
        }\n";
    let shared = |name: &str| ops::SHARED_WGSL.iter().find(|(known, _)| *known == name).unwrap().1;
    let text = [text, shared("logarithm"), shared("random")].concat();
    for bench in benches() {
        let radii = bench.storage(&vec![f32::NAN; COUNT]);
        let pipeline = bench.pipeline(&bench.module(&text), "all", &[], false);
        bench.dispatch(&pipeline, &[(0, &radii)], [COUNT as u32 / 256, 1]);
        let worst = bench.read::<f32>(&radii).into_iter().enumerate().map(|(index, radius)| {
            let exact = (-2.0 * ((index as f64 + 0.5) / COUNT as f64).ln()).sqrt();
            let error = (f64::from(radius) - exact).abs() / exact;
            // Not a number is as wrong as can be.
            if error.is_nan() { f64::INFINITY } else { error }
        });
        let worst = worst.fold(0.0, f64::max);
        // What NORMAL_ERROR allows the radius: half of the logarithm's 1e-7, and WGSL's square root.
        assert!(worst < 6e-7, "{}: {worst}", bench.name);
    }
}
