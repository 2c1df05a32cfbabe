//! Self-attention over the pixels of an image (diffusers' `Attention` with a residual connection).

use super::layers::{WeightInit, group_norm, projection};
use crate::graph::{Graph, GraphError, ValueId};
use crate::ops;

/// `x + to_out(attention(to_q(h), to_k(h), to_v(h)))`, h = norm(x), for x `[N, H, W, C]`.
///
/// `head_dim` is the size of a head, of which as many are taken as fit C. `groups` is `None` for no norm.
pub(super) fn attention_block(
    graph: &mut Graph,
    x: ValueId,
    head_dim: usize,
    groups: Option<usize>,
    eps: f32,
) -> Result<ValueId, GraphError> {
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
    ops::add(graph, x, out)
}
