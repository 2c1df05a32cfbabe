//! What the names and shapes of the tensors tell of a model.

use super::Refusal;
use super::settings::ImportSettings;
use crate::checkpoint::weights_file::listed;
use crate::network::Tensors;
use crate::setting::SettingError;

/// The form of a `UNetModel`, or of the `EncoderUNetModel` that guided-diffusion's classifiers are.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Form {
    /// Channels of the sinusoids of timesteps.
    pub(super) num_channels: usize,
    pub(super) in_channels: usize,
    /// Channels of the output, or classes that a classifier tells.
    pub(super) outputs: usize,
    /// Channels of each level.
    pub(super) channels: Vec<usize>,
    /// Whether each level has attention.
    pub(super) attends: Vec<bool>,
    pub(super) num_res_blocks: usize,
    pub(super) scale_shift: bool,
    pub(super) resblock_updown: bool,
    /// Classes that the model is told.
    pub(super) classes: Option<usize>,
    head: Head,
}

/// Most levels of a model: an image of 65,536 pixels is halved so often.
const MOST_LEVELS: usize = 16;

/// How a model ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Head {
    /// On the way up, with a convolution.
    Images,
    /// With the mean over pixels and a linear layer: pool "adaptive".
    Classes,
}

/// The shapes of the tensors of a file.
struct Shapes<'a>(&'a Tensors);

impl Shapes<'_> {
    fn get(&self, name: &str) -> Option<&[usize]> {
        self.0.get(name).map(|tensor| tensor.shape.as_slice())
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The sizes of a tensor of `N` axes.
    fn of<const N: usize>(&self, name: &str) -> Result<[usize; N], String> {
        let found = self.get(name).ok_or_else(|| {
            format!(
                "there is no tensor {name}, which the UNetModel of improved-diffusion and guided-diffusion has; {}",
                self.there_is()
            )
        })?;
        found.try_into().map_err(|_| format!("the tensor {name} is {found:?}; expected {N} sizes"))
    }

    /// Which tensors there are instead.
    fn there_is(&self) -> String {
        let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        let of_diffusers = if self.has("conv_in.weight") {
            ". These are names of diffusers: put the file in a folder as diffusion_pytorch_model.bin, with the network's \
             config.json, and give the folder to `sample`"
        } else {
            ""
        };
        format!("there is {}{of_diffusers}", listed(&names))
    }

    /// How many blocks a list such as `input_blocks` has. Numbers above that of all tensors count for nothing.
    fn count(&self, list: &str) -> usize {
        let index =
            |name: &String| name.strip_prefix(list)?.strip_prefix('.')?.split('.').next()?.parse().ok();
        let known = self.0.keys().filter_map(index).filter(|index: &usize| *index < self.0.len());
        known.max().map_or(0, |last| last + 1)
    }

    /// Whether a block has a part that a tensor of this name tells, in place 1 or 2.
    fn ends_with(&self, block: &str, leaf: &str) -> bool {
        [1, 2].iter().any(|place| self.has(&format!("{block}.{place}.{leaf}")))
    }
}

impl Form {
    pub(super) fn is_classifier(&self) -> bool {
        self.head == Head::Classes
    }

    /// Channels of an image x_t.
    pub(super) fn image_channels(&self, settings: &ImportSettings) -> usize {
        if settings.small_size.is_some() { self.in_channels / 2 } else { self.in_channels }
    }

