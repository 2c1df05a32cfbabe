//! Low-rank adapters against peft: forward pass, gradients, steps of AdamW, and the merged model.
//!
//! `tools/oracle/lora.py` generates the file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is how a test fails

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use ddpm_gpu::device::{Device, Executor};
use ddpm_gpu::graph::{BufferRole, Graph, TensorType, ValueId};
use ddpm_gpu::network::{
    Adapted, CLASS_LABELS, NamedValues, Network, Precision, SAMPLE, TIMESTEPS, Tensor, Tensors, UNetConfig,
    from_tensors, to_tensors,
};
use ddpm_gpu::ops::adamw::AdamW;
use ddpm_gpu::ops::mse_loss;
use ddpm_gpu::output::{nchw_to_nhwc, nhwc_to_nchw};
use ddpm_gpu::train::{Optimizer, TrainingGraph};
use pollster::block_on;

use common::golden::Golden;

const ADAMW: AdamW = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-2, l2_penalty: 0.0 };

fn golden() -> Golden {
    Golden::read("lora")
}

fn with_prefix(golden: &Golden, prefix: &str) -> Tensors {
    let tensor = |name: &str| Tensor { shape: golden.shape(name).to_vec(), data: golden.floats(name) };
    golden.names().filter_map(|name| Some((name.strip_prefix(prefix)?.to_owned(), tensor(name)))).collect()
}

fn network(golden: &Golden) -> Adapted {
    let network = Arc::new(UNetConfig::from_json(golden.metadata("config")).unwrap());
    let layers: BTreeSet<String> = serde_json::from_str(golden.metadata("layers")).unwrap();
    let number = |key: &str| golden.metadata(key).parse::<f32>().unwrap();
    Adapted::new(network, number("rank") as usize, number("alpha"), layers)
}

/// Base and adapters together.
fn tensors(golden: &Golden) -> Tensors {
    let mut tensors = with_prefix(golden, "weights.");
    tensors.extend(with_prefix(golden, "adapters."));
    tensors
}

/// A batch of images in NHWC, with its NHWC shape.
fn images(golden: &Golden, name: &str) -> ([usize; 4], Vec<f32>) {
    let shape: [usize; 4] = golden.shape(name).try_into().unwrap();
    let [n, c, h, w] = shape;
    ([n, h, w, c], nchw_to_nhwc(&golden.floats(name), shape))
}

fn build(
    graph: &mut Graph,
    network: &dyn Network,
    batch: usize,
    precision: Precision,
) -> (NamedValues, ValueId) {
    let inputs = network.declare_inputs(graph, batch).unwrap();
    let output = network.apply(graph, precision, &inputs, None).unwrap().get(SAMPLE).unwrap();
    (inputs, output)
}

fn write_inputs(golden: &Golden, inputs: &NamedValues, executor: &mut Executor) {
    executor.write(inputs.get(SAMPLE).unwrap(), &images(golden, "input.sample").1).unwrap();
    executor.write(inputs.get(TIMESTEPS).unwrap(), &golden.floats("input.timesteps")).unwrap();
    let labels: Vec<u32> = golden.floats("input.class_labels").iter().map(|&label| label as u32).collect();
    executor.write(inputs.get(CLASS_LABELS).unwrap(), &labels).unwrap();
}

/// What a network gives, as `[N, C, H, W]`.
fn forward(device: &Device, network: &dyn Network, tensors: &Tensors, precision: Precision) -> Vec<f32> {
    let golden = golden();
    let mut graph = Graph::new();
    let (inputs, output) = build(&mut graph, network, images(&golden, "input.sample").0[0], precision);
    let mut executor = block_on(device.prepare(&graph, &[output])).unwrap();
    let weights = from_tensors(&graph, graph.parameters(), tensors).unwrap();
    for (parameter, data) in graph.parameters().iter().zip(&weights) {
        executor.write(parameter.value, data).unwrap();
    }
    write_inputs(&golden, &inputs, &mut executor);
    executor.run().unwrap();
    let shape = graph.ty(output).shape.clone().try_into().unwrap();
    nhwc_to_nchw(&block_on(executor.read(output)).unwrap(), shape)
}

/// The largest difference, relative to the largest of what is expected or to `least`.
fn difference(found: &[f32], expected: &[f32], least: f32) -> f32 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(least, |largest, value| largest.max(value.abs()));
    let mut worst = 0.0;
    for (found, expected) in found.iter().zip(expected) {
        let difference = (found - expected).abs() / scale;
        // A NaN is not below anything.
        if difference.is_nan() || difference > worst {
            worst = difference;
        }
        assert!(!worst.is_nan());
    }
    worst
}

