//! Down, mid and up blocks: residual blocks, attention and resampling of one level.

use super::attention_block::attention_block;
use super::layers::Conv;
use super::resnet_block::{Context, resnet_block};
use crate::graph::{Graph, GraphError, ValueId};
use crate::ops;
use crate::ops::conv2d::Padding;

/// One level of the network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    pub(super) channels: usize,
    pub(super) has_attention: bool,
    /// Whether the block ends by halving (down) or doubling (up) the image.
    pub(super) resamples: bool,
}

/// A residual block of x, with `skip` behind it on the way up, and, where the level has it, attention.
fn layer(
    graph: &mut Graph,
    context: Context<'_>,
    x: ValueId,
    skip: Option<ValueId>,
    level: Level,
    index: usize,
) -> Result<ValueId, GraphError> {
    let config = context.config;
    let h = residual(graph, context, x, skip, level.channels, index)?;
    if !level.has_attention {
        return Ok(h);
    }
    let head_dim = config.attention_head_dim.unwrap_or(level.channels);
    attention(graph, h, head_dim, Some(config.groups()), config.norm_eps, index)
}

/// Residual block number `index`.
fn residual(
    graph: &mut Graph,
    context: Context<'_>,
    x: ValueId,
    skip: Option<ValueId>,
    channels: usize,
    index: usize,
) -> Result<ValueId, GraphError> {
    graph.segment(|graph| {
        graph.scoped(format!("resnets.{index}"), |graph| {
            let x = skip.map_or(Ok(x), |skip| ops::concat(graph, x, skip))?;
            resnet_block(graph, context, x, channels)
        })
    })
}

/// Attention block number `index`.
fn attention(
    graph: &mut Graph,
    x: ValueId,
    head_dim: usize,
    groups: Option<usize>,
    eps: f32,
    index: usize,
) -> Result<ValueId, GraphError> {
    graph.segment(|graph| {
        graph.scoped(format!("attentions.{index}"), |graph| attention_block(graph, x, head_dim, groups, eps))
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
        x = layer(graph, context, x, None, level, index)?;
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
    let mut h = residual(graph, context, x, None, channels, 0)?;
    if config.add_attention {
        let head_dim = config.attention_head_dim.unwrap_or(channels);
        h = attention(graph, h, head_dim, config.mid_attention_groups(), config.norm_eps, 0)?;
    }
    residual(graph, context, h, None, channels, 1)
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
        x = layer(graph, context, x, skips.pop(), level, index)?;
    }
    if level.resamples {
        x = graph.scoped("upsamplers.0", |graph| {
            let doubled = ops::upsample(graph, x)?;
            Conv::three(level.channels).build(graph, "conv", doubled)
        })?;
    }
    Ok(x)
}
