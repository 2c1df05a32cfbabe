//! What the integration tests share: the devices that are present, golden files.

pub(crate) mod golden;

use std::io::Write;
use std::sync::Once;

use ddpm_gpu::device::{Device, Selection, adapters};

/// The CPU executor and every wgpu adapter, by name.
pub(crate) fn devices() -> Vec<(String, Device)> {
    let mut devices = vec![("cpu".to_owned(), Device::Cpu)];
    for adapter in pollster::block_on(adapters()) {
        let device = pollster::block_on(Device::open(&Selection::Number(adapter.number)))
            .unwrap_or_else(|error| panic!("{}: {error}", adapter.name));
        devices.push((adapter.name, device));
    }
    announce(&devices);
    devices
}

/// Says once in each test program what it tests on.
fn announce(devices: &[(String, Device)]) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let text = match devices {
            [_] => "SKIPPED on GPUs: no wgpu adapter is present, only the CPU executor is tested (tools/test brings \
                    some)"
                .to_owned(),
            _ => {
                let names: Vec<&str> = devices.iter().map(|(name, _)| name.as_str()).collect();
                format!("tested on {}", names.join("; "))
            }
        };
        // Not eprintln, whose text is shown for failing tests only.
        let _ = writeln!(std::io::stderr(), "\n{text}");
    });
}
