//! Down, mid and up blocks: residual blocks, attention and resampling of one level.

use super::resnet_block::{Context, resnet_block};
use crate::graph::{Graph, GraphError, ValueId};
use crate::network::ModelError;
use crate::network::attention_block::attention_block;
use crate::network::error::unsupported;
use crate::network::layers::Conv;
use crate::ops;
use crate::ops::conv2d::Padding;

/// One level of the network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    pub(super) channels: usize,
    /// Whether attention follows each residual block.
    pub(super) attends: bool,
    /// Whether the block ends by halving (down) or doubling (up) the image.
    pub(super) resamples: bool,
}

/// Appends a block of a level to x. A down block pushes every intermediate result onto the skips, an up block takes them.
type Build = fn(&mut Graph, Context<'_>, ValueId, Level, &mut Vec<ValueId>) -> Result<ValueId, GraphError>;

/// A kind of block that a level can have.
pub(super) struct BlockType {
    /// Its name in `down_block_types` or `up_block_types`.
    pub(super) name: &'static str,
    /// Whether it has attention, so that its channels must hold a head.
    pub(super) attends: bool,
    pub(super) build: Build,
}

/// The blocks on the way down.
pub(super) const DOWN_BLOCKS: &[BlockType] = &[
    BlockType { name: "DownBlock2D", attends: false, build: down_block },
    BlockType { name: "AttnDownBlock2D", attends: true, build: down_block },
];

/// The blocks on the way up.
pub(super) const UP_BLOCKS: &[BlockType] = &[
    BlockType { name: "UpBlock2D", attends: false, build: up_block },
    BlockType { name: "AttnUpBlock2D", attends: true, build: up_block },
];

/// The block of a name that stands in config.json under `key`.
///
/// # Errors
/// [`ModelError::Unsupported`] with the names that there are.
pub(super) fn block_type(
    types: &'static [BlockType],
    key: &str,
    name: &str,
) -> Result<&'static BlockType, ModelError> {
    types.iter().find(|known| known.name == name).ok_or_else(|| {
        let known: Vec<&str> = types.iter().map(|known| known.name).collect();
        unsupported(key, name, format!("supported: {}", known.join(", ")))
    })
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
    if !level.attends {
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

/// Residual blocks, with attention or without, and a convolution of stride 2.
fn down_block(
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

/// Residual blocks, with attention or without, one more than on the way down, and a convolution of the doubled image.
fn up_block(
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
