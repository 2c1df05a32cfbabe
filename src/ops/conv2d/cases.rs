//! Convolutions to check and time.

use super::{BackwardInput, BackwardWeight, Forward, Padding, dims};
use crate::graph::TensorType;
use crate::ops::{Case, Fill, Op};

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    use Padding::{RightBottom, Same};
    let mut cases = Vec::new();
    // name, x, out channels, kernel, stride, padding
    for (name, x, out_channels, kernel, stride, padding) in [
        ("3x3 ragged", [2, 5, 7, 3], 5, 3, 1, Same),
        ("1x1 ragged", [3, 4, 5, 6], 7, 1, 1, Same),
        ("3x3 stride 2, padded all round", [2, 7, 4, 5], 6, 3, 2, Same),
        ("3x3 stride 2, padded right and bottom", [2, 6, 5, 3], 4, 3, 2, RightBottom),
        ("3x3 tiles, ragged pixels", [3, 5, 7, 8], 16, 3, 1, Same),
        ("1x1 tiles, ragged pixels", [3, 3, 5, 24], 8, 1, 1, Same),
        ("3x3 tiles, stride 2, padded all round", [2, 7, 10, 16], 24, 3, 2, Same),
        ("3x3 tiles, stride 2, padded right and bottom", [2, 9, 6, 16], 8, 3, 2, RightBottom),
        ("3x3 fours, stride 2, padded all round", [2, 6, 7, 4], 12, 3, 2, Same),
        ("3x3 fours, several tiles each way", [2, 6, 6, 68], 36, 3, 1, Same),
        ("narrower than the kernel", [2, 1, 2, 8], 8, 3, 1, Same),
        ("U-Net S, first level", [8, 16, 8, 32], 32, 3, 1, Same),
        ("U-Net S, second level", [4, 8, 8, 64], 64, 3, 1, Same),
        ("several blocks of channels, few pixels", [2, 6, 10, 144], 48, 3, 1, Same),
        ("several blocks of channels, many pixels", [5, 10, 12, 144], 48, 3, 1, Same),
        ("many tiles", [3, 34, 30, 16], 80, 3, 1, Same),
        ("first convolution", [4, 16, 16, 1], 32, 3, 1, Same),
        ("last convolution", [4, 16, 16, 32], 3, 3, 1, Same),
        ("more pixels than one split", [3, 33, 31, 8], 8, 3, 1, Same),
    ] {
        let weight = Fill::Normal { shape: vec![out_channels, kernel, kernel, x[3]], mean: 0.0, std: 0.1 };
        let forward = Forward { stride, padding };
        let types = [TensorType::f32(x), weight.ty(), TensorType::f32([out_channels])];
        let y = forward.output_types(&types.iter().collect::<Vec<_>>()).map_or([0; 4], |y| dims(&y[0]));
        let backward_input = BackwardInput { stride, padding, size: [x[1], x[2]] };
        let backward_weight = BackwardWeight { stride, padding, kernel };
        let bias = Fill::normal([out_channels]);
        cases.push(Case::new(name, forward, vec![Fill::normal(x), weight.clone(), bias]));
        cases.push(Case::new(name, backward_input, vec![Fill::normal(y), weight]));
        cases.push(Case::new(name, backward_weight, vec![Fill::normal(x), Fill::normal(y)]));
    }
    cases
}
