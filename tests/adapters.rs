//! That there is an adapter to test on: without one, all other tests pass on the CPU executor alone.
#![allow(clippy::unwrap_used, clippy::panic)] // a panic is how a test fails

mod common;

use ddpm_gpu::device::Device;
use ddpm_gpu::ops;
use ddpm_gpu::workbench::{check, subjects};

#[test]
#[ignore = "tools/test runs it: it fails where no wgpu adapter is present"]
fn a_wgpu_adapter_computes() {
    let devices = common::devices();
    let mut exercised = 0;
    for (name, device) in devices.iter().filter(|(_, device)| matches!(device, Device::Gpu(_))) {
        let case = &(ops::silu::cases)()[0];
        let variant = subjects(device, case)[0];
        let result = pollster::block_on(check(device, case, variant)).unwrap();
        assert_eq!(result.failure, None, "{name}");
        exercised += 1;
    }
    assert!(
        exercised > 0,
        "no wgpu adapter is present: run tools/setup-vulkan, then `source .setup/vulkan/env.sh`"
    );
}
