//! Shapes and element types.

use std::fmt;

/// Element type of a tensor in memory; arithmetic on floats is in 32 bits whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 16-bit float (IEEE half precision): activations only.
    F16,
    /// 32-bit unsigned integer: class labels, generator keys.
    U32,
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 => 2,
        }
    }
}

/// Shape and element type of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Sizes, outermost first; images are `[N, H, W, C]`.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: DType,
}

impl TensorType {
    /// A float tensor of the given shape.
    pub fn f32(shape: impl Into<Vec<usize>>) -> Self {
        Self { shape: shape.into(), dtype: DType::F32 }
    }

    /// A tensor of 16-bit floats of the given shape.
    pub fn f16(shape: impl Into<Vec<usize>>) -> Self {
        Self { shape: shape.into(), dtype: DType::F16 }
    }

    /// The same element type in another shape.
    pub fn with_shape(&self, shape: impl Into<Vec<usize>>) -> Self {
        Self { shape: shape.into(), dtype: self.dtype }
    }

    /// An unsigned integer tensor of the given shape.
    pub fn u32(shape: impl Into<Vec<usize>>) -> Self {
        Self { shape: shape.into(), dtype: DType::U32 }
    }

    /// Number of elements; `usize::MAX` where there are more.
    pub fn len(&self) -> usize {
        self.shape.iter().fold(1, |len: usize, &size| len.saturating_mul(size))
    }

    /// Whether the tensor has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size in bytes, a multiple of 4 as WebGPU binds and copies.
    pub fn bytes(&self) -> usize {
        let bytes = self.dtype.bytes().saturating_mul(self.len());
        bytes.checked_next_multiple_of(4).unwrap_or(usize::MAX)
    }

    /// The last size: the channels of an NHWC image, the features of a matrix; 1 for a scalar.
    pub fn channels(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The product of all sizes but the last: the pixels of an NHWC batch, the rows of a matrix.
    pub fn rows(&self) -> usize {
        self.len().checked_div(self.channels()).unwrap_or(0)
    }
}

impl fmt::Display for TensorType {
    /// `[2, 3]` for floats as they usually are, `[2, 3] f16` for others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dtype {
            DType::F32 => write!(f, "{:?}", self.shape),
            DType::F16 => write!(f, "{:?} f16", self.shape),
            DType::U32 => write!(f, "{:?} u32", self.shape),
        }
    }
}
