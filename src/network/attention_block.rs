//! Self-attention over the pixels of an image (diffusers' `Attention` with a residual connection).

use super::layers::{WeightInit, divided_sum, group_norm, projection};
use crate::graph::{Graph, GraphError, ValueId};
use crate::ops;

/// The form of an attention block.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttentionBlock {
    /// Channels of a head, of which as many are taken as fit those of x.
    pub(super) head_dim: usize,
    /// Groups of the group norm; `None` for no norm.
    pub(super) groups: Option<usize>,
    /// Added to the variance in the group norm.
    pub(super) eps: f32,
    /// What the sum is divided by (diffusers' `rescale_output_factor`).
    pub(super) divisor: f32,
}

impl AttentionBlock {
    /// `(x + to_out(attention(to_q(h), to_k(h), to_v(h)))) / divisor`, h = norm(x), for x `[N, H, W, C]`.
    pub(super) fn build(self, graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
        let Self { head_dim, groups, eps, divisor } = self;
        let channels = graph.ty(x).channels();
        let heads = channels / head_dim;
        let inner = heads * head_dim;
        let h = match groups {
            Some(groups) => group_norm(graph, "group_norm", x, groups, eps, false)?,
            None => x,
        };
        let q = projection(graph, ["to_q", "query"], h, inner, WeightInit::FanAverage)?;
        let k = projection(graph, ["to_k", "key"], h, inner, WeightInit::FanAverage)?;
        let v = projection(graph, ["to_v", "value"], h, inner, WeightInit::FanAverage)?;
        let attended = ops::attention(graph, q, k, v, heads)?;
        let out = projection(graph, ["to_out.0", "proj_attn"], attended, channels, WeightInit::NearZero)?;
        divided_sum(graph, x, out, divisor)
    }
}
