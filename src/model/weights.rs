//! The contents of a model's parameters: initialising them, and exchanging them with diffusers' files.

use std::collections::BTreeMap;

use crate::graph::{Graph, Init};
use crate::random::{Purpose, Stream, normals};

/// A dense tensor of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Sizes, outermost first; convolution weights are `[O, I, KH, KW]`.
    pub shape: Vec<usize>,
    /// Elements in row-major order.
    pub data: Vec<f32>,
}

impl Tensor {
    /// Where the first number is for which `is_bad` holds, axis by axis, and the number.
    pub fn find(&self, is_bad: impl Fn(f32) -> bool) -> Option<(Vec<usize>, f32)> {
        let mut rest = self.data.iter().position(|&value| is_bad(value))?;
        let value = self.data[rest];
        let mut index = vec![0; self.shape.len()];
        for (at, &size) in index.iter_mut().zip(&self.shape).rev() {
            *at = rest % size.max(1);
            rest /= size.max(1);
        }
        Some((index, value))
    }
}

/// Tensors by diffusers' names.
pub type Tensors = BTreeMap<String, Tensor>;

/// A file whose tensors are not those of the model.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The model needs a tensor that the file does not have.
    #[error("the tensor {name} {shape:?} is missing ({missing} in all): the weights are of another model")]
    Missing {
        /// First missing tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Number of missing tensors.
        missing: usize,
    },
    /// The file has a tensor that the model does not.
    #[error(
        "the tensor {name} has no place in the model ({surplus} in all): the weights are of another model"
    )]
    Surplus {
        /// First surplus tensor.
        name: String,
        /// Number of surplus tensors.
        surplus: usize,
    },
    /// A tensor has another shape than the model's.
    #[error("the tensor {name} is {found:?}, the model has {expected:?}: the weights are of another model")]
    Shape {
        /// Name of the tensor.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape in the model.
        expected: Vec<usize>,
    },
}

/// Initial contents of every parameter of `graph`, in the graph's layout and order, drawn from `seed`.
pub fn initial_weights(graph: &Graph, seed: u64) -> Vec<Vec<f32>> {
    (0..)
        .zip(graph.parameters())
        .map(|(index, parameter)| {
            let length = graph.ty(parameter.value).len();
            let stream = Stream { seed, step: 0, stream: Purpose::InitialWeights.into(), sample: index };
            match parameter.init {
                Init::Zeros => vec![0.0; length],
                Init::Ones => vec![1.0; length],
                Init::Uniform { bound } => {
                    (0..length).map(|i| bound * (2.0 * stream.uniform(i as u32) - 1.0)).collect()
                }
                Init::Normal { std } => normals(stream, length).into_iter().map(|z| std * z).collect(),
            }
        })
        .collect()
}