#[test]
fn the_layers_that_can_have_adapters_are_found() {
    let golden = golden();
    let adapted = network(&golden);
    let all = Adapted::layers_of(adapted.network()).unwrap();
    assert!(adapted.layers().count() == 39 && adapted.layers().all(|layer| all.contains(layer)));
    for (layer, expected) in [("conv_in", true), ("class_embedding", false), ("conv_norm_out", false)] {
        assert_eq!(all.contains(layer), expected, "{layer}");
    }
    let weights = with_prefix(&golden, "weights.");
    assert!(all.iter().all(|layer| weights[&format!("{layer}.weight")].shape.len() >= 2));
}

/// No block makes a layer by itself that then could have no adapter.
#[test]
fn every_layer_of_every_golden_network_can_have_an_adapter() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let names =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<String> = names.filter(|name| name.starts_with("unet_")).collect();
    assert!(names.len() >= 20, "{names:?}");
    for name in names {
        let golden = Golden::read(name.trim_end_matches(".safetensors"));
        let network: Arc<dyn Network> = Arc::new(UNetConfig::from_json(golden.metadata("config")).unwrap());
        let layers = Adapted::layers_of(&network).unwrap();
        for (name, tensor) in network.fresh_weights(0).unwrap() {
            // Tables, of which rows are looked up, are no layers of x.
            let is_table = ["class_embedding.weight", "time_proj.weight"].contains(&name.as_str());
            if let Some(layer) = name.strip_suffix(".weight").filter(|_| tensor.shape.len() > 1 && !is_table)
            {
                assert!(layers.contains(layer), "{layer}");
            }
        }
    }
}

#[test]
fn the_forward_pass_is_that_of_peft_and_of_the_merged_model() {
    let golden = golden();
    let adapted = network(&golden);
    let tensors = tensors(&golden);
    let expected = golden.floats("output.sample");
    let base = with_prefix(&golden, "weights.");
    let merged = adapted.merge(tensors.clone()).unwrap();
    assert!(merged.keys().eq(base.keys()));
    let of_peft = with_prefix(&golden, "merged.");
    for (name, tensor) in &merged {
        match of_peft.get(name) {
            Some(expected) => assert!(difference(&tensor.data, &expected.data, 0.0) < 1e-6, "{name}"),
            None => assert!(*tensor == base[name], "{name}"),
        }
    }
    for (name, device) in common::devices() {
        let apart = forward(&device, &adapted, &tensors, Precision::F32);
        let whole = forward(&device, adapted.network().as_ref(), &merged, Precision::F32);
        let bare = forward(&device, adapted.network().as_ref(), &base, Precision::F32);
        let [apart, whole, bare] = [apart, whole, bare].map(|found| difference(&found, &expected, 0.0));
        println!("{name}: unmerged {apart:.1e}, merged {whole:.1e}, without adapters {bare:.1e}");
        assert!(apart < 1e-5 && whole < 1e-5 && bare > 0.1, "{name}");
        let is_half = match &device {
            Device::Cpu => true,
            Device::Gpu(device) => device.supports_f16(),
        };
        if is_half {
            let half = difference(&forward(&device, &adapted, &tensors, Precision::F16), &expected, 0.0);
            assert!(half > 0.0 && half < 1e-2, "{name}: in 16 bits {half:.1e}");
        }
    }
}

