//! The tensors of a `UNetModel` under the names of a `UNet2DModel`.

use super::form::Form;
use super::understood::Understood;
use crate::network::{Tensor, Tensors};

/// Parts of a residual block.
const RESIDUAL: [(&str, &str); 6] = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

/// Parts of attention: its norm; `qkv`, which is three in one; and the last, a convolution of one tap.
const NORM: (&str, &str) = ("norm", "group_norm");
const QKV: &str = "qkv";
const PROJECTION: (&str, &str) = ("proj_out", "to_out.0");

/// Parts that are no blocks.
const EDGES: [(&str, &str); 6] = [
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb", "class_embedding"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
];

/// The last layer of a classifier, a convolution of one tap.
const CLASSIFIER: (&str, &str) = ("out.3", "classifier");

/// The parts of the mid block.
const MIDDLE: [&str; 3] = ["mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"];

/// What a tensor is called in a UNet2DModel.
#[derive(Debug, PartialEq)]
enum Place {
    Named(String),
    /// A linear layer here, and there a convolution of one tap.
    Linear(String),
    /// The queries, keys and values of an attention.
    Qkv {
        /// What comes before `to_q.weight`.
        attention: String,
        leaf: String,
    },
}

/// The name of a part in one of the tables above, where `rest` is that part and a leaf.
fn in_table(table: &[(&str, &str)], rest: &str) -> Option<String> {
    let (part, leaf) = rest.rsplit_once('.')?;
    let (_, name) = table.iter().find(|(theirs, _)| *theirs == part)?;
    Some(format!("{name}.{leaf}"))
}

