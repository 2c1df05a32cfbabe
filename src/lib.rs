//! A hand-written GPU compute engine for denoising diffusion models.
//!
//! The layers, each of which calls only the next:
//! `cli -> train | sample | evaluate -> diffusion + model -> graph -> ops -> plan -> device`.
//! ARCHITECTURE.md says what each one is for.

// Crate-private items of the engine that only what stands above it calls.
#![cfg_attr(not(feature = "files"), allow(dead_code, unused_imports))]

// The engine to be embedded: without files, threads and clocks of the standard library.
pub mod device;
pub mod diffusion;
pub mod graph;
mod hash;
mod host;
pub mod memory;
pub mod model;
pub mod ops;
pub mod sampler;

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
pub mod sample;
#[cfg(feature = "files")]
pub mod train;
#[cfg(feature = "files")]
pub mod tuning_folder;
#[cfg(feature = "files")]
pub mod workbench;
