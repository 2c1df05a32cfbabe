//! U-Nets against PyTorch and diffusers: forward passes, gradients of every parameter, ten steps of AdamW.
//!
//! `tools/oracle/` generates the files of `tests/golden/`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is how a test fails
#![allow(clippy::neg_cmp_op_on_partial_ord)] // `!(error <= limit)` is true of a NaN, `error > limit` is not

mod common;

use std::path::Path;

use ddpm_gpu::device::Device;
use ddpm_gpu::graph::{DType, Graph, TensorType, ValueId, gradients};
use ddpm_gpu::network::{
    CLASS_LABELS, CONDITION_IMAGE, ClassifierConfig, LOGITS, NamedValues, Network, SAMPLE, TIMESTEPS, Tensor,
    Tensors, UNetConfig, from_tensors, to_tensors,
};
use ddpm_gpu::ops::adamw::AdamW;
use ddpm_gpu::ops::{cross_entropy, mse_loss, weighted_mean};
use ddpm_gpu::output::{nchw_to_nhwc, nhwc_to_nchw};
use ddpm_gpu::train::{Optimizer, TrainingGraph};
use pollster::block_on;

use common::golden::Golden;

fn config(golden: &Golden) -> UNetConfig {
    UNetConfig::from_json(golden.metadata("config")).unwrap()
}

/// A batch of images in NHWC, with its NHWC shape.
fn images(golden: &Golden, name: &str) -> ([usize; 4], Vec<f32>) {
    let shape: [usize; 4] = golden.shape(name).try_into().unwrap();
    let [n, c, h, w] = shape;
    ([n, h, w, c], nchw_to_nhwc(&golden.floats(name), shape))
}

/// The tensors whose names begin so, without that beginning.
fn with_prefix(golden: &Golden, prefix: &str) -> Tensors {
    let tensor = |name: &str| Tensor { shape: golden.shape(name).to_vec(), data: golden.floats(name) };
    let named = golden.names().filter_map(|name| Some((name.strip_prefix(prefix)?.to_owned(), tensor(name))));
    named.collect()
}

/// The names of the golden files that begin so.
fn files(prefix: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let names = entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    names
}

/// The network of a golden file as a graph with its inputs.
struct GoldenNetwork {
    graph: Graph,
    inputs: NamedValues,
    output: ValueId,
}

fn network(golden: &Golden) -> GoldenNetwork {
    let mut graph = Graph::new();
    let (shape, _) = images(golden, "input.sample");
    let config = config(golden);
    let inputs = (&config as &dyn Network).declare_inputs(&mut graph, shape[0]).unwrap();
    assert_eq!(graph.ty(inputs.get(SAMPLE).unwrap()).shape, shape);
    let output = config.build(&mut graph, &inputs, None).unwrap().get(SAMPLE).unwrap();
    GoldenNetwork { graph, inputs, output }
}

fn write_inputs(golden: &Golden, network: &GoldenNetwork, executor: &mut ddpm_gpu::device::Executor) {
    let weights =
        from_tensors(&network.graph, network.graph.parameters(), &with_prefix(golden, "weights.")).unwrap();
    for (parameter, data) in network.graph.parameters().iter().zip(&weights) {
        executor.write(parameter.value, data).unwrap();
    }
    executor.write(network.inputs.get(SAMPLE).unwrap(), &images(golden, "input.sample").1).unwrap();
    executor.write(network.inputs.get(TIMESTEPS).unwrap(), &golden.floats("input.timesteps")).unwrap();
    if let Ok(beside) = network.inputs.get(CONDITION_IMAGE) {
        executor.write(beside, &images(golden, "input.condition_image").1).unwrap();
    }
    if let Ok(labels) = network.inputs.get(CLASS_LABELS) {
        let data = golden.floats("input.class_labels");
        match network.graph.ty(labels).dtype {
            DType::U32 => {
                executor.write(labels, &data.iter().map(|&v| v as u32).collect::<Vec<u32>>()).unwrap();
            }
            DType::F32 | DType::F16 => executor.write(labels, &data).unwrap(),
        }
    }
}

