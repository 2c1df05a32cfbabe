//! The program as a process: what it writes, what it prints, and how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is how a test fails

mod arrays;
mod bounds;
mod condition_image;
mod config;
mod data;
mod devices;
mod errors;
mod escapes;
mod evaluate;
mod export;
mod fine_tune;
#[path = "../common/golden.rs"]
mod golden;
mod guidance;
mod images;
mod import;
mod kernels;
mod lora;
mod models;
mod objectives;
mod pairs;
mod pipes;
mod random_streams;
mod recipes;
mod resume;
mod sample;
mod sampling_bounds;
mod schedulers;
mod shapes;
mod support;
mod train;
mod tuning;
mod using;

use support::Workspace;

#[test]
fn devices_lists_adapters_and_the_cpu() {
    let listed = Workspace::new().succeeds("devices").stdout;
    assert!(listed.contains("CPU executor") && listed.contains("--device auto picks"), "{listed}");
    for adapter in pollster::block_on(ddpm_gpu::device::adapters()) {
        assert!(listed.contains(&adapter.name), "{} is not in {listed}", adapter.name);
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let workspace = Workspace::new();
    assert!(workspace.succeeds("--version").stdout.starts_with("ddpm-gpu "));
    for (command, flag) in
        [("train", "--dataset"), ("sample", "--eta"), ("predict", "--timesteps"), ("evaluate", "--nll")]
    {
        let help = workspace.succeeds(&format!("{command} --help")).stdout;
        assert!(help.contains(flag) && help.contains("--device") && help.contains("--tuning"), "{help}");
    }
}
