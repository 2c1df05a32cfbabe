//! Gradient accumulation: a step in micro-batches is the step of the whole batch.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is how a test fails

mod common;

use std::sync::Arc;

use ddpm_gpu::data::{self, Batch, Loader, LoaderOptions, OpenOptions};
use ddpm_gpu::device::Device;
use ddpm_gpu::diffusion::{LossWeighting, SchedulerConfig, VarianceType};
use ddpm_gpu::network::{Precision, Tensors, UNetConfig};
use ddpm_gpu::train::{Contributions, Denoise, Objective, TimestepSampling, TrainOptions, Trainer};
use pollster::block_on;

const BATCH: usize = 12;

/// No attention: the true gradient of the keys' bias is zero, and Adam makes steps of its rounding.
const MODEL: &str = r#"{
    "_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 1, "out_channels": 1, "dropout": 0.1,
    "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "num_class_embeds": 11, "_null_class": true
}"#;

fn options() -> TrainOptions {
    TrainOptions {
        batch_size: BATCH,
        learning_rate: 1e-3,
        warmup_steps: 0,
        label_dropout: 0.3,
        weight_decay: 0.01,
        ..TrainOptions::default()
    }
}

fn batches(count: usize) -> Vec<Batch> {
    let dataset = data::open("digits", &OpenOptions::default()).unwrap();
    let options =
        LoaderOptions { batch_size: BATCH, seed: 1, first_step: 0, random_flip: true, random_shift: 1 };
    let mut loader = Loader::new(dataset.into(), options).unwrap();
    (0..count).map(|_| loader.next().unwrap()).collect()
}

fn trainer(device: &Device, scheduler: &SchedulerConfig, options: TrainOptions) -> Trainer {
    let mut config = UNetConfig::from_json(MODEL).unwrap();
    config.out_channels = scheduler.variance_type.output_channels(1);
    let task = Denoise::new(Arc::new(config), scheduler.clone()).unwrap();
    block_on(Trainer::new(device, task, options, None)).unwrap()
}

/// What a run leaves behind.
struct Ended {
    weights: Tensors,
    ema: Tensors,
    first_moment: Tensors,
    second_moment: Tensors,
    /// Loss, gradient norm, timesteps and each image's loss, of every step.
    steps: Vec<(f32, f32, Vec<usize>, Vec<f64>)>,
}

fn run(mut trainer: Trainer, batches: &[Batch]) -> Ended {
    let mut steps = Vec::new();
    for batch in batches {
        trainer.step(batch).unwrap();
        block_on(async {
            trainer.observe().await.unwrap();
            let (loss, norm) = (trainer.loss().await.unwrap(), trainer.gradient_norm().await.unwrap());
            let Contributions { timesteps, losses, .. } = trainer.contributions().await.unwrap().unwrap();
            steps.push((loss, norm, timesteps, losses));
        });
    }
    let state = block_on(trainer.state()).unwrap();
    Ended {
        ema: block_on(trainer.pipeline()).unwrap().denoiser().unwrap().weights.clone(),
        weights: state.weights,
        first_moment: state.first_moment,
        second_moment: state.second_moment,
        steps,
    }
}

/// The norm of the difference of all tensors, relative to that of the expected ones.
fn difference(found: &Tensors, expected: &Tensors) -> f64 {
    assert!(found.keys().eq(expected.keys()));
    let (mut difference, mut norm) = (0.0, 0.0);
    for (name, expected) in expected {
        for (a, b) in found[name].data.iter().zip(&expected.data) {
            difference += f64::from(a - b).powi(2);
            norm += f64::from(*b).powi(2);
        }
    }
    (difference / norm).sqrt()
}

