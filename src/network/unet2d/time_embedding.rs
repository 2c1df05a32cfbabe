//! The embedding of timesteps, and of classes.

use super::UNetConfig;
use crate::graph::{Graph, GraphError, Init, ValueId};
use crate::network::layers::{WeightInit, linear};
use crate::ops;

/// SiLU of the embedding `[N, time_embed_dim]` of `timesteps` `[N]` and, for a conditional model, of `class_labels`
/// `[N]`.
///
/// Every residual block applies SiLU to the embedding first, so it is done once here.
pub(super) fn time_embedding(
    graph: &mut Graph,
    config: &UNetConfig,
    timesteps: ValueId,
    class_labels: Option<ValueId>,
) -> Result<ValueId, GraphError> {
    let (channels, width) = (config.block_out_channels[0], config.time_embed_dim());
    let sinusoids = graph.scoped("time_proj", |graph| {
        ops::timestep_embedding(graph, timesteps, channels, config.flip_sin_to_cos, config.freq_shift)
    })?;
    let mut embedding = graph.scoped("time_embedding", |graph| {
        let hidden = linear(graph, "linear_1", sinusoids, width, WeightInit::FanAverage)?;
        let hidden = ops::silu(graph, hidden)?;
        linear(graph, "linear_2", hidden, width, WeightInit::FanAverage)
    })?;
    if let (Some(labels), Some(classes)) = (class_labels, config.num_class_embeds) {
        embedding = graph.scoped("class_embedding", |graph| {
            let table = graph.parameter("weight", [classes, width], Init::Normal { std: 1.0 });
            let class = ops::embedding(graph, table, labels)?;
            ops::add(graph, embedding, class)
        })?;
    }
    graph.scoped("time_embedding", |graph| ops::silu(graph, embedding))
}
