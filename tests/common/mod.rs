//! What the integration tests share: the devices that are present.

use ddpm_gpu::device::{Device, Selection, adapters};

/// The CPU executor and every wgpu adapter, by name.
pub fn devices() -> Vec<(String, Device)> {
    let mut devices = vec![("cpu".to_owned(), Device::Cpu)];
    for adapter in pollster::block_on(adapters()) {
        let device = pollster::block_on(Device::open(&Selection::Name(adapter.name.clone())))
            .unwrap_or_else(|error| panic!("{}: {error}", adapter.name));
        devices.push((adapter.name, device));
    }
    if devices.len() == 1 {
        eprintln!(
            "SKIPPED: no wgpu adapter is present, only the CPU executor is tested (tools/test brings some)"
        );
    }
    devices
}
