//! Proof that kernels are right: every case of every variant against its reference, every gradient rule against finite
//! differences; and a sampler's steps taken on the host.

mod check;
mod gradient;
mod precision;
mod walk;

pub use check::{Check, Failure, check, subjects};
pub use gradient::check_gradient;
pub use precision::in_f16;
pub use walk::Walk;

use crate::device::DeviceError;
use crate::graph::GraphError;

/// A check that could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The case does not fit its op.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The device cannot run the case.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
