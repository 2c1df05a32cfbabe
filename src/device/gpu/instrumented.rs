//! Kernels rewritten so that they betray what no result shows: workgroup memory that is read before it is written,
//! which the engine does not have zeroed, and indices past the end of a binding, whose values a `select` throws away.
//! And functions that all kernels share, over all their arguments.

mod bench;
mod difference;
mod rewritten;

use std::collections::BTreeSet;

use self::bench::{Bench, benches};
use self::difference::difference;
use self::rewritten::{Form, Rewritten, workgroup_variables};
use crate::device::shader::Shader;
use crate::graph::DType;
use crate::ops::{self, Case, Variant};

/// Cases of more elements are run where no smaller one reaches a kernel.
const SMALL: usize = 6000;

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
