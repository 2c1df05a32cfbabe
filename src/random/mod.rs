//! Random numbers without state: Philox 4x32-10, the same words on every device.
//!
//! A number is a function of a seed, a step, a stream, a sample and an element. What it is for decides the stream:
//! [`Purpose`]. Kernels draw the same numbers by `kernels/shared/random.wgsl`.

mod philox;
mod purpose;

pub(crate) use philox::fill_normals;
pub use philox::{Stream, normals};
pub use purpose::{Numbering, Purpose, StreamId, StreamIds};
