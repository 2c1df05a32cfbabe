//! Single ops against PyTorch and diffusers (`tools/oracle/primitives.py`): results and gradients of every operand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is how a test fails

mod common;

use ddpm_gpu::graph::{Graph, GraphError, TensorType, ValueId, gradients};
use ddpm_gpu::ops::conv2d::Padding;
use ddpm_gpu::ops::{self, Attention, Edges, Gelu, Window};
use pollster::block_on;

use common::golden::Golden;

/// The op of a case of the golden file, on its operands.
fn build(graph: &mut Graph, name: &str, operands: &[ValueId]) -> Result<ValueId, GraphError> {
    let x = operands[0];
    let padded = |kernel, stride, padding| Window { kernel, stride, padding };
    let conv = |graph: &mut Graph, stride: [usize; 2], padding| {
        ops::conv2d(graph, x, operands[1], operands[2], stride, padding)
    };
    let attention = |graph: &mut Graph, heads, causal| {
        let mask = operands.get(3).copied();
        ops::attention(graph, x, operands[1], operands[2], Attention { heads, causal, mask })
    };
    match name {
        "gelu_erf" => ops::gelu(graph, x, Gelu::Erf),
        "gelu_tanh" => ops::gelu(graph, x, Gelu::Tanh),
        "gelu_quick" => ops::gelu(graph, x, Gelu::Quick),
        "relu" => ops::relu(graph, x),
        "mish" => ops::mish(graph, x),
        "affine" => ops::affine(graph, x, 2.0, -1.0),
        "fir_downsample" => ops::fir_downsample(graph, x, Edges::Zero),
        "fir_upsample" => ops::fir_upsample(graph, x, Edges::Zero),
        "fir_downsample_mirror" => ops::fir_downsample(graph, x, Edges::Mirror),
        "fir_upsample_mirror" => ops::fir_upsample(graph, x, Edges::Mirror),
        "geglu" => {
            let hidden_and_gate = ops::linear(graph, x, operands[1], operands[2])?;
            ops::geglu(graph, hidden_and_gate)
        }
        "multiply" | "gate" => ops::multiply(graph, x, operands[1]),
        "layer_norm" => ops::layer_norm(graph, x, None, 1e-5),
        "layer_norm_affine" => ops::layer_norm(graph, x, Some((operands[1], operands[2])), 1e-6),
        "reshape" => ops::reshape(graph, x, [2, 42, 3]),
        "transpose" => ops::transpose(graph, x, [2, 0, 3, 1]),
        "max_pool" => ops::max_pool(graph, x, padded([3, 3], [2, 2], [0, 0])),
        "max_pool_padded" => ops::max_pool(graph, x, padded([3, 2], [1, 3], [1, 1])),
        "average_pool_padding" => ops::average_pool_window(graph, x, padded([3, 3], [1, 1], [1, 1]), true),
        "average_pool_inside" => ops::average_pool_window(graph, x, padded([3, 3], [1, 1], [1, 1]), false),
        "average_pool_strides" => ops::average_pool_window(graph, x, padded([2, 3], [3, 2], [0, 0]), true),
        "linear_without_bias" => ops::linear(graph, x, operands[1], None),
        "conv_1x7" | "conv_7x1" | "conv_5x5" => conv(graph, [1, 1], Padding::Same),
        "conv_3x3_valid" => conv(graph, [2, 2], Padding::Sides { rows: [0, 0], columns: [0, 0] }),
        "conv_2x3_strides" => conv(graph, [3, 2], Padding::Sides { rows: [1, 3], columns: [2, 0] }),
        "attention_cross" | "attention_boolean_mask" | "attention_additive_mask" => {
            attention(graph, 2, false)
        }
        "attention_causal" => attention(graph, 3, true),
        "attention_causal_cross" => attention(graph, 1, true),
        "attention_causal_mask" => attention(graph, 2, true),
        "attention_head_160" => attention(graph, 1, false),
        _ => panic!("the golden file has a case {name} that this test does not know"),
    }
}

