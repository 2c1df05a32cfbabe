//! What shape rules check.

use crate::graph::{DType, TensorType};

/// Checks that `condition` holds, as shape rules do.
pub(super) fn expect(condition: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(reason()) }
}

/// Checks that a tensor has the wanted shape; of the floats, only activations may be f16, see [`expect_like`].
pub(super) fn expect_shape(name: &str, ty: &TensorType, shape: &[usize]) -> Result<(), String> {
    expect(ty.shape == shape, || format!("{name} must be {shape:?}"))?;
    expect(ty.dtype != DType::F16, || format!("{name} must be f32, not f16"))
}

/// Checks that an activation has the shape and the element type of another.
pub(super) fn expect_like(name: &str, ty: &TensorType, like: &TensorType) -> Result<(), String> {
    expect(ty == like, || format!("{name} must be {like}"))
}

/// Checks that a tensor has the wanted shape, and the element type of an activation.
pub(super) fn expect_shape_like(
    name: &str,
    ty: &TensorType,
    shape: &[usize],
    like: &TensorType,
) -> Result<(), String> {
    expect_like(name, ty, &like.with_shape(shape))
}

/// Takes the sizes of an image batch `[N, H, W, C]` apart.
pub(super) fn expect_nhwc(name: &str, ty: &TensorType) -> Result<[usize; 4], String> {
    ty.shape.as_slice().try_into().map_err(|_| format!("{name} must be [N, H, W, C]"))
}

/// Sizes of a tensor whose shape rule has been checked.
pub(super) fn dims<const D: usize>(ty: &TensorType) -> [usize; D] {
    std::array::from_fn(|axis| ty.shape.get(axis).copied().unwrap_or(1))
}
