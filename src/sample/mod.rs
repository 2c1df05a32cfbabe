//! Sampling: a trained model, a sampler's steps, images.

mod denoiser;
mod draw;
mod error;
mod evaluation;
mod forward_process;
mod guidance;
mod image_to_image;
mod images;
mod inpaint;
mod interpolate;
mod low_resolution;
mod noised;
mod predict;
mod request;

pub use denoiser::Denoiser;
pub(crate) use draw::sample_with;
pub use draw::{SampleProgress, Sampled, sample};
pub use error::SampleError;
use error::check_finite;
pub use forward_process::forward_process;
pub use guidance::Guidance;
pub use image_to_image::image_to_image;
pub use images::Images;
pub use inpaint::{Inpainting, inpaint};
pub use interpolate::{invert, noise_of_seed, slerp};
pub use low_resolution::LowResolution;
pub(crate) use noised::Noised;
pub use predict::predict;
pub use request::SampleRequest;
