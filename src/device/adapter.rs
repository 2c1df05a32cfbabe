//! Which adapter runs: listing them, choosing one, opening it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{Device, DeviceError, GpuDevice, cooperative, limits};

/// What `--device` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The first hardware GPU, else the CPU executor.
    Auto,
    /// The CPU executor.
    Cpu,
    /// Any wgpu adapter, hardware first.
    Gpu,
    /// The adapter of this number among [`adapters`].
    Number(usize),
    /// The adapter of this name; else the only one whose name or driver contains this, in any case.
    Name(String),
}

/// A text that selects nothing.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("nothing is named; give auto, cpu, gpu, an adapter's number, or a part of its name")]
pub struct EmptySelection;

impl FromStr for Selection {
    type Err = EmptySelection;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        Ok(match text.to_lowercase().as_str() {
            "" => return Err(EmptySelection),
            "auto" => Self::Auto,
            "cpu" => Self::Cpu,
            "gpu" => Self::Gpu,
            lower => lower.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Number),
        })
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu => f.write_str("gpu"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// The interface of the operating system through which an adapter is reached; a GPU may be there through several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Vulkan.
    Vulkan,
    /// Metal.
    Metal,
    /// DirectX 12.
    Dx12,
}

impl Backend {
    /// All of them, by the names of [`AdapterReport::backend`].
    pub const ALL: [(&'static str, Self); 3] =
        [("vulkan", Self::Vulkan), ("metal", Self::Metal), ("dx12", Self::Dx12)];
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, backend)| backend == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// Which device to open, and how.
#[derive(Clone, Debug)]
pub struct DeviceRequest {
    /// Which.
    pub selection: Selection,
    /// The backend that it must be reached through; `None` for any.
    pub backend: Option<Backend>,
    /// Whether to use wgpu's experimental cooperative matrices, for the variants that multiply by a GPU's matrix units.
    /// These have been compiled for Vulkan and Metal but never been run by us.
    pub cooperative_matrix: bool,
}

/// What an adapter says of itself.
#[derive(Clone, Debug, serde::Serialize)]
pub struct AdapterReport {
    /// Its place among [`adapters`], from 0: what [`Selection::Number`] counts.
    pub number: usize,
    /// Name of the adapter.
    pub name: String,
    /// Name and version of its driver.
    pub driver: String,
    /// vulkan, metal, dx12.
    pub backend: String,
    /// What compiles kernels for DX12: DXC or FXC, which knows neither 16-bit floats nor subgroups.
    pub shader_compiler: Option<&'static str>,
    /// Whether it is a GPU rather than a driver that runs on the CPU.
    pub is_hardware: bool,
    /// Kind of device, in wgpu's words.
    pub kind: String,
    /// Smallest and largest subgroup size.
    pub subgroup_size: [u32; 2],
    /// Features that kernels can make use of, and whether they are there.
    pub features: Vec<(&'static str, bool)>,
    /// The cooperative matrices that it multiplies, in words.
    pub cooperative_matrices: Vec<String>,
    /// Limits that kernels run into.
    pub limits: Vec<(&'static str, u64)>,
}

impl AdapterReport {
    /// Number, name, driver and backend: what tells an adapter from others.
    fn describe(&self) -> String {
        format!("{}: {} (driver {}, over {})", self.number, self.name, self.driver, self.backend)
    }
}

const DXC: &str = "DXC";
/// The shader compiler for DX12 that is part of Windows, which knows neither 16-bit floats nor subgroups.
pub const FXC: &str = "FXC";

/// The adapters of some backends, with this compiler for DX12.
async fn enumerate_with(backends: wgpu::Backends, compiler: wgpu::Dx12Compiler) -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends;
    descriptor.backend_options.dx12.shader_compiler = compiler;
    wgpu::Instance::new(descriptor).enumerate_adapters(backends).await
}

/// All adapters in the order of their numbers, with what is to be said of them.
///
/// wgpu's own choice of a compiler for DX12 cannot be asked for. So DX12 is started with DXC first, which fails where
/// there is no dxcompiler.dll, or one that is too old; then with FXC, which is part of Windows.
async fn enumerate() -> Vec<(wgpu::Adapter, AdapterReport)> {
    // A browser has its own and none of the others.
    let backends = wgpu::Backends::VULKAN
        | wgpu::Backends::METAL
        | wgpu::Backends::DX12
        | wgpu::Backends::BROWSER_WEBGPU;
    let mut compiler = DXC;
    let mut adapters = enumerate_with(backends, wgpu::Dx12Compiler::default_dynamic_dxc()).await;
    let is_dx12 = |adapter: &wgpu::Adapter| adapter.get_info().backend == wgpu::Backend::Dx12;
    if cfg!(windows) && !adapters.iter().any(is_dx12) {
        compiler = FXC;
        adapters.extend(enumerate_with(wgpu::Backends::DX12, wgpu::Dx12Compiler::Fxc).await);
    }
    adapters.sort_by_key(|adapter| rank(&adapter.get_info()));
    let listed = adapters.into_iter().enumerate().map(|(number, adapter)| {
        let report = report(number, &adapter, compiler);
        (adapter, report)
    });
    listed.collect()
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

/// All wgpu adapters, in the order in which `--device gpu` prefers them.
pub async fn adapters() -> Vec<AdapterReport> {
    enumerate().await.into_iter().map(|(_, report)| report).collect()
}

fn report(number: usize, adapter: &wgpu::Adapter, dx12_compiler: &'static str) -> AdapterReport {
    let info = adapter.get_info();
    let features = adapter.features();
    let matrices = adapter.cooperative_matrix_properties();
    AdapterReport {
        number,
        is_hardware: is_hardware(&info),
        kind: format!("{:?}", info.device_type),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        backend: info.backend.to_string(),
        shader_compiler: (info.backend == wgpu::Backend::Dx12).then_some(dx12_compiler),
        subgroup_size: [info.subgroup_min_size, info.subgroup_max_size],
        features: vec![
            ("subgroups", features.contains(wgpu::Features::SUBGROUP)),
            ("f16", features.contains(wgpu::Features::SHADER_F16)),
            ("timestamps", features.contains(wgpu::Features::TIMESTAMP_QUERY)),
            ("cooperative matrices", cooperative::lacks(features, &info, &matrices).is_none()),
        ],
        cooperative_matrices: matrices.iter().map(cooperative::describe).collect(),
        limits: limits::by_name(&adapter.limits()),
        name: info.name,
    }
}

/// Opens the device that is asked for.
pub(super) async fn open(request: &DeviceRequest) -> Result<Device, DeviceError> {
    let DeviceRequest { selection, backend, cooperative_matrix } = request;
    if let (Selection::Cpu, Some(backend)) = (selection, backend) {
        return Err(DeviceError::CpuHasNoBackend { backend: *backend });
    }
    let mut adapters = match selection {
        Selection::Cpu => Vec::new(),
        _ => enumerate().await,
    };
    let reports: Vec<AdapterReport> = adapters.iter().map(|(_, report)| report.clone()).collect();
    match choose(&reports, selection, *backend)? {
        Some(index) => {
            let (adapter, report) = adapters.swap_remove(index);
            Ok(Device::Gpu(Arc::new(GpuDevice::open(&adapter, report, *cooperative_matrix).await?)))
        }
        None if *cooperative_matrix => Err(DeviceError::NoCooperativeMatrix {
            adapter: Device::Cpu.name(),
            lacks: "it is no GPU".to_owned(),
        }),
        None => Ok(Device::Cpu),
    }
}

/// Which of `adapters` is asked for; `None` for the CPU executor.
fn choose(
    adapters: &[AdapterReport],
    selection: &Selection,
    backend: Option<Backend>,
) -> Result<Option<usize>, DeviceError> {
    let is_eligible =
        |adapter: &AdapterReport| backend.is_none_or(|backend| adapter.backend == backend.to_string());
    let which = |accepts: &dyn Fn(&AdapterReport) -> bool| -> Vec<usize> {
        let accepted = |index: &usize| is_eligible(&adapters[*index]) && accepts(&adapters[*index]);
        (0..adapters.len()).filter(accepted).collect()
    };
    let over = backend.map_or_else(String::new, |backend| format!(" over {backend}"));
    let list = |indices: &[usize]| -> String {
        indices.iter().map(|&index| adapters[index].describe()).collect::<Vec<_>>().join("; ")
    };
    let none = |what: String| {
        let all: Vec<usize> = (0..adapters.len()).collect();
        let found = if all.is_empty() { "no wgpu adapter at all".to_owned() } else { list(&all) };
        Err(DeviceError::NoSuchAdapter { what: format!("{what}{over}"), found })
    };
    let found = match selection {
        Selection::Cpu => return Ok(None),
        Selection::Auto => match which(&|adapter| adapter.is_hardware).first() {
            None if backend.is_none() => return Ok(None),
            None => return none("is a hardware GPU".to_owned()),
            found => found.copied(),
        },
        Selection::Gpu => match which(&|_| true).first() {
            None => return none("was found".to_owned()),
            found => found.copied(),
        },
        Selection::Number(number) => match which(&|adapter| adapter.number == *number).first() {
            None => return none(format!("has number {number}")),
            found => found.copied(),
        },
        Selection::Name(name) => {
            let name = name.to_lowercase();
            let mut matches = which(&|adapter| adapter.name.to_lowercase() == name);
            if matches.is_empty() {
                matches = which(&|adapter| {
                    [&adapter.name, &adapter.driver].iter().any(|text| text.to_lowercase().contains(&name))
                });
            }
            match matches[..] {
                [] => return none(format!("matches '{selection}'")),
                [index] => Some(index),
                _ => {
                    return Err(DeviceError::AmbiguousAdapter {
                        name: format!("'{selection}'{over}"),
                        matches: list(&matches),
                        number: adapters[matches[0]].number,
                    });
                }
            }
        }
    };
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
