//! Where plans run: adapters, executors, buffers. The only place that knows wgpu.

mod adapter;
mod cooperative;
mod cpu;
mod gpu;
mod half_precision;
mod limits;
mod shader;
mod translate;
mod tuner;

use std::ops::Range;
use std::sync::Arc;

pub use adapter::{AdapterReport, Backend, DeviceRequest, EmptySelection, FXC, Selection, adapters};
pub use cpu::{CpuExecutor, CpuKernels};
pub use gpu::{GpuDevice, GpuExecutor};
pub use limits::{default_limits, footprint};
pub(crate) use shader::{activations, location};
pub use translate::{Target, Translation, source, translate};
pub use tuner::{Tuning, TuningEvent};

use crate::graph::{Graph, MemoryReport, Place, Plan, ValueId};
use crate::memory::{self, TooLarge};
use crate::ops::{Op, Types, Variant};

/// What can go wrong on a device, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No adapter is what was asked for.
    #[error("no adapter {what}; there is: {found}. The CPU executor always works")]
    NoSuchAdapter {
        /// What was asked for.
        what: String,
        /// The adapters present, with their numbers.
        found: String,
    },
    /// A name is that of several adapters.
    #[error("{name} matches several adapters: {matches}; give the number of one, or more of its name")]
    AmbiguousAdapter {
        /// What was asked for.
        name: String,
        /// The adapters that it matches, with their numbers.
        matches: String,
        /// Number of the first of them.
        number: usize,
    },
    /// The CPU executor was asked for through a backend.
    #[error("the backend {backend} is for adapters, and the CPU executor is none; ask for one of them")]
    CpuHasNoBackend {
        /// What was asked for.
        backend: Backend,
    },
    /// The adapter does not give the limits that the engine asks for.
    #[error("{adapter} refused to open: {message}; try another adapter, or the CPU executor")]
    Open {
        /// Name of the adapter.
        adapter: String,
        /// The driver's words.
        message: String,
    },
    /// A kernel does not compile.
    #[error("kernels/{op_file}.wgsl: {message}")]
    Shader {
        /// Stem of the file.
        op_file: &'static str,
        /// What is wrong.
        message: String,
    },
    /// A kernel has no form in another language.
    #[error("{kernel} has no translation to {target}: {message}")]
    Translation {
        /// Op and entry point.
        kernel: String,
        /// The language.
        target: Target,
        /// naga's words.
        message: String,
    },
    /// The driver rejected a kernel.
    #[error(
        "{adapter} does not compile {kernel} ({path}, {shapes}): {message}; please report it, and use the CPU executor meanwhile"
    )]
    Pipeline {
        /// Name of the adapter.
        adapter: String,
        /// Op and entry point.
        kernel: String,
        /// Module path of the first call.
        path: String,
        /// Shapes of the call.
        shapes: String,
        /// The driver's words.
        message: String,
    },
    /// A tensor is larger than the adapter binds.
    #[error(
        "{kernel} ({path}) binds {name} of {bytes} bytes ({shapes}), {adapter} allows {limit}; \
         try fewer images at a time, or smaller ones"
    )]
    BindingTooLarge {
        /// Op and entry point.
        kernel: String,
        /// Module path.
        path: String,
        /// Name of the operand.
        name: String,
        /// Its size.
        bytes: u64,
        /// Shapes of the call.
        shapes: String,
        /// Name of the adapter.
        adapter: String,
        /// The adapter's limit.
        limit: u64,
    },
    /// A kernel binds more buffers than the adapter allows.
    #[error(
        "{kernel} binds {count} storage buffers, {adapter} allows {limit}; try another adapter, or the CPU executor"
    )]
    TooManyBindings {
        /// Op and entry point.
        kernel: String,
        /// Buffers bound.
        count: usize,
        /// Name of the adapter.
        adapter: String,
        /// The adapter's limit.
        limit: u32,
    },
    /// No variant of a kernel can run on the adapter.
    #[error("{adapter} can run no variant of {kernel} ({path}); try another adapter, or the CPU executor")]
    NoVariant {
        /// Name of the adapter.
        adapter: String,
        /// Op and entry point.
        kernel: String,
        /// Module path.
        path: String,
    },
    /// A call has 16-bit operands.
    #[error(
        "{adapter} has no shader-f16, which activations of 16 bits need; use activations of 32 bits, or another device"
    )]
    NoF16 {
        /// Name of the adapter.
        adapter: String,
    },
    /// Cooperative matrices were asked for.
    #[error(
        "{adapter} cannot run the kernels for cooperative matrices: {lacks}; do without them, or use another \
         device"
    )]
    NoCooperativeMatrix {
        /// Name of the adapter.
        adapter: String,
        /// What is missing, and what is there.
        lacks: String,
    },
    /// Memory ran out.
    #[error(
        "{adapter} is out of memory: the plan takes {} MiB ({largest}); try fewer images at a time, or the CPU executor",
        total / (1 << 20)
    )]
    OutOfMemory {
        /// Name of the adapter.
        adapter: String,
        /// Bytes of the whole plan.
        total: usize,
        /// The call with the largest operands.
        largest: String,
    },
    /// The host has less memory than the buffers of a plan take.
    #[error("{0}; try fewer images at once, or smaller ones")]
    HostMemory(#[from] TooLarge),
    /// The device is gone.
    #[error("{adapter} was lost{during}: {message}")]
    Lost {
        /// Name of the adapter.
        adapter: String,
        /// What was running.
        during: String,
        /// The driver's words.
        message: String,
    },
    /// The driver reports an error during a run.
    #[error("{adapter} failed{during}: {message}")]
    Failed {
        /// Name of the adapter.
        adapter: String,
        /// What was running.
        during: String,
        /// The driver's words.
        message: String,
    },
    /// The device's clock gives no times.
    #[error(
        "the timestamps of {adapter} are of no use: {kernel} {problem}; please report it with the \
         adapter's name, driver and features"
    )]
    Timestamps {
        /// Name of the adapter.
        adapter: String,
        /// Op and entry point.
        kernel: String,
        /// What the timestamps say.
        problem: String,
    },
    /// A value was written with another number of elements than it has.
    #[error("{name} has {expected} elements, {given} were given")]
    Length {
        /// Name of the value.
        name: String,
        /// Elements given.
        given: usize,
        /// Elements expected.
        expected: usize,
    },
    /// A value was read that the plan does not keep.
    #[error("{name} was not kept by the plan, so it cannot be read")]
    NotKept {
        /// Name of the value.
        name: String,
    },
}

