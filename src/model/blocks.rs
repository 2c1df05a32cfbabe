//! Down, mid and up blocks: residual blocks, attention and resampling of one level.

use super::attention_block::attention_block;
use super::layers::Conv;
use super::resnet_block::{Context, resnet_block};
use crate::graph::{Graph, GraphError, ValueId};
use crate::ops;
use crate::ops::conv2d::Padding;

/// The residual or attention block that a module path lies in, such as `down_blocks.0.resnets.1`.
///
/// These are the blocks that gradient checkpointing keeps the inputs of.
pub fn block_of(path: &str) -> Option<&str> {
    let end_of_kind = |kind: &str| path.find(kind).map(|at| at + kind.len());
    let index = end_of_kind(".resnets.").or_else(|| end_of_kind(".attentions."))?;
    let end = path[index..].find('.').map_or(path.len(), |length| index + length);
    Some(&path[..end])
}

/// One level of the network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    pub(super) channels: usize,
    pub(super) has_attention: bool,
    /// Whether the block ends by halving (down) or doubling (up) the image.
    pub(super) resamples: bool,
}

/// A residual block and, where the level has it, attention.
fn layer(
    graph: &mut Graph,
    context: Context<'_>,
    x: ValueId,
    level: Level,
    index: usize,
) -> Result<ValueId, GraphError> {
    let config = context.config;
    let h =
        graph.scoped(format!("resnets.{index}"), |graph| resnet_block(graph, context, x, level.channels))?;
    if !level.has_attention {
        return Ok(h);
    }
    let head_dim = config.attention_head_dim.unwrap_or(level.channels);
    graph.scoped(format!("attentions.{index}"), |graph| {
        attention_block(graph, h, head_dim, Some(config.groups()), config.norm_eps)
    })
}

/// `DownBlock2D` or `AttnDownBlock2D`; every intermediate result is pushed onto `skips`.
pub(super) fn down_block(
    graph: &mut Graph,
    context: Context<'_>,
    mut x: ValueId,
    level: Level,
    skips: &mut Vec<ValueId>,
) -> Result<ValueId, GraphError> {
    for index in 0..context.config.layers_per_block {
        x = layer(graph, context, x, level, index)?;
        skips.push(x);
    }
    if level.resamples {
        let padding =
            if context.config.downsample_padding == 0 { Padding::RightBottom } else { Padding::Same };
        let conv = Conv { stride: 2, padding, ..Conv::three(level.channels) };
        x = graph.scoped("downsamplers.0", |graph| conv.build(graph, "conv", x))?;
        skips.push(x);
    }
    Ok(x)
}

/// `UNetMidBlock2D`.
pub(super) fn mid_block(graph: &mut Graph, context: Context<'_>, x: ValueId) -> Result<ValueId, GraphError> {
    let config = context.config;
    let channels = graph.ty(x).channels();
    let mut h = graph.scoped("resnets.0", |graph| resnet_block(graph, context, x, channels))?;
    if config.add_attention {
        let head_dim = config.attention_head_dim.unwrap_or(channels);
        h = graph.scoped("attentions.0", |graph| {
            attention_block(graph, h, head_dim, config.mid_attention_groups(), config.norm_eps)
        })?;
    }
    graph.scoped("resnets.1", |graph| resnet_block(graph, context, h, channels))
}

/// `UpBlock2D` or `AttnUpBlock2D`; takes one more skip than a down block has layers.
pub(super) fn up_block(
    graph: &mut Graph,
    context: Context<'_>,
    mut x: ValueId,
    level: Level,
    skips: &mut Vec<ValueId>,
) -> Result<ValueId, GraphError> {
    for index in 0..=context.config.layers_per_block {
        if let Some(skip) = skips.pop() {
            x = graph.scoped(format!("resnets.{index}"), |graph| ops::concat(graph, x, skip))?;
        }
        x = layer(graph, context, x, level, index)?;
    }
    if level.resamples {
        x = graph.scoped("upsamplers.0", |graph| {
            let doubled = ops::upsample(graph, x)?;
            Conv::three(level.channels).build(graph, "conv", doubled)
        })?;
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::block_of;

    #[test]
    fn a_block_is_a_path_up_to_its_number() {
        assert_eq!(block_of("down_blocks.0.resnets.1.conv1"), Some("down_blocks.0.resnets.1"));
        assert_eq!(block_of("up_blocks.10.attentions.12.to_out.0"), Some("up_blocks.10.attentions.12"));
        assert_eq!(block_of("mid_block.resnets.0"), Some("mid_block.resnets.0"));
        for path in ["down_blocks.0.downsamplers.0.conv", "conv_in", "time_embedding.linear_1", ""] {
            assert_eq!(block_of(path), None, "{path}");
        }
    }
}
