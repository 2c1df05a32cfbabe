//! Which adapter runs: listing them, choosing one, opening it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{Device, DeviceError, GpuDevice, limits};

/// What `--device` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The first hardware GPU, else the CPU executor.
    Auto,
    /// The CPU executor.
    Cpu,
    /// Any wgpu adapter, hardware first.
    Gpu,
    /// An adapter whose name or driver contains this, in any case.
    Name(String),
}

impl FromStr for Selection {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            "cpu" => Self::Cpu,
            "gpu" => Self::Gpu,
            name => Self::Name(name.to_owned()),
        })
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu => f.write_str("gpu"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// What an adapter says of itself.
#[derive(Clone, Debug, serde::Serialize)]
pub struct AdapterReport {
    /// Name of the adapter.
    pub name: String,
    /// Name and version of its driver.
    pub driver: String,
    /// Vulkan, Metal, DX12.
    pub backend: String,
    /// Whether it is a GPU rather than a driver that runs on the CPU.
    pub is_hardware: bool,
    /// Kind of device, in wgpu's words.
    pub kind: String,
    /// Smallest and largest subgroup size.
    pub subgroup_size: [u32; 2],
    /// Features that kernels can make use of, and whether they are there.
    pub features: Vec<(&'static str, bool)>,
    /// Limits that kernels run into.
    pub limits: Vec<(&'static str, u64)>,
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    wgpu::Instance::new(descriptor)
}

fn is_hardware(info: &wgpu::AdapterInfo) -> bool {
    !matches!(info.device_type, wgpu::DeviceType::Cpu)
}

/// Discrete GPUs first, software drivers last; among those Mesa's, which is the faster one.
fn rank(info: &wgpu::AdapterInfo) -> u32 {
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu if info.name.contains("llvmpipe") => 4,
        wgpu::DeviceType::Cpu => 5,
    }
}

async fn enumerate() -> Vec<wgpu::Adapter> {
    let mut adapters = instance().enumerate_adapters(wgpu::Backends::all()).await;
    adapters.sort_by_key(|adapter| rank(&adapter.get_info()));
    adapters
}

/// All wgpu adapters, in the order in which `--device gpu` prefers them.
pub async fn adapters() -> Vec<AdapterReport> {
    enumerate().await.iter().map(report).collect()
}

pub(super) fn report(adapter: &wgpu::Adapter) -> AdapterReport {
    let info = adapter.get_info();
    let features = adapter.features();
    let limits = adapter.limits();
    AdapterReport {
        is_hardware: is_hardware(&info),
        kind: format!("{:?}", info.device_type),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        backend: info.backend.to_string(),
        subgroup_size: [info.subgroup_min_size, info.subgroup_max_size],
        features: vec![
            ("subgroups", features.contains(wgpu::Features::SUBGROUP)),
            ("f16", features.contains(wgpu::Features::SHADER_F16)),
            ("timestamps", features.contains(wgpu::Features::TIMESTAMP_QUERY)),
            ("cooperative matrices", features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX)),
        ],
        limits: limits::by_name(&limits),
        name: info.name,
    }
}

/// Opens the device that `selection` names.
pub(super) async fn open(selection: &Selection, cooperative_matrix: bool) -> Result<Device, DeviceError> {
    if *selection == Selection::Cpu {
        return on_cpu(cooperative_matrix);
    }
    let adapters = enumerate().await;
    let found = adapters.iter().map(|adapter| adapter.get_info().name).collect::<Vec<_>>().join(", ");
    let chosen = adapters.into_iter().find(|adapter| {
        let info = adapter.get_info();
        match selection {
            Selection::Auto => is_hardware(&info),
            Selection::Gpu => true,
            Selection::Cpu => false,
            Selection::Name(name) => {
                let name = name.to_lowercase();
                [&info.name, &info.driver, &info.driver_info]
                    .iter()
                    .any(|text| text.to_lowercase().contains(&name))
            }
        }
    });
    match (chosen, selection) {
        (Some(adapter), _) => Ok(Device::Gpu(Arc::new(GpuDevice::open(&adapter, cooperative_matrix).await?))),
        (None, Selection::Auto) => on_cpu(cooperative_matrix),
        (None, _) => {
            let found = if found.is_empty() { "no wgpu adapter at all".to_owned() } else { found };
            Err(DeviceError::NoSuchAdapter { name: selection.to_string(), found })
        }
    }
}

fn on_cpu(cooperative_matrix: bool) -> Result<Device, DeviceError> {
    if cooperative_matrix {
        return Err(DeviceError::NoCooperativeMatrix { adapter: Device::Cpu.name() });
    }
    Ok(Device::Cpu)
}