/// Where to write a value; `None` for one that nothing reads, which changes nothing.
fn place_to_write(plan: &Plan, value: ValueId, given: usize) -> Result<Option<Place>, DeviceError> {
    match plan.place(value) {
        None => Ok(None),
        Some(place) if plan.ty(value).len() == given => Ok(Some(place)),
        Some(_) => {
            let expected = plan.ty(value).len();
            Err(DeviceError::Length { name: plan.name(value).to_owned(), given, expected })
        }
    }
}

fn place_to_read(plan: &Plan, value: ValueId) -> Result<Place, DeviceError> {
    plan.place(value).ok_or_else(|| DeviceError::NotKept { name: plan.name(value).to_owned() })
}

/// A device that plans run on.
#[derive(Clone)]
pub enum Device {
    /// The CPU executor.
    Cpu,
    /// A wgpu adapter.
    Gpu(Arc<GpuDevice>),
}

/// Picks the variant of a call from those that the device can run; the first is the default.
pub type ChooseVariant<'a> = &'a dyn Fn(&dyn Op, Types<'_>, Vec<Variant>) -> Option<Variant>;

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
        let variants = device.variants(op, types);
        match device.tuner() {
            Some(tuner) => tuner.choose(op, types, variants),
            None => variants.into_iter().next(),
        }
    }

    /// The plan of [`Device::prepare`], without a tuner's measurements that have not been made yet; nothing is allocated.
    pub fn plan(&self, graph: &Graph, keep: &[ValueId]) -> Plan {
        match self {
            Self::Cpu => cpu::plan(graph, keep),
            Self::Gpu(_) => gpu::plan(graph, keep, &|op, types| self.choose(op, types)),
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
                let tuner = device.tuner();
                if let Some(tuner) = &tuner {
                    // First, since the tuner makes calls of these sizes too.
                    gpu::check_size(device, &self.plan(graph, keep))?;
                    tuner.tune(device, graph, keep).await?;
                }
                let choose: ChooseVariant<'_> = &|op, types, variants| match &tuner {
                    Some(tuner) => tuner.choose(op, types, variants),
                    None => variants.into_iter().next(),
                };
                Executor::Gpu(GpuExecutor::new(device.clone(), graph, keep, choose, Margin::default()).await?)
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
                let choose: ChooseVariant<'_> =
                    &|_, _, variants| variants.into_iter().find(|candidate| candidate.name == variant);
                Executor::Gpu(GpuExecutor::new(device.clone(), graph, &[], choose, margin).await?)
            }
        })
    }
}

