//! Convolutions to check and time.

use super::{BackwardInput, BackwardWeight, Forward, Padding, Settings, Stride, dims};
use crate::graph::TensorType;
use crate::ops::{Case, Fill, Op};

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    use Padding::{RightBottom, Same, Sides};
    let mut calls = Vec::new();
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
        calls.push((name, x, out_channels, [kernel; 2], [stride; 2], padding));
    }
    // name, x, out channels, kernel, stride, padding
    calls.extend([
        ("1x7 ragged", [2, 4, 9, 3], 5, [1, 7], [1, 1], Same),
        ("7x1 tiles", [2, 9, 6, 8], 12, [7, 1], [1, 1], Same),
        ("5x5 tiles, ragged pixels", [2, 7, 5, 16], 16, [5, 5], [1, 1], Same),
        ("5x5 ragged, stride 3", [2, 8, 11, 3], 6, [5, 5], [3, 3], Same),
        (
            "2x2, stride 2, no padding",
            [2, 6, 8, 8],
            8,
            [2, 2],
            [2, 2],
            Sides { rows: [0; 2], columns: [0; 2] },
        ),
        ("4x4 patches", [2, 8, 8, 3], 16, [4, 4], [4, 4], Sides { rows: [0; 2], columns: [0; 2] }),
        ("3x3 without padding", [2, 7, 6, 16], 16, [3, 3], [1, 1], Sides { rows: [0; 2], columns: [0; 2] }),
        (
            "3x3, the size kept by padding on one side",
            [2, 6, 4, 16],
            16,
            [3, 3],
            [1, 1],
            Sides { rows: [2, 0], columns: [0, 2] },
        ),
        (
            "3x2, a stride and a padding for each side",
            [2, 7, 9, 4],
            8,
            [3, 2],
            [2, 3],
            Sides { rows: [0, 2], columns: [3, 1] },
        ),
        (
            "more padding than kernel",
            [2, 3, 4, 8],
            4,
            [2, 3],
            [1, 1],
            Sides { rows: [3, 2], columns: [1, 4] },
        ),
        ("1x1, stride 2", [2, 5, 6, 8], 8, [1, 1], [2, 2], Same),
        ("Inception, 1x7", [2, 17, 17, 32], 48, [1, 7], [1, 1], Same),
        ("Inception, 5x5", [2, 12, 12, 48], 64, [5, 5], [1, 1], Same),
    ]);
    let mut cases = Vec::new();
    for (name, x, out_channels, kernel, stride, padding) in calls {
        let settings = Settings { stride: Stride(stride), padding };
        let weight =
            Fill::Normal { shape: vec![out_channels, kernel[0], kernel[1], x[3]], mean: 0.0, std: 0.1 };
        let forward = Forward(settings);
        let types = [TensorType::f32(x), weight.ty(), TensorType::f32([out_channels])];
        let y = forward.output_types(&types.iter().collect::<Vec<_>>()).map_or([0; 4], |y| dims(&y[0]));
        let backward_input = BackwardInput { settings, size: [x[1], x[2]] };
        let backward_weight = BackwardWeight { settings, kernel };
        let bias = Fill::normal([out_channels]);
        cases.push(Case::new(name, forward, vec![Fill::normal(x), weight.clone(), bias]));
        cases.push(Case::new(name, backward_input, vec![Fill::normal(y), weight]));
        cases.push(Case::new(name, backward_weight, vec![Fill::normal(x), Fill::normal(y)]));
    }
    cases
}