/// Fails unless all elements are those expected, to `limit` of the largest.
fn compare(what: &str, found: &[f32], expected: &[f32], limit: f32) -> f32 {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
    let mut worst = 0.0f32;
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs() / scale;
        assert!(error <= limit, "{what}: element {index} is {found}, expected {expected} ({error:.1e})");
        worst = worst.max(error);
    }
    worst
}

#[test]
fn ops_and_their_gradients_are_those_of_pytorch() {
    let golden = Golden::read("primitives");
    let names: Vec<&str> = golden.names().filter_map(|name| name.strip_suffix(".out")).collect();
    assert!(names.len() >= 28, "only {} cases", names.len());
    for (device_name, device) in common::devices() {
        let mut worst = (0.0f32, String::new());
        for name in &names {
            // The tensors of a case that are counted from 0.
            let counted = |what: &str| -> Vec<String> {
                let names = (0..).map(|index| format!("{name}.{what}.{index}"));
                names.take_while(|name| golden.has(name)).collect()
            };
            let operands = counted("in");
            let mut graph = Graph::new();
            let inputs: Vec<ValueId> = operands
                .iter()
                .map(|operand| graph.input("operand", TensorType::f32(golden.shape(operand))))
                .collect();
            let y = build(&mut graph, name, &inputs).unwrap();
            let out = format!("{name}.out");
            assert_eq!(graph.ty(y).shape, golden.shape(&out), "{name}");
            let d_y = graph.input("d_y", TensorType::f32(golden.shape(&out)));
            let d_expected = counted("grad");
            assert!(!d_expected.is_empty(), "{name} has no gradients");
            let d_inputs: Vec<ValueId> = gradients(&mut graph, &[(y, d_y)], &inputs[..d_expected.len()])
                .unwrap()
                .into_iter()
                .map(|gradient| gradient.expect("every operand has a gradient"))
                .collect();

            let keep: Vec<ValueId> = d_inputs.iter().copied().chain([y]).collect();
            let mut executor = block_on(device.prepare(&graph, &keep)).unwrap();
            for (&input, operand) in inputs.iter().zip(&operands) {
                executor.write(input, &golden.floats(operand)).unwrap();
            }
            executor.write(d_y, &golden.floats(&format!("{name}.d_out"))).unwrap();
            executor.run().unwrap();
            let results = [(y, &out)].into_iter().chain(d_inputs.into_iter().zip(&d_expected));
            for (index, (value, expected)) in results.enumerate() {
                let what = match index {
                    0 => format!("{device_name}: {name}"),
                    _ => format!("{device_name}: {name}: the gradient of operand {}", index - 1),
                };
                let error =
                    compare(&what, &block_on(executor.read(value)).unwrap(), &golden.floats(expected), 1e-5);
                if error > worst.0 {
                    worst = (error, what);
                }
            }
        }
        println!("{device_name}: {} ops; worst {:.1e}: {}", names.len(), worst.0, worst.1);
    }
}

/// GELU against libm's erf in f64, on a grid from -12 to 12: of what is printed, the absolute error is that of the
/// distribution function, and the relative one that of the left tail, where values go down to 1e-32.
#[test]
fn gelu_keeps_its_digits_in_both_tails() {
    let grid: Vec<f32> = (-6144..=6144).map(|step| step as f32 / 512.0).collect();
    for (device_name, device) in common::devices() {
        let mut graph = Graph::new();
        let x = graph.input("x", TensorType::f32([grid.len()]));
        let y = ops::gelu(&mut graph, x, Gelu::Erf).unwrap();
        let mut executor = block_on(device.prepare(&graph, &[y])).unwrap();
        executor.write(x, &grid).unwrap();
        executor.run().unwrap();
        let found = block_on(executor.read(y)).unwrap();
        let (mut absolute, mut relative) = (0.0f64, 0.0f64);
        for (&x, y) in grid.iter().zip(found) {
            let (x, y) = (f64::from(x), f64::from(y));
            let distribution = 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
            absolute = absolute.max((y - x * distribution).abs() / x.abs().max(1.0));
            if x < 0.0 {
                relative = relative.max((y / (x * distribution) - 1.0).abs());
            }
        }
        println!("{device_name}: absolute {absolute:.1e}, relative in the left tail {relative:.1e}");
        assert!(absolute < 2e-7, "{device_name}: off by {absolute:.1e}");
        // WGSL allows exp an error of 3 + 2 |x| units in the last place, which is 1.7e-5 at -72.
        assert!(relative < 2e-5, "{device_name}: off by {relative:.1e} of the left tail");
    }
}

