//! Every case of every variant of every op, on every device present: what `ddpm-gpu kernels check` checks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is how a test fails

mod common;

use std::collections::BTreeSet;

use ddpm_gpu::workbench::{Filter, Suite, Verdict};

/// Prints how close the checks came to their tolerances, and fails if one did not keep it.
fn judge(what: &str, verdicts: &[Verdict]) {
    let share = |verdict: &Verdict| {
        verdict.worst_error.unwrap_or(f64::INFINITY) / verdict.tolerance.max(f64::from(f32::MIN_POSITIVE))
    };
    let name = |verdict: &Verdict| {
        let Verdict { kernel, variant, precision, case, .. } = verdict;
        format!("{kernel} {variant} ({precision}) [{case}]")
    };
    if let Some(closest) = verdicts.iter().max_by(|a, b| share(a).total_cmp(&share(b))) {
        let (count, share) = (verdicts.len(), share(closest));
        println!("{what}: {count} checks; closest to its tolerance: {share:.2} of it, {}", name(closest));
    }
    let failures: Vec<String> = verdicts
        .iter()
        .filter_map(|verdict| Some(format!("{}: {}", name(verdict), verdict.failure.as_ref()?)))
        .collect();
    assert!(failures.is_empty(), "{what}: {} failures:\n{}", failures.len(), failures.join("\n"));
}

/// In 32 bits, and the same WGSL with 16-bit activations.
#[test]
fn kernels_agree_with_their_references() {
    let all = Filter::default();
    let suite = Suite::new(&all).unwrap();
    let op_files: BTreeSet<&str> = suite.f16_cases.iter().map(|case| case.op.file().name).collect();
    for name in
        ["add", "attention", "concat", "conv2d", "dropout", "group_norm", "linear", "silu", "upsample"]
    {
        assert!(op_files.contains(name), "{name} has no form with 16-bit activations");
    }
    for (name, device) in common::devices() {
        let verdicts = pollster::block_on(suite.check_kernels(&device, &all, &mut |_, _| {}));
        assert!(verdicts.len() > 200, "only {} checks on {name}", verdicts.len());
        if !verdicts.iter().any(|verdict| verdict.precision == "f16") {
            println!("SKIPPED in 16 bits: {name} has no shader-f16");
        }
        judge(&name, &verdicts);
    }
}

#[test]
fn gradient_rules_agree_with_finite_differences() {
    let all = Filter::default();
    let verdicts = Suite::new(&all).unwrap().check_gradients(&all);
    assert!(verdicts.len() > 20, "only {} gradient rules were checked", verdicts.len());
    judge("gradient rules", &verdicts);
}
