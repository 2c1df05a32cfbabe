//! Which configurations can be built.

use super::UNetConfig;
use super::activation::{ACTIVATIONS, Activation};
use super::blocks::{BlockType, DOWN_BLOCKS, Family, IMAGE_CHANNELS, UP_BLOCKS, block_type};
use super::config::{CONV, RESNET, expect_text};
use super::limits::check_sizes;
use super::time_embedding::TimeEmbedding;
use crate::graph::Graph;
use crate::image_size::in_words;
use crate::network::error::unsupported;
use crate::network::{ModelError, Network, SuperResolution};

/// diffusers' only mid block for this network.
const MID_BLOCK: &str = "UNetMidBlock2D";

impl UNetConfig {
    /// Refuses what this engine does not have, and sizes that do not fit each other.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] naming the key.
    pub fn check(&self) -> Result<(), ModelError> {
        expect_text("_class_name", &self.class_name, &[Self::CLASS])?;
        self.time_embedding()?;
        self.class_embedding()?;
        for (key, value) in
            [("downsample_type", &self.downsample_type), ("upsample_type", &self.upsample_type)]
        {
            value.as_ref().map_or(Ok(()), |value| expect_text(key, value, &[CONV, RESNET]))?;
        }
        if Activation::of_name(&self.act_fn).is_none() {
            let known: Vec<&str> = ACTIVATIONS.iter().map(|(name, _)| *name).collect();
            return Err(unsupported("act_fn", &self.act_fn, format!("supported: {}", known.join(", "))));
        }
        expect_text("resnet_time_scale_shift", &self.resnet_time_scale_shift, &["default", "scale_shift"])?;
        if let Some(mid) = self.mid_block_type.as_deref().filter(|mid| *mid != MID_BLOCK) {
            return Err(unsupported("mid_block_type", mid, format!("supported: {MID_BLOCK}, null")));
        }
        self.blocks()?;
        let divisor = self.mid_block_scale_factor;
        if !(divisor.is_finite() && divisor as f32 != 0.0) {
            return Err(unsupported(
                "mid_block_scale_factor",
                divisor,
                "it must be a finite number other than 0",
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
        let scale = self.timestep_scale;
        if !(scale.is_finite() && scale > 0.0) {
            return Err(unsupported("_timestep_scale", scale, "it must be a finite number above 0"));
        }
        if scale != 1.0 && self.time_embedding()? != TimeEmbedding::Positional {
            let expected = "only timesteps that are embedded by sines and cosines are scaled";
            return Err(unsupported("_timestep_scale", scale, expected));
        }
        let eps = self.norm_eps;
        if !(eps.is_finite() && eps >= 0.0) {
            return Err(unsupported("norm_eps", eps, "it must be a finite number, at least 0"));
        }
        check_sizes(self)?;
        let rows = self.num_class_embeds.filter(|_| self.class_embed_type.is_none());
        if self.null_class && rows.is_none_or(|rows| rows < 2) {
            let expected =
                "num_class_embeds must count it beside another class, and class_embed_type be null";
            return Err(unsupported("_null_class", true, expected));
        }
        self.check_super_resolution()?;
        self.check_condition_channels()?;
        self.check_levels()?;
        self.check_families()
    }

    /// The blocks of all levels, down and then up, as they follow each other.
    fn blocks(&self) -> Result<[Vec<&'static BlockType>; 2], ModelError> {
        let down = self.down_block_types.iter().map(|name| block_type(DOWN_BLOCKS, "down_block_types", name));
        let up = self.up_block_types.iter().map(|name| block_type(UP_BLOCKS, "up_block_types", name));
        Ok([down.collect::<Result<_, _>>()?, up.collect::<Result<_, _>>()?])
    }

    /// Refuses blocks that do not go together.
    fn check_families(&self) -> Result<(), ModelError> {
        let [down, up] = self.blocks()?;
        let is_k = |block: &&BlockType| block.family == Family::K;
        // A single level resamples nothing: there each block takes what the other leaves.
        if self.levels() > 1 && down.iter().chain(&up).any(is_k) {
            let ways = [
                ("down_block_types", &self.down_block_types, &down),
                ("up_block_types", &self.up_block_types, &up),
            ];
            if let Some((key, names, _)) = ways.into_iter().find(|(.., blocks)| !blocks.iter().all(is_k)) {
                let expected = "K blocks are for networks of nothing else, on both ways";
                return Err(unsupported(key, format!("{names:?}"), expected));
            }
        }
        self.check_image_blocks(&down, &up)?;
        let are_plain = down.iter().chain(&up).all(|block| block.family == Family::Plain);
        if are_plain { Ok(()) } else { self.check_norms() }
    }

    /// Refuses Skip blocks where there is no image of the right size or number of channels.
    fn check_image_blocks(&self, down: &[&BlockType], up: &[&BlockType]) -> Result<(), ModelError> {
        let has_image = |block: &BlockType| block.family == Family::Skip;
        // Those that resample: the last of either way does not.
        let resampling = |blocks: &[&BlockType]| -> Vec<bool> {
            blocks[..blocks.len() - 1].iter().map(|block| has_image(block)).collect()
        };
        let (halving, doubling) = (resampling(down), resampling(up));
        if !halving.is_sorted_by(|before, after| before >= after) {
            let expected = "a Skip block takes the image from the one before: all that halve it before a Skip block must \
                            be Skip blocks";
            return Err(unsupported("down_block_types", format!("{:?}", self.down_block_types), expected));
        }
        // All blocks behind the first that gives an image take it, the last of all too.
        let gives = doubling.iter().position(|&gives| gives);
        if gives.is_some_and(|first| !up[first..].iter().all(|block| has_image(block))) {
            let expected =
                "a Skip block gives an image to the one behind: all behind a Skip block must be Skip blocks";
            return Err(unsupported("up_block_types", format!("{:?}", self.up_block_types), expected));
        }
        for (key, channels, is_used) in [
            ("in_channels", self.in_channels, halving.contains(&true)),
            ("out_channels", self.out_channels, gives.is_some()),
        ] {
            if is_used && channels != IMAGE_CHANNELS {
                let expected = format!("Skip blocks are for images of {IMAGE_CHANNELS} channels");
                return Err(unsupported(key, channels, expected));
            }
        }
        Ok(())
    }

    /// Refuses channels that the groups of a norm do not divide: outside plain blocks they follow from the channels of
    /// each layer.
    fn check_norms(&self) -> Result<(), ModelError> {
        let mut graph = Graph::new();
        let inputs = (self as &dyn Network).declare_inputs(&mut graph, 1)?;
        match self.append(&mut graph, &inputs, None) {
            Err(ModelError::Graph(error)) => {
                let channels = format!("{:?}", self.block_out_channels);
                Err(unsupported("block_out_channels", channels, error.to_string()))
            }
            other => other.map(|_| ()),
        }
    }

    fn check_condition_channels(&self) -> Result<(), ModelError> {
        let Some(channels) = self.condition_channels else { return Ok(()) };
        let expected = match (self.super_resolution, channels) {
            (Some(_), _) => {
                "a super-resolution model is given smaller images and no others; leave it out".to_owned()
            }
            (None, 0) => "it must be at least 1, or left out".to_owned(),
            (None, _) if channels >= self.in_channels => {
                format!("in_channels is {} and must count x_t beside it", self.in_channels)
            }
            (None, _) => return Ok(()),
        };
        Err(unsupported("_condition_channels", channels, expected))
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
        let [down, up] = self.blocks()?;
        let (groups, mid_groups) = (self.groups(), self.mid_groups());
        for (level, &channels) in self.block_out_channels.iter().enumerate() {
            // The other blocks count their groups themselves.
            let is_plain =
                [down[level], up[levels - 1 - level]].iter().any(|block| block.family == Family::Plain);
            let of_level = [
                (level == 0 || is_plain).then_some(groups),
                (level + 1 == levels && self.mid_block_type.is_some()).then_some(mid_groups),
            ];
            let bad = of_level
                .into_iter()
                .flatten()
                .find(|&groups| groups == 0 || !channels.is_multiple_of(groups));
            if let Some(groups) = bad.or((channels == 0).then_some(groups)) {
                let expected = format!("every level must be a multiple of norm_num_groups ({groups})");
                return Err(unsupported(
                    "block_out_channels",
                    format!("{:?}", self.block_out_channels),
                    expected,
                ));
            }
        }
        if let (Some(groups), true) = (self.mid_attention_groups(), self.mid_block_type.is_some()) {
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
            let head_dim = self.head_dim(channels);
            let heads = self.num_attention_heads.unwrap_or(1);
            let is_mid = level + 1 == levels && self.add_attention && self.mid_block_type.is_some();
            let attends = down[level].attends || up[levels - 1 - level].attends || is_mid;
            if attends && (heads == 0 || !channels.is_multiple_of(heads)) {
                let expected = format!("it must divide the {channels} channels of level {level}");
                return Err(unsupported("_num_attention_heads", heads, expected));
            }
            if attends && head_dim > channels {
                let expected = format!("level {level} has attention over {channels} channels only");
                return Err(unsupported("attention_head_dim", head_dim, expected));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What is said of a configuration of Skip blocks with these changes; nothing of one that can be built.
    fn refusal(changes: Value) -> Option<String> {
        let mut config = json!({
            "sample_size": 8, "block_out_channels": [16, 32, 32], "layers_per_block": 1, "norm_num_groups": null,
            "attention_head_dim": 8, "time_embedding_type": "fourier",
            "down_block_types": ["SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"],
            "up_block_types": ["SkipUpBlock2D", "SkipUpBlock2D", "SkipUpBlock2D"],
        });
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        UNetConfig::from_value(config).err().map(|error| error.to_string())
    }

    #[test]
    fn skip_blocks_are_refused_where_they_do_not_fit() {
        assert_eq!(refusal(json!({})), None);
        let plain = ["DownBlock2D", "SkipDownBlock2D", "SkipDownBlock2D"];
        for (changes, words) in [
            (
                json!({ "down_block_types": plain, "norm_num_groups": 8 }),
                "before a Skip block must be Skip blocks",
            ),
            (
                json!({ "up_block_types": ["SkipUpBlock2D", "UpBlock2D", "SkipUpBlock2D"], "norm_num_groups": 8 }),
                "all behind a Skip block must be Skip blocks",
            ),
            (
                json!({ "down_block_types": ["KDownBlock2D", "KDownBlock2D", "KDownBlock2D"] }),
                "K blocks are for networks of nothing else",
            ),
            (json!({ "out_channels": 6 }), "out_channels is 6; Skip blocks are for images of 3 channels"),
            // diffusers counts the groups of this block's first norm as 32 + 16 // 4, at most 32.
            (
                json!({ "up_block_types": ["SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"] }),
                "block_out_channels is [16, 32, 32]; up_blocks.1.resnets.1.norm1",
            ),
            // Its attention has 32 groups.
            (
                json!({ "down_block_types": ["AttnSkipDownBlock2D", "SkipDownBlock2D", "SkipDownBlock2D"] }),
                "down_blocks.0.attentions.0.group_norm",
            ),
        ] {
            let found = refusal(changes.clone());
            assert!(found.as_ref().is_some_and(|text| text.contains(words)), "{changes}: {found:?}");
        }
    }

    /// What config.json says of imported models alone.
    #[test]
    fn scales_of_timesteps_and_numbers_of_heads_are_checked_and_written() {
        let own = json!({ "_timestep_scale": 0.25, "_num_attention_heads": 4, "time_embedding_type": "positional" });
        let of = |key: &str, value: Value| {
            let mut changes = own.clone();
            changes[key] = value;
            refusal(changes)
        };
        assert_eq!(refusal(own.clone()), None);
        for (key, value, words) in [
            ("_timestep_scale", json!(0), "_timestep_scale is 0; it must be a finite number above 0"),
            ("_timestep_scale", json!(-1.5), "it must be a finite number above 0"),
            ("_timestep_scale", json!("fast"), "_timestep_scale is \"fast\""),
            (
                "time_embedding_type",
                json!("fourier"),
                "_timestep_scale is 0.25; only timesteps that are embedded",
            ),
            ("_num_attention_heads", json!(0), "_num_attention_heads is 0; it must divide the 32 channels"),
            ("_num_attention_heads", json!(5), "_num_attention_heads is 5; it must divide the 32 channels"),
        ] {
            let found = of(key, value);
            assert!(found.as_ref().is_some_and(|text| text.contains(words)), "{key}: {found:?}");
        }
        let config = UNetConfig {
            sample_size: Some(crate::network::SampleSize::Square(8)),
            timestep_scale: 0.25,
            num_attention_heads: Some(4),
            ..UNetConfig::default()
        };
        let text = Network::to_json(&config).unwrap();
        assert_eq!(UNetConfig::from_json(&text).unwrap(), config);
        assert_eq!((config.head_dim(32), config.head_dim(448)), (8, 112));
        let plain = Network::to_json(&UNetConfig::default()).unwrap();
        assert!(!plain.contains("_timestep_scale") && !plain.contains("_num_attention_heads"), "{plain}");
    }
}
