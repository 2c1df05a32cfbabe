//! Every case of every variant of every room, on every device present.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is how a test fails

mod common;

use std::collections::BTreeSet;

use ddpm_gpu::device::Device;
use ddpm_gpu::ops::{self, Case};
use ddpm_gpu::workbench::{check, check_gradient, in_f16, subjects};

#[test]
fn kernels_agree_with_their_references() {
    let cases: Vec<Case> = ops::ALL.iter().flat_map(|room| (room.cases)()).collect();
    for (name, device) in common::devices() {
        assert!(check_all(&name, &device, &cases) > 0, "nothing was checked on {name}");
    }
}

/// The same WGSL with 16-bit activations: the first small case of each op, which is the ragged one, and one of U-Net S.
#[test]
fn kernels_agree_with_their_references_in_f16() {
    let mut taken = BTreeSet::new();
    let is_wanted = |case: &Case| {
        let elements: usize = case.input_types().iter().map(|ty| ty.len()).sum();
        let is_real = case.name.starts_with("U-Net S");
        (is_real || elements < 8000) && taken.insert((case.op.name(), is_real))
    };
    let all = ops::ALL.iter().flat_map(|room| (room.cases)());
    let cases: Vec<Case> = all.filter_map(|case| in_f16(&case).unwrap()).filter(is_wanted).collect();
    let rooms: BTreeSet<&str> = cases.iter().map(|case| case.op.room().name).collect();
    for name in
        ["add", "attention", "concat", "conv2d", "dropout", "group_norm", "linear", "silu", "upsample"]
    {
        assert!(rooms.contains(name), "{name} has no form with 16-bit activations");
    }
    for (name, device) in common::devices() {
        if check_all(&name, &device, &cases) == 0 {
            println!("SKIPPED: {name} has no shader-f16");
        }
    }
}

/// Checks all variants of all cases on one device and gives their number.
fn check_all(name: &str, device: &Device, cases: &[Case]) -> usize {
    let mut failures = Vec::new();
    let mut checked = 0;
    let mut closest: (f32, String) = (0.0, String::new());
    for case in cases {
        for variant in subjects(device, case) {
            let what = format!("{} {variant} [{}] on {name}", case.op.name(), case.name);
            match pollster::block_on(check(device, case, variant)) {
                Ok(result) => {
                    let share = result.worst_error / result.tolerance.max(f32::MIN_POSITIVE);
                    if share > closest.0 {
                        closest = (share, what.clone());
                    }
                    if let Some(failure) = result.failure {
                        failures.push(format!("{what}: {failure} (error {:.2e})", result.worst_error));
                    }
                }
                Err(error) => failures.push(format!("{what}: {error}")),
            }
            checked += 1;
        }
    }
    println!("{name}: {checked} checks; closest to its tolerance: {:.2} of it, {}", closest.0, closest.1);
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    checked
}

#[test]
fn gradient_rules_agree_with_finite_differences() {
    let mut checked = 0;
    for room in ops::ALL {
        for case in (room.cases)() {
            let elements: usize = case.input_types().iter().map(|ty| ty.len()).sum();
            // Differences of real U-Net shapes would take hours and show nothing that small shapes do not.
            if elements > 3000 {
                continue;
            }
            let what = format!("{} [{}]", case.op.name(), case.name);
            if let Some(error) = check_gradient(&case).unwrap_or_else(|error| panic!("{what}: {error}")) {
                println!("{what}: {error:.1e}");
                assert!(error < 2e-3, "{what}: relative error {error:.1e}");
                checked += 1;
            }
        }
    }
    assert!(checked > 5, "only {checked} gradient rules were checked");
}