/// Names that diffusers once gave to the tensors of attention, and those it gives now.
const RENAMED: [(&str, &str); 4] =
    [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")];

fn current_name(name: &str) -> String {
    match RENAMED.iter().find(|(old, _)| name.contains(".attentions.") && name.contains(old)) {
        Some((old, new)) => name.replace(old, new),
        None => name.to_owned(),
    }
}

/// Sizes and elements of `[d0, d1, d2, d3]` reordered so that axis `k` of the result is axis `order[k]`.
fn transpose(shape: &[usize], data: &[f32], order: [usize; 4]) -> (Vec<usize>, Vec<f32>) {
    let mut strides = [0; 4];
    let mut stride = 1;
    for axis in (0..4).rev() {
        strides[axis] = stride;
        stride *= shape[axis];
    }
    let sizes = order.map(|axis| shape[axis]);
    let steps = order.map(|axis| strides[axis]);
    let mut out = Vec::with_capacity(data.len());
    for a in 0..sizes[0] {
        for b in 0..sizes[1] {
            for c in 0..sizes[2] {
                let first = a * steps[0] + b * steps[1] + c * steps[2];
                out.extend((0..sizes[3]).map(|d| data[first + d * steps[3]]));
            }
        }
    }
    (sizes.to_vec(), out)
}

/// A parameter as files have it: convolution weights `[O, KH, KW, I]` become `[O, I, KH, KW]`.
fn to_file(shape: &[usize], data: &[f32]) -> Tensor {
    let (shape, data) =
        if shape.len() == 4 { transpose(shape, data, [0, 3, 1, 2]) } else { (shape.to_vec(), data.to_vec()) };
    Tensor { shape, data }
}

/// Every parameter of `graph` under its name in diffusers' files; `weights` are in the graph's order.
pub fn to_tensors(graph: &Graph, weights: &[Vec<f32>]) -> Tensors {
    let entries = graph.parameters().iter().zip(weights);
    entries
        .map(|(parameter, data)| (parameter.name.clone(), to_file(&graph.ty(parameter.value).shape, data)))
        .collect()
}

/// The shape of a parameter in files: convolution weights `[O, KH, KW, I]` are `[O, I, KH, KW]` there.
fn file_shape(shape: &[usize]) -> Vec<usize> {
    if let &[o, kh, kw, i] = shape { vec![o, i, kh, kw] } else { shape.to_vec() }
}

/// The tensor of each parameter of `graph`, in the graph's order.
fn matched<'a>(graph: &Graph, tensors: &'a Tensors) -> Result<Vec<&'a Tensor>, WeightsError> {
    let mut by_name = BTreeMap::new();
    for (name, tensor) in tensors {
        if by_name.insert(current_name(name), tensor).is_some() {
            // It is there under its old and its new name.
            return Err(WeightsError::Surplus { name: name.clone(), surplus: 1 });
        }
    }
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for parameter in graph.parameters() {
        let expected = file_shape(&graph.ty(parameter.value).shape);
        let Some(tensor) = by_name.remove(&parameter.name) else {
            missing.push((parameter.name.clone(), expected));
            continue;
        };
        // Attention once was a 1x1 convolution: such weights have two more axes of size 1.
        if tensor.shape != expected
            && !(tensor.shape.starts_with(&expected) && tensor.shape[expected.len()..] == [1, 1])
        {
            let (name, found) = (parameter.name.clone(), tensor.shape.clone());
            return Err(WeightsError::Shape { name, found, expected });
        }
        found.push(tensor);
    }
    if let Some((name, shape)) = missing.first().cloned() {
        return Err(WeightsError::Missing { name, shape, missing: missing.len() });
    }
    match by_name.keys().next() {
        Some(name) => Err(WeightsError::Surplus { name: name.clone(), surplus: by_name.len() }),
        None => Ok(found),
    }
}

/// Refuses tensors that are not exactly those of `graph`'s parameters.
pub(super) fn check_tensors(graph: &Graph, tensors: &Tensors) -> Result<(), WeightsError> {
    matched(graph, tensors).map(|_| ())
}

/// The contents of every parameter of `graph`, in the graph's layout and order, out of a file's tensors.
///
/// # Errors
/// [`WeightsError`] unless the file has exactly the model's tensors; old names of attention tensors are understood.
pub fn from_tensors(graph: &Graph, tensors: &Tensors) -> Result<Vec<Vec<f32>>, WeightsError> {
    let contents = |(shape, tensor): (Vec<usize>, &Tensor)| match shape.len() {
        4 => transpose(&shape, &tensor.data, [0, 2, 3, 1]).1,
        _ => tensor.data.clone(),
    };
    let shapes = graph.parameters().iter().map(|parameter| file_shape(&graph.ty(parameter.value).shape));
    Ok(shapes.zip(matched(graph, tensors)?).map(contents).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_there_and_back_changes_nothing() {
        let shape = [2, 3, 4, 5];
        let data: Vec<f32> = (0u16..120).map(f32::from).collect();
        let (file_shape, file) = transpose(&shape, &data, [0, 3, 1, 2]);
        assert_eq!(file_shape, [2, 5, 3, 4]);
        // Element (o, kh, kw, i) = (1, 2, 3, 4) is at ((1 * 5 + 4) * 3 + 2) * 4 + 3 in a file.
        assert_eq!(file[((5 + 4) * 3 + 2) * 4 + 3], 119.0);
        assert_eq!(transpose(&file_shape, &file, [0, 2, 3, 1]), (shape.to_vec(), data));
    }

    #[test]
    fn old_attention_names_are_renamed_and_others_are_not() {
        assert_eq!(current_name("mid_block.attentions.0.query.weight"), "mid_block.attentions.0.to_q.weight");
        assert_eq!(
            current_name("mid_block.attentions.0.proj_attn.bias"),
            "mid_block.attentions.0.to_out.0.bias"
        );
        assert_eq!(
            current_name("down_blocks.0.resnets.0.norm1.weight"),
            "down_blocks.0.resnets.0.norm1.weight"
        );
    }
}
