//! The reverse walk and the plan, on graphs small enough to follow by hand and on a whole training step.

use std::collections::HashSet;

use super::pack::MAX_PACKED_ELEMENTS;
use super::*;
use crate::device::{CpuExecutor, CpuKernels};
use crate::network::{CLASS_LABELS, NamedValues, Network, SAMPLE, TIMESTEPS};
use crate::ops;

#[test]
fn tensors_beyond_any_machine_are_refused() {
    let mut graph = Graph::new();
    let [large, huge] = [1 << 23, 1 << 40].map(|n| graph.input("x", TensorType::f32([n, n])));
    assert_eq!((graph.ty(huge).len(), graph.ty(huge).bytes()), (usize::MAX, usize::MAX));
    let error = ops::add(&mut graph, huge, huge).unwrap_err().to_string();
    assert!(error.contains("[1099511627776, 1099511627776]") && error.contains("more than 2^48"), "{error}");
    // This one has a size, and no machine has so much.
    let y = ops::add(&mut graph, large, large).unwrap();
    let error = CpuExecutor::new(&graph, &[y], CpuKernels::Fast).err().unwrap().to_string();
    assert!(error.contains("the buffers (inputs 268435456 MiB, activations 268435456 MiB)"), "{error}");
}

#[test]
fn gradients_of_a_value_used_twice_add_up() {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorType::f32([3]));
    let twice = ops::add(&mut graph, x, x).unwrap();
    let y = ops::add(&mut graph, twice, x).unwrap();
    let d_y = graph.input("d_y", TensorType::f32([3]));
    let d_x = gradients(&mut graph, &[(y, d_y)], &[x]).unwrap()[0].unwrap();
    let mut executor = CpuExecutor::new(&graph, &[d_x], CpuKernels::Fast).unwrap();
    executor.write(d_y, &[1.0, -2.0, 0.5]).unwrap();
    executor.run();
    assert_eq!(executor.read(d_x).unwrap(), [3.0, -6.0, 1.5]);
}

#[test]
fn a_value_that_the_loss_ignores_has_no_gradient() {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorType::f32([3]));
    let unrelated = graph.input("unrelated", TensorType::f32([3]));
    let y = ops::silu(&mut graph, x).unwrap();
    let d_y = graph.input("d_y", TensorType::f32([3]));
    let found = gradients(&mut graph, &[(y, d_y)], &[x, unrelated]).unwrap();
    assert!(found[0].is_some() && found[1].is_none());
}

#[test]
fn gradient_nodes_carry_the_path_of_their_forward_node() {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorType::f32([3]));
    let y = graph.scoped("a", |graph| graph.scoped("b", |graph| ops::silu(graph, x))).unwrap();
    let d_y = graph.input("d_y", TensorType::f32([3]));
    gradients(&mut graph, &[(y, d_y)], &[x]).unwrap();
    let last = graph.nodes().last().unwrap();
    assert_eq!((last.path.as_str(), last.op.name()), ("a.b", "silu.backward"));
}

#[test]
fn a_shape_that_does_not_fit_names_path_op_and_shapes() {
    let mut graph = Graph::new();
    let a = graph.input("a", TensorType::f32([2, 3]));
    let b = graph.input("b", TensorType::f32([2, 4]));
    let error = graph.scoped("mid_block", |graph| ops::add(graph, a, b)).unwrap_err().to_string();
    assert_eq!(error, "mid_block: add.forward cannot take a [2, 3], b [2, 4]: b must be [2, 3]");
}

#[test]
fn activations_that_are_mixed_name_the_element_type_that_was_expected() {
    let mut graph = Graph::new();
    let a = graph.input("a", TensorType::f16([2, 3]));
    let b = graph.input("b", TensorType::f32([2, 3]));
    let error = ops::add(&mut graph, a, b).unwrap_err().to_string();
    assert!(error.ends_with("cannot take a [2, 3] f16, b [2, 3]: b must be [2, 3] f16"), "{error}");
    let weight = graph.input("weight", TensorType::f16([5, 3]));
    let bias = graph.input("bias", TensorType::f32([5]));
    let error = ops::linear(&mut graph, a, weight, bias).unwrap_err().to_string();
    assert!(error.ends_with("weight must be f32, not f16"), "{error}");
}

#[test]
fn two_elements_of_16_bits_take_a_word() {
    let bytes = [0, 1, 2, 3, 64].map(|length| TensorType::f16([length]).bytes());
    assert_eq!(bytes, [0, 4, 4, 8, 128]);
}

