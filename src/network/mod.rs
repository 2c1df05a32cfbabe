//! Networks: what each is told, what it gives, how it is built, and the weights that its file has.

mod adapted;
mod attention_block;
mod catalog;
mod classifier;
mod error;
mod interface;
pub mod layers;
mod null_class;
pub(crate) mod number;
mod parameters;
mod precision;
mod sample_size;
mod super_resolution;
mod transfer;
mod unet2d;
mod weights;

pub use adapted::{Adapted, Adapter, merge};
pub use catalog::{NETWORKS, NetworkClass, from_config};
pub use classifier::{ClassifierConfig, FEATURES, LOGITS};
pub use error::ModelError;
pub use interface::{
    CLASS_LABELS, CONDITION_IMAGE, Component, Element, Input, Misfit, NamedValues, Network, SAMPLE, TIMESTEPS,
};
pub use null_class::with_null_class;
pub use precision::Precision;
pub use sample_size::SampleSize;
pub use super_resolution::SuperResolution;
pub use transfer::{LeftOut, Transfer, some_names};
pub use unet2d::{PRESETS, Preset, UNetConfig};
pub use weights::{Tensor, Tensors, WeightsError, from_tensors, initial_weights, prepare, to_tensors};
