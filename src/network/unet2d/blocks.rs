//! Down, mid and up blocks: residual blocks, attention and resampling of one level.

mod k;
mod skip;

use super::UNetConfig;
use super::resnet_block::{Context, Resample, Residual};
use crate::graph::{Graph, GraphError, ValueId};
use crate::network::ModelError;
use crate::network::attention_block::AttentionBlock;
use crate::network::error::unsupported;
use crate::network::layers::Conv;
use crate::ops::conv2d::Padding;
use crate::ops::{self, Window};

/// One level of the network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    pub(super) channels: usize,
    /// Channels of the level behind it, on the way up; of the last one its own.
    pub(super) next_channels: usize,
    /// Whether attention follows residual blocks.
    pub(super) attends: bool,
    /// Whether the block ends by halving (down) or doubling (up) the image.
    pub(super) resamples: bool,
}

/// What goes from block to block.
#[derive(Debug)]
pub(super) struct Flow {
    /// `[N, h, w, channels]`
    pub(super) x: ValueId,
    /// Every intermediate result of the down blocks, for the up blocks to take from the end.
    pub(super) skips: Vec<ValueId>,
    /// On the way down what enters the network, at the size of x, where Skip blocks halve it.
    pub(super) image: ValueId,
    /// On the way up what Skip blocks add to the output, at the size of x.
    pub(super) output: Option<ValueId>,
}

/// Appends a block of a level.
type Build = fn(&mut Graph, Context<'_>, Level, &mut Flow) -> Result<(), GraphError>;

/// Which blocks go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Plain,
    /// Those that take and give an image beside the features.
    Skip,
    /// Those that are for networks of nothing else.
    K,
}

/// A kind of block that a level can have.
pub(super) struct BlockType {
    /// Its name in `down_block_types` or `up_block_types`.
    pub(super) name: &'static str,
    /// Whether it has attention, so that its channels must hold a head.
    pub(super) attends: bool,
    pub(super) family: Family,
    pub(super) build: Build,
}

/// The blocks on the way down.
pub(super) const DOWN_BLOCKS: &[BlockType] = &[
    BlockType {
        name: "DownBlock2D",
        attends: false,
        family: Family::Plain,
        build: |g, c, l, f| down(g, c, l, f, downsample_by_conv),
    },
    BlockType {
        name: "AttnDownBlock2D",
        attends: true,
        family: Family::Plain,
        build: |g, c, l, f| down(g, c, l, f, downsample_as_configured),
    },
    BlockType {
        name: "ResnetDownsampleBlock2D",
        attends: false,
        family: Family::Plain,
        build: |g, c, l, f| down(g, c, l, f, downsample_by_residual),
    },
    BlockType { name: "SkipDownBlock2D", attends: false, family: Family::Skip, build: skip::down_block },
    BlockType { name: "AttnSkipDownBlock2D", attends: true, family: Family::Skip, build: skip::down_block },
    BlockType { name: "KDownBlock2D", attends: false, family: Family::K, build: k::down_block },
];

/// The blocks on the way up.
pub(super) const UP_BLOCKS: &[BlockType] = &[
    BlockType {
        name: "UpBlock2D",
        attends: false,
        family: Family::Plain,
        build: |g, c, l, f| up(g, c, l, f, upsample_by_conv),
    },
    BlockType {
        name: "AttnUpBlock2D",
        attends: true,
        family: Family::Plain,
        build: |g, c, l, f| up(g, c, l, f, upsample_as_configured),
    },
    BlockType {
        name: "ResnetUpsampleBlock2D",
        attends: false,
        family: Family::Plain,
        build: |g, c, l, f| up(g, c, l, f, upsample_by_residual),
    },
    BlockType { name: "SkipUpBlock2D", attends: false, family: Family::Skip, build: skip::up_block },
    BlockType {
        name: "AttnSkipUpBlock2D",
        attends: true,
        family: Family::Skip,
        build: skip::attention_up_block,
    },
    BlockType { name: "KUpBlock2D", attends: false, family: Family::K, build: k::up_block },
];

pub(super) use skip::CHANNELS as IMAGE_CHANNELS;

/// What the oldest files have before the names of blocks.
const FORMER_PREFIX: &str = "UNetRes";

/// The block of a name that stands in config.json under `key`.
///
/// # Errors
/// [`ModelError::Unsupported`] with the names that there are.
pub(super) fn block_type(
    types: &'static [BlockType],
    key: &str,
    name: &str,
) -> Result<&'static BlockType, ModelError> {
    let name = name.strip_prefix(FORMER_PREFIX).unwrap_or(name);
    types.iter().find(|known| known.name == name).ok_or_else(|| {
        let known: Vec<&str> = types.iter().map(|known| known.name).collect();
        unsupported(key, name, format!("supported: {}", known.join(", ")))
    })
}

/// The residual block of most blocks, of so many output channels.
fn plain(config: &UNetConfig, out_channels: usize) -> Residual {
    let groups = [config.groups(); 2];
    Residual { out_channels, groups, divisor: 1.0, resample: None, has_shortcut: false }
}

/// The attention block of most blocks, over so many channels.
fn attention(config: &UNetConfig, channels: usize) -> AttentionBlock {
    AttentionBlock {
        head_dim: config.head_dim(channels),
        groups: Some(config.groups()),
        eps: config.norm_eps,
        divisor: 1.0,
    }
}

