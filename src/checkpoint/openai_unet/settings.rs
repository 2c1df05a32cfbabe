//! The flags of improved-diffusion's and guided-diffusion's scripts that say what a model is.

use std::fmt;
use std::str::FromStr;

/// How beta grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoiseSchedule {
    /// As in Ho et al., stretched over any number of steps.
    Linear,
    /// As in Nichol and Dhariwal.
    Cosine,
}

impl fmt::Display for NoiseSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linear => "linear",
            Self::Cosine => "cosine",
        })
    }
}

impl FromStr for NoiseSchedule {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = [Self::Linear, Self::Cosine];
        known
            .into_iter()
            .find(|schedule| schedule.to_string() == name)
            .ok_or_else(|| "there are linear and cosine".to_owned())
    }
}

/// What a model was trained with, by the names of the flags of their scripts; `None` for what the file tells, or what
/// has their default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportSettings {
    /// Height and width of the images; `large_size` of a super-resolution model.
    pub image_size: Option<usize>,
    /// Height and width of the smaller images that a super-resolution model enlarges.
    pub small_size: Option<usize>,
    /// Channels of the first level, before `channel_mult`.
    pub num_channels: Option<usize>,
    /// Residual blocks of a level on the way down; `classifier_depth` of a classifier.
    pub num_res_blocks: Option<usize>,
    /// Channels of each level, as multiples of `num_channels`.
    pub channel_mult: Option<Vec<usize>>,
    /// Sizes of images at which there is attention.
    pub attention_resolutions: Option<Vec<usize>>,
    /// Attention heads, at every level.
    pub num_heads: Option<usize>,
    /// Channels of a head, in place of `num_heads`.
    pub num_head_channels: Option<usize>,
    /// Attention heads on the way up, where these are others.
    pub num_heads_upsample: Option<usize>,
    /// Whether all queries come first, then all keys, then all values, rather than those of each head.
    pub use_new_attention_order: Option<bool>,
    /// Whether residual blocks scale and shift by the time embedding.
    pub use_scale_shift_norm: Option<bool>,
    /// Whether residual blocks resample.
    pub resblock_updown: Option<bool>,
    /// Share of activations dropped while training.
    pub dropout: Option<f32>,
    /// Whether the model is told the class.
    pub class_cond: Option<bool>,
    /// Whether the model predicts the variance of the reverse process.
    pub learn_sigma: Option<bool>,
    /// Whether the variance that is not learned is that of the posterior, rather than beta.
    pub sigma_small: Option<bool>,
    /// Whether the image is predicted, rather than the noise.
    pub predict_xstart: Option<bool>,
    /// T
    pub diffusion_steps: Option<usize>,
    /// How beta grows.
    pub noise_schedule: Option<NoiseSchedule>,
    /// Whether the network is given timesteps scaled to 0..1000.
    pub rescale_timesteps: Option<bool>,
}
