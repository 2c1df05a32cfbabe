//! The blocks of Song et al. 2021 ("Score-based generative modeling through SDEs", NCSN++): beside the features goes
//! the image itself, resampled with a filter. diffusers calls them Skip blocks.

use std::f32::consts::SQRT_2;

use super::{Flow, Level, append_attention, append_residual, attention};
use crate::graph::{Graph, GraphError, ValueId};
use crate::network::attention_block::AttentionBlock;
use crate::network::layers::{Conv, WeightInit, group_norm};
use crate::network::unet2d::UNetConfig;
use crate::network::unet2d::resnet_block::{Context, Resample, Residual};
use crate::ops::{self, Edges};

/// Channels of the image: diffusers has no other number.
pub(in crate::network::unet2d) const CHANNELS: usize = 3;

/// Groups of attention norms: diffusers has no other number.
const ATTENTION_GROUPS: usize = 32;

fn halve(graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    ops::fir_downsample(graph, x, Edges::Zero)
}

fn double(graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    ops::fir_upsample(graph, x, Edges::Zero)
}

/// Groups of a norm over so many channels.
fn groups(channels: usize) -> usize {
    (channels / 4).min(32)
}

/// A residual block whose first norm has so many groups.
fn residual(first_groups: usize, out_channels: usize) -> Residual {
    Residual {
        out_channels,
        groups: [first_groups, groups(out_channels)],
        divisor: SQRT_2,
        resample: None,
        has_shortcut: false,
    }
}

/// The residual block that ends a level.
fn resampling(channels: usize, resample: Resample) -> Residual {
    Residual { resample: Some(resample), has_shortcut: true, ..residual(groups(channels), channels) }
}

fn scaled_attention(config: &UNetConfig, channels: usize) -> AttentionBlock {
    AttentionBlock { groups: Some(ATTENTION_GROUPS), divisor: SQRT_2, ..attention(config, channels) }
}

/// Residual blocks, with attention or without; then the halved features and a 1x1 convolution of the halved image.
pub(super) fn down_block(
    graph: &mut Graph,
    context: Context<'_>,
    level: Level,
    flow: &mut Flow,
) -> Result<(), GraphError> {
    for index in 0..context.config.layers_per_block {
        let residual = residual(groups(graph.ty(flow.x).channels()), level.channels);
        flow.x = append_residual(graph, context, flow.x, None, residual, format!("resnets.{index}"))?;
        if level.attends {
            flow.x =
                append_attention(graph, flow.x, scaled_attention(context.config, level.channels), index)?;
        }
        flow.skips.push(flow.x);
    }
    if level.resamples {
        let residual = resampling(level.channels, halve);
        let h = append_residual(graph, context, flow.x, None, residual, "resnet_down")?;
        let image = graph.scoped("downsamplers.0", |graph| halve(graph, flow.image))?;
        let of_image = Conv::one(level.channels).build(graph, "skip_conv", image)?;
        flow.x = ops::add(graph, of_image, h)?;
        flow.skips.push(flow.x);
        flow.image = image;
    }
    Ok(())
}

/// The number of groups of the first norm of an up block's residual block, from the channels of x and of what it takes
/// over.
type FirstGroups = fn(usize, usize) -> usize;

/// Residual blocks; then the doubled features, and beside them the doubled image plus what these features say of it.
fn up(
    graph: &mut Graph,
    context: Context<'_>,
    level: Level,
    flow: &mut Flow,
    first_groups: FirstGroups,
) -> Result<(), GraphError> {
    for index in 0..=context.config.layers_per_block {
        let skip = flow.skips.pop();
        let [own, other] = [Some(flow.x), skip].map(|of| of.map_or(0, |of| graph.ty(of).channels()));
        let residual = residual(first_groups(own, other), level.channels);
        flow.x = append_residual(graph, context, flow.x, skip, residual, format!("resnets.{index}"))?;
    }
    if level.attends {
        flow.x = append_attention(graph, flow.x, scaled_attention(context.config, level.channels), 0)?;
    }
    if let Some(output) = flow.output {
        flow.output = Some(graph.scoped("upsampler", |graph| double(graph, output))?);
    }
    if level.resamples {
        let of_features = image_of(graph, context, level, flow.x)?;
        flow.output = Some(match flow.output {
            Some(output) => ops::add(graph, output, of_features)?,
            None => of_features,
        });
        let residual = resampling(level.channels, double);
        flow.x = append_residual(graph, context, flow.x, None, residual, "resnet_up")?;
    }
    Ok(())
}

/// What the features say of the image: a norm, SiLU and a convolution, `[N, h, w, 3]`.
fn image_of(
    graph: &mut Graph,
    context: Context<'_>,
    level: Level,
    x: ValueId,
) -> Result<ValueId, GraphError> {
    let normed = group_norm(graph, "skip_norm", x, groups(level.channels), context.config.norm_eps, true)?;
    let conv = Conv { init: WeightInit::NearZero, ..Conv::three(CHANNELS) };
    conv.build(graph, "skip_conv", normed)
}

pub(super) fn up_block(
    graph: &mut Graph,
    context: Context<'_>,
    level: Level,
    flow: &mut Flow,
) -> Result<(), GraphError> {
    up(graph, context, level, flow, |own, other| groups(own + other))
}

/// As [`up_block`], with attention once. diffusers counts the groups of its norms otherwise: `own + other // 4`.
pub(super) fn attention_up_block(
    graph: &mut Graph,
    context: Context<'_>,
    level: Level,
    flow: &mut Flow,
) -> Result<(), GraphError> {
    up(graph, context, level, flow, |own, other| (own + other / 4).min(32))
}
