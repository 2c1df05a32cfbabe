//! The U-Net, top to bottom.

use super::blocks::{Level, down_block, mid_block, up_block};
use super::layers::{Conv, WeightInit, group_norm, linear};
use super::limits::check_parameters;
use super::resnet_block::Context;
use super::time_embedding::time_embedding;
use super::weights::check_tensors;
use super::{ModelError, Tensors, UNetConfig, WeightsError};
use crate::graph::{Graph, TensorType, ValueId};
use crate::ops;

/// What the network is applied to.
#[derive(Clone, Copy, Debug)]
pub struct UNetInputs {
    /// Noised images `[N, H, W, C]`, f32 or f16.
    pub sample: ValueId,
    /// Timesteps `[N]`, floats.
    pub timesteps: ValueId,
    /// Classes `[N]`, integers; for conditional models.
    pub class_labels: Option<ValueId>,
    /// The generator's key, for dropout while training; `None` leaves dropout out.
    pub key_step_sample: Option<ValueId>,
}

/// The first half of the network: what leaves the mid block, what the up blocks take, and what residual blocks share.
struct Encoded<'a> {
    x: ValueId,
    skips: Vec<ValueId>,
    context: Context<'a>,
}

/// What [`classifier`] says of images.
#[derive(Clone, Copy, Debug)]
pub struct ClassifierOutputs {
    /// The mean over pixels of what enters the last layer `[N, channels]`.
    pub features: ValueId,
    /// `[N, classes]`
    pub logits: ValueId,
}

fn level(config: &UNetConfig, index: usize, kind: &str, resamples: bool) -> Level {
    Level { channels: config.block_out_channels[index], has_attention: kind.starts_with("Attn"), resamples }
}

fn encode<'a>(
    graph: &mut Graph,
    config: &'a UNetConfig,
    inputs: UNetInputs,
) -> Result<Encoded<'a>, ModelError> {
    config.check()?;
    let embedding = time_embedding(graph, config, inputs.timesteps, inputs.class_labels)?;
    let context = Context { config, embedding, key_step_sample: inputs.key_step_sample };
    let mut x = Conv::three(config.block_out_channels[0]).build(graph, "conv_in", inputs.sample)?;
    let mut skips = vec![x];
    for (index, kind) in config.down_block_types.iter().enumerate() {
        let level = level(config, index, kind, index + 1 < config.levels());
        x = graph.scoped(format!("down_blocks.{index}"), |graph| {
            down_block(graph, context, x, level, &mut skips)
        })?;
    }
    x = graph.scoped("mid_block", |graph| mid_block(graph, context, x))?;
    Ok(Encoded { x, skips, context })
}

/// Appends the network that `config` describes and returns its output `[N, H, W, out_channels]`.
///
/// Parameters are declared under diffusers' tensor names. Activations, the output too, have the element type of
/// `inputs.sample`; the time embedding, one row per image, is always f32.
///
/// # Errors
/// [`ModelError`] for a configuration that this engine does not have.
pub fn unet(graph: &mut Graph, config: &UNetConfig, inputs: UNetInputs) -> Result<ValueId, ModelError> {
    let Encoded { mut x, mut skips, context } = encode(graph, config, inputs)?;
    let levels = config.levels();
    for (index, kind) in config.up_block_types.iter().enumerate() {
        let level = level(config, levels - 1 - index, kind, index + 1 < levels);
        x = graph
            .scoped(format!("up_blocks.{index}"), |graph| up_block(graph, context, x, level, &mut skips))?;
    }
    x = group_norm(graph, "conv_norm_out", x, config.groups(), config.norm_eps, true)?;
    let conv_out = Conv { init: WeightInit::NearZero, ..Conv::three(config.out_channels) };
    let output = conv_out.build(graph, "conv_out", x)?;
    check_parameters(graph)?;
    Ok(output)
}

/// Appends the network's encoder (down blocks and mid block) with a head that classifies.
///
/// The head is group norm, SiLU, the mean over pixels and a linear layer that starts as zero (Dhariwal and Nichol 2021; their
/// code's `EncoderUNetModel` with pool "adaptive"). Its outputs have the element type of `inputs.sample`.
///
/// # Errors
/// [`ModelError`] for a configuration that this engine does not have.
pub fn classifier(
    graph: &mut Graph,
    config: &UNetConfig,
    classes: usize,
    inputs: UNetInputs,
) -> Result<ClassifierOutputs, ModelError> {
    let Encoded { x, .. } = encode(graph, config, inputs)?;
    let x = group_norm(graph, "conv_norm_out", x, config.groups(), config.norm_eps, true)?;
    let features = graph.scoped("pool", |graph| ops::average_pool(graph, x))?;
    let logits = linear(graph, "classifier", features, classes, WeightInit::NearZero)?;
    check_parameters(graph)?;
    Ok(ClassifierOutputs { features, logits })
}

/// An empty graph with the inputs of a network for one image.
fn inputs_of_one(config: &UNetConfig) -> Result<(Graph, UNetInputs), ModelError> {
    let mut graph = Graph::new();
    let [height, width] = config.image_size()?;
    let inputs = UNetInputs {
        sample: graph.input("sample", TensorType::f32([1, height, width, config.in_channels])),
        timesteps: graph.input("timesteps", TensorType::f32([1])),
        class_labels: config.num_class_embeds.map(|_| graph.input("class_labels", TensorType::u32([1]))),
        key_step_sample: None,
    };
    Ok((graph, inputs))
}

impl UNetConfig {
    /// The number of parameters of the network; nothing is allocated.
    ///
    /// # Errors
    /// [`ModelError`] for a configuration that this engine does not have.
    pub fn count_parameters(&self) -> Result<u64, ModelError> {
        self.check()?;
        let (mut graph, inputs) = inputs_of_one(self)?;
        unet(&mut graph, self, inputs)?;
        check_parameters(&graph)
    }
}

/// Tensors that are not those of a network.
#[derive(Debug)]
pub struct Misfit {
    /// The first that does not fit.
    pub source: WeightsError,
    /// The number of parameters that the network has.
    pub parameters: u64,
}

fn check_fit(graph: &Graph, tensors: &Tensors) -> Result<Result<(), Misfit>, ModelError> {
    let parameters = check_parameters(graph)?;
    Ok(check_tensors(graph, tensors).map_err(|source| Misfit { source, parameters }))
}

/// Whether `tensors` are exactly those of the network that `config` describes; nothing is allocated.
///
/// # Errors
/// [`ModelError`] for a configuration that this engine does not have; [`Misfit`] inside.
pub fn check_unet(config: &UNetConfig, tensors: &Tensors) -> Result<Result<(), Misfit>, ModelError> {
    config.check()?;
    let (mut graph, inputs) = inputs_of_one(config)?;
    unet(&mut graph, config, inputs)?;
    check_fit(&graph, tensors)
}

/// As [`check_unet`], for a [`classifier`].
///
/// # Errors
/// As [`check_unet`].
pub fn check_classifier(
    config: &UNetConfig,
    classes: usize,
    tensors: &Tensors,
) -> Result<Result<(), Misfit>, ModelError> {
    config.check()?;
    let (mut graph, inputs) = inputs_of_one(config)?;
    // A classifier is not told the class.
    classifier(&mut graph, config, classes, UNetInputs { class_labels: None, ..inputs })?;
    check_fit(&graph, tensors)
}
