//! The rewrites on a chain small enough to follow by hand, and on U-Nets.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::*;
use crate::device::{CpuExecutor, CpuKernels};
use crate::network::{NamedValues, Network, PRESETS, SAMPLE, TIMESTEPS, UNetConfig, initial_weights};
use crate::ops;

/// Loss and gradients of a U-Net with dropout.
struct Step {
    graph: Graph,
    /// Number of nodes of the forward pass.
    forward: usize,
    /// The loss and the gradients of all parameters.
    results: Vec<ValueId>,
    inputs: Vec<ValueId>,
}

impl Step {
    fn new(resnet_time_scale_shift: &str) -> Self {
        let config = UNetConfig {
            dropout: 0.1,
            resnet_time_scale_shift: resnet_time_scale_shift.to_owned(),
            num_class_embeds: None,
            ..(PRESETS[0].config)()
        };
        let mut graph = Graph::new();
        let sample = graph.input("sample", TensorType::f32([2, 8, 8, 1]));
        let timesteps = graph.input("timesteps", TensorType::f32([2]));
        let key = graph.input("key_step_sample", TensorType::u32([4]));
        let inputs = NamedValues::default().with(SAMPLE, sample).with(TIMESTEPS, timesteps);
        let output = config.build(&mut graph, &inputs, Some(key)).unwrap().get(SAMPLE).unwrap();
        let target = graph.input("target", graph.ty(output).clone());
        let weights = graph.input("weights", TensorType::f32([2]));
        let (loss, _) = ops::mse_loss(&mut graph, output, target, weights).unwrap();
        let d_loss = graph.input("d_loss", TensorType::f32([1]));
        let forward = graph.nodes().len();
        let parameters: Vec<ValueId> = graph.parameters().iter().map(|parameter| parameter.value).collect();
        let d_parameters = gradients(&mut graph, &[(loss, d_loss)], &parameters).unwrap();
        let mut results: Vec<ValueId> = d_parameters.into_iter().flatten().collect();
        // Gradients that are kept would hide what becomes of the activations.
        graph.pack("gradients", &results, BufferRole::Gradients).unwrap();
        results.push(loss);
        Self { graph, forward, results, inputs: vec![sample, timesteps, key, target, weights, d_loss] }
    }

    fn cheap(mut self) -> Self {
        recompute_cheap(&mut self.graph, self.forward);
        self
    }

    fn blocks(mut self) -> Self {
        recompute_segments(&mut self.graph, self.forward);
        self
    }

    /// Bits of all results.
    fn run(&self) -> Vec<Vec<u32>> {
        let mut executor = CpuExecutor::new(&self.graph, &self.results, CpuKernels::Fast).unwrap();
        executor.poison();
        for (parameter, mut data) in self.graph.parameters().iter().zip(initial_weights(&self.graph, 1)) {
            // Some weights start near zero, which would hide the gradients behind them.
            data.iter_mut().enumerate().for_each(|(i, x)| *x += 0.01 * (i % 7) as f32);
            executor.write(parameter.value, &data).unwrap();
        }
        for &id in &self.inputs {
            let data: Vec<f32> = match self.graph.ty(id).dtype {
                DType::F32 | DType::F16 => (0..self.graph.ty(id).len()).map(|i| (i as f32).cos()).collect(),
                DType::U32 => [7, 0, 3, 0].map(f32::from_bits).to_vec(),
            };
            executor.write(id, &data).unwrap();
        }
        executor.run();
        let bits = |id: &ValueId| executor.read(*id).unwrap().into_iter().map(f32::to_bits).collect();
        self.results.iter().map(bits).collect()
    }

    fn peak(&self) -> usize {
        Plan::new(&self.graph, &self.results, |_| Vec::new()).peak().bytes
    }

    /// Nodes of the reverse pass that are calls of the forward pass made a second time.
    fn copies(&self) -> Vec<&Node> {
        let (nodes, reverse) = self.graph.nodes().split_at(self.forward);
        let ops: HashSet<*const ()> = nodes.iter().map(|node| Arc::as_ptr(&node.op).cast()).collect();
        reverse.iter().filter(|node| ops.contains(&Arc::as_ptr(&node.op).cast())).collect()
    }
}

#[test]
fn gradients_are_the_same_to_the_bit() {
    for time in ["default", "scale_shift"] {
        let expected = Step::new(time).run();
        assert!(expected.iter().flatten().all(|&bits| f32::from_bits(bits).is_finite()));
        for (name, step) in [
            ("cheap ops", Step::new(time).cheap()),
            ("blocks", Step::new(time).blocks()),
            ("both", Step::new(time).blocks().cheap()),
        ] {
            assert!(!step.copies().is_empty(), "{time}: nothing is recomputed by {name}");
            assert!(step.run() == expected, "{time}: other gradients with {name}");
        }
    }
}

