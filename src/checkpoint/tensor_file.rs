//! safetensors files.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::{COPY_AGAIN, CheckpointError, foreign};
use crate::files::read_regular;
use crate::network::{Precision, Tensor, Tensors};

/// Shapes by name.
pub(super) type Shapes = BTreeMap<String, Vec<usize>>;

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>, CheckpointError> {
    SafeTensors::deserialize(bytes).map_err(|error| {
        if let Some(message) = foreign::of_contents(path) {
            return CheckpointError::invalid(path, message);
        }
        let message = format!(
            "this is no whole safetensors file ({error}); {COPY_AGAIN}, or \
             delete a run's damaged checkpoint to go on from the one before"
        );
        CheckpointError::invalid(path, message)
    })
}

/// The shapes of all tensors of a file.
pub(super) fn shapes(path: &Path) -> Result<Shapes, CheckpointError> {
    let bytes = read_regular(path).map_err(CheckpointError::read(path))?;
    Ok(parse(path, &bytes)?.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec())).collect())
}

/// A text that a file has beside its tensors, by its key.
pub(super) fn text(path: &Path, key: &str) -> Result<Option<String>, CheckpointError> {
    let bytes = read_regular(path).map_err(CheckpointError::read(path))?;
    parse(path, &bytes)?;
    let header = SafeTensors::read_metadata(&bytes).ok();
    Ok(header.and_then(|(_, header)| header.metadata().as_ref()?.get(key).cloned()))
}

/// Reads all tensors of a file, whose numbers must be finite; 16-bit floats are widened.
pub(super) fn read(path: &Path) -> Result<Tensors, CheckpointError> {
    let bytes = read_regular(path).map_err(CheckpointError::read(path))?;
    let invalid = |message: String| CheckpointError::invalid(path, message);
    let file = parse(path, &bytes)?;
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
        let tensor = Tensor { shape: view.shape().to_vec(), data };
        if let Some((index, value)) = tensor.find(|value| !value.is_finite()) {
            return Err(invalid(format!(
                "the tensor {name} has {value} at {index:?}, which is no number to go on with; take earlier weights, \
                 or copy the file again"
            )));
        }
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(tensors)
}

/// Refuses to write what [`read`] would refuse to read: numbers that are not finite as they would be stored.
fn check_numbers(precision: Precision, path: &Path, tensors: &Tensors) -> Result<(), CheckpointError> {
    // The path is that of a folder in writing.
    let file = path.file_name().map(Path::new).unwrap_or(path);
    for (name, tensor) in tensors {
        if let Some((index, value)) = tensor.find(|value| !value.is_finite()) {
            let message = format!("the tensor {name} has {value} at {index:?}, so it is not written");
            return Err(CheckpointError::invalid(file, message));
        }
        let overflows = |value: f32| precision == Precision::F16 && half::f16::from_f32(value).is_infinite();
        if let Some((index, value)) = tensor.find(overflows) {
            let message = format!(
                "the tensor {name} has {value} at {index:?}, and the largest 16-bit float is {}; export the model with \
                 32-bit floats",
                half::f16::MAX
            );
            return Err(CheckpointError::invalid(file, message));
        }
    }
    Ok(())
}

/// Writes tensors as f32, marked as PyTorch's as diffusers wants it.
pub(super) fn write(path: &Path, tensors: &Tensors) -> Result<(), CheckpointError> {
    write_as(Precision::F32, path, tensors)
}

/// As [`write`], rounded to 16 bits where the precision says so.
pub(super) fn write_as(precision: Precision, path: &Path, tensors: &Tensors) -> Result<(), CheckpointError> {
    write_with(precision, path, tensors, ("format", "pt"))
}

/// As [`write_as`], with another text beside the tensors. One text: the library writes several in random order, and a
/// run's files are the same to the byte.
pub(super) fn write_with(
    precision: Precision,
    path: &Path,
    tensors: &Tensors,
    (key, text): (&str, &str),
) -> Result<(), CheckpointError> {
    let invalid = |error: safetensors::SafeTensorError| CheckpointError::invalid(path, error);
    check_numbers(precision, path, tensors)?;
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
    let metadata = HashMap::from([(key.to_owned(), text.to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(invalid)?;
    fs::write(path, bytes).map_err(CheckpointError::write(path))
}
