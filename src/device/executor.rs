//! A plan prepared on a device, whichever it is.

use std::ops::Range;

use super::{CpuExecutor, DeviceError, GpuExecutor};
use crate::graph::{MemoryReport, Place, Plan, ValueId};

/// Where to write a value; `None` for one that nothing reads, which changes nothing.
pub(super) fn place_to_write(
    plan: &Plan,
    value: ValueId,
    given: usize,
) -> Result<Option<Place>, DeviceError> {
    match plan.place(value) {
        None => Ok(None),
        Some(place) if plan.ty(value).len() == given => Ok(Some(place)),
        Some(_) => {
            let expected = plan.ty(value).len();
            Err(DeviceError::Length { name: plan.name(value).to_owned(), given, expected })
        }
    }
}

pub(super) fn place_to_read(plan: &Plan, value: ValueId) -> Result<Place, DeviceError> {
    plan.place(value).ok_or_else(|| DeviceError::NotKept { name: plan.name(value).to_owned() })
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
    /// [`Device::time_of_empty_dispatch`](super::Device::time_of_empty_dispatch).
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