/// One dispatch of a run that was timed.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Index of its node in the plan.
    pub node: usize,
    /// Op and entry point.
    pub kernel: String,
    /// When it began, in seconds from the beginning of the run.
    pub start: f64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// A plan prepared on a device, to be run again and again.
#[allow(clippy::large_enum_variant)] // a program has one or two of them
pub enum Executor {
    /// On the CPU.
    Cpu(CpuExecutor),
    /// On a wgpu adapter.
    Gpu(GpuExecutor),
}

impl Executor {
    /// Writes the contents of an input or a state value; integers by their bits, floats as f32 however they are stored.
    ///
    /// # Errors
    /// [`DeviceError::Length`] for another number of elements.
    pub fn write<T: bytemuck::Pod>(&mut self, value: ValueId, data: &[T]) -> Result<(), DeviceError> {
        match self {
            Self::Cpu(executor) => executor.write(value, bytemuck::cast_slice(data)),
            Self::Gpu(executor) => executor.write(value, bytemuck::cast_slice(data)),
        }
    }

    /// Runs every node once. On a GPU this returns when the work is queued.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] or [`DeviceError::Failed`], also for trouble in earlier runs.
    pub fn run(&mut self) -> Result<(), DeviceError> {
        self.run_nodes(0..self.plan().nodes.len())
    }

    /// Runs some of the nodes, by their numbers in the plan, with what earlier runs have left: inputs, state values and what
    /// the plan keeps are still there, and what a run of the nodes before has just written.
    ///
    /// # Errors
    /// As [`Executor::run`].
    pub fn run_nodes(&mut self, nodes: Range<usize>) -> Result<(), DeviceError> {
        match self {
            Self::Cpu(executor) => {
                executor.run_nodes(nodes);
                Ok(())
            }
            Self::Gpu(executor) => executor.run_nodes(nodes),
        }
    }

    /// Fills activations and workspace with NaN, so that what is read before it is written shows; the CPU executor's are
    /// fresh in every run.
    pub fn poison(&mut self) {
        if let Self::Gpu(executor) = self {
            executor.poison();
        }
    }

    /// Whether [`Executor::run_timed`] reads the device's own clock.
    pub fn has_timestamps(&self) -> bool {
        matches!(self, Self::Gpu(executor) if executor.has_timestamps())
    }

    /// Runs every node once and times each dispatch: by the device's timestamps where it has them, else by `clock`, which
    /// gives seconds, since not every platform has one.
    ///
    /// # Errors
    /// As [`Executor::run`]; [`DeviceError::Timestamps`] for times that cannot be.
    pub async fn run_timed(&mut self, clock: &dyn Fn() -> f64) -> Result<Vec<Timing>, DeviceError> {
        match self {
            Self::Cpu(executor) => Ok(executor.run_timed(clock)),
            Self::Gpu(executor) => executor.run_timed(clock).await,
        }
    }

    /// Seconds that [`Executor::run_timed`] finds for a dispatch that does nothing; see
    /// [`Device::time_of_empty_dispatch`].
    ///
    /// # Errors
    /// As [`Executor::run_timed`].
    pub async fn time_of_empty_dispatch(&self, clock: &dyn Fn() -> f64) -> Result<Option<f64>, DeviceError> {
        match self {
            Self::Cpu(_) => Ok(None),
            Self::Gpu(executor) => Ok(Some(executor.time_of_empty_dispatch(clock).await?)),
        }
    }

    /// Runs every node `times` times and waits for it: what a stopwatch needs.
    ///
    /// # Errors
    /// As [`Executor::run`].
    pub fn run_and_wait(&mut self, times: usize) -> Result<(), DeviceError> {
        match self {
            Self::Cpu(executor) => (0..times).for_each(|_| executor.run()),
            Self::Gpu(executor) => executor.run_and_wait(times)?,
        }
        Ok(())
    }

    /// The plan that it runs.
    pub fn plan(&self) -> &Plan {
        match self {
            Self::Cpu(executor) => executor.plan(),
            Self::Gpu(executor) => executor.plan(),
        }
    }

    /// Reads a kept or state value.
    ///
    /// # Errors
    /// [`DeviceError::NotKept`]; [`DeviceError::Lost`].
    pub async fn read(&mut self, value: ValueId) -> Result<Vec<f32>, DeviceError> {
        match self {
            Self::Cpu(executor) => executor.read(value),
            Self::Gpu(executor) => executor.read(value).await,
        }
    }

    /// Bytes by role.
    pub fn memory(&self) -> MemoryReport {
        self.plan().memory()
    }
}
