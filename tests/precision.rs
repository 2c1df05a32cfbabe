//! Training with 16-bit activations: that it follows training in 32 bits, and that loss scaling does what it says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is how a test fails

mod common;

use std::sync::Arc;

use ddpm_gpu::checkpoint::TrainingState;
use ddpm_gpu::data::{self, Batch, Loader, LoaderOptions, OpenOptions};
use ddpm_gpu::device::Device;
use ddpm_gpu::diffusion::SchedulerConfig;
use ddpm_gpu::network::{Precision, Tensors, UNetConfig};
use ddpm_gpu::ops::loss_scale::LossScale;
use ddpm_gpu::pipeline::Pipeline;
use ddpm_gpu::train::{Denoise, TrainOptions, Trainer};
use pollster::block_on;

/// A model that takes milliseconds a step.
const MODEL: &str = r#"{
    "_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 1, "out_channels": 1,
    "block_out_channels": [16, 32], "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": null,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]
}"#;

fn options(precision: Precision) -> TrainOptions {
    TrainOptions { batch_size: 8, learning_rate: 2e-3, warmup_steps: 5, precision, ..TrainOptions::default() }
}

fn trainer(device: &Device, precision: Precision, resume: Option<(Pipeline, TrainingState)>) -> Trainer {
    let config = UNetConfig::from_json(MODEL).unwrap();
    let task = Denoise::new(Arc::new(config), SchedulerConfig::default()).unwrap();
    block_on(Trainer::new(device, task, options(precision), resume)).unwrap()
}

fn averaged(pipeline: &Pipeline) -> &Tensors {
    &pipeline.denoiser().unwrap().weights
}

/// Batches of digits, the same for every run.
fn batches(count: usize) -> Vec<Batch> {
    let dataset = data::open("digits", &OpenOptions::default()).unwrap();
    let options =
        LoaderOptions { batch_size: 8, seed: 1, first_step: 0, random_flip: false, random_shift: 0 };
    let mut loader = Loader::new(dataset.into(), options).unwrap();
    (0..count).map(|_| loader.next().unwrap()).collect()
}

/// Devices that can store activations in 16 bits.
fn devices_with_f16() -> Vec<(String, Device)> {
    let has_f16 = |device: &Device| match device {
        Device::Cpu => true,
        Device::Gpu(device) => device.supports_f16(),
    };
    common::devices().into_iter().filter(|(_, device)| has_f16(device)).collect()
}

fn losses(device: &Device, precision: Precision, batches: &[Batch]) -> Vec<f32> {
    let mut trainer = trainer(device, precision, None);
    let loss = |batch| {
        trainer.step(batch).unwrap();
        block_on(trainer.loss()).unwrap()
    };
    batches.iter().map(loss).collect()
}

#[test]
fn training_in_16_bits_follows_training_in_32() {
    let batches = batches(20);
    let expected = losses(&Device::Cpu, Precision::F32, &batches);
    let mean = |losses: &[f32]| losses[15..].iter().sum::<f32>() / 5.0;
    assert!(mean(&expected) < 0.7 * expected[0], "the model learns nothing: {expected:?}");
    for (name, device) in devices_with_f16() {
        let found = losses(&device, Precision::F16, &batches);
        println!("{name}\n{expected:?}\n{found:?}");
        // The first loss depends on the forward pass alone; later ones on all that rounding did to the weights.
        assert!((found[0] / expected[0] - 1.0).abs() < 1e-3, "{name}: {} and {}", found[0], expected[0]);
        assert!((mean(&found) / mean(&expected) - 1.0).abs() < 5e-3, "{name}: {found:?} and {expected:?}");
    }
}

/// The state of a trainer after one step, with the loss scale set before it.
fn step_from(device: &Device, before: LossScale, batch: &Batch) -> [(Pipeline, TrainingState); 2] {
    let mut fresh = trainer(device, Precision::F16, None);
    let (pipeline, mut state) =
        block_on(async { (fresh.pipeline().await.unwrap(), fresh.state().await.unwrap()) });
    assert_eq!(state.loss_scale, Some(LossScale::default()));
    state.loss_scale = Some(before);
    let start = (pipeline, state);
    let mut trainer = trainer(device, Precision::F16, Some(start.clone()));
    trainer.step(batch).unwrap();
    let end = block_on(async { (trainer.pipeline().await.unwrap(), trainer.state().await.unwrap()) });
    [start, end]
}

#[test]
fn an_overflow_skips_the_step_and_halves_the_scale() {
    let batch = &batches(1)[0];
    for (name, device) in devices_with_f16() {
        let before = LossScale { scale: 2.0f32.powi(40), finite_steps: 7.0, skipped_steps: 2.0 };
        let [start, end] = step_from(&device, before, batch);
        let after = LossScale { scale: 2.0f32.powi(39), finite_steps: 0.0, skipped_steps: 3.0 };
        assert_eq!(end.1.loss_scale, Some(after), "{name}");
        assert!(
            start.1.weights == end.1.weights && averaged(&start.0) == averaged(&end.0),
            "{name}: weights changed"
        );
        assert!(start.1.first_moment == end.1.first_moment, "{name}: moments changed");
        assert!(start.1.second_moment == end.1.second_moment, "{name}: moments changed");
    }
}

#[test]
fn the_scale_doubles_after_many_finite_steps_and_leaves_the_update_alone() {
    let batch = &batches(1)[0];
    for (name, device) in devices_with_f16() {
        let scale = |scale, finite_steps| LossScale { scale, finite_steps, skipped_steps: 0.0 };
        let [start, grown] = step_from(&device, scale(1024.0, 1999.0), batch);
        assert_eq!(grown.1.loss_scale, Some(scale(2048.0, 0.0)), "{name}");
        let [_, plain] = step_from(&device, scale(1024.0, 3.0), batch);
        assert_eq!(plain.1.loss_scale, Some(scale(1024.0, 4.0)), "{name}");
        assert!(start.1.weights != grown.1.weights, "{name}: nothing was learned");
        assert!(grown.1.weights == plain.1.weights, "{name}: the update depends on the counter");
    }
}

/// A scale that is not taken out of the gradients again shows in the first moment, which is linear in them.
#[test]
fn gradients_are_unscaled() {
    let batch = &batches(1)[0];
    let mut single = trainer(&Device::Cpu, Precision::F32, None);
    single.step(batch).unwrap();
    let expected = block_on(single.state()).unwrap().first_moment;
    for (name, device) in devices_with_f16() {
        let before = LossScale { scale: 4096.0, ..LossScale::default() };
        let [_, (_, state)] = step_from(&device, before, batch);
        let (mut error, mut norm) = (0.0, 0.0);
        for (tensor, expected) in &expected {
            for (a, b) in state.first_moment[tensor].data.iter().zip(&expected.data) {
                error += f64::from(a - b).powi(2);
                norm += f64::from(*b).powi(2);
            }
        }
        let error = (error / norm).sqrt();
        assert!(error < 5e-3, "{name}: first moments are off by {error:.1e} of their norm");
    }
}