/// Largest absolute difference, relative to the standard deviation of what is expected.
fn relative_difference(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let n = expected.len() as f32;
    let mean = expected.iter().sum::<f32>() / n;
    let deviation = (expected.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt();
    // fold with max would skip a NaN.
    let mut worst = 0.0;
    for (got, expected) in got.iter().zip(expected) {
        let difference = (got - expected).abs();
        if !(difference <= worst) {
            worst = difference;
        }
    }
    worst / deviation
}

/// The bound: 1e-4 on the CPU executor, 1e-3 on software adapters.
fn forward_limit(device: &Device) -> f32 {
    if matches!(device, Device::Cpu) { 1e-4 } else { 1e-3 }
}

#[test]
fn forward_passes_are_those_of_diffusers() {
    let files = files("unet_");
    assert!(files.len() >= 24, "only {} golden networks", files.len());
    for (name, device) in common::devices() {
        for file in &files {
            let golden = Golden::read(file);
            let network = network(&golden);
            let mut executor = block_on(device.prepare(&network.graph, &[network.output])).unwrap();
            write_inputs(&golden, &network, &mut executor);
            executor.run().unwrap();
            let got = block_on(executor.read(network.output)).unwrap();
            let shape = network.graph.ty(network.output).shape.clone().try_into().unwrap();
            let error = relative_difference(&nhwc_to_nchw(&got, shape), &golden.floats("output.sample"));
            println!("{name}: {file}: {error:.1e}");
            assert!(error <= forward_limit(&device), "{file} on {name}: {error:.1e}");
        }
    }
}

#[test]
fn gradients_of_every_parameter_are_those_of_pytorch() {
    let mut networks = 0;
    for file in files("unet_") {
        let golden = Golden::read(&file);
        if !golden.has("loss") {
            continue;
        }
        networks += 1;
        let expected = with_prefix(&golden, "grad.");
        for (name, device) in common::devices() {
            let mut network = network(&golden);
            let graph = &mut network.graph;
            let target = graph.input("target", graph.ty(network.output).clone());
            let batch = graph.ty(target).shape[0];
            let weights = graph.input("weights", TensorType::f32([batch]));
            let (loss, _) = mse_loss(graph, network.output, target, weights).unwrap();
            let d_loss = graph.input("d_loss", TensorType::f32([1]));
            let parameters: Vec<ValueId> = graph.trained_parameters().map(|p| p.value).collect();
            let d_parameters: Vec<ValueId> = gradients(graph, &[(loss, d_loss)], &parameters)
                .unwrap()
                .into_iter()
                .map(|gradient| gradient.expect("every parameter has a gradient"))
                .collect();
            let keep: Vec<ValueId> = d_parameters.iter().copied().chain([loss]).collect();
            let mut executor = block_on(device.prepare(&network.graph, &keep)).unwrap();
            write_inputs(&golden, &network, &mut executor);
            executor.write(target, &images(&golden, "target.sample").1).unwrap();
            executor.write(weights, &vec![1.0f32; batch]).unwrap();
            executor.write(d_loss, &[1.0f32]).unwrap();
            executor.run().unwrap();

            let got_loss = block_on(executor.read(loss)).unwrap()[0];
            let want_loss = golden.floats("loss")[0];
            assert!(
                (got_loss - want_loss).abs() <= 1e-5 * want_loss,
                "{name}: loss {got_loss}, expected {want_loss}"
            );
            let got: Vec<Vec<f32>> =
                d_parameters.iter().map(|&id| block_on(executor.read(id)).unwrap()).collect();
            let got = to_tensors(&network.graph, network.graph.trained_parameters(), &got);
            assert_eq!(got.len(), expected.len(), "number of gradients");
            // The true gradient of to_k.bias is zero: compare at the scale of all gradients, and each at its own.
            let all = expected.values().flat_map(|t| &t.data).fold(0.0f32, |m, v| m.max(v.abs()));
            let mut worst = (0.0, String::new());
            for (tensor, expected) in &expected {
                let scale = expected.data.iter().fold(1e-3 * all, |m, v| m.max(v.abs()));
                for (got, expected) in got[tensor].data.iter().zip(&expected.data) {
                    let error = (got - expected).abs() / scale;
                    assert!(error <= 1e-4, "{name}: {tensor}: {got}, expected {expected} ({error:.1e})");
                    if error > worst.0 {
                        worst = (error, tensor.clone());
                    }
                }
            }
            println!("{name}: {file}: worst {:.1e} at {}", worst.0, worst.1);
        }
    }
    assert!(networks >= 11, "only {networks} golden networks have gradients");
}

#[test]
fn ten_steps_of_adamw_are_those_of_pytorch() {
    let adamw = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-2, l2_penalty: 0.0 };
    follow("adamw_trajectory", adamw);
}