/// What a mask says of a key is given; asking for its gradient is an error, not a zero.
#[test]
fn a_mask_has_no_gradient() {
    let mut graph = Graph::new();
    let [q, k, v] = ["q", "k", "v"].map(|name| graph.input(name, TensorType::f32([1, 3, 4])));
    let mask = graph.input("mask", TensorType::f32([1, 3]));
    let settings = Attention { heads: 1, causal: false, mask: Some(mask) };
    let y = ops::attention(&mut graph, q, k, v, settings).unwrap();
    let d_y = graph.input("d_y", TensorType::f32([1, 3, 4]));
    let error = gradients(&mut graph, &[(y, d_y)], &[mask]).unwrap_err().to_string();
    assert!(error.contains("attention.forward_masked has no gradient rule"), "{error}");
}

/// Errors name the op, the shapes, and what was expected of them.
#[test]
fn shapes_that_do_not_fit_are_refused_in_words() {
    let mut graph = Graph::new();
    let mut input = |shape: &[usize]| graph.input("operand", TensorType::f32(shape));
    let [image, row, tokens, words] = [&[2, 4, 5, 8][..], &[2, 7], &[2, 9, 8], &[2, 3, 6]].map(&mut input);
    let [weight, bias, odd, mask] = [&[8, 5, 7, 8][..], &[8], &[2, 7], &[2, 4]].map(&mut input);
    let valid = Padding::Sides { rows: [0, 0], columns: [0, 0] };
    let window = Window { kernel: [3, 3], stride: [1, 1], padding: [3, 1] };
    let hidden = Attention { mask: Some(mask), ..Attention::from(2) };
    let errors = [
        (
            ops::conv2d(&mut graph, image, weight, bias, 1, valid),
            "a kernel of 5x7 does not fit into an image of 4x5",
        ),
        (
            ops::conv2d(&mut graph, image, weight, bias, [1, 0], Padding::Same),
            "the stride must be at least 1",
        ),
        (ops::max_pool(&mut graph, image, window), "padding must be less than the kernel"),
        (ops::max_pool(&mut graph, image, Window::tiles(6)), "windows of 6 do not fit into 4"),
        (ops::geglu(&mut graph, odd), "x must have an even number of features"),
        (ops::multiply(&mut graph, image, row), "row must be [2, 8]"),
        (ops::layer_norm(&mut graph, tokens, Some((bias, row)), 1e-5), "bias must be [8]"),
        (ops::reshape(&mut graph, row, [3, 5]), "[3, 5] has 15 elements, x has 14"),
        (ops::transpose(&mut graph, row, [1, 2]), "must name each of the 2 axes of x once"),
        (ops::linear(&mut graph, words, weight, None), "weight must be [8, 6]"),
        (ops::attention(&mut graph, tokens, words, words, 2), "k must have the samples, the channels"),
        (ops::attention(&mut graph, tokens, tokens, tokens, 3), "8 channels do not fall into 3 heads"),
        (ops::attention(&mut graph, tokens, tokens, tokens, hidden), "mask must be [2, 9]"),
    ];
    for (result, expected) in errors {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
