//! Where plans run: adapters, executors, buffers. The only place that names wgpu.

mod adapter;
mod cooperative;
mod cpu;
mod error;
mod executor;
mod gpu;
mod half_precision;
#[cfg(feature = "files")]
mod inspect;
mod limits;
mod shader;
mod tuner;
pub mod webgpu;

use std::sync::Arc;

pub use adapter::{AdapterReport, Backend, DeviceRequest, EmptySelection, FXC, Selection, adapters};
pub use cpu::{CpuExecutor, CpuKernels};
pub use error::DeviceError;
pub use executor::{Executor, Timing};
use gpu::GpuPlan;
pub use gpu::{GpuDevice, GpuExecutor};
#[cfg(feature = "files")]
pub use inspect::{Target, Translation, footprint, source, translate};
#[cfg(feature = "files")]
pub(crate) use inspect::{activations, location};
pub use limits::default_limits;
pub use tuner::{Tuning, TuningEvent, TuningStore};

use crate::graph::{Graph, Plan, ValueId};
use crate::memory;
use crate::ops::{Op, Types, Variant};

/// A device that plans run on.
#[derive(Clone)]
pub enum Device {
    /// The CPU executor.
    Cpu,
    /// A wgpu adapter.
    Gpu(Arc<GpuDevice>),
}

/// What a plan gives kernels beyond what their calls need, so that a check sees what they do there. By default nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Margin {
    /// Bytes bound behind each output that is a slice of a state value.
    pub tail: usize,
    /// Whether grids are folded and have workgroups beyond the last, as those of very large calls may: these must return.
    pub surplus_workgroups: bool,
}

impl Device {
    /// Opens the device that `selection` names.
    ///
    /// # Errors
    /// As [`Device::open_with`].
    pub async fn open(selection: &Selection) -> Result<Self, DeviceError> {
        let selection = selection.clone();
        Self::open_with(&DeviceRequest { selection, backend: None, cooperative_matrix: false }).await
    }

    /// Opens the device that is asked for.
    ///
    /// # Errors
    /// [`DeviceError::NoSuchAdapter`], [`DeviceError::AmbiguousAdapter`] or [`DeviceError::CpuHasNoBackend`];
    /// [`DeviceError::NoCooperativeMatrix`] for a device that lacks those asked for; [`DeviceError::Open`].
    pub async fn open_with(request: &DeviceRequest) -> Result<Self, DeviceError> {
        adapter::open(request).await
    }

    /// What runs, in words: adapter, driver.
    pub fn name(&self) -> String {
        match self {
            Self::Cpu => "CPU executor".to_owned(),
            Self::Gpu(device) => device.name().to_owned(),
        }
    }

    /// Bytes of memory that are free for buffers, where that is known: of the host, for the CPU executor and for
    /// drivers that run on the CPU. How much a GPU has, wgpu does not say.
    pub fn free_memory(&self) -> Option<usize> {
        match self {
            Self::Gpu(device) if device.report().is_hardware => None,
            _ => memory::free(),
        }
    }

    /// What the adapter says of itself; `None` for the CPU executor.
    pub fn report(&self) -> Option<AdapterReport> {
        match self {
            Self::Cpu => None,
            Self::Gpu(device) => Some(device.report().clone()),
        }
    }

    /// Lets [`Device::prepare`] time the variants of kernels and choose the fastest; without this it takes the defaults.
    /// The CPU executor has nothing to choose.
    pub fn set_tuning(&self, tuning: Tuning) {
        if let Self::Gpu(device) = self {
            device.set_tuning(tuning);
        }
    }

    /// Makes runs submit each dispatch by itself and wait for it: slow, but the error of a device that is lost names
    /// the kernel and the module that called it. The CPU executor has nothing to submit.
    pub fn submit_each_dispatch(&self) {
        if let Self::Gpu(device) = self {
            device.submit_each_dispatch();
        }
    }

    /// Seconds that [`Executor::run_timed`] finds for a dispatch that does nothing, by the device's timestamps or by
    /// `clock`; `None` for the CPU executor, whose calls have no such cost.
    ///
    /// # Errors
    /// As [`Executor::run_timed`].
    pub async fn time_of_empty_dispatch(&self, clock: &dyn Fn() -> f64) -> Result<Option<f64>, DeviceError> {
        match self {
            Self::Cpu => Ok(None),
            Self::Gpu(device) => Ok(Some(device.time_of_empty_dispatch(clock).await?)),
        }
    }

    /// The variant that a call takes on this device: the tuner's choice, or else the default. `None` where the device can
    /// run none, and for the CPU executor, which has nothing to choose.
    pub fn choose(&self, op: &dyn Op, types: Types<'_>) -> Option<Variant> {
        let Self::Gpu(device) = self else { return None };
        device.choose(op, types)
    }

    /// The plan of [`Device::prepare`], without a tuner's measurements that have not been made yet; nothing is allocated.
    pub fn plan(&self, graph: &Graph, keep: &[ValueId]) -> Plan {
        match self {
            Self::Cpu => cpu::plan(graph, keep),
            Self::Gpu(device) => GpuPlan::new(graph, keep, &|op, types| device.choose(op, types)).plan,
        }
    }

    /// An executor that runs `graph` and keeps the values of `keep` to be read.
    ///
    /// # Errors
    /// What the adapter cannot do, by kernel and shape.
    pub async fn prepare(&self, graph: &Graph, keep: &[ValueId]) -> Result<Executor, DeviceError> {
        Ok(match self {
            Self::Cpu => Executor::Cpu(CpuExecutor::new(graph, keep, CpuKernels::Fast)?),
            Self::Gpu(device) => {
                let plan = || GpuPlan::new(graph, keep, &|op, types| device.choose(op, types));
                let mut planned = plan();
                if let Some(tuner) = device.tuner() {
                    // First, since the tuner makes calls of these sizes too.
                    gpu::check_size(device, &planned.plan)?;
                    if tuner.tune(device, &planned.plan.nodes).await? {
                        planned = plan();
                    }
                }
                Executor::Gpu(GpuExecutor::new(device.clone(), graph, planned, Margin::default()).await?)
            }
        })
    }

    /// An executor that runs `graph` by the variant of this name; the CPU executor has one fast kernel for all of them.
    ///
    /// # Errors
    /// As [`Device::prepare`]; [`DeviceError::NoVariant`] where a call has none of this name that the device can run.
    pub async fn prepare_variant(
        &self,
        graph: &Graph,
        variant: &str,
        margin: Margin,
    ) -> Result<Executor, DeviceError> {
        Ok(match self {
            Self::Cpu => Executor::Cpu(CpuExecutor::new(graph, &[], CpuKernels::Fast)?),
            Self::Gpu(device) => {
                let planned = GpuPlan::new(graph, &[], &|op, types| device.variant(op, types, variant));
                Executor::Gpu(GpuExecutor::new(device.clone(), graph, planned, margin).await?)
            }
        })
    }
}