#[test]
fn ten_steps_of_adam_are_those_of_pytorch() {
    let adam = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, l2_penalty: 1e-2 };
    follow("adam_trajectory", adam);
}

/// Takes the ten steps of a golden file.
fn follow(file: &str, adamw: AdamW) {
    let golden = Golden::read(&files(file)[0]);
    let skipped: Vec<String> = serde_json::from_str(golden.metadata("noise_driven")).unwrap();
    let (shape, _) = images(&golden, "step.0.x_t");
    for (name, device) in common::devices() {
        let mut graph = Graph::new();
        let config = config(&golden);
        let inputs = (&config as &dyn Network).declare_inputs(&mut graph, shape[0]).unwrap();
        let output = config.build(&mut graph, &inputs, None).unwrap().get(SAMPLE).unwrap();
        let target = graph.input("target", graph.ty(output).clone());
        // with a second average of the same decay, which must be the same
        let optimizer = Optimizer {
            adamw,
            max_grad_norm: Some(1.0),
            scales_loss: false,
            extra_emas: 1,
            micro_batches: 1,
        };
        let weights = graph.input("weights", TensorType::f32([shape[0]]));
        let (loss, _) = mse_loss(&mut graph, output, target, weights).unwrap();
        let training = TrainingGraph::new(&mut graph, loss, &[], optimizer, false).unwrap();
        let mut executor = block_on(device.prepare(&graph, &training.read_back())).unwrap();
        let initial = from_tensors(&graph, graph.parameters(), &with_prefix(&golden, "initial.")).unwrap();
        training.initialize(&graph, &mut executor, &initial).unwrap();
        executor.write(weights, &vec![1.0f32; shape[0]]).unwrap();
        for step in 0..10u64 {
            let (x_t, target_data) = (
                images(&golden, &format!("step.{step}.x_t")).1,
                images(&golden, &format!("step.{step}.target")).1,
            );
            executor.write(inputs.get(SAMPLE).unwrap(), &x_t).unwrap();
            executor
                .write(inputs.get(TIMESTEPS).unwrap(), &golden.floats(&format!("step.{step}.timesteps")))
                .unwrap();
            executor.write(target, &target_data).unwrap();
            training.write_schedule(&mut executor, adamw.schedule(step + 1, 1e-3, 0.9), &[0.9]).unwrap();
            executor.run().unwrap();
            let loss = block_on(executor.read(training.loss)).unwrap()[0];
            let norm = block_on(executor.read(training.norm_and_scale)).unwrap()[0];
            let want = golden.floats("losses")[step as usize];
            let want_norm = golden.floats("grad_norms")[step as usize];
            assert!((loss - want).abs() <= 2e-5 * want, "{name}: step {step}: loss {loss}, expected {want}");
            assert!(
                (norm - want_norm).abs() <= 1e-4 * want_norm,
                "{name}: step {step}: norm {norm}, expected {want_norm}"
            );
        }
        let (second_ema, _) = &training.extra_emas[0];
        for (prefix, state) in [("final.", &training.weights), ("ema.", &training.ema), ("ema.", second_ema)]
        {
            let got = to_tensors(
                &graph,
                graph.parameters(),
                &block_on(training.read(&graph, &mut executor, state)).unwrap(),
            );
            let mut worst = (0.0f32, String::new());
            for (tensor, expected) in with_prefix(&golden, prefix) {
                if skipped.contains(&tensor) {
                    continue;
                }
                for (got, want) in got[&tensor].data.iter().zip(&expected.data) {
                    let error = (got - want).abs();
                    if !(error <= worst.0) {
                        worst = (error, tensor.clone());
                    }
                }
            }
            println!("{name}: {prefix} worst absolute difference {:.1e} at {}", worst.0, worst.1);
            // Ten steps of at most 1e-3 each: a wrong step is off by 1e-3.
            assert!(worst.0 <= 2e-5, "{name}: {prefix}{}: {:.1e}", worst.1, worst.0);
        }
    }
}

