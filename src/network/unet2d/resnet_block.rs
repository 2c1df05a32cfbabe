//! The residual block (diffusers' `ResnetBlock2D`).

use super::UNetConfig;
use super::activation::Activation;
use crate::graph::{Graph, GraphError, ValueId};
use crate::network::layers::{Conv, WeightInit, divided_sum, group_norm, linear};
use crate::ops;

/// What all residual blocks of a network share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) config: &'a UNetConfig,
    /// The non-linearity of the time embedding, `[N, time_embed_dim]`.
    pub(super) embedding: ValueId,
    /// The time embedding itself, likewise.
    pub(super) plain_embedding: ValueId,
    /// The generator's key, for dropout; `None` leaves dropout out.
    pub(super) key_step_sample: Option<ValueId>,
}

impl Context<'_> {
    /// Drops some of h, while training.
    pub(super) fn dropout(self, graph: &mut Graph, h: ValueId) -> Result<ValueId, GraphError> {
        match (self.key_step_sample, self.config.dropout) {
            (Some(key), p @ 0.0..) if p > 0.0 => {
                graph.scoped("dropout", |graph| ops::dropout(graph, h, key, p))
            }
            _ => Ok(h),
        }
    }
}

/// Halves or doubles the height and width of images.
pub(super) type Resample = fn(&mut Graph, ValueId) -> Result<ValueId, GraphError>;

/// The form of a residual block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Residual {
    pub(super) out_channels: usize,
    /// Groups of the first and the second group norm.
    pub(super) groups: [usize; 2],
    /// What the sum of both branches is divided by.
    pub(super) divisor: f32,
    /// What both branches are resampled by.
    pub(super) resample: Option<Resample>,
    /// Whether the short branch has a 1x1 convolution also where channels stay the same.
    pub(super) has_shortcut: bool,
}

impl Residual {
    /// `(shortcut(r(x)) + conv2(act(norm2(conv1(r(act(norm1(x)))) + time)))) / divisor` for x `[N, H, W, I]`, where r
    /// resamples and the shortcut is a 1x1 convolution where the channels change.
    pub(super) fn build(
        self,
        graph: &mut Graph,
        context: Context<'_>,
        x: ValueId,
    ) -> Result<ValueId, GraphError> {
        let Context { config, embedding, .. } = context;
        let Self { out_channels, groups, divisor, resample, has_shortcut } = self;
        let eps = config.norm_eps;
        let act = config.activation();
        // First, so that its gradient comes last: that of x, which has the more channels, is then not alive meanwhile.
        let mut shortcut = resample.map_or(Ok(x), |resample| resample(graph, x))?;
        if has_shortcut || graph.ty(x).channels() != out_channels {
            shortcut = Conv::one(out_channels).build(graph, "conv_shortcut", shortcut)?;
        }
        let mut h = act.after_group_norm(graph, "norm1", x, groups[0], eps)?;
        if let Some(resample) = resample {
            h = resample(graph, h)?;
        }
        h = Conv::three(out_channels).build(graph, "conv1", h)?;
        h = add_time(graph, config, embedding, h, groups[1], act)?;
        h = context.dropout(graph, h)?;
        let conv2 = Conv { init: WeightInit::NearZero, ..Conv::three(out_channels) };
        let h = conv2.build(graph, "conv2", h)?;
        divided_sum(graph, shortcut, h, divisor)
    }
}

/// `act(norm2(h + time))`; or, where the configuration says so, `act(norm2(h) (1 + scale) + shift)`.
fn add_time(
    graph: &mut Graph,
    config: &UNetConfig,
    embedding: ValueId,
    h: ValueId,
    groups: usize,
    act: Activation,
) -> Result<ValueId, GraphError> {
    let (channels, init, eps) = (graph.ty(h).channels(), WeightInit::FanAverage, config.norm_eps);
    if config.scale_shift() {
        let time = linear(graph, "time_emb_proj", embedding, 2 * channels, init)?;
        let normed = group_norm(graph, "norm2", h, groups, eps, false)?;
        return graph.scoped("norm2", |graph| {
            let shifted = ops::scale_shift(graph, normed, time)?;
            act.build(graph, shifted)
        });
    }
    let time = linear(graph, "time_emb_proj", embedding, channels, init)?;
    let h = graph.scoped("time_emb_proj", |graph| ops::add(graph, h, time))?;
    act.after_group_norm(graph, "norm2", h, groups, eps)
}
