//! The contents of a model's parameters: initialising them, and exchanging them with diffusers' files.

use std::collections::BTreeMap;

use crate::device::{Device, DeviceError, Executor};
use crate::graph::{Graph, Init, Layout, Parameter, ValueId};
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

/// A parameter as files have it.
fn to_file(layout: Layout, shape: &[usize], data: &[f32]) -> Tensor {
    let (shape, data) = match (layout, shape.len()) {
        (Layout::Convolution, 4) => transpose(shape, data, [0, 3, 1, 2]),
        _ => (shape.to_vec(), data.to_vec()),
    };
    Tensor { shape, data }
}

/// Parameters of `graph` under their names in files; `weights` are in the order of `parameters`.
pub fn to_tensors<'a>(
    graph: &Graph,
    parameters: impl IntoIterator<Item = &'a Parameter>,
    weights: &[Vec<f32>],
) -> Tensors {
    let entry = |(parameter, data): (&Parameter, &Vec<f32>)| {
        (parameter.name.clone(), to_file(parameter.layout, &graph.ty(parameter.value).shape, data))
    };
    parameters.into_iter().zip(weights).map(entry).collect()
}

/// The shape of a parameter in files, and another one that older files may have.
pub(super) fn file_shapes(graph: &Graph, parameter: &Parameter) -> (Vec<usize>, Option<Vec<usize>>) {
    let shape = &graph.ty(parameter.value).shape;
    match (parameter.layout, shape.as_slice()) {
        (Layout::Convolution, &[o, kh, kw, i]) => (vec![o, i, kh, kw], None),
        (Layout::Projection, &[o, i]) => (shape.clone(), Some(vec![o, i, 1, 1])),
        _ => (shape.clone(), None),
    }
}

/// The tensor of each of `parameters`, in their order.
fn matched<'a, 'p>(
    graph: &Graph,
    parameters: impl IntoIterator<Item = &'p Parameter>,
    tensors: &[(&str, &'a Tensors)],
) -> Result<Vec<&'a Tensor>, WeightsError> {
    let mut by_name = BTreeMap::new();
    for (scope, tensors) in tensors {
        let whole = |name: &str| if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") };
        by_name.extend(tensors.iter().map(|(name, tensor)| (whole(name), tensor)));
    }
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for parameter in parameters {
        let (expected, former) = file_shapes(graph, parameter);
        // A tensor that is there under its old and its new name stays behind, as surplus.
        let tensor = by_name.remove(&parameter.name);
        let Some(tensor) = tensor.or_else(|| by_name.remove(parameter.former_name.as_ref()?)) else {
            missing.push((parameter.name.clone(), expected));
            continue;
        };
        if tensor.shape != expected && Some(&tensor.shape) != former.as_ref() {
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
    matched(graph, graph.parameters(), &[("", tensors)]).map(|_| ())
}

/// The contents of `parameters` of `graph`, in the graph's layout and their order, out of a file's tensors.
///
/// # Errors
/// [`WeightsError`] unless the file has exactly these tensors; names and shapes of older files are understood.
pub fn from_tensors<'p>(
    graph: &Graph,
    parameters: impl IntoIterator<Item = &'p Parameter> + Clone,
    tensors: &Tensors,
) -> Result<Vec<Vec<f32>>, WeightsError> {
    from_several(graph, parameters, &[("", tensors)])
}

/// As [`from_tensors`], for a graph with several networks, each in a scope of its own.
fn from_several<'p>(
    graph: &Graph,
    parameters: impl IntoIterator<Item = &'p Parameter> + Clone,
    tensors: &[(&str, &Tensors)],
) -> Result<Vec<Vec<f32>>, WeightsError> {
    let contents = |(parameter, tensor): (&Parameter, &Tensor)| match (parameter.layout, tensor.shape.len()) {
        (Layout::Convolution, 4) => transpose(&tensor.shape, &tensor.data, [0, 2, 3, 1]).1,
        _ => tensor.data.clone(),
    };
    let found = matched(graph, parameters.clone(), tensors)?;
    Ok(parameters.into_iter().zip(found).map(contents).collect())
}

/// An executor of `graph` with the weights of its networks, each in the scope that stands beside it; `keep` can be
/// read.
///
/// # Errors
/// [`WeightsError`] for weights of another network, [`DeviceError`] for a graph that does not fit the device.
pub async fn prepare<E: From<WeightsError> + From<DeviceError>>(
    device: &Device,
    graph: &Graph,
    networks: &[(&str, &Tensors)],
    keep: &[ValueId],
) -> Result<Executor, E> {
    let weights = from_several(graph, graph.parameters(), networks)?;
    let mut executor = device.prepare(graph, keep).await?;
    for (parameter, data) in graph.parameters().iter().zip(&weights) {
        executor.write(parameter.value, data)?;
    }
    Ok(executor)
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
    fn an_attention_of_an_older_file_is_found_under_its_former_names() {
        let mut graph = Graph::new();
        let former = |leaf: &str| Some(format!("mid_block.attentions.0.query.{leaf}"));
        graph.scoped("mid_block.attentions.0.to_q", |graph| {
            graph.parameter_in_file("weight", [3, 2], Init::Zeros, Layout::Projection, former("weight"));
            graph.parameter_in_file("bias", [3], Init::Zeros, Layout::Same, former("bias"));
        });
        let tensor = |shape: &[usize], first: f32| {
            let data = (0..shape.iter().product::<usize>() as u16).map(|at| first + f32::from(at)).collect();
            Tensor { shape: shape.to_vec(), data }
        };
        let file = |name: &str, weight: &[usize]| {
            let whole = |leaf: &str| format!("mid_block.attentions.0.{name}.{leaf}");
            Tensors::from([(whole("weight"), tensor(weight, 1.0)), (whole("bias"), tensor(&[3], 9.0))])
        };
        let expected = vec![vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], vec![9.0, 10.0, 11.0]];
        for (name, weight) in [("to_q", &[3, 2][..]), ("query", &[3, 2]), ("query", &[3, 2, 1, 1])] {
            assert_eq!(
                from_tensors(&graph, graph.parameters(), &file(name, weight)).ok().as_ref(),
                Some(&expected),
                "{name} {weight:?}"
            );
        }
        let refusal = |tensors: &Tensors| {
            from_tensors(&graph, graph.parameters(), tensors).err().map(|error| error.to_string())
        };
        assert!(refusal(&file("query", &[3, 1, 2])).is_some_and(|text| text.contains("[3, 1, 2]")));
        assert!(
            refusal(&file("key", &[3, 2])).is_some_and(|text| text.contains("to_q.weight [3, 2] is missing"))
        );
        let both = [file("query", &[3, 2]), file("to_q", &[3, 2])].into_iter().flatten().collect();
        assert!(refusal(&both).is_some_and(|text| text.contains("no place in the model (2 in all)")));
    }
}