#[test]
fn gradients_and_steps_of_adamw_are_those_of_peft() {
    let golden = golden();
    let adapted = network(&golden);
    let batch = images(&golden, "input.sample").0[0];
    let adapters = with_prefix(&golden, "adapters.");
    for (name, device) in common::devices() {
        let mut graph = Graph::new();
        let (inputs, output) = build(&mut graph, &adapted, batch, Precision::F32);
        let target = graph.input("target", graph.ty(output).clone());
        let weights = graph.input("weights", TensorType::f32([batch]));
        let (loss, _) = mse_loss(&mut graph, output, target, weights).unwrap();
        let optimizer = Optimizer {
            adamw: ADAMW,
            max_grad_norm: Some(1.0),
            scales_loss: false,
            extra_emas: 0,
            micro_batches: 1,
        };
        let training = TrainingGraph::new(&mut graph, loss, &[], optimizer, false).unwrap();
        let names: BTreeSet<&String> = graph.trained_parameters().map(|parameter| &parameter.name).collect();
        assert!(names.into_iter().eq(adapters.keys()), "others than the adapters are trained");
        let mut executor = block_on(device.prepare(&graph, &training.read_back())).unwrap();
        let initial = from_tensors(&graph, graph.parameters(), &tensors(&golden)).unwrap();
        training.initialize(&graph, &mut executor, &initial).unwrap();
        executor.write(weights, &vec![1.0f32; batch]).unwrap();
        executor.write(target, &images(&golden, "target.sample").1).unwrap();
        write_inputs(&golden, &inputs, &mut executor);
        let read = |executor: &mut Executor, packed: &[ValueId]| {
            let found = block_on(training.read(&graph, executor, packed)).unwrap();
            to_tensors(&graph, graph.trained_parameters(), &found)
        };
        for step in 1..=3 {
            training.write_schedule(&mut executor, ADAMW.schedule(step, 1e-2, 0.5), &[]).unwrap();
            executor.run().unwrap();
            if step > 1 {
                continue;
            }
            let found = block_on(training.read_loss(&mut executor)).unwrap();
            assert!(difference(&[found], &golden.floats("loss"), 0.0) < 1e-5, "{name}: loss {found}");
            // After the first step the first moment is a tenth of the clipped gradient.
            let norm = block_on(training.read_gradient_norm(&mut executor)).unwrap();
            let mut moments = read(&mut executor, &training.first_moment);
            let expected = with_prefix(&golden, "grad.");
            let largest =
                expected.values().flat_map(|tensor| &tensor.data).fold(0.0f32, |m, v| m.max(v.abs()));
            let mut worst = 0.0f32;
            for (tensor, expected) in &expected {
                let moment = moments.get_mut(tensor).unwrap();
                moment.data.iter_mut().for_each(|value| *value *= 10.0 * norm.max(1.0));
                let error = difference(&moment.data, &expected.data, 1e-3 * largest);
                assert!(error < 1e-4, "{name}: gradient of {tensor}: {error:.1e}");
                worst = worst.max(error);
            }
            println!("{name}: gradients of {} tensors, worst {worst:.1e}", expected.len());
        }
        // Three steps of at most 1e-2 each: a wrong step is off by that. The gradient of to_k is nearly nothing in one
        // direction, where Adam makes steps of its rounding, but this is not of the adapter's own numbers.
        let found = read(&mut executor, &training.weights);
        let mut worst = 0.0f32;
        for (tensor, expected) in with_prefix(&golden, "final.") {
            for (found, expected) in found[&tensor].data.iter().zip(&expected.data) {
                let error = (found - expected).abs();
                assert!(error < 2e-4, "{name}: {tensor}: {found}, expected {expected}");
                worst = worst.max(error);
            }
        }
        println!("{name}: after three steps of AdamW, worst {worst:.1e}");
    }
}

/// The base takes no gradients, moments or averages.
#[test]
fn a_step_keeps_nothing_for_the_base() {
    let golden = golden();
    let adapted = network(&golden);
    let plan = |network: &dyn Network| {
        let mut graph = Graph::new();
        let (_, output) = build(&mut graph, network, 3, Precision::F32);
        let target = graph.input("target", graph.ty(output).clone());
        let weights = graph.input("weights", TensorType::f32([3]));
        let (loss, _) = mse_loss(&mut graph, output, target, weights).unwrap();
        let optimizer = Optimizer {
            adamw: ADAMW,
            max_grad_norm: None,
            scales_loss: false,
            extra_emas: 0,
            micro_batches: 1,
        };
        let training = TrainingGraph::new(&mut graph, loss, &[], optimizer, false).unwrap();
        let padded =
            graph.trained_parameters().map(|one| graph.ty(one.value).bytes().next_multiple_of(256)).sum();
        (Device::Cpu.plan(&graph, &training.read_back()), padded)
    };
    let ((adapted, trained), (whole, all)): ((_, usize), (_, usize)) =
        (plan(&adapted), plan(adapted.network().as_ref()));
    for (plan, bytes) in [(&adapted, trained), (&whole, all)] {
        for (role, copies) in [(BufferRole::Gradients, 1), (BufferRole::Moments, 2), (BufferRole::Ema, 1)] {
            assert_eq!(plan.memory().bytes[&role], copies * bytes, "{role}");
        }
    }
    let of_base = |plan: &ddpm_gpu::graph::Plan| {
        let is_of_base = |path: &str| path.ends_with("conv2") || path == "conv_out";
        plan.nodes
            .iter()
            .filter(|node| is_of_base(&node.node.path) && node.node.op.name().ends_with("backward_weight"))
            .count()
    };
    assert_eq!((of_base(&adapted), of_base(&whole)), (0, 9));
}