/// With a learned variance and importance sampling, whose few timesteps are soon warm, and with a weighted simple loss.
fn recipes() -> [(&'static str, SchedulerConfig, TrainOptions); 2] {
    let few = SchedulerConfig {
        num_train_timesteps: 3,
        variance_type: VarianceType::LearnedRange,
        ..SchedulerConfig::default()
    };
    let hybrid = TrainOptions {
        objective: Objective::Hybrid,
        timestep_sampling: TimestepSampling::Importance,
        max_grad_norm: 0.0,
        ..options()
    };
    let weighted = TrainOptions { loss_weighting: LossWeighting::MinSnr { gamma: 5.0 }, ..options() };
    [("hybrid", few, hybrid), ("weighted", SchedulerConfig::default(), weighted)]
}

#[test]
fn steps_in_micro_batches_are_those_of_the_whole_batch() {
    let batches = batches(6);
    for (name, device) in common::devices() {
        // Software adapters take long to compile a training step: one of each is enough there.
        let (recipes, sizes) = match &device {
            Device::Cpu => (&recipes()[..], &[3, 4][..]),
            Device::Gpu(_) => (&recipes()[..1], &[4][..]),
        };
        for (recipe, scheduler, options) in recipes {
            let fresh = block_on(trainer(&device, scheduler, options.clone()).state()).unwrap().weights;
            let whole = run(trainer(&device, scheduler, options.clone()), &batches);
            let moved = difference(&whole.weights, &fresh);
            assert!(moved > 1e-2, "{name}, {recipe}: nothing was learned, {moved:.1e}");
            for &size in sizes {
                let options = TrainOptions { micro_batch_size: Some(size), ..options.clone() };
                let parts = run(trainer(&device, scheduler, options), &batches);
                for (step, (part, whole)) in parts.steps.iter().zip(&whole.steps).enumerate() {
                    let of = format!("{name}, {recipe}, micro-batches of {size}, step {step}");
                    assert_eq!(part.2, whole.2, "{of}: other timesteps");
                    let close = |a: f64, b: f64| (a - b).abs() <= 1e-4 * b.abs();
                    assert!(close(part.0.into(), whole.0.into()), "{of}: loss {} {}", part.0, whole.0);
                    assert!(close(part.1.into(), whole.1.into()), "{of}: norm {} {}", part.1, whole.1);
                    let losses = part.3.iter().zip(&whole.3);
                    assert!(losses.len() == BATCH, "{of}: {} losses", losses.len());
                    for (part, whole) in losses {
                        assert!(close(*part, *whole), "{of}: an image's loss is {part}, expected {whole}");
                    }
                }
                // Moments are linear and quadratic in the gradients: Adam would hide a wrong scale of them.
                for (what, found, expected, limit) in [
                    ("weights", &parts.weights, &whole.weights, 1e-4 * moved),
                    ("averages", &parts.ema, &whole.ema, 1e-4 * moved),
                    ("first moments", &parts.first_moment, &whole.first_moment, 1e-4),
                    ("second moments", &parts.second_moment, &whole.second_moment, 1e-4),
                ] {
                    let error = difference(found, expected);
                    println!("{name}, {recipe}, {size}: {what} differ by {error:.1e} (moved {moved:.1e})");
                    assert!(error <= limit, "{name}, {recipe}, {size}: {what} differ by {error:.1e}");
                }
            }
        }
    }
}

#[test]
fn one_micro_batch_is_the_plan_of_a_whole_batch() {
    let scheduler = SchedulerConfig::default();
    let plan = |micro_batch_size| {
        let trainer = trainer(&Device::Cpu, &scheduler, TrainOptions { micro_batch_size, ..options() });
        let calls = trainer.plan().nodes.iter();
        let calls: Vec<String> =
            calls.map(|planned| format!("{} {:?}", planned.node.path, planned.node.op)).collect();
        (calls, trainer.memory().total())
    };
    assert_eq!(plan(None), plan(Some(BATCH)));
    let (calls, bytes) = plan(Some(3));
    assert!(calls.len() > plan(None).0.len() && bytes < plan(None).1, "{bytes} bytes");
}

#[test]
fn an_overflow_in_any_micro_batch_skips_the_step_and_leaves_nothing_behind() {
    let good = batches(1).remove(0);
    let elements = good.images.len() / BATCH;
    let options = TrainOptions { micro_batch_size: Some(4), precision: Precision::F16, ..options() };
    let f16 = |device: &Device| match device {
        Device::Cpu => true,
        Device::Gpu(device) => device.supports_f16(),
    };
    for (name, device) in common::devices().into_iter().filter(|(_, device)| f16(device)) {
        let mut trainer = trainer(&device, &SchedulerConfig::default(), options.clone());
        // the first, the second and the last micro-batch
        for (image, skips) in [(0, 1.0), (5, 2.0), (11, 3.0)] {
            let before = block_on(trainer.state()).unwrap();
            let mut bad = good.clone();
            bad.images[image * elements..][..elements].fill(1e30);
            trainer.step(&bad).unwrap();
            let skipped = block_on(trainer.state()).unwrap();
            assert_eq!(skipped.loss_scale.unwrap().skipped_steps, skips, "{name}, image {image}");
            assert!(skipped.weights == before.weights, "{name}, image {image}: weights changed");
            trainer.step(&good).unwrap();
            let after = block_on(trainer.state()).unwrap();
            assert_eq!(after.loss_scale.unwrap().skipped_steps, skips, "{name}, image {image}");
            assert!(after.weights != before.weights, "{name}, image {image}: nothing was learned");
            let numbers = after.weights.values().flat_map(|tensor| &tensor.data);
            assert!(numbers.clone().all(|number| number.is_finite()), "{name}, image {image}");
        }
    }
}

#[test]
fn a_batch_that_does_not_divide_is_refused() {
    for size in [0, 5, 24] {
        let error =
            TrainOptions { micro_batch_size: Some(size), ..options() }.check().unwrap_err().to_string();
        assert!(error.contains(&format!("`micro_batch_size` is {size}")) && error.contains("12"), "{error}");
    }
}
