//! `unet/config.json`, with diffusers' keys and defaults.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::activation::Activation;
use super::time_embedding::{ClassEmbedding, TimeEmbedding};
use crate::network::error::unsupported;
use crate::network::number::whole_as_integer;
use crate::network::{ModelError, SampleSize, SuperResolution};

/// The configuration of a `UNet2DModel`; a key that is absent has diffusers' default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UNetConfig {
    /// Name of diffusers' class.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Height and width of the images.
    pub sample_size: Option<SampleSize>,
    /// Channels of x_t.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Whether inputs are mapped from 0..1 to -1..1.
    pub center_input_sample: bool,
    /// "positional", "fourier" (noise levels) or "learned" (a table of `num_train_timesteps` rows).
    pub time_embedding_type: String,
    /// Channels of the time embedding; null for four times the first level's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_embedding_dim: Option<usize>,
    /// Subtracted from half the embedding's size in the frequencies' exponent.
    #[serde(serialize_with = "whole_as_integer")]
    pub freq_shift: f32,
    /// Whether cosines come before sines.
    pub flip_sin_to_cos: bool,
    /// The kind of block of each level.
    pub down_block_types: Vec<String>,
    /// `UNetMidBlock2D`, or null for no mid block.
    pub mid_block_type: Option<String>,
    /// The kind of block of each level on the way up, the innermost first.
    pub up_block_types: Vec<String>,
    /// Channels of each level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a down block; up blocks have one more.
    pub layers_per_block: usize,
    /// Divisor of the mid block's residual sums.
    #[serde(serialize_with = "whole_as_integer")]
    pub mid_block_scale_factor: f64,
    /// 1 pads all round before downsampling, 0 below and to the right.
    pub downsample_padding: usize,
    /// What halves the image in `AttnDownBlock2D`: "conv", which null means too, or "resnet".
    pub downsample_type: Option<String>,
    /// What doubles it in `AttnUpBlock2D`, likewise.
    pub upsample_type: Option<String>,
    /// Share of activations dropped before the second convolution of a residual block.
    pub dropout: f32,
    /// "silu" or its other name "swish", "mish", "gelu" or "relu".
    pub act_fn: String,
    /// Channels of an attention head; null for one head of all channels.
    pub attention_head_dim: Option<usize>,
    /// Groups of all group norms; null for a quarter of the first level's channels, at most 32.
    pub norm_num_groups: Option<usize>,
    /// Groups of the mid block's attention norm; null for `norm_num_groups`, or no norm with "scale_shift".
    pub attn_norm_num_groups: Option<usize>,
    /// Added to the variance in group norms.
    pub norm_eps: f32,
    /// "default" adds the time embedding; "scale_shift" scales and shifts by it.
    pub resnet_time_scale_shift: String,
    /// Whether the mid block has attention.
    pub add_attention: bool,
    /// How the class is told: null for a table of `num_class_embeds` rows, "timestep" for a number that is embedded as
    /// timesteps are, "identity" for a vector of the time embedding's width.
    pub class_embed_type: Option<String>,
    /// Number of classes; null for an unconditional model. Unused where `class_embed_type` is not null.
    pub num_class_embeds: Option<usize>,
    /// Rows of a learned time embedding; else unused, and kept for the file.
    pub num_train_timesteps: Option<usize>,
    /// Whether the last class means "no class" (Ho and Salimans 2022). diffusers keeps keys that begin with an
    /// underscore.
    #[serde(rename = "_null_class", skip_serializing_if = "std::ops::Not::not")]
    pub null_class: bool,
    /// What timesteps are multiplied by before they are embedded; see `null_class` for the name.
    #[serde(rename = "_timestep_scale", skip_serializing_if = "is_one")]
    pub timestep_scale: f64,
    /// Heads of attention at every level, whatever its channels, in place of `attention_head_dim`; see `null_class` for
    /// the name.
    #[serde(rename = "_num_attention_heads", skip_serializing_if = "Option::is_none")]
    pub num_attention_heads: Option<usize>,
    /// How many of the input channels, the last ones, are those of a condition image; see `null_class` for the name.
    #[serde(rename = "_condition_channels", skip_serializing_if = "Option::is_none")]
    pub condition_channels: Option<usize>,
    /// What the second half of the input channels is, in a super-resolution model; see `null_class` for the name.
    #[serde(rename = "_super_resolution", skip_serializing_if = "Option::is_none")]
    pub super_resolution: Option<SuperResolution>,
}

