//! `--device`, `--backend` and `--submit-each-dispatch`: which adapter runs, and that nothing is guessed.

use ddpm_gpu::device::{AdapterReport, adapters};

use super::support::{Workspace, assert_same, devices};

/// The quickest command that opens a device.
const LIST: &str = "kernels list silu.forward";

fn present() -> Vec<AdapterReport> {
    pollster::block_on(adapters())
}

#[test]
fn adapters_are_listed_and_chosen_by_number() {
    let workspace = Workspace::new();
    let listed = workspace.succeeds("devices").stdout;
    for adapter in present() {
        let number = adapter.number;
        assert!(listed.contains(&format!("{number}: {}", adapter.name)), "{listed}");
        assert!(listed.contains(&format!("--device {number}\n")), "{listed}");
        let line = format!("{LIST} --device {number} --backend {}", adapter.backend);
        let said = workspace.succeeds(&line).stderr;
        assert!(said.contains(&format!("device: {}", adapter.name)), "{said}");
        let listed = workspace.succeeds(&format!("devices --backend {}", adapter.backend)).stdout;
        assert!(listed.contains(&format!("{number}: {}", adapter.name)), "{listed}");
    }
    let line = format!("{LIST} --device 99");
    workspace.fails(&line, 1, &["no adapter has number 99", "ddpm-gpu devices", "--device cpu"]);
}

#[test]
fn a_blank_device_is_wrong_usage() {
    let workspace = Workspace::new();
    for blank in ["", " "] {
        let output = workspace.command(LIST).args(["--device", blank]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("--device") && said.contains("an adapter's number"), "{said}");
    }
}

/// Both software adapters have an e in their names.
#[test]
fn a_text_that_several_adapters_have_is_refused_with_their_numbers_and_drivers() {
    let present = present();
    let fitting: Vec<&AdapterReport> = present
        .iter()
        .filter(|adapter| format!("{}\n{}", adapter.name, adapter.driver).to_lowercase().contains('e'))
        .collect();
    if fitting.len() < 2 {
        eprintln!("SKIPPED: no two software adapters are present");
        return;
    }
    let mut words = vec!["'e' matches several adapters".to_owned()];
    for adapter in fitting {
        words.push(format!("{}: {} (driver {}", adapter.number, adapter.name, adapter.driver));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Workspace::new().fails(&format!("{LIST} --device e"), 1, &words);
}

#[test]
fn a_backend_that_is_not_there_is_an_error() {
    let workspace = Workspace::new();
    let absent = ["vulkan", "metal", "dx12"];
    let absent = absent.iter().find(|backend| present().iter().all(|adapter| adapter.backend != **backend));
    if let Some(backend) = absent {
        for (device, words) in [("auto", "is a hardware GPU"), ("gpu", "was found"), ("0", "has number 0")] {
            let words = format!("no adapter {words} over {backend}");
            workspace.fails(&format!("{LIST} --device {device} --backend {backend}"), 1, &[&words]);
        }
        workspace.fails(&format!("devices --backend {backend}"), 1, &[backend, "no adapter"]);
    }
    workspace.fails(&format!("{LIST} --backend opengl"), 2, &["--backend", "vulkan, metal, dx12"]);
    let line = format!("{LIST} --device cpu --backend vulkan");
    workspace.fails(&line, 1, &["the backend vulkan", "--backend", "another --device"]);
}

#[test]
fn cooperative_matrices_are_refused_with_what_there_is() {
    let workspace = Workspace::new();
    let refused = |device: &str, words: &[&str]| {
        workspace.fails(&format!("{LIST} --device {device} --cooperative-matrix"), 1, words);
    };
    refused("cpu", &["CPU executor", "--cooperative-matrix"]);
    for adapter in present() {
        if adapter.features.contains(&("cooperative matrices", false)) {
            refused(&adapter.number.to_string(), &["the kernels need", "leave out --cooperative-matrix"]);
        }
    }
}

/// Training dispatch by dispatch gives the same files.
#[test]
fn submitting_each_dispatch_changes_no_byte() {
    if !devices().contains(&"llvmpipe") {
        return;
    }
    let workspace = Workspace::new();
    workspace.train("paced", 3, "--device llvmpipe --micro-batch-size 2");
    workspace.train("each", 3, "--device llvmpipe --micro-batch-size 2 --submit-each-dispatch");
    assert_same(&workspace.files("paced"), &workspace.files("each"));
    workspace.train("cpu", 1, "--device cpu --submit-each-dispatch");
}
