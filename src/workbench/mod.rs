//! The workbench of those who write and port kernels: what there is, whether it is right, how fast it is, where a step's
//! time goes, and where a port goes wrong; and a sampler's steps taken on the host.

mod bench;
mod bisect;
mod calls;
mod check;
mod filter;
mod gradient;
mod list;
mod precision;
mod profile;
mod report;
mod roofline;
mod suite;
mod trace;
mod tune;
mod walk;

pub use bench::{Measurement, PreparedCall, bench};
pub use bisect::{Culprit, bisect};
pub use calls::{Extent, ModelCall, model_calls, random_batch};
pub use check::{Check, Failure, check, subjects};
pub use filter::Filter;
pub use gradient::check_gradient;
pub use list::{Listing, list};
pub use precision::in_f16;
pub use profile::{Dispatch, Profile, SamplingSteps, Steps, TrainingSteps, profile};
pub use report::{Report, page, report};
pub use roofline::{Ceilings, ceilings};
pub use suite::{GRADIENT_TOLERANCE, Suite, Verdict};
pub use trace::trace;
pub use tune::{Choice, tune};
pub use walk::Walk;

use crate::device::DeviceError;
use crate::graph::GraphError;
use crate::network::ModelError;
use crate::sample::SampleError;
use crate::train::TrainError;

/// Why the workbench cannot do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum WorkbenchError {
    /// A case does not fit its op.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The device cannot run a call.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model cannot be trained.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The model cannot draw images.
    #[error(transparent)]
    Sample(#[from] SampleError),
}
