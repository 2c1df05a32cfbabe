//! diffusers' `UNet2DModel`, top to bottom.

mod blocks;
mod config;
mod limits;
mod presets;
mod resnet_block;
mod time_embedding;

pub use config::UNetConfig;
pub use presets::{PRESETS, Preset};

use self::blocks::{DOWN_BLOCKS, Level, UP_BLOCKS, block_type, mid_block};
use self::resnet_block::Context;
use self::time_embedding::time_embedding;
use super::layers::{Conv, WeightInit, group_norm};
use super::{
    CLASS_LABELS, Element, Input, ModelError, NamedValues, Network, SAMPLE, SuperResolution, TIMESTEPS,
};
use crate::graph::{Graph, ValueId};

/// The first half of the network: what leaves the mid block, what the up blocks take, and what residual blocks share.
pub(super) struct Encoded<'a> {
    /// `[N, h, w, channels]`
    pub(super) x: ValueId,
    skips: Vec<ValueId>,
    context: Context<'a>,
}

/// Appends the down blocks and the mid block.
pub(super) fn encode<'a>(
    graph: &mut Graph,
    config: &'a UNetConfig,
    inputs: &NamedValues,
    dropout: Option<ValueId>,
) -> Result<Encoded<'a>, ModelError> {
    config.check()?;
    let class_labels = config.num_class_embeds.map(|_| inputs.get(CLASS_LABELS)).transpose()?;
    let embedding = time_embedding(graph, config, inputs.get(TIMESTEPS)?, class_labels)?;
    let context = Context { config, embedding, key_step_sample: dropout };
    let mut x = Conv::three(config.block_out_channels[0]).build(graph, "conv_in", inputs.get(SAMPLE)?)?;
    let mut skips = vec![x];
    for (index, name) in config.down_block_types.iter().enumerate() {
        let block = block_type(DOWN_BLOCKS, "down_block_types", name)?;
        let channels = config.block_out_channels[index];
        let level = Level { channels, attends: block.attends, resamples: index + 1 < config.levels() };
        x = graph.scoped(format!("down_blocks.{index}"), |graph| {
            (block.build)(graph, context, x, level, &mut skips)
        })?;
    }
    x = graph.scoped("mid_block", |graph| mid_block(graph, context, x))?;
    Ok(Encoded { x, skips, context })
}

impl Network for UNetConfig {
    fn class_name(&self) -> &'static str {
        Self::CLASS
    }

    fn to_json(&self) -> Result<String, ModelError> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    fn check(&self) -> Result<(), ModelError> {
        UNetConfig::check(self)
    }

    fn inputs(&self) -> Result<Vec<Input>, ModelError> {
        let [height, width] = self.image_size()?;
        let mut inputs = vec![
            Input {
                name: SAMPLE,
                shape: vec![height, width, self.in_channels],
                element: Element::Activation,
            },
            Input { name: TIMESTEPS, shape: Vec::new(), element: Element::Float },
        ];
        inputs.extend(self.num_class_embeds.map(|count| {
            let element = Element::Class { count, none: self.null_class() };
            Input { name: CLASS_LABELS, shape: Vec::new(), element }
        }));
        Ok(inputs)
    }

    fn outputs(&self) -> Result<Vec<(&'static str, Vec<usize>)>, ModelError> {
        let [height, width] = self.image_size()?;
        Ok(vec![(SAMPLE, vec![height, width, self.out_channels])])
    }

    fn build(
        &self,
        graph: &mut Graph,
        inputs: &NamedValues,
        dropout: Option<ValueId>,
    ) -> Result<NamedValues, ModelError> {
        let Encoded { mut x, mut skips, context } = encode(graph, self, inputs, dropout)?;
        let levels = self.levels();
        for (index, name) in self.up_block_types.iter().enumerate() {
            let block = block_type(UP_BLOCKS, "up_block_types", name)?;
            let channels = self.block_out_channels[levels - 1 - index];
            let level = Level { channels, attends: block.attends, resamples: index + 1 < levels };
            x = graph.scoped(format!("up_blocks.{index}"), |graph| {
                (block.build)(graph, context, x, level, &mut skips)
            })?;
        }
        x = group_norm(graph, "conv_norm_out", x, self.groups(), self.norm_eps, true)?;
        let conv_out = Conv { init: WeightInit::NearZero, ..Conv::three(self.out_channels) };
        Ok(NamedValues::default().with(SAMPLE, conv_out.build(graph, "conv_out", x)?))
    }

    fn super_resolution(&self) -> Option<SuperResolution> {
        self.super_resolution
    }
}