#[test]
fn the_peak_falls() {
    for time in ["default", "scale_shift"] {
        let [none, cheap, blocks] =
            [Step::new(time), Step::new(time).cheap(), Step::new(time).blocks().cheap()].map(|s| s.peak());
        assert!(cheap < none && 3 * blocks < 2 * cheap, "{time}: {none}, {cheap}, {blocks} bytes");
    }
}

#[test]
fn nothing_is_computed_more_than_twice() {
    for step in [Step::new("default").blocks().cheap(), Step::new("scale_shift").blocks().cheap()] {
        let copies = step.copies();
        let originals: HashSet<*const ()> = copies.iter().map(|node| Arc::as_ptr(&node.op).cast()).collect();
        assert_eq!(originals.len(), copies.len());
        let calls: HashSet<_> = step.graph.nodes()[..step.forward]
            .iter()
            .map(|node| (node.path.as_str(), node.op.name()))
            .collect();
        assert!(copies.iter().all(|node| calls.contains(&(node.path.as_str(), node.op.name()))));
    }
}

#[test]
fn only_what_is_inside_blocks_and_needed_is_recomputed_by_checkpointing() {
    let step = Step::new("default").blocks();
    let copies = step.copies();
    let copied =
        |path: &str, op: &str| copies.iter().filter(|node| node.path == path && node.op.name() == op).count();
    assert_eq!(copied("up_blocks.1.resnets.0", "concat.forward"), 1);
    assert_eq!(copied("up_blocks.1.resnets.0.norm1", "group_norm.forward"), 1);
    assert_eq!(copied("up_blocks.1.resnets.0.conv1", "conv2d.forward"), 1);
    assert_eq!(copied("mid_block.attentions.0", "attention.forward"), 1);
    // The last layers of a block, whose results no gradient rule reads, and what lies between blocks.
    for (path, op) in [
        ("up_blocks.1.resnets.0.conv2", "conv2d.forward"),
        ("mid_block.attentions.0.to_out.0", "linear.forward"),
        ("up_blocks.0.upsamplers.0", "upsample.forward"),
        ("conv_in", "conv2d.forward"),
        ("conv_norm_out", "group_norm.forward"),
    ] {
        assert_eq!(copied(path, op), 0, "{path} {op}");
    }
}

#[test]
fn a_copy_runs_just_before_its_first_reader() {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorType::f32([1, 4, 4, 8]));
    let weight = graph.parameter("weight", [8, 3, 3, 8], Init::Zeros);
    let bias = graph.parameter("bias", [8], Init::Zeros);
    let doubled = ops::upsample(&mut graph, x).unwrap();
    let y = ops::conv2d(&mut graph, doubled, weight, bias, 1, ops::conv2d::Padding::Same).unwrap();
    let y = ops::silu(&mut graph, y).unwrap();
    let d_y = graph.input("d_y", graph.ty(y).clone());
    let forward = graph.nodes().len();
    gradients(&mut graph, &[(y, d_y)], &[weight, x]).unwrap();
    recompute_cheap(&mut graph, forward);
    let names: Vec<&str> = graph.nodes()[forward..].iter().map(|node| node.op.name()).collect();
    // SiLU's own result is read by nothing: only what the convolution's gradient reads is made again.
    let expected = [
        "silu.backward",
        "upsample.forward",
        "conv2d.backward_weight",
        "conv2d.backward_input",
        "upsample.backward",
    ];
    assert_eq!(names, expected);
    let [_, copy, reader, ..] = &graph.nodes()[forward..] else { panic!() };
    assert_eq!((copy.inputs[0], reader.inputs[0]), (x, copy.outputs[0]));
    assert_ne!(copy.outputs[0], doubled);
}

#[test]
fn a_cheap_op_whose_input_would_have_to_be_kept_instead_is_left_alone() {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorType::f32([2, 3]));
    let weight = graph.parameter("weight", [3, 3], Init::Zeros);
    let bias = graph.parameter("bias", [3], Init::Zeros);
    // The sum is as large as its SiLU, and only SiLU's gradient, which is not asked for, would read it.
    let sum = ops::add(&mut graph, x, x).unwrap();
    let y = ops::silu(&mut graph, sum).unwrap();
    let z = ops::linear(&mut graph, y, weight, bias).unwrap();
    let d_z = graph.input("d_z", graph.ty(z).clone());
    let forward = graph.nodes().len();
    gradients(&mut graph, &[(z, d_z)], &[weight]).unwrap();
    let before = graph.nodes().len();
    recompute_cheap(&mut graph, forward);
    assert_eq!(graph.nodes().len(), before);
}
