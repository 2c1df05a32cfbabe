//! Every case of every variant of every room, on every device present.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is how a test fails

mod common;

use ddpm_gpu::ops;
use ddpm_gpu::workbench::{check, check_gradient, subjects};

#[test]
fn kernels_agree_with_their_references() {
    let mut failures = Vec::new();
    for (name, device) in common::devices() {
        let mut checked = 0;
        let mut closest: (f32, String) = (0.0, String::new());
        for case in ops::ALL.iter().flat_map(|room| (room.cases)()) {
            for variant in subjects(&device, &case) {
                let what = format!("{} {variant} [{}] on {name}", case.op.name(), case.name);
                match pollster::block_on(check(&device, &case, variant)) {
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
        assert!(checked > 0, "nothing was checked on {name}");
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
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