#[test]
fn a_cast_rounds_and_its_gradient_comes_back_in_the_type_of_its_input() {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorType::f32([3]));
    let half = ops::cast(&mut graph, x, DType::F16).unwrap();
    assert_eq!(ops::cast(&mut graph, half, DType::F16).unwrap(), half, "nothing to do");
    let doubled = ops::add(&mut graph, half, half).unwrap();
    let y = ops::cast(&mut graph, doubled, DType::F32).unwrap();
    let d_y = graph.input("d_y", TensorType::f32([3]));
    let d_x = gradients(&mut graph, &[(y, d_y)], &[x]).unwrap()[0].unwrap();
    assert_eq!(graph.ty(d_x), graph.ty(x));
    let mut executor = CpuExecutor::new(&graph, &[y, d_x], CpuKernels::Fast).unwrap();
    executor.write(x, &[1.0, 1.0 + 1.0 / 2048.0, 60_000.0]).unwrap();
    executor.write(d_y, &[1.0, 0.1, 1e-8]).unwrap();
    executor.run();
    assert_eq!(executor.read(y).unwrap(), [2.0, 2.0, f32::INFINITY]);
    // 0.1 is rounded to 16 bits on its way, and 1e-8 vanishes: what loss scaling is for.
    assert_eq!(executor.read(d_x).unwrap(), [2.0, 0.199_951_17, 0.0]);
}

#[test]
fn nodes_that_nothing_needs_are_left_out() {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorType::f32([3]));
    let y = ops::silu(&mut graph, x).unwrap();
    ops::silu(&mut graph, y).unwrap();
    let plan = Plan::new(&graph, &[y], |_| Vec::new());
    assert_eq!(plan.nodes.len(), 1);
}

#[test]
fn a_chain_takes_two_buffers_whatever_its_length() {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorType::f32([100]));
    let mut y = x;
    for _ in 0..10 {
        y = ops::silu(&mut graph, y).unwrap();
    }
    let plan = Plan::new(&graph, &[y], |_| Vec::new());
    // Offsets are multiples of 256 bytes.
    assert_eq!(plan.memory().bytes[&BufferRole::Activations], 2 * 512);
}

