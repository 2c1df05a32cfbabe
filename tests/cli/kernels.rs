//! `ddpm-gpu kernels` and `ddpm-gpu profile`.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{Finished, Workspace, devices};

/// Copies `kernels/` into the workspace and makes one edit; the text before must occur in the file.
fn break_kernel(workspace: &Workspace, file: &str, before: &str, after: &str) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    for folder in ["", "shared"] {
        for entry in std::fs::read_dir(source.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let name = Path::new("kernels").join(folder).join(path.file_name().unwrap());
                workspace.write(name.to_str().unwrap(), std::fs::read(&path).unwrap());
            }
        }
    }
    let name = format!("kernels/{file}");
    let text = String::from_utf8(workspace.read(&name)).unwrap();
    assert!(text.contains(before), "{file} has no `{before}`");
    workspace.write(&name, text.replace(before, after));
}

/// Runs the program with the kernels of the workspace.
fn run_with_kernels(workspace: &Workspace, line: &str) -> Finished {
    let mut command: Command = workspace.command(line);
    let output = command.env("DDPM_GPU_KERNELS", workspace.path("kernels")).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Finished { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

#[test]
fn list_names_source_and_requirements() {
    let workspace = Workspace::new();
    for device in devices() {
        let listed = workspace.succeeds(&format!("kernels list conv2d.forward --device {device}")).stdout;
        for word in ["forward_shuffle", "subgroups of 8", "kernels/conv2d.wgsl:", "kernels/shared/"] {
            assert!(listed.contains(word), "{device}: no `{word}` in\n{listed}");
        }
        assert!(!listed.contains("attention"), "{listed}");
    }
    let json = workspace.succeeds("kernels list --device cpu --json").stdout;
    let listings: Value = serde_json::from_str(&json).unwrap();
    let kernels: std::collections::BTreeSet<&str> =
        listings.as_array().unwrap().iter().map(|listing| listing["kernel"].as_str().unwrap()).collect();
    assert!(kernels.len() > 40, "{kernels:?}");
    workspace.fails("kernels list nonsense --device cpu", 1, &["nonsense", "kernels list"]);
}

#[test]
fn check_passes_and_tells_what_it_checked() {
    let workspace = Workspace::new();
    for device in devices() {
        let checked = workspace.succeeds(&format!("kernels check silu --device {device}")).stdout;
        for word in ["silu.forward", "silu.backward", "gradient rule", "passed", "tolerance"] {
            assert!(checked.contains(word), "{device}: no `{word}` in\n{checked}");
        }
        let json = workspace.succeeds(&format!("kernels check silu --json --device {device}")).stdout;
        let verdicts: Value = serde_json::from_str(&json).unwrap();
        assert!(verdicts.as_array().unwrap().iter().all(|verdict| verdict["failure"].is_null()), "{json}");
    }
}

/// A wrong sign in the gradient of SiLU: `check` says which element is off, `bisect` which module meets it first.
#[test]
fn a_broken_kernel_is_caught_and_found() {
    let workspace = Workspace::new();
    break_kernel(&workspace, "silu.wgsl", "(1.0 + x * (1.0 - s))", "(1.0 - x * (1.0 - s))");
    for device in devices().into_iter().filter(|device| *device != "cpu") {
        let checked = run_with_kernels(&workspace, &format!("kernels check silu --device {device}"));
        assert_eq!(checked.code, Some(1), "{}", checked.stderr);
        for word in ["FAILED silu.backward", "expected", "x [3, 5, 7]", "d_x["] {
            assert!(checked.stdout.contains(word), "no `{word}` in\n{}", checked.stdout);
        }
        assert!(checked.stdout.contains("passed"), "silu.forward is right:\n{}", checked.stdout);

        let line = format!("kernels bisect --model model.json --batch-size 2 --device {device}");
        let found = run_with_kernels(&workspace, &line);
        assert_eq!(found.code, Some(1), "{}", found.stderr);
        // Group norms of the network have their SiLU inside: this one stands alone in the time embedding only.
        for word in ["time_embedding / silu.backward", "calls before it are right"] {
            assert!(found.stdout.contains(word), "no `{word}` in\n{}", found.stdout);
        }
        let right = workspace.succeeds(&line).stdout;
        assert!(right.contains("right"), "{right}");
    }
    workspace.fails("kernels bisect --device cpu", 1, &["CPU executor", "--device"]);
}

#[test]
fn bench_gives_shares_of_measured_ceilings() {
    let workspace = Workspace::new();
    for device in devices() {
        let line = format!(
            "kernels bench linear.forward --model model.json --batch-size 2 --json --device {device}"
        );
        let report: Value = serde_json::from_str(&workspace.succeeds(&line).stdout).unwrap();
        assert!(report["ceilings"]["bytes_per_second"].as_f64().unwrap() > 1e8, "{report}");
        for measurement in report["measurements"].as_array().unwrap() {
            assert_eq!(measurement["kernel"], "linear.forward");
            assert!(measurement["seconds"].as_f64().unwrap() > 0.0, "{measurement}");
            assert!(measurement["share_of_roofline"].as_f64().unwrap() > 0.0, "{measurement}");
        }
    }
}

#[test]
fn tune_reports_what_it_timed() {
    let workspace = Workspace::new();
    for device in devices().into_iter().filter(|device| *device != "cpu") {
        let line =
            format!("kernels tune --model model.json --batch-size 2 --tuning 10 --device {device} --json");
        let choices: Value = serde_json::from_str(&workspace.succeeds(&line).stdout).unwrap();
        let choices = choices.as_array().unwrap();
        assert!(choices.len() > 10, "{} choices", choices.len());
        assert!(choices[0]["milliseconds"].as_object().unwrap().len() > 1, "{}", choices[0]);
    }
    workspace.fails("kernels tune --device cpu", 1, &["nothing to tune"]);
}

#[test]
fn kernels_are_translated() {
    let workspace = Workspace::new();
    let metal = workspace.succeeds("kernels translate silu.forward --to msl").stdout;
    assert!(metal.contains("#include <metal_stdlib>"), "{metal}");
    let d3d = workspace.succeeds("kernels translate conv2d.forward_workgroup_32 --to hlsl").stdout;
    assert!(d3d.contains("[numthreads("), "{d3d}");
    workspace.succeeds("kernels translate silu.forward --to spirv --output silu.spv");
    assert_eq!(workspace.read("silu.spv")[..4], 0x0723_0203u32.to_le_bytes());
    workspace.fails("kernels translate silu.sideways --to msl", 1, &["silu.forward"]);
    workspace.fails("kernels translate silu.forward --to cuda", 2, &["spirv", "msl"]);
}

/// The parts of a step add up, and the trace has the modules of the model.
#[test]
fn profile_reads_like_the_model() {
    let workspace = Workspace::new();
    for device in devices() {
        let line = format!(
            "profile train --model model.json --batch-size 2 --steps 2 --tuning off --device {device} \
             --trace trace.json"
        );
        let shown = workspace.succeeds(&line).stdout;
        for word in ["down_blocks.0.resnets", "conv2d.", "GFLOP/s", "memory", "host"] {
            assert!(shown.contains(word), "{device}: no `{word}` in\n{shown}");
        }
        let trace: Value = serde_json::from_slice(&workspace.read("trace.json")).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        assert!(events.iter().any(|event| event["name"] == "down_blocks"), "{device}");
        let profile: Value =
            serde_json::from_str(&workspace.succeeds(&format!("{line} --json")).stdout).unwrap();
        let kernels: f64 = profile["dispatches"]
            .as_array()
            .unwrap()
            .iter()
            .map(|dispatch| dispatch["seconds"].as_f64().unwrap())
            .sum();
        assert!(kernels > 0.0, "{device}");
    }
    workspace.fails("profile train --model nothing --device cpu", 1, &["nothing", "unet-s"]);
}

#[test]
fn a_profile_of_sampling_has_the_network_once_and_the_reverse_step() {
    let workspace = Workspace::new();
    for device in devices() {
        let line = format!(
            "profile sample --model model.json --batch-size 2 --steps 2 --tuning off --device {device} \
             --trace trace.json"
        );
        let shown = workspace.succeeds(&line).stdout;
        for word in ["denoising step", "down_blocks.0.resnets", "reverse_step", "GFLOP/s", "memory", "host"] {
            assert!(shown.contains(word), "{device}: no `{word}` in\n{shown}");
        }
        assert!(!shown.contains("backward"), "{device}: a denoising step goes backward in\n{shown}");
        let profile: Value =
            serde_json::from_str(&workspace.succeeds(&format!("{line} --json")).stdout).unwrap();
        let calls = |op: &str| {
            let dispatches = profile["dispatches"].as_array().unwrap();
            dispatches.iter().filter(|dispatch| dispatch["op"].as_str().unwrap().starts_with(op)).count()
        };
        assert_eq!((calls("reverse_step"), calls("timestep_embedding")), (1, 1), "{device}");
        let trace: Value = serde_json::from_slice(&workspace.read("trace.json")).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        assert!(events.iter().any(|event| event["name"] == "down_blocks"), "{device}");
    }
    workspace.fails("profile sample --model nothing --device cpu", 1, &["nothing", "unet-s"]);
}
