//! diffusers' `UNet2DModel`, top to bottom.

mod activation;
mod blocks;
mod check;
mod config;
mod limits;
mod presets;
mod resnet_block;
mod time_embedding;

pub use config::UNetConfig;
pub use presets::{PRESETS, Preset};

use self::blocks::{DOWN_BLOCKS, Flow, Level, UP_BLOCKS, block_type, mid_block};
use self::resnet_block::Context;
use self::time_embedding::{ClassEmbedding, TimeEmbedding, time_embedding};
use super::layers::{Conv, WeightInit, group_norm};
use super::{
    CLASS_LABELS, CONDITION_IMAGE, Element, Input, ModelError, NamedValues, Network, SAMPLE, SuperResolution,
    TIMESTEPS,
};
use crate::graph::{Graph, ValueId};
use crate::ops;

/// The first half of the network: what the up blocks take, and what residual blocks share.
pub(super) struct Encoded<'a> {
    flow: Flow,
    context: Context<'a>,
}

impl Encoded<'_> {
    /// What leaves the mid block, `[N, h, w, channels]`.
    pub(super) fn features(&self) -> ValueId {
        self.flow.x
    }
}

/// Appends the down blocks and the mid block of a configuration that has been checked.
pub(super) fn encode<'a>(
    graph: &mut Graph,
    config: &'a UNetConfig,
    inputs: &NamedValues,
    dropout: Option<ValueId>,
) -> Result<Encoded<'a>, ModelError> {
    let [plain_embedding, embedding] = time_embedding(graph, config, inputs)?;
    let context = Context { config, embedding, plain_embedding, key_step_sample: dropout };
    let mut image = inputs.get(SAMPLE)?;
    if config.channels_of_condition() > 0 {
        image = ops::concat(graph, image, inputs.get(CONDITION_IMAGE)?)?;
    }
    if config.center_input_sample {
        // from 0..1 to -1..1
        image = ops::affine(graph, image, 2.0, -1.0)?;
    }
    let x = Conv::three(config.block_out_channels[0]).build(graph, "conv_in", image)?;
    let mut flow = Flow { x, skips: vec![x], image, output: None };
    for (index, name) in config.down_block_types.iter().enumerate() {
        let block = block_type(DOWN_BLOCKS, "down_block_types", name)?;
        let channels = config.block_out_channels[index];
        let resamples = index + 1 < config.levels();
        let level = Level { channels, next_channels: channels, attends: block.attends, resamples };
        graph.scoped(format!("down_blocks.{index}"), |graph| {
            (block.build)(graph, context, level, &mut flow)
        })?;
    }
    if config.mid_block_type.is_some() {
        flow.x = graph.scoped("mid_block", |graph| mid_block(graph, context, flow.x))?;
    }
    Ok(Encoded { flow, context })
}

impl Network for UNetConfig {
    fn class_name(&self) -> &'static str {
        Self::CLASS
    }

    fn to_json(&self) -> Result<String, ModelError> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    fn check(&self) -> Result<(), ModelError> {
        UNetConfig::check(self)
    }

    fn inputs(&self) -> Result<Vec<Input>, ModelError> {
        let [height, width] = self.image_size()?;
        let mut inputs = vec![
            Input {
                name: SAMPLE,
                shape: vec![height, width, self.image_channels()],
                element: Element::Activation,
            },
            Input { name: TIMESTEPS, shape: Vec::new(), element: Element::Float },
        ];
        let class = self.class_embedding()?.map(|class| match class {
            ClassEmbedding::Table { classes } => {
                (Vec::new(), Element::Class { count: classes, none: self.null_class() })
            }
            ClassEmbedding::Timestep => (Vec::new(), Element::Float),
            ClassEmbedding::Identity => (vec![self.time_embed_dim()], Element::Float),
        });
        inputs.extend(class.map(|(shape, element)| Input { name: CLASS_LABELS, shape, element }));
        let condition = vec![height, width, self.channels_of_condition()];
        inputs.extend((condition[2] > 0).then_some(Input {
            name: CONDITION_IMAGE,
            shape: condition,
            element: Element::Activation,
        }));
        Ok(inputs)
    }

    fn outputs(&self) -> Result<Vec<(&'static str, Vec<usize>)>, ModelError> {
        let [height, width] = self.image_size()?;
        Ok(vec![(SAMPLE, vec![height, width, self.out_channels])])
    }

    fn build(
        &self,
        graph: &mut Graph,
        inputs: &NamedValues,
        dropout: Option<ValueId>,
    ) -> Result<NamedValues, ModelError> {
        UNetConfig::check(self)?;
        self.append(graph, inputs, dropout)
    }

    fn check_timesteps(&self, least: f64, most: f64) -> Result<(), String> {
        match self.time_embedding() {
            Ok(TimeEmbedding::Fourier) if least <= 0.0 => Err(format!(
                "the model's time_embedding_type is fourier, so that its timesteps are noise levels above 0; here they \
                 begin at {least}"
            )),
            Ok(TimeEmbedding::Learned { timesteps }) if least < 0.0 || most > timesteps as f64 - 1.0 => {
                Err(format!(
                    "the model has learned timesteps 0 to {} (num_train_timesteps); here they go from {least} to {most}",
                    timesteps - 1
                ))
            }
            // A configuration that cannot be built is refused where it is built.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn super_resolution(&self) -> Option<SuperResolution> {
        self.super_resolution
    }
}

impl UNetConfig {
    /// As [`Network::build`], of a configuration that has been checked.
    fn append(
        &self,
        graph: &mut Graph,
        inputs: &NamedValues,
        dropout: Option<ValueId>,
    ) -> Result<NamedValues, ModelError> {
        let Encoded { mut flow, context } = encode(graph, self, inputs, dropout)?;
        let levels = self.levels();
        for (index, name) in self.up_block_types.iter().enumerate() {
            let block = block_type(UP_BLOCKS, "up_block_types", name)?;
            let channels = self.block_out_channels[levels - 1 - index];
            let next_channels = self.block_out_channels[levels.saturating_sub(2 + index)];
            let level =
                Level { channels, next_channels, attends: block.attends, resamples: index + 1 < levels };
            graph.scoped(format!("up_blocks.{index}"), |graph| {
                (block.build)(graph, context, level, &mut flow)
            })?;
        }
        let mut x = group_norm(graph, "conv_norm_out", flow.x, self.groups(), self.norm_eps, true)?;
        let conv_out = Conv { init: WeightInit::NearZero, ..Conv::three(self.out_channels) };
        x = conv_out.build(graph, "conv_out", x)?;
        if let Some(output) = flow.output {
            x = ops::add(graph, x, output)?;
        }
        if self.time_embedding()? == TimeEmbedding::Fourier {
            // Noise levels: the network's own output is of the size of the noise's derivative (Song et al. 2021).
            x = ops::divide(graph, x, inputs.get(TIMESTEPS)?)?;
        }
        Ok(NamedValues::default().with(SAMPLE, x))
    }
}