    /// The form of a model; `settings` say what cannot be told of a classifier whose residual blocks resample.
    pub(super) fn of(tensors: &Tensors, settings: &ImportSettings) -> Result<Self, Refusal> {
        let shapes = Shapes(tensors);
        let [_, num_channels] = shapes.of("time_embed.0.weight")?;
        let [first, in_channels, ..] = shapes.of::<4>("input_blocks.0.0.weight")?;
        let (inputs, outputs) = (shapes.count("input_blocks"), shapes.count("output_blocks"));
        let (head, levels, num_res_blocks, resblock_updown) = match outputs {
            0 => encoder(&shapes, inputs, settings)?,
            _ => {
                let block = |index: usize| format!("output_blocks.{index}");
                let by_conv =
                    (0..outputs).filter(|&index| shapes.ends_with(&block(index), "conv.weight")).count();
                let by_residual = (0..outputs)
                    .filter(|&index| shapes.ends_with(&block(index), "in_layers.0.weight"))
                    .count();
                if by_conv > 0 && by_residual > 0 {
                    let message = "some of its blocks upsample by convolutions, others by residual blocks";
                    return Err(Refusal::File(message.to_owned()));
                }
                let levels = 1 + by_conv + by_residual;
                (Head::Images, levels, (outputs / levels).saturating_sub(1), by_residual > 0)
            }
        };
        let expected = levels.saturating_mul(num_res_blocks.saturating_add(1));
        if num_res_blocks == 0 || inputs != expected || (outputs > 0 && outputs != expected) {
            return Err(Refusal::File(format!(
                "its {inputs} input_blocks and {outputs} output_blocks with {} resampling ones are not those of a UNetModel, \
                 whose parts `input_blocks.N.0.op` or residual blocks halve the images (conv_resample)",
                levels - 1
            )));
        }
        let (mut channels, mut attends) = (Vec::new(), Vec::new());
        for level in 0..levels {
            let blocks = (0..num_res_blocks)
                .map(|index| format!("input_blocks.{}", 1 + level * (num_res_blocks + 1) + index));
            let blocks: Vec<String> = blocks.collect();
            let [of_level, ..] = shapes.of::<4>(&format!("{}.0.out_layers.3.weight", blocks[0]))?;
            channels.push(of_level);
            attends.push(shapes.has(&format!("{}.1.qkv.weight", blocks[0])));
        }
        if first == 0 || levels > MOST_LEVELS {
            let message = format!(
                "it has {levels} levels, the first of {first} channels; there are models of 1 to {MOST_LEVELS}"
            );
            return Err(Refusal::File(message));
        }
        if first != num_channels || channels[0] != first {
            return Err(Refusal::File(format!(
                "its first level has {} channels, the convolution before it {first}, and the sinusoids of timesteps \
                 {num_channels}: a UNet2DModel has as many of each, so that `channel_mult` must begin with 1",
                channels[0]
            )));
        }
        let [embedded, _] = shapes.of("input_blocks.1.0.emb_layers.1.weight")?;
        let outputs = match head {
            Head::Images => shapes.of::<4>("out.2.weight")?[0],
            Head::Classes => shapes.of::<4>("out.3.weight")?[0],
        };
        let classes =
            shapes.has("label_emb.weight").then(|| shapes.of::<2>("label_emb.weight")).transpose()?;
        Ok(Self {
            num_channels,
            in_channels,
            outputs,
            scale_shift: embedded == 2 * channels[0],
            channels,
            attends,
            num_res_blocks,
            resblock_updown,
            classes: classes.map(|[classes, _]| classes),
            head,
        })
    }
}

/// The head, levels and residual blocks of a level of a classifier with so many input blocks, and whether residual
/// blocks resample.
fn encoder(
    shapes: &Shapes<'_>,
    inputs: usize,
    settings: &ImportSettings,
) -> Result<(Head, usize, usize, bool), Refusal> {
    let pool = match () {
        () if shapes.has("out.2.positional_embedding") => "attention",
        () if shapes.get("out.0.weight").is_some_and(|shape| shape.len() == 2) => "spatial",
        () => "adaptive",
    };
    if pool != "adaptive" {
        return Err(Refusal::File(format!(
            "it is a classifier with `classifier_pool` {pool}, which this program does not have; it has adaptive. \
             `train-classifier` trains one"
        )));
    }
    let halving =
        (0..inputs).filter(|index| shapes.has(&format!("input_blocks.{index}.0.op.weight"))).count();
    if halving > 0 {
        let levels = halving + 1;
        return Ok((Head::Classes, levels, (inputs / levels).saturating_sub(1), false));
    }
    let depth = settings.num_res_blocks.ok_or_else(|| {
        let message = "it is a classifier whose residual blocks resample, which does not tell where a level ends: give \
                       `num_res_blocks`, `classifier_depth` in its scripts (2 by default)";
        SettingError::new(&["num_res_blocks"], message)
    })?;
    let of_level = depth.saturating_add(1);
    Ok((Head::Classes, (inputs / of_level).max(1), depth, inputs > of_level))
}
