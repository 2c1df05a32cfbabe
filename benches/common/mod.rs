//! What the benchmarks share: the devices, and criterion's settings.
#![allow(dead_code)] // each benchmark uses a part

pub(crate) mod network;

use std::time::Duration;

use criterion::Criterion;
use ddpm_gpu::device::{Device, Selection, adapters};

/// The CPU executor and every wgpu adapter, by a name without spaces.
pub(crate) fn devices() -> Vec<(String, Device)> {
    let mut devices = vec![("cpu".to_owned(), Device::Cpu)];
    for adapter in pollster::block_on(adapters()) {
        let selection = Selection::Number(adapter.number);
        let device = pollster::block_on(Device::open(&selection)).expect("a listed adapter opens");
        let name = adapter.name.split(" (").next().unwrap_or(&adapter.name).replace(' ', "-").to_lowercase();
        devices.push((name, device));
    }
    devices
}

/// Short, because software adapters are slow.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .without_plots()
        .configure_from_args()
}
