//! `unet/config.json`, with diffusers' keys and defaults.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::blocks::{DOWN_BLOCKS, UP_BLOCKS, block_type};
use super::limits::check_sizes;
use crate::image_size::in_words;
use crate::network::error::unsupported;
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
    /// Whether inputs are mapped from 0..1 to -1..1; only false is supported.
    pub center_input_sample: bool,
    /// Only "positional" is supported.
    pub time_embedding_type: String,
    /// Channels of the time embedding; null for four times the first level's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_embedding_dim: Option<usize>,
    /// Subtracted from half the embedding's size in the frequencies' exponent.
    #[serde(serialize_with = "whole_as_integer")]
    pub freq_shift: f32,
    /// Whether cosines come before sines.
    pub flip_sin_to_cos: bool,
    /// `DownBlock2D` or `AttnDownBlock2D` for each level.
    pub down_block_types: Vec<String>,
    /// Only `UNetMidBlock2D` is supported.
    pub mid_block_type: Option<String>,
    /// `UpBlock2D` or `AttnUpBlock2D` for each level, the innermost first.
    pub up_block_types: Vec<String>,
    /// Channels of each level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a down block; up blocks have one more.
    pub layers_per_block: usize,
    /// Divisor of the mid block's residual sums; only 1 is supported.
    #[serde(serialize_with = "whole_as_integer")]
    pub mid_block_scale_factor: f32,
    /// 1 pads all round before downsampling, 0 below and to the right.
    pub downsample_padding: usize,
    /// Only "conv" is supported.
    pub downsample_type: String,
    /// Only "conv" is supported.
    pub upsample_type: String,
    /// Share of activations dropped before the second convolution of a residual block.
    pub dropout: f32,
    /// "silu" or its other name "swish".
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
    /// Only null is supported: classes by an embedding table.
    pub class_embed_type: Option<String>,
    /// Number of classes; null for an unconditional model.
    pub num_class_embeds: Option<usize>,
    /// Unused by this model; kept for the file.
    pub num_train_timesteps: Option<usize>,
    /// Whether the last class means "no class" (Ho and Salimans 2022). diffusers keeps keys that begin with an underscore.
    #[serde(rename = "_null_class", skip_serializing_if = "std::ops::Not::not")]
    pub null_class: bool,
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
            downsample_type: "conv".to_owned(),
            upsample_type: "conv".to_owned(),
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
            super_resolution: None,
        }
    }
}

/// diffusers writes 1 where serde_json would write 1.0, and compares configurations as text.
fn whole_as_integer<S: serde::Serializer>(value: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 {
        serializer.serialize_i64(*value as i64)
    } else {
        serializer.serialize_f32(*value)
    }
}

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