impl Default for UNetConfig {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            class_name: Self::CLASS.to_owned(),
            sample_size: None,
            in_channels: 3,
            out_channels: 3,
            center_input_sample: false,
            time_embedding_type: "positional".to_owned(),
            time_embedding_dim: None,
            freq_shift: 0.0,
            flip_sin_to_cos: true,
            down_block_types: names(&[
                "DownBlock2D",
                "AttnDownBlock2D",
                "AttnDownBlock2D",
                "AttnDownBlock2D",
            ]),
            mid_block_type: Some("UNetMidBlock2D".to_owned()),
            up_block_types: names(&["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"]),
            block_out_channels: vec![224, 448, 672, 896],
            layers_per_block: 2,
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            downsample_type: Some(CONV.to_owned()),
            upsample_type: Some(CONV.to_owned()),
            dropout: 0.0,
            act_fn: "silu".to_owned(),
            attention_head_dim: Some(8),
            norm_num_groups: Some(32),
            attn_norm_num_groups: None,
            norm_eps: 1e-5,
            resnet_time_scale_shift: "default".to_owned(),
            add_attention: true,
            class_embed_type: None,
            num_class_embeds: None,
            num_train_timesteps: None,
            null_class: false,
            timestep_scale: 1.0,
            num_attention_heads: None,
            condition_channels: None,
            super_resolution: None,
        }
    }
}

/// Whether timesteps are embedded as they are, which no key says.
fn is_one(scale: &f64) -> bool {
    *scale == 1.0
}

/// The other way to resample, by a residual block, and the usual one.
pub(super) const RESNET: &str = "resnet";
pub(super) const CONV: &str = "conv";

/// What diffusers' `EMAModel` adds to the configuration of a network when it saves the averaged weights.
const EMA_KEYS: [&str; 7] =
    ["decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"];

/// The first key whose value is of the wrong type.
fn bad_value(map: Map<String, Value>) -> Option<ModelError> {
    map.into_iter().find_map(|(key, value)| {
        let alone = Map::from_iter([(key.clone(), value.clone())]);
        let error = serde_json::from_value::<UNetConfig>(Value::Object(alone)).err()?;
        Some(unsupported(&key, value, error.to_string()))
    })
}

pub(super) fn expect_text(key: &str, value: &str, known: &[&str]) -> Result<(), ModelError> {
    if known.contains(&value) {
        return Ok(());
    }
    Err(unsupported(key, value, format!("supported: {}", known.join(", "))))
}

impl UNetConfig {
    /// The name of diffusers' class.
    pub const CLASS: &str = "UNet2DModel";

    /// Reads and checks a config.json.
    ///
    /// # Errors
    /// [`ModelError::Json`], or [`ModelError::Unsupported`] naming the key.
    pub fn from_json(text: &str) -> Result<Self, ModelError> {
        Self::from_value(serde_json::from_str(text)?)
    }

    /// Reads and checks what a config.json holds; a key that says something of the network which is not known here is
    /// an error, not passed over.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] naming the key.
    pub fn from_value(value: Value) -> Result<Self, ModelError> {
        let Value::Object(map) = value else { return Err(ModelError::NoObject) };
        // The class first: what is said of the keys of another class would be of no use.
        if let Some(Value::String(class)) = map.get("_class_name") {
            expect_text("_class_name", class, &[Self::CLASS])?;
        }
        let known = Self::keys()?;
        let is_harmless = |key: &str, value: &Value| {
            value.is_null()
                || key.starts_with('_')
                || EMA_KEYS.contains(&key)
                || (key == "attention_legacy_order" && *value == Value::Bool(false))
        };
        if let Some((key, value)) =
            map.iter().find(|(key, value)| !known.contains_key(*key) && !is_harmless(key, value))
        {
            let expected = "this program does not know the key, which may change the network; if it says nothing of \
                            the network, delete it";
            return Err(unsupported(key, value, expected));
        }
        let mut config: Self = serde_json::from_value(Value::Object(map.clone()))
            .map_err(|error| bad_value(map).unwrap_or(ModelError::Json(error)))?;
        // [8, 8] is 8, also when a run is resumed.
        config.sample_size = config.sample_size.map(|size| SampleSize::of(size.sides()));
        config.check()?;
        Ok(config)
    }

    /// Every key that is read.
    fn keys() -> Result<Map<String, Value>, ModelError> {
        let full = Self {
            time_embedding_dim: Some(1),
            null_class: true,
            timestep_scale: 0.5,
            num_attention_heads: Some(1),
            condition_channels: Some(1),
            super_resolution: Some(SuperResolution { low_size: SampleSize::Square(1), augmentation: 0 }),
            ..Self::default()
        };
        match serde_json::to_value(full)? {
            Value::Object(map) => Ok(map),
            _ => Err(ModelError::NoObject),
        }
    }

    /// Height and width of the images.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] if the file does not say.
    pub fn image_size(&self) -> Result<[usize; 2], ModelError> {
        match self.sample_size {
            Some(size) => Ok(size.sides()),
            None => Err(unsupported("sample_size", "null", "give the size of the images")),
        }
    }

