//! The blocks after k-diffusion (Karras et al. 2022, in Katherine Crowson's code): norms that are scaled and shifted by
//! the time embedding, and resampling with a filter. diffusers calls them K blocks.

use super::{Flow, Level};
use crate::graph::{Graph, GraphError, ValueId};
use crate::network::layers::{Conv, WeightInit, linear, zeros};
use crate::network::unet2d::resnet_block::Context;
use crate::ops::{self, Edges};

/// Channels of a group: diffusers has no other number.
const GROUP_CHANNELS: usize = 32;

/// `act(norm(x) (1 + scale) + shift)`, where a linear layer of the time embedding gives scale and shift (diffusers'
/// `AdaGroupNorm`).
fn adaptive_norm(
    graph: &mut Graph,
    context: Context<'_>,
    name: &str,
    x: ValueId,
    groups: usize,
) -> Result<ValueId, GraphError> {
    graph.scoped(name, |graph| {
        let channels = graph.ty(x).channels();
        let time = linear(graph, "linear", context.plain_embedding, 2 * channels, WeightInit::FanAverage)?;
        // The norm has no weights of its own.
        let zeros = zeros(graph, channels);
        let ones = ops::affine(graph, zeros, 0.0, 1.0)?;
        let normed = ops::group_norm(graph, x, ones, zeros, groups, context.config.norm_eps, false)?;
        let shifted = ops::scale_shift(graph, normed, time)?;
        context.config.activation().build(graph, shifted)
    })
}

/// Residual block number `index` of x (diffusers' `ResnetBlockCondNorm2D`).
fn append_residual(
    graph: &mut Graph,
    context: Context<'_>,
    x: ValueId,
    [out_channels, out_groups]: [usize; 2],
    index: usize,
) -> Result<ValueId, GraphError> {
    graph.segment(|graph| {
        graph.scoped(format!("resnets.{index}"), |graph| {
            let channels = graph.ty(x).channels();
            let short = match channels == out_channels {
                true => x,
                false => {
                    Conv { has_bias: false, ..Conv::one(out_channels) }.build(graph, "conv_shortcut", x)?
                }
            };
            let h = adaptive_norm(graph, context, "norm1", x, channels / GROUP_CHANNELS)?;
            let h = Conv::three(out_channels).build(graph, "conv1", h)?;
            let h = adaptive_norm(graph, context, "norm2", h, out_groups)?;
            let h = context.dropout(graph, h)?;
            let conv2 = Conv { init: WeightInit::NearZero, ..Conv::three(out_channels) };
            let h = conv2.build(graph, "conv2", h)?;
            ops::add(graph, short, h)
        })
    })
}

/// Residual blocks, and the halved image, which no up block takes.
pub(super) fn down_block(
    graph: &mut Graph,
    context: Context<'_>,
    level: Level,
    flow: &mut Flow,
) -> Result<(), GraphError> {
    for index in 0..context.config.layers_per_block {
        let out = [level.channels, level.channels / GROUP_CHANNELS];
        flow.x = append_residual(graph, context, flow.x, out, index)?;
        flow.skips.push(flow.x);
    }
    if level.resamples {
        flow.x = graph.scoped("downsamplers.0", |graph| ops::fir_downsample(graph, flow.x, Edges::Mirror))?;
    }
    Ok(())
}

/// As many residual blocks as on the way down; the first takes over the last result of the level, and the last has the
/// channels of the next level.
pub(super) fn up_block(
    graph: &mut Graph,
    context: Context<'_>,
    level: Level,
    flow: &mut Flow,
) -> Result<(), GraphError> {
    let layers = context.config.layers_per_block;
    let mut taken = flow.skips.split_off(flow.skips.len().saturating_sub(layers));
    if let Some(last) = taken.pop() {
        flow.x = ops::concat(graph, flow.x, last)?;
    }
    for index in 0..layers {
        let channels = if index + 1 == layers { level.next_channels } else { level.channels };
        let out = [channels, level.channels / GROUP_CHANNELS];
        flow.x = append_residual(graph, context, flow.x, out, index)?;
    }
    if level.resamples {
        flow.x = graph.scoped("upsamplers.0", |graph| ops::fir_upsample(graph, flow.x, Edges::Mirror))?;
    }
    Ok(())
}
