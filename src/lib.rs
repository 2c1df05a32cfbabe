//! A hand-written GPU compute engine for denoising diffusion models.
//!
//! The layers: `cli -> workbench -> train -> evaluate -> sample -> pipeline -> network + diffusion + sampler -> graph <-> ops`,
//! and `device`, which runs plans of graphs. ARCHITECTURE.md says what each one is for; tests/layers holds them.
//!
//! Without features this is the engine to be embedded: no files, threads and clocks of the standard library. `files` adds what
//! reads and writes files, training and evaluation; `cli`, the default, the program.
//!
//! # A graph and its gradient
//!
//! A graph is built once and run again and again, on the CPU or on any adapter that wgpu reaches.
//!
//! ```
//! use ddpm_gpu::device::{Device, Selection};
//! use ddpm_gpu::graph::{Graph, TensorType, gradients};
//! use ddpm_gpu::ops;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # pollster::block_on(async {
//! let mut graph = Graph::new();
//! let x = graph.input("x", TensorType::f32([2, 3]));
//! let y = ops::silu(&mut graph, x)?;
//! let d_y = graph.input("d_y", TensorType::f32([2, 3]));
//! let d_x = gradients(&mut graph, &[(y, d_y)], &[x])?[0].ok_or("y depends on x")?;
//!
//! let device = Device::open(&Selection::Cpu).await?;
//! let mut executor = device.prepare(&graph, &[y, d_x]).await?;
//! executor.write(x, &[0.0f32, 1.0, -1.0, 2.0, -2.0, 10.0])?;
//! executor.write(d_y, &[1.0f32; 6])?;
//! executor.run()?;
//! assert!((executor.read(y).await?[1] - 0.731_058_6).abs() < 1e-6);
//! assert!((executor.read(d_x).await?[0] - 0.5).abs() < 1e-6);
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! # Three steps of training, and an image
//!
//! ```
//! # #[cfg(feature = "files")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # pollster::block_on(async {
//! use std::sync::Arc;
//!
//! use ddpm_gpu::data::{self, Batch, OpenOptions};
//! use ddpm_gpu::device::{Device, Selection};
//! use ddpm_gpu::diffusion::{Respacing, SchedulerConfig};
//! use ddpm_gpu::network::UNetConfig;
//! use ddpm_gpu::sample::{SampleRequest, sample};
//! use ddpm_gpu::sampler;
//! use ddpm_gpu::train::{Denoise, TrainOptions, Trainer};
//!
//! // A config.json of diffusers' UNet2DModel.
//! let network = UNetConfig::from_json(
//!     r#"{"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 16], "norm_num_groups": 4,
//!         "layers_per_block": 1, "down_block_types": ["DownBlock2D", "DownBlock2D"],
//!         "up_block_types": ["UpBlock2D", "UpBlock2D"]}"#,
//! )?;
//! let device = Device::open(&Selection::Cpu).await?;
//! let task = Denoise::new(Arc::new(network), SchedulerConfig::default())?;
//! let options = TrainOptions { batch_size: 4, ..TrainOptions::default() };
//! let mut trainer = Trainer::new(&device, task, options, None).await?;
//! let digits = data::open("digits", &OpenOptions::default())?;
//! for step in 0..3 {
//!     trainer.step(&Batch::read(digits.as_ref(), 4 * step..4 * (step + 1))?)?;
//!     assert!(trainer.loss().await?.is_finite());
//! }
//!
//! let pipeline = trainer.pipeline().await?;
//! let mut request = SampleRequest::new(sampler::by_name("ddim")?, &pipeline.scheduler);
//! (request.num_images, request.options.steps) = (1, Some(Respacing::Steps(5)));
//! let images = sample(&device, &pipeline, &request, &mut |_| {}).await?.images;
//! assert_eq!(images.shape, [1, 8, 8, 1]); // [N, H, W, C]
//! # Ok(())
//! # })
//! # }
//! # #[cfg(not(feature = "files"))]
//! # fn main() {}
//! ```

// Crate-private items of the engine that only what stands above it calls.
#![cfg_attr(not(feature = "files"), allow(dead_code, unused_imports))]

#[cfg(all(test, not(feature = "files")))]
compile_error!("the tests of the library read files: they need the feature `files`");

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