/// Logits, loss, the gradient of every parameter, and that of log p(class | image) with respect to the image.
#[test]
fn the_classifier_and_its_gradients_are_those_of_pytorch() {
    let golden = Golden::read(&files("classifier")[0]);
    let classes: usize = golden.metadata("num_classes").parse().unwrap();
    let (shape, sample) = images(&golden, "input.sample");
    let labels: Vec<u32> = golden.floats("input.class_labels").iter().map(|&v| v as u32).collect();
    for (name, device) in common::devices() {
        let mut graph = Graph::new();
        let config = ClassifierConfig { num_classes: classes, encoder: config(&golden) };
        let inputs = (&config as &dyn Network).declare_inputs(&mut graph, shape[0]).unwrap();
        let [image, timesteps] = [SAMPLE, TIMESTEPS].map(|name| inputs.get(name).unwrap());
        let targets = graph.input("class_labels", TensorType::u32([shape[0]]));
        let mean_weights = graph.input("weights", TensorType::f32([shape[0]]));
        let logits = config.build(&mut graph, &inputs, None).unwrap().get(LOGITS).unwrap();
        let per_sample = cross_entropy(&mut graph, logits, targets).unwrap();
        let loss = weighted_mean(&mut graph, per_sample, mean_weights).unwrap();
        let d_loss = graph.input("d_loss", TensorType::f32([1]));
        let parameters: Vec<ValueId> = graph.parameters().iter().map(|p| p.value).collect();
        let d_parameters: Vec<ValueId> = gradients(&mut graph, &[(loss, d_loss)], &parameters)
            .unwrap()
            .into_iter()
            .map(|gradient| gradient.expect("every parameter has a gradient"))
            .collect();
        let minus_one = graph.input("minus_one", TensorType::f32([shape[0]]));
        let d_sample = gradients(&mut graph, &[(per_sample, minus_one)], &[image]).unwrap()[0].unwrap();
        let keep: Vec<ValueId> = d_parameters.iter().copied().chain([loss, logits, d_sample]).collect();
        let mut executor = block_on(device.prepare(&graph, &keep)).unwrap();
        let weights = from_tensors(&graph, graph.parameters(), &with_prefix(&golden, "weights.")).unwrap();
        for (parameter, data) in graph.parameters().iter().zip(&weights) {
            executor.write(parameter.value, data).unwrap();
        }
        executor.write(image, &sample).unwrap();
        executor.write(timesteps, &golden.floats("input.timesteps")).unwrap();
        executor.write(targets, &labels).unwrap();
        executor.write(mean_weights, &vec![1.0f32; shape[0]]).unwrap();
        executor.write(d_loss, &[1.0f32]).unwrap();
        executor.write(minus_one, &vec![-1.0f32; shape[0]]).unwrap();
        executor.run().unwrap();

        let mut worst = 0.0f32;
        let mut check = |what: &str, got: &[f32], expected: &[f32]| {
            assert_eq!(got.len(), expected.len(), "{what}");
            // Of what is zero in truth, such as the gradient of to_k.bias, only rounding is left.
            let scale = expected.iter().fold(1e-4f32, |m, v| m.max(v.abs()));
            for (got, expected) in got.iter().zip(expected) {
                let error = (got - expected).abs() / scale;
                assert!(error <= 1e-4, "{name}: {what}: {got}, expected {expected} ({error:.1e})");
                worst = worst.max(error);
            }
        };
        let mut read = |value: ValueId| block_on(executor.read(value)).unwrap();
        check("logits", &read(logits), &golden.floats("output.logits"));
        check("loss", &read(loss), &golden.floats("loss"));
        check("d_sample", &read(d_sample), &images(&golden, "grad_log_p").1);
        let got: Vec<Vec<f32>> = d_parameters.iter().map(|&id| read(id)).collect();
        let (got, expected) = (to_tensors(&graph, graph.parameters(), &got), with_prefix(&golden, "grad."));
        assert_eq!(got.len(), expected.len(), "number of gradients");
        for (tensor, expected) in &expected {
            check(tensor, &got[tensor].data, &expected.data);
        }
        println!("{name}: worst {worst:.1e}");
    }
}
