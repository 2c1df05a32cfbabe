//! The two ceilings of a device, measured rather than looked up.

use serde::Serialize;

use super::WorkbenchError;
use super::bench::PreparedCall;
use crate::device::Device;
use crate::ops::{Case, Cost, calibration};

/// What a device does at most (the roofline of Williams et al. 2009).
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ceilings {
    /// Bytes per second of a large copy, read and written bytes together.
    pub bytes_per_second: f64,
    /// Floating point operations per second of multiply-adds in registers.
    pub flops_per_second: f64,
}

/// Floats of the copy: both buffers together are larger than the caches of most devices, and each fits WebGPU's smallest
/// binding limit.
const COPIED: usize = 16 << 20;

/// Invocations of the multiply-adds: enough for the largest GPUs.
const INVOCATIONS: usize = 1 << 18;

/// The chains are made this many times longer until a run takes [`ENOUGH`] seconds.
const LONGER: u32 = 4;

/// Long enough that the launch does not count.
const ENOUGH: f64 = 2e-3;

impl Ceilings {
    /// Seconds that a call of this cost takes at least.
    pub fn seconds(&self, cost: Cost) -> f64 {
        (cost.bytes as f64 / self.bytes_per_second).max(cost.flops as f64 / self.flops_per_second)
    }

    /// Whether memory rather than arithmetic bounds a call of this cost.
    pub fn is_bound_by_memory(&self, cost: Cost) -> bool {
        cost.bytes as f64 / self.bytes_per_second >= cost.flops as f64 / self.flops_per_second
    }
}

/// Measures both ceilings by the kernels of `kernels/calibration.wgsl`.
///
/// # Errors
/// [`WorkbenchError::Device`]
pub async fn ceilings(device: &Device) -> Result<Ceilings, WorkbenchError> {
    let copy = calibration::copy(COPIED);
    let seconds = time(device, &copy, "copy").await?;
    let bytes_per_second = copy.cost().bytes as f64 / seconds;
    let mut rounds = 16;
    loop {
        let case = calibration::multiply_add(INVOCATIONS, rounds);
        let seconds = time(device, &case, "multiply_add").await?;
        if seconds >= ENOUGH || rounds > 1 << 14 {
            let flops_per_second = case.cost().flops as f64 / seconds;
            return Ok(Ceilings { bytes_per_second, flops_per_second });
        }
        rounds *= LONGER;
    }
}

/// The fastest run counts: a ceiling is what was reached once.
async fn time(device: &Device, case: &Case, variant: &str) -> Result<f64, WorkbenchError> {
    let seconds = PreparedCall::new(device, case, variant).await?.times().await?;
    Ok(seconds.into_iter().fold(f64::INFINITY, f64::min))
}