/// A number and what follows its dot.
fn numbered(text: &str) -> Option<(usize, &str)> {
    let (number, rest) = text.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// A part of a block: a residual block, attention, or what resamples by a convolution.
fn part(rest: &str, residual: &str, attention: &str, resampler: &str, conv: &str) -> Option<Place> {
    if let Some(name) = in_table(&RESIDUAL, rest) {
        return Some(Place::Named(format!("{residual}.{name}")));
    }
    if let Some(name) = in_table(&[NORM], rest) {
        return Some(Place::Named(format!("{attention}.{name}")));
    }
    if let Some(name) = in_table(&[PROJECTION], rest) {
        return Some(Place::Linear(format!("{attention}.{name}")));
    }
    match rest.rsplit_once('.')? {
        (QKV, leaf) => Some(Place::Qkv { attention: attention.to_owned(), leaf: leaf.to_owned() }),
        (name, leaf) if name == conv => Some(Place::Named(format!("{resampler}.conv.{leaf}"))),
        _ => None,
    }
}

/// Where a tensor of theirs belongs, in a model with so many residual blocks in a level on the way down.
fn place(name: &str, num_res_blocks: usize) -> Option<Place> {
    if let Some(name) = in_table(&EDGES, name) {
        return Some(Place::Named(name));
    }
    if let Some(name) = in_table(&[CLASSIFIER], name) {
        return Some(Place::Linear(name));
    }
    let of_level = num_res_blocks + 1;
    if let Some(rest) = name.strip_prefix("middle_block.") {
        let (index, rest) = numbered(rest)?;
        let block = MIDDLE.get(index)?;
        return part(rest, block, block, "", "");
    }
    if let Some(rest) = name.strip_prefix("input_blocks.") {
        let (index, rest) = numbered(rest)?;
        let (_, rest) = numbered(rest)?;
        let (level, index) = (index.checked_sub(1)? / of_level, index.checked_sub(1)? % of_level);
        let resampler = format!("down_blocks.{level}.downsamplers.0");
        let residual = match index {
            index if index == num_res_blocks => resampler.clone(),
            _ => format!("down_blocks.{level}.resnets.{index}"),
        };
        return part(rest, &residual, &format!("down_blocks.{level}.attentions.{index}"), &resampler, "op");
    }
    let (index, rest) = numbered(name.strip_prefix("output_blocks.")?)?;
    let (child, rest) = numbered(rest)?;
    let (level, index) = (index / of_level, index % of_level);
    let resampler = format!("up_blocks.{level}.upsamplers.0");
    let residual = match child {
        0 => format!("up_blocks.{level}.resnets.{index}"),
        _ => resampler.clone(),
    };
    part(rest, &residual, &format!("up_blocks.{level}.attentions.{index}"), &resampler, "conv")
}

/// All tensors under the names of a UNet2DModel.
///
/// # Errors
/// The name of a tensor that has no place in one.
pub(super) fn renamed(form: &Form, understood: &Understood, tensors: Tensors) -> Result<Tensors, String> {
    let mut out = Tensors::new();
    for (name, tensor) in tensors {
        match place(&name, form.num_res_blocks) {
            None => {
                return Err(format!(
                    "the tensor {name} {:?} has no place in a UNet2DModel; the file is not of improved-diffusion or \
                     guided-diffusion as they are published",
                    tensor.shape
                ));
            }
            Some(Place::Named(new)) => {
                out.insert(new, tensor);
            }
            Some(Place::Linear(new)) => {
                out.insert(new, flattened(tensor));
            }
            Some(Place::Qkv { attention, leaf }) => {
                let channels = tensor.shape.first().copied().unwrap_or(0) / 3;
                let parts = split(flattened(tensor), understood.heads_of(channels), understood.has_new_order)
                    .ok_or_else(|| {
                        format!("the tensor {name} does not hold queries, keys and values of as many rows")
                    })?;
                for (part, tensor) in ["to_q", "to_k", "to_v"].into_iter().zip(parts) {
                    out.insert(format!("{attention}.{part}.{leaf}"), tensor);
                }
            }
        }
    }
    Ok(out)
}

/// A convolution of one tap, `[O, I, 1]` or `[O, I, 1, 1]`, as a linear layer `[O, I]`; a bias stays.
fn flattened(mut tensor: Tensor) -> Tensor {
    while tensor.shape.len() > 2 && tensor.shape.last() == Some(&1) {
        tensor.shape.pop();
    }
    tensor
}

/// Queries, keys and values out of rows `[3 C, ...]`: of each head after those of the other (`QKVAttentionLegacy`), or
/// of all heads (`QKVAttention`).
fn split(tensor: Tensor, heads: usize, is_new_order: bool) -> Option<[Tensor; 3]> {
    let rows = *tensor.shape.first()?;
    let channels = rows / 3;
    if rows == 0 || channels * 3 != rows || !channels.is_multiple_of(heads) {
        return None;
    }
    let (row, dim) = (tensor.data.len() / rows, channels / heads);
    let shape = [&[channels], &tensor.shape[1..]].concat();
    Some([0, 1, 2].map(|part| {
        let start = |channel: usize| match is_new_order {
            true => part * channels + channel,
            false => (channel / dim * 3 + part) * dim + channel % dim,
        };
        let data =
            (0..channels).flat_map(|channel| &tensor.data[start(channel) * row..][..row]).copied().collect();
        Tensor { shape: shape.clone(), data }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_heads_are_gathered() {
        // Two heads of two channels; a row's number is in its one column.
        let rows = Tensor { shape: vec![12, 1], data: (0u8..12).map(f32::from).collect() };
        let data =
            |is_new_order| split(rows.clone(), 2, is_new_order).map(|parts| parts.map(|part| part.data));
        assert_eq!(data(false), Some([vec![0., 1., 6., 7.], vec![2., 3., 8., 9.], vec![4., 5., 10., 11.]]));
        assert_eq!(data(true), Some([vec![0., 1., 2., 3.], vec![4., 5., 6., 7.], vec![8., 9., 10., 11.]]));
        assert_eq!(split(rows.clone(), 3, false), None);
        assert_eq!(split(Tensor { shape: vec![], data: vec![1.] }, 1, false), None);
    }

    #[test]
    fn blocks_are_counted_by_levels() {
        let named = |name: &str| match place(name, 2) {
            Some(Place::Named(name) | Place::Linear(name)) => name,
            other => format!("{other:?}"),
        };
        for (theirs, ours) in [
            ("input_blocks.1.0.in_layers.0.weight", "down_blocks.0.resnets.0.norm1.weight"),
            ("input_blocks.3.0.op.bias", "down_blocks.0.downsamplers.0.conv.bias"),
            ("input_blocks.3.0.out_layers.3.bias", "down_blocks.0.downsamplers.0.conv2.bias"),
            ("input_blocks.5.1.proj_out.weight", "down_blocks.1.attentions.1.to_out.0.weight"),
            ("middle_block.2.emb_layers.1.bias", "mid_block.resnets.1.time_emb_proj.bias"),
            ("output_blocks.5.0.skip_connection.weight", "up_blocks.1.resnets.2.conv_shortcut.weight"),
            ("output_blocks.2.1.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
            ("output_blocks.2.2.in_layers.2.weight", "up_blocks.0.upsamplers.0.conv1.weight"),
            ("output_blocks.3.1.norm.weight", "up_blocks.1.attentions.0.group_norm.weight"),
        ] {
            assert_eq!(named(theirs), ours);
        }
        for name in [
            "input_blocks.0.1.weight",
            "out.1.weight",
            "middle_block.3.norm.weight",
            "betas",
            "input_blocks.x.0.op.bias",
        ] {
            assert_eq!(place(name, 2), None, "{name}");
        }
    }
}
