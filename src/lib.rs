//! A hand-written GPU compute engine for denoising diffusion models.
//!
//! The layers, each of which calls only the next:
//! `cli -> train | sample | evaluate -> diffusion + model -> graph -> ops -> plan -> device`.
//! ARCHITECTURE.md says what each one is for.

pub mod checkpoint;
pub mod conditions;
pub mod data;
pub mod device;
pub mod diffusion;
pub mod evaluate;
pub mod files;
pub mod graph;
mod hash;
pub mod image_size;
pub mod log;
pub mod memory;
pub mod model;
mod normal;
pub mod ops;
pub mod output;
mod pickle;
pub mod pipeline;
pub mod random;
pub mod sample;
pub mod sampler;
mod setting;
pub mod train;
pub mod workbench;

pub use setting::SettingError;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
#[path = "../tests/common/golden.rs"]
mod golden;
