//! Cases: calls with concrete shapes that tests check and benchmarks time.

use std::sync::Arc;

use super::{Cost, Op, Types, Variant};
use crate::graph::{DType, TensorType};
use crate::random::{Stream, StreamId, normals};

/// One call with concrete shapes and contents.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is special about it.
    pub name: String,
    /// The op.
    pub op: Arc<dyn Op>,
    /// Contents of the inputs.
    pub inputs: Vec<Fill>,
    /// Contents of the outputs before the call, for an op that updates in place.
    pub targets: Vec<Fill>,
}

/// Shape and contents of an operand; contents are drawn from a fixed seed.
#[derive(Clone, Debug)]
pub enum Fill {
    /// Normal numbers.
    Normal {
        /// Shape.
        shape: Vec<usize>,
        /// Mean.
        mean: f32,
        /// Standard deviation.
        std: f32,
    },
    /// Numbers uniform in `[low, high)`.
    Uniform {
        /// Shape.
        shape: Vec<usize>,
        /// Lower end.
        low: f32,
        /// Upper end.
        high: f32,
    },
    /// Given floats.
    Floats {
        /// Shape.
        shape: Vec<usize>,
        /// Elements.
        data: Vec<f32>,
    },
    /// The same contents as 16-bit floats: an executor rounds them when it is given them.
    F16(Box<Fill>),
    /// Given integers.
    Integers {
        /// Shape.
        shape: Vec<usize>,
        /// Elements.
        data: Vec<u32>,
    },
}

impl Fill {
    /// Standard normal numbers.
    pub fn normal(shape: impl Into<Vec<usize>>) -> Self {
        Self::Normal { shape: shape.into(), mean: 0.0, std: 1.0 }
    }

    /// Normal numbers far from zero: sums of squares cancel where a variance is computed carelessly.
    pub fn offset(shape: impl Into<Vec<usize>>) -> Self {
        Self::Normal { shape: shape.into(), mean: 50.0, std: 1.0 }
    }

    /// Given integers in one dimension.
    pub fn integers(data: impl Into<Vec<u32>>) -> Self {
        let data = data.into();
        Self::Integers { shape: vec![data.len()], data }
    }

    /// Given floats in one dimension.
    pub fn floats(data: impl Into<Vec<f32>>) -> Self {
        let data = data.into();
        Self::Floats { shape: vec![data.len()], data }
    }

    /// Shape and element type.
    pub fn ty(&self) -> TensorType {
        match self {
            Self::Normal { shape, .. } | Self::Uniform { shape, .. } | Self::Floats { shape, .. } => {
                TensorType::f32(shape.clone())
            }
            Self::F16(fill) => TensorType::f16(fill.ty().shape),
            Self::Integers { shape, .. } => TensorType::u32(shape.clone()),
        }
    }

    /// The contents, integers by their bits; `index` tells the operands of one case apart.
    pub fn data(&self, index: u32) -> Vec<f32> {
        let length = self.ty().len();
        let stream = Stream { seed: 0x5eed, step: 0, stream: StreamId::of_word(index), sample: 0 };
        match self {
            Self::Normal { mean, std, .. } => {
                normals(stream, length).into_iter().map(|z| mean + std * z).collect()
            }
            Self::Uniform { low, high, .. } => {
                (0..length).map(|element| low + (high - low) * stream.uniform(element as u32)).collect()
            }
            Self::Floats { data, .. } => data.clone(),
            Self::F16(fill) => fill.data(index),
            Self::Integers { data, .. } => bytemuck::cast_slice(data).to_vec(),
        }
    }
}

impl Case {
    /// A case of an op that writes new tensors.
    pub fn new(name: impl Into<String>, op: impl Op + 'static, inputs: Vec<Fill>) -> Self {
        Self { name: name.into(), op: Arc::new(op), inputs, targets: Vec::new() }
    }

    /// Types of the inputs.
    pub fn input_types(&self) -> Vec<TensorType> {
        self.inputs.iter().map(Fill::ty).collect()
    }

    /// Types of the outputs.
    ///
    /// # Errors
    /// The shape rule's complaint, if the case does not fit its op.
    pub fn output_types(&self) -> Result<Vec<TensorType>, String> {
        let inputs = self.input_types();
        self.op.output_types(&inputs.iter().collect::<Vec<_>>())
    }

    /// The ways to do the call on a GPU, the default first; none for a case that does not fit its op.
    pub fn variants(&self) -> Vec<Variant> {
        let Ok(outputs) = self.output_types() else { return Vec::new() };
        self.op.variants(Types { inputs: &self.input_types(), outputs: &outputs })
    }

    /// What the call costs, at least.
    pub fn cost(&self) -> Cost {
        let (inputs, outputs) = (self.input_types(), self.output_types().unwrap_or_default());
        self.op.cost(Types { inputs: &inputs, outputs: &outputs })
    }

    /// Element type of the activations.
    pub fn activation(&self) -> DType {
        let (inputs, outputs) = (self.input_types(), self.output_types().unwrap_or_default());
        Types { inputs: &inputs, outputs: &outputs }.activation()
    }

    /// The operands' names and shapes, for messages.
    pub fn shapes(&self) -> String {
        let names = self.op.inputs().iter().chain(self.op.outputs());
        let types = self.input_types().into_iter().chain(self.output_types().unwrap_or_default());
        names.zip(types).map(|(name, ty)| format!("{name} {ty}")).collect::<Vec<_>>().join(", ")
    }

    /// Whether an input is a float of 32 bits, so that finite differences can be taken of each.
    pub fn is_float(&self, input: usize) -> bool {
        self.inputs[input].ty().dtype == DType::F32
    }
}
