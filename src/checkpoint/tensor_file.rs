//! safetensors files.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::CheckpointError;
use crate::files::read_regular;
use crate::model::{Precision, Tensor, Tensors};

/// Reads all tensors of a file; 16-bit floats are widened.
pub(super) fn read(path: &Path) -> Result<Tensors, CheckpointError> {
    let bytes = read_regular(path).map_err(CheckpointError::read(path))?;
    let invalid = |message: String| CheckpointError::invalid(path, message);
    let file = SafeTensors::deserialize(&bytes).map_err(|error| {
        invalid(format!(
            "this is no whole safetensors file ({error}); copy or download it again, or \
             delete a run's damaged checkpoint to go on from the one before"
        ))
    })?;
    let mut tensors = Tensors::new();
    for (name, view) in file.iter() {
        let bytes = view.data();
        let data: Vec<f32> = match view.dtype() {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::BF16 => {
                bytes.as_chunks().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f32()).collect()
            }
            other => {
                return Err(invalid(format!("the tensor {name} is {other:?}; f32, f16 and bf16 are read")));
            }
        };
        tensors.insert(name.to_owned(), Tensor { shape: view.shape().to_vec(), data });
    }
    Ok(tensors)
}

/// Writes tensors as f32, marked as PyTorch's as diffusers wants it.
pub(super) fn write(path: &Path, tensors: &Tensors) -> Result<(), CheckpointError> {
    write_as(Precision::F32, path, tensors)
}

/// As [`write`], rounded to 16 bits where the precision says so.
pub(super) fn write_as(precision: Precision, path: &Path, tensors: &Tensors) -> Result<(), CheckpointError> {
    let invalid = |error: safetensors::SafeTensorError| CheckpointError::invalid(path, error);
    let halves: Vec<Vec<half::f16>> = match precision {
        Precision::F32 => Vec::new(),
        Precision::F16 => {
            let rounded =
                |tensor: &Tensor| tensor.data.iter().map(|&value| half::f16::from_f32(value)).collect();
            tensors.values().map(rounded).collect()
        }
    };
    let views = tensors
        .iter()
        .enumerate()
        .map(|(index, (name, tensor))| {
            let (dtype, bytes): (_, &[u8]) = match precision {
                Precision::F32 => (Dtype::F32, bytemuck::cast_slice(&tensor.data)),
                Precision::F16 => (Dtype::F16, bytemuck::cast_slice(&halves[index])),
            };
            Ok((name.as_str(), TensorView::new(dtype, tensor.shape.clone(), bytes).map_err(invalid)?))
        })
        .collect::<Result<Vec<_>, CheckpointError>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(invalid)?;
    fs::write(path, bytes).map_err(CheckpointError::write(path))
}