/// A residual block called `name` of x, with `skip` behind it on the way up.
fn append_residual(
    graph: &mut Graph,
    context: Context<'_>,
    x: ValueId,
    skip: Option<ValueId>,
    residual: Residual,
    name: impl Into<String>,
) -> Result<ValueId, GraphError> {
    let name = name.into();
    graph.segment(|graph| {
        graph.scoped(name, |graph| {
            let x = skip.map_or(Ok(x), |skip| ops::concat(graph, x, skip))?;
            residual.build(graph, context, x)
        })
    })
}

/// Attention block number `index`.
fn append_attention(
    graph: &mut Graph,
    x: ValueId,
    block: AttentionBlock,
    index: usize,
) -> Result<ValueId, GraphError> {
    graph.segment(|graph| graph.scoped(format!("attentions.{index}"), |graph| block.build(graph, x)))
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
    let residual = plain(context.config, level.channels);
    let h = append_residual(graph, context, x, skip, residual, format!("resnets.{index}"))?;
    if !level.attends {
        return Ok(h);
    }
    append_attention(graph, h, attention(context.config, level.channels), index)
}

/// The mean of each square of two by two pixels.
fn halve(graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    ops::average_pool_window(graph, x, Window::tiles(2), true)
}

/// Ends a level by a convolution of stride 2.
fn downsample_by_conv(
    graph: &mut Graph,
    context: Context<'_>,
    level: Level,
    x: ValueId,
) -> Result<ValueId, GraphError> {
    let padding = if context.config.downsample_padding == 0 { Padding::RightBottom } else { Padding::Same };
    let conv = Conv { stride: 2, padding, ..Conv::three(level.channels) };
    graph.scoped("downsamplers.0", |graph| conv.build(graph, "conv", x))
}

/// Ends a level by a convolution of the doubled image.
fn upsample_by_conv(
    graph: &mut Graph,
    _context: Context<'_>,
    level: Level,
    x: ValueId,
) -> Result<ValueId, GraphError> {
    graph.scoped("upsamplers.0", |graph| {
        let doubled = ops::upsample(graph, x)?;
        Conv::three(level.channels).build(graph, "conv", doubled)
    })
}

/// Ends a level by a residual block that resamples.
fn resample_by_residual(
    graph: &mut Graph,
    context: Context<'_>,
    level: Level,
    x: ValueId,
    name: &str,
    resample: Resample,
) -> Result<ValueId, GraphError> {
    let residual = Residual { resample: Some(resample), ..plain(context.config, level.channels) };
    append_residual(graph, context, x, None, residual, name)
}

fn downsample_by_residual(
    graph: &mut Graph,
    context: Context<'_>,
    level: Level,
    x: ValueId,
) -> Result<ValueId, GraphError> {
    resample_by_residual(graph, context, level, x, "downsamplers.0", halve)
}

fn upsample_by_residual(
    graph: &mut Graph,
    context: Context<'_>,
    level: Level,
    x: ValueId,
) -> Result<ValueId, GraphError> {
    resample_by_residual(graph, context, level, x, "upsamplers.0", ops::upsample)
}

/// What ends an attention block on the way down: `downsample_type` is read there only.
fn downsample_as_configured(
    graph: &mut Graph,
    context: Context<'_>,
    level: Level,
    x: ValueId,
) -> Result<ValueId, GraphError> {
    let by_residual = context.config.downsamples_by_residual();
    let end = if by_residual { downsample_by_residual } else { downsample_by_conv };
    end(graph, context, level, x)
}

/// As [`downsample_as_configured`], on the way up: `upsample_type`.
fn upsample_as_configured(
    graph: &mut Graph,
    context: Context<'_>,
    level: Level,
    x: ValueId,
) -> Result<ValueId, GraphError> {
    let by_residual = context.config.upsamples_by_residual();
    let end = if by_residual { upsample_by_residual } else { upsample_by_conv };
    end(graph, context, level, x)
}

/// Ends a level.
type End = fn(&mut Graph, Context<'_>, Level, ValueId) -> Result<ValueId, GraphError>;

/// Residual blocks, with attention or without, and what halves the image.
fn down(
    graph: &mut Graph,
    context: Context<'_>,
    level: Level,
    flow: &mut Flow,
    end: End,
) -> Result<(), GraphError> {
    for index in 0..context.config.layers_per_block {
        flow.x = layer(graph, context, flow.x, None, level, index)?;
        flow.skips.push(flow.x);
    }
    if level.resamples {
        flow.x = end(graph, context, level, flow.x)?;
        flow.skips.push(flow.x);
    }
    Ok(())
}

/// Residual blocks, with attention or without, one more than on the way down, and what doubles the image.
fn up(
    graph: &mut Graph,
    context: Context<'_>,
    level: Level,
    flow: &mut Flow,
    end: End,
) -> Result<(), GraphError> {
    for index in 0..=context.config.layers_per_block {
        flow.x = layer(graph, context, flow.x, flow.skips.pop(), level, index)?;
    }
    if level.resamples {
        flow.x = end(graph, context, level, flow.x)?;
    }
    Ok(())
}

/// `UNetMidBlock2D`.
pub(super) fn mid_block(graph: &mut Graph, context: Context<'_>, x: ValueId) -> Result<ValueId, GraphError> {
    let config = context.config;
    let channels = graph.ty(x).channels();
    let divisor = config.mid_block_scale_factor as f32;
    let residual = Residual { groups: [config.mid_groups(); 2], divisor, ..plain(config, channels) };
    let mut h = append_residual(graph, context, x, None, residual, "resnets.0")?;
    if config.add_attention {
        let groups = config.mid_attention_groups();
        h = append_attention(graph, h, AttentionBlock { groups, divisor, ..attention(config, channels) }, 0)?;
    }
    append_residual(graph, context, h, None, residual, "resnets.1")
}
