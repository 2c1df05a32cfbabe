//! A hand-written GPU compute engine for denoising diffusion models.
//!
//! The layers: `cli -> workbench -> train -> evaluate -> sample -> pipeline -> network + diffusion + sampler -> graph <-> ops`,
//! and `device`, which runs plans of graphs. ARCHITECTURE.md says what each one is for; tests/layers.rs holds them.
//!
//! Without features this is the engine to be embedded: no files, threads and clocks of the standard library. `files` adds what
//! reads and writes files, training and evaluation; `cli`, the default, the program.

// Crate-private items of the engine that only what stands above it calls.
#![cfg_attr(not(feature = "files"), allow(dead_code, unused_imports))]

#[cfg(all(test, not(feature = "files")))]
compile_error!("the library's own tests read files: give --features files");

// The engine to be embedded: without files, threads and clocks of the standard library.
pub mod conditions;
pub mod device;
pub mod diffusion;
pub mod graph;
mod hash;
mod host;
pub mod image_size;
pub mod memory;
pub mod network;
mod normal;
pub mod ops;
pub mod pipeline;
pub mod random;
pub mod sample;
pub mod sampler;
pub mod setting;

// What reads and writes files, and what stands above it.
#[cfg(feature = "files")]
pub mod checkpoint;
#[cfg(feature = "files")]
pub mod data;
#[cfg(feature = "files")]
pub mod evaluate;
#[cfg(feature = "files")]
pub mod files;
#[cfg(feature = "files")]
pub mod log;
#[cfg(feature = "files")]
pub mod output;
#[cfg(feature = "files")]
mod pickle;
#[cfg(feature = "files")]
pub mod train;
#[cfg(feature = "files")]
pub mod tuning_folder;
#[cfg(feature = "files")]
pub mod workbench;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
#[path = "../tests/common/golden.rs"]
mod golden;