fn expect_text(key: &str, value: &str, known: &[&str]) -> Result<(), ModelError> {
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

    /// Number of classes that can be asked for; `None` for an unconditional model.
    pub fn classes(&self) -> Option<usize> {
        self.num_class_embeds.map(|embeds| embeds - usize::from(self.null_class))
    }

    /// The class that means "no class", the last row of the embedding.
    pub fn null_class(&self) -> Option<u32> {
        self.classes().filter(|_| self.null_class).map(|classes| classes as u32)
    }

    /// Channels of an image, which are those of x_t.
    pub fn image_channels(&self) -> usize {
        if self.super_resolution.is_some() { self.in_channels / 2 } else { self.in_channels }
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

    /// Groups of the group norms.
    pub fn groups(&self) -> usize {
        self.norm_num_groups
            .unwrap_or_else(|| (self.block_out_channels.first().copied().unwrap_or(0) / 4).min(32))
    }

    /// Whether residual blocks scale and shift by the time embedding.
    pub fn scale_shift(&self) -> bool {
        self.resnet_time_scale_shift == "scale_shift"
    }

    /// Groups of the mid block's attention norm; `None` for no norm, as diffusers has it with "scale_shift".
    pub fn mid_attention_groups(&self) -> Option<usize> {
        self.attn_norm_num_groups.or_else(|| (!self.scale_shift()).then(|| self.groups()))
    }

    /// Refuses what this engine does not have, and sizes that do not fit each other.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] naming the key.
    pub fn check(&self) -> Result<(), ModelError> {
        expect_text("_class_name", &self.class_name, &[Self::CLASS])?;
        expect_text("time_embedding_type", &self.time_embedding_type, &["positional"])?;
        expect_text("downsample_type", &self.downsample_type, &["conv"])?;
        expect_text("upsample_type", &self.upsample_type, &["conv"])?;
        expect_text("act_fn", &self.act_fn, &["silu", "swish"])?;
        expect_text("resnet_time_scale_shift", &self.resnet_time_scale_shift, &["default", "scale_shift"])?;
        expect_text("mid_block_type", self.mid_block_type.as_deref().unwrap_or("null"), &["UNetMidBlock2D"])?;
        for name in &self.down_block_types {
            block_type(DOWN_BLOCKS, "down_block_types", name)?;
        }
        for name in &self.up_block_types {
            block_type(UP_BLOCKS, "up_block_types", name)?;
        }
        if let Some(kind) = &self.class_embed_type {
            return Err(unsupported("class_embed_type", kind, "only null (an embedding table) is supported"));
        }
        if self.center_input_sample {
            return Err(unsupported("center_input_sample", true, "only false is supported"));
        }
        if self.mid_block_scale_factor != 1.0 {
            return Err(unsupported(
                "mid_block_scale_factor",
                self.mid_block_scale_factor,
                "only 1 is supported",
            ));
        }
        if self.downsample_padding > 1 {
            return Err(unsupported("downsample_padding", self.downsample_padding, "supported: 0, 1"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(unsupported("dropout", self.dropout, "it must be at least 0 and below 1"));
        }
        for (key, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("layers_per_block", self.layers_per_block),
            ("num_class_embeds", self.num_class_embeds.unwrap_or(1)),
            ("attention_head_dim", self.attention_head_dim.unwrap_or(1)),
            ("norm_num_groups", self.groups()),
        ] {
            if value == 0 {
                return Err(unsupported(key, value, "it must be at least 1"));
            }
        }
        let eps = self.norm_eps;
        if !(eps.is_finite() && eps >= 0.0) {
            return Err(unsupported("norm_eps", eps, "it must be a finite number, at least 0"));
        }
        check_sizes(self)?;
        if self.null_class && self.num_class_embeds.is_none_or(|embeds| embeds < 2) {
            return Err(unsupported(
                "_null_class",
                true,
                "num_class_embeds must count it beside another class",
            ));
        }
        self.check_super_resolution()?;
        self.check_levels()
    }

    fn check_super_resolution(&self) -> Result<(), ModelError> {
        let Some(SuperResolution { low_size, .. }) = self.super_resolution else { return Ok(()) };
        if !self.in_channels.is_multiple_of(2) {
            let expected = "a super-resolution model takes x_t and an image, so it must be even";
            return Err(unsupported("in_channels", self.in_channels, expected));
        }
        let size = self.image_size()?;
        let low = low_size.sides();
        let fits =
            |side: usize| low[side] > 0 && low[side] < size[side] && size[side].is_multiple_of(low[side]);
        if !fits(0) || !fits(1) || size[0] / low[0] != size[1] / low[1] {
            let expected = format!(
                "it must divide the size of the images, which is {}, by the same number in both directions",
                in_words(size)
            );
            // 8x8 rather than 8, where the images have no single size
            let found = if size[0] == size[1] { low_size.to_string() } else { in_words(low) };
            return Err(unsupported("_super_resolution.low_size", found, expected));
        }
        Ok(())
    }

    fn check_levels(&self) -> Result<(), ModelError> {
        let levels = self.levels();
        if levels == 0 {
            return Err(unsupported("block_out_channels", "[]", "it must have at least one level"));
        }
        for (key, count) in
            [("down_block_types", self.down_block_types.len()), ("up_block_types", self.up_block_types.len())]
        {
            if count != levels {
                let expected =
                    format!("block_out_channels has {levels} levels, it must have as many entries");
                return Err(unsupported(key, format!("of {count} entries"), expected));
            }
        }
        let groups = self.groups();
        for &channels in &self.block_out_channels {
            if channels == 0 || !channels.is_multiple_of(groups) {
                let expected = format!("every level must be a multiple of norm_num_groups ({groups})");
                return Err(unsupported(
                    "block_out_channels",
                    format!("{:?}", self.block_out_channels),
                    expected,
                ));
            }
        }
        if let Some(groups) = self.mid_attention_groups() {
            let channels = self.block_out_channels[levels - 1];
            if groups == 0 || !channels.is_multiple_of(groups) {
                let expected = format!("it must divide the last level's channels ({channels})");
                return Err(unsupported("attn_norm_num_groups", groups, expected));
            }
        }
        // Images are halved between levels, and doubled again on the way up: odd sizes would not meet their skips.
        let [height, width] = self.image_size()?;
        let factor = 1usize.checked_shl(levels as u32 - 1).unwrap_or(usize::MAX);
        if height == 0 || width == 0 || !height.is_multiple_of(factor) || !width.is_multiple_of(factor) {
            let near = |side: usize| side.div_ceil(factor).max(1).saturating_mul(factor);
            let expected = format!(
                "{levels} levels halve it {} times: width and height must be multiples of {factor}, such as {}",
                levels - 1,
                in_words([near(height), near(width)])
            );
            return Err(unsupported("sample_size", in_words([height, width]), expected));
        }
        for (level, &channels) in self.block_out_channels.iter().enumerate() {
            let head_dim = self.attention_head_dim.unwrap_or(channels);
            let down = block_type(DOWN_BLOCKS, "down_block_types", &self.down_block_types[level])?;
            let up = block_type(UP_BLOCKS, "up_block_types", &self.up_block_types[levels - 1 - level])?;
            let attends = down.attends || up.attends || (level + 1 == levels && self.add_attention);
            if attends && head_dim > channels {
                let expected = format!("level {level} has attention over {channels} channels only");
                return Err(unsupported("attention_head_dim", head_dim, expected));
            }
        }
        Ok(())
    }
}
