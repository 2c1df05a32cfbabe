//! The embedding of timesteps, and of what is told of the class.

use super::UNetConfig;
use crate::graph::{Graph, GraphError, Init, ValueId};
use crate::network::layers::{WeightInit, linear};
use crate::network::{CLASS_LABELS, ModelError, NamedValues, TIMESTEPS};
use crate::ops;

/// How timesteps become vectors: `time_embedding_type` in config.json.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeEmbedding {
    /// Sines and cosines of them at fixed frequencies.
    Positional,
    /// Sines and cosines of their logarithms at random frequencies, which are never trained; they are noise levels.
    Fourier,
    /// A row of a trained table for each of `timesteps`.
    Learned {
        /// Rows of the table.
        timesteps: usize,
    },
}

/// How the class is told: `class_embed_type` and `num_class_embeds` in config.json.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClassEmbedding {
    /// A row of a trained table for each class.
    Table {
        /// Rows of the table.
        classes: usize,
    },
    /// As timesteps: a number.
    Timestep,
    /// A vector that is added as it is.
    Identity,
}

/// Random frequencies have this standard deviation, as diffusers' `scale`.
const FOURIER_SCALE: f32 = 16.0;

/// What makes a vector of a number.
enum Projection {
    Sinusoids,
    /// Sines and cosines at these frequencies, `[channels]`.
    Fourier(ValueId),
    /// Rows of this table, `[timesteps, channels]`.
    Rows(ValueId),
}

impl Projection {
    fn new(graph: &mut Graph, config: &UNetConfig) -> Result<Self, ModelError> {
        let channels = config.block_out_channels[0];
        let kind = config.time_embedding()?;
        Ok(graph.scoped("time_proj", |graph| match kind {
            TimeEmbedding::Positional => Self::Sinusoids,
            TimeEmbedding::Fourier => {
                let init = Init::Normal { std: FOURIER_SCALE };
                Self::Fourier(graph.fixed_parameter("weight", [channels], init))
            }
            TimeEmbedding::Learned { timesteps } => {
                let init = Init::Normal { std: 1.0 };
                Self::Rows(graph.parameter("weight", [timesteps, channels], init))
            }
        }))
    }

    /// A vector of each of `numbers` `[N]`: `[N, width]`.
    fn of(&self, graph: &mut Graph, config: &UNetConfig, numbers: ValueId) -> Result<ValueId, GraphError> {
        let UNetConfig { flip_sin_to_cos, freq_shift, ref block_out_channels, .. } = *config;
        graph.scoped("time_proj", |graph| match *self {
            Self::Sinusoids => {
                ops::timestep_embedding(graph, numbers, block_out_channels[0], flip_sin_to_cos, freq_shift)
            }
            Self::Fourier(frequencies) => ops::fourier_embedding(graph, numbers, frequencies),
            Self::Rows(table) => {
                let rows = ops::to_whole(graph, numbers)?;
                ops::embedding(graph, table, rows)
            }
        })
    }
}

/// Two layers with SiLU between them (diffusers' `TimestepEmbedding`).
fn embed(graph: &mut Graph, name: &str, x: ValueId, width: usize) -> Result<ValueId, GraphError> {
    graph.scoped(name, |graph| {
        let hidden = linear(graph, "linear_1", x, width, WeightInit::FanAverage)?;
        let hidden = ops::silu(graph, hidden)?;
        linear(graph, "linear_2", hidden, width, WeightInit::FanAverage)
    })
}

/// The embedding `[N, time_embed_dim]` of timesteps and, for a conditional model, of what it is told of the class; and
/// its non-linearity, which most residual blocks apply to it first, so that it is done once here.
pub(super) fn time_embedding(
    graph: &mut Graph,
    config: &UNetConfig,
    inputs: &NamedValues,
) -> Result<[ValueId; 2], ModelError> {
    let width = config.time_embed_dim();
    let projection = Projection::new(graph, config)?;
    let mut timesteps = inputs.get(TIMESTEPS)?;
    if config.timestep_scale != 1.0 {
        timesteps = graph
            .scoped("time_proj", |graph| ops::affine(graph, timesteps, config.timestep_scale as f32, 0.0))?;
    }
    let projected = projection.of(graph, config, timesteps)?;
    let mut embedding = embed(graph, "time_embedding", projected, width)?;
    if let Some(class) = config.class_embedding()? {
        let labels = inputs.get(CLASS_LABELS)?;
        let class = match class {
            ClassEmbedding::Table { classes } => graph.scoped("class_embedding", |graph| {
                let table = graph.parameter("weight", [classes, width], Init::Normal { std: 1.0 });
                ops::embedding(graph, table, labels)
            })?,
            ClassEmbedding::Timestep => {
                let projected = projection.of(graph, config, labels)?;
                embed(graph, "class_embedding", projected, width)?
            }
            ClassEmbedding::Identity => labels,
        };
        embedding = graph.scoped("class_embedding", |graph| ops::add(graph, embedding, class))?;
    }
    let activated = graph.scoped("time_embedding", |graph| config.activation().build(graph, embedding))?;
    Ok([embedding, activated])
}