#[test]
fn packed_values_lie_end_to_end_at_bindable_offsets() {
    let mut graph = Graph::new();
    let values: Vec<ValueId> =
        [3, 64, 65].map(|length| graph.state("w", TensorType::f32([length]), BufferRole::Weights)).to_vec();
    let flat = graph.pack("weights", &values, BufferRole::Weights).unwrap();
    assert_eq!(graph.ty(flat[0]).shape, [64 + 64 + 128]);
    let offsets: Vec<usize> = values
        .iter()
        .map(|&id| match graph.value(id).storage {
            Storage::Slice { of, offset } if of == flat[0] => offset,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(offsets, [0, 64, 128]);
}

#[test]
fn packing_starts_another_buffer_at_128_mib() {
    let mut graph = Graph::new();
    let values: Vec<ValueId> = (0..3)
        .map(|_| graph.state("w", TensorType::f32([MAX_PACKED_ELEMENTS / 2]), BufferRole::Weights))
        .collect();
    assert_eq!(graph.pack("weights", &values, BufferRole::Weights).unwrap().len(), 2);
    let whale = graph.state("whale", TensorType::f32([MAX_PACKED_ELEMENTS + 1]), BufferRole::Weights);
    let error = graph.pack("weights", &[whale], BufferRole::Weights).unwrap_err().to_string();
    assert!(error.starts_with("whale: cannot be packed"), "{error}");
}

/// A training step of the digits' U-Net on images of one element type: its values to keep, and gradients of parameters.
fn training_step(graph: &mut Graph, images: &TensorType) -> (Vec<ValueId>, Vec<ValueId>) {
    let config = (crate::network::PRESETS[0].config)();
    let batch = images.shape[0];
    let inputs = NamedValues::default()
        .with(SAMPLE, graph.input("sample", images.clone()))
        .with(TIMESTEPS, graph.input("timesteps", TensorType::f32([batch])))
        .with(CLASS_LABELS, graph.input("class_labels", TensorType::u32([batch])));
    let output = config.build(graph, &inputs, None).unwrap().get(SAMPLE).unwrap();
    let target = graph.input("target", graph.ty(output).clone());
    let weights = graph.input("weights", TensorType::f32([batch]));
    let (loss, _) = ops::mse_loss(graph, output, target, weights).unwrap();
    let d_loss = graph.input("d_loss", TensorType::f32([1]));
    let parameters: Vec<ValueId> = graph.parameters().iter().map(|parameter| parameter.value).collect();
    let found = gradients(graph, &[(loss, d_loss)], &parameters).unwrap();
    let d_parameters: Vec<ValueId> = found.into_iter().flatten().collect();
    (d_parameters.iter().copied().chain([loss]).collect(), d_parameters)
}

#[test]
fn a_network_on_16_bit_images_has_16_bit_activations_and_32_bit_gradients_of_weights() {
    let [mut single, mut half] = [Graph::new(), Graph::new()];
    let (_, d_single) = training_step(&mut single, &TensorType::f32([3, 8, 8, 1]));
    let (_, d_half) = training_step(&mut half, &TensorType::f16([3, 8, 8, 1]));
    assert!(d_half.iter().all(|&id| half.ty(id).dtype == DType::F32));
    // Whatever has a row per pixel is an activation; statistics, sums and rows per image are not.
    for (_, value) in half.values().filter(|(_, value)| matches!(value.storage, Storage::Activation)) {
        let is_image = value.ty.shape.len() == 4 && value.ty.shape[0] == 3;
        assert_eq!(value.ty.dtype == DType::F16, is_image, "{} {}", value.name, value.ty);
    }
    // Gradients of weights have buffers of their own in training, and are as large in both.
    let activations = |mut graph: Graph, d_parameters: &[ValueId]| {
        graph.pack("gradients", d_parameters, BufferRole::Gradients).unwrap();
        Plan::new(&graph, &[], |_| Vec::new()).peak().bytes
    };
    let [single, half] = [activations(single, &d_single), activations(half, &d_half)];
    let ratio = half as f64 / single as f64;
    assert!((0.5..0.6).contains(&ratio), "{half} of {single} bytes");
}

/// WebGPU forbids a buffer that one dispatch reads and writes; and what is alive must not be overwritten.
#[test]
fn no_node_of_a_training_step_overwrites_what_is_alive_or_writes_a_buffer_that_it_reads() {
    for images in [TensorType::f32([3, 8, 8, 1]), TensorType::f16([3, 8, 8, 1])] {
        let mut graph = Graph::new();
        let (keep, _) = training_step(&mut graph, &images);
        assert_apart(&graph, &keep);
    }
}

fn assert_apart(graph: &Graph, keep: &[ValueId]) {
    let plan = Plan::new(graph, keep, |_| vec![256, 100_000]);

    for (index, node) in plan.nodes.iter().enumerate() {
        let outputs = node.node.outputs.iter().map(|&id| plan.place(id).unwrap());
        let written: Vec<Place> = outputs.chain(node.scratch.iter().copied()).collect();
        let buffers: HashSet<usize> = written.iter().map(|place| place.buffer).collect();
        assert_eq!(buffers.len(), written.len(), "{} writes a buffer twice", node.node.path);
        for &input in &node.node.inputs {
            let buffer = plan.place(input).unwrap().buffer;
            assert!(!buffers.contains(&buffer), "{} reads and writes a buffer", node.node.path);
        }
        // Everything read from here on, and written before, must survive this node.
        let earlier: HashSet<ValueId> =
            plan.nodes[..index].iter().flat_map(|node| node.node.outputs.iter().copied()).collect();
        let later = plan.nodes[index..].iter().flat_map(|node| node.node.inputs.iter().copied());
        for id in later.chain(keep.iter().copied()).filter(|id| earlier.contains(id)) {
            let kept = plan.place(id).unwrap();
            let overlaps = |place: &Place| {
                place.buffer == kept.buffer
                    && place.offset < kept.offset + kept.bytes
                    && kept.offset < place.offset + place.bytes
            };
            let name = &graph.value(id).name;
            assert!(!written.iter().any(overlaps), "{} overwrites {name}", node.node.path);
        }
    }
    for place in plan.nodes.iter().flat_map(|node| &node.scratch) {
        assert!(
            place.offset.is_multiple_of(256)
                && place.offset + place.bytes <= plan.buffers[place.buffer].bytes
        );
    }
    for (id, _) in graph.values() {
        let Some(place) = plan.place(id) else { continue };
        assert!(
            place.offset.is_multiple_of(256)
                && place.offset + place.bytes <= plan.buffers[place.buffer].bytes
        );
    }
    let shared: usize = plan
        .buffers
        .iter()
        .filter(|buffer| matches!(buffer.role, BufferRole::Activations | BufferRole::Workspace))
        .map(|buffer| buffer.bytes)
        .sum();
    let bound = plan.peak().bytes;
    assert!(bound <= shared && 4 * shared < 5 * bound, "{shared} bytes for at most {bound} at once");
    let apart: usize = plan
        .nodes
        .iter()
        .flat_map(|node| {
            node.outputs.iter().map(TensorType::bytes).chain(node.scratch.iter().map(|p| p.bytes))
        })
        .sum();
    assert!(plan.memory().total() < apart / 2, "{} of {apart} bytes", plan.memory().total());
}