    /// The class that means "no class", the last row of the embedding.
    pub fn null_class(&self) -> Option<u32> {
        self.num_class_embeds.filter(|_| self.null_class).map(|rows| rows.saturating_sub(1) as u32)
    }

    /// The same network, told no class.
    #[must_use]
    pub fn unconditional(&self) -> Self {
        Self { num_class_embeds: None, class_embed_type: None, null_class: false, ..self.clone() }
    }

    /// How it embeds timesteps.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] naming the key.
    pub(super) fn time_embedding(&self) -> Result<TimeEmbedding, ModelError> {
        match (self.time_embedding_type.as_str(), self.num_train_timesteps) {
            ("positional", _) => Ok(TimeEmbedding::Positional),
            ("fourier", _) => Ok(TimeEmbedding::Fourier),
            ("learned", Some(timesteps @ 1..)) => Ok(TimeEmbedding::Learned { timesteps }),
            ("learned", none) => {
                let found = none.map_or("null".to_owned(), |none| none.to_string());
                let expected = "a learned time embedding has a row for each timestep: give their number";
                Err(unsupported("num_train_timesteps", found, expected))
            }
            (other, _) => {
                Err(unsupported("time_embedding_type", other, "supported: positional, fourier, learned"))
            }
        }
    }

    /// How it is told the class; `None` for an unconditional model.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] naming the key.
    pub(super) fn class_embedding(&self) -> Result<Option<ClassEmbedding>, ModelError> {
        match self.class_embed_type.as_deref() {
            None => Ok(self.num_class_embeds.map(|classes| ClassEmbedding::Table { classes })),
            Some("timestep") => Ok(Some(ClassEmbedding::Timestep)),
            Some("identity") => Ok(Some(ClassEmbedding::Identity)),
            Some(other) => Err(unsupported("class_embed_type", other, "supported: null, timestep, identity")),
        }
    }

    /// The non-linearity; SiLU for a name that a check would refuse.
    pub(super) fn activation(&self) -> Activation {
        Activation::of_name(&self.act_fn).unwrap_or(Activation::Silu)
    }

    /// Whether attention blocks halve the image by a residual block.
    pub(super) fn downsamples_by_residual(&self) -> bool {
        self.downsample_type.as_deref() == Some(RESNET)
    }

    /// Whether attention blocks double the image by a residual block.
    pub(super) fn upsamples_by_residual(&self) -> bool {
        self.upsample_type.as_deref() == Some(RESNET)
    }

    /// Channels of an image, which are those of x_t.
    pub fn image_channels(&self) -> usize {
        self.in_channels.saturating_sub(self.channels_of_condition())
    }

    /// Channels of the condition image; 0 for a network that is given none.
    pub fn channels_of_condition(&self) -> usize {
        match self.super_resolution {
            Some(_) => self.in_channels / 2,
            None => self.condition_channels.unwrap_or(0),
        }
    }

    /// Number of resolutions.
    pub fn levels(&self) -> usize {
        self.block_out_channels.len()
    }

    /// Channels of the time embedding.
    pub fn time_embed_dim(&self) -> usize {
        // diffusers takes 0 for null too.
        let usual = || self.block_out_channels.first().copied().unwrap_or(0).saturating_mul(4);
        self.time_embedding_dim.filter(|&width| width > 0).unwrap_or_else(usual)
    }

    /// Channels of an attention head at a level of so many.
    pub fn head_dim(&self, channels: usize) -> usize {
        match self.num_attention_heads {
            Some(heads) => channels / heads.max(1),
            None => self.attention_head_dim.unwrap_or(channels),
        }
    }

    /// Groups of the group norms outside the mid block.
    pub fn groups(&self) -> usize {
        self.groups_over(self.block_out_channels.first().copied().unwrap_or(0))
    }

    /// Groups of the mid block's group norms.
    pub(super) fn mid_groups(&self) -> usize {
        self.groups_over(self.block_out_channels.last().copied().unwrap_or(0))
    }

    /// `norm_num_groups`, or what diffusers takes instead for a norm over so many channels.
    fn groups_over(&self, channels: usize) -> usize {
        self.norm_num_groups.unwrap_or_else(|| (channels / 4).min(32))
    }

    /// Whether residual blocks scale and shift by the time embedding.
    pub fn scale_shift(&self) -> bool {
        self.resnet_time_scale_shift == "scale_shift"
    }

    /// Groups of the mid block's attention norm; `None` for no norm, as diffusers has it with "scale_shift".
    pub fn mid_attention_groups(&self) -> Option<usize> {
        self.attn_norm_num_groups.or_else(|| (!self.scale_shift()).then(|| self.mid_groups()))
    }
}
