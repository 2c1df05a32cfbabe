use std::collections::BTreeSet;

use naga::Expression;

use super::imports::with_imports;
use super::*;
use crate::ops::{self, Case, Types};

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
                if binding.usage == Usage::Params || variant.scratch.iter().any(|(known, _)| *known == name) {
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
        let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities);
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
    let loose = Shader::load(&OpFile { name: "loose", source, cases: Vec::new }, DType::F32, Extensions::ALL);
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
    let message = |text: &str| with_imports("op", text, DType::F32, Extensions::ALL).unwrap_err().to_string();
    assert!(message("// #import missing").contains("there is no kernels/shared/missing.wgsl"));
    let unknown = message("// #import index WORD=other");
    assert!(unknown.contains("kernels/shared/index.wgsl has nothing to replace by WORD=other"), "{unknown}");
}
