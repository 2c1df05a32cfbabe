//! The residual block (diffusers' `ResnetBlock2D`).

use super::UNetConfig;
use crate::graph::{Graph, GraphError, ValueId};
use crate::network::layers::{Conv, WeightInit, group_norm, linear};
use crate::ops;

/// What all residual blocks of a network share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) config: &'a UNetConfig,
    /// SiLU of the time embedding, `[N, time_embed_dim]`.
    pub(super) embedding: ValueId,
    /// The generator's key, for dropout; `None` leaves dropout out.
    pub(super) key_step_sample: Option<ValueId>,
}

/// `x + conv2(silu(norm2(conv1(silu(norm1(x))) + time)))` for x `[N, H, W, I]`, with a 1x1 convolution of x where the
/// channels change.
pub(super) fn resnet_block(
    graph: &mut Graph,
    context: Context<'_>,
    x: ValueId,
    out_channels: usize,
) -> Result<ValueId, GraphError> {
    let Context { config, embedding, key_step_sample } = context;
    let (groups, eps) = (config.groups(), config.norm_eps);
    // First, so that its gradient comes last: that of x, which has the more channels, is then not alive meanwhile.
    let shortcut = if graph.ty(x).channels() == out_channels {
        x
    } else {
        Conv::one(out_channels).build(graph, "conv_shortcut", x)?
    };
    let h = group_norm(graph, "norm1", x, groups, eps, true)?;
    let mut h = Conv::three(out_channels).build(graph, "conv1", h)?;
    let init = WeightInit::FanAverage;
    if config.scale_shift() {
        let time = linear(graph, "time_emb_proj", embedding, 2 * out_channels, init)?;
        let normed = group_norm(graph, "norm2", h, groups, eps, false)?;
        h = graph.scoped("norm2", |graph| {
            let shifted = ops::scale_shift(graph, normed, time)?;
            ops::silu(graph, shifted)
        })?;
    } else {
        let time = linear(graph, "time_emb_proj", embedding, out_channels, init)?;
        h = graph.scoped("time_emb_proj", |graph| ops::add(graph, h, time))?;
        h = group_norm(graph, "norm2", h, groups, eps, true)?;
    }
    if let (Some(key), true) = (key_step_sample, config.dropout > 0.0) {
        h = graph.scoped("dropout", |graph| ops::dropout(graph, h, key, config.dropout))?;
    }
    let h = Conv { init: WeightInit::NearZero, ..Conv::three(out_channels) }.build(graph, "conv2", h)?;
    ops::add(graph, shortcut, h)
}
