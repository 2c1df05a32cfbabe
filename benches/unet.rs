//! A training step and a denoising step of U-Net S at batch 16, on every device: `cargo bench --bench unet -- cpu`.
//!
//! U-Net S is the preset `unet-s`. SwiftShader takes
//! minutes for it; `-- 'cpu|llvmpipe'` leaves it out.
#![allow(clippy::expect_used, missing_docs)] // a benchmark that cannot run ends

mod common;

use std::cell::{OnceCell, RefCell};
use std::sync::Arc;
use std::time::Instant;

use common::network::Network;
use criterion::Criterion;
use ddpm_gpu::conditions::Conditions;
use ddpm_gpu::data::Batch;
use ddpm_gpu::device::Device;
use ddpm_gpu::diffusion::SchedulerConfig;
use ddpm_gpu::network::Precision;
use ddpm_gpu::pipeline::Pipeline;
use ddpm_gpu::sample::{Denoiser, Guidance};
use ddpm_gpu::sampler::{SamplerOptions, Step, by_name};
use ddpm_gpu::train::{Denoise, TrainOptions, Trainer};
use ddpm_gpu::workbench::random_batch;
use pollster::block_on;

/// A batch of noise for U-Net S.
fn batch() -> Batch {
    let network = Network::named("S");
    random_batch(&network.config(), network.batch_size).expect("the model has a size")
}

fn trainer(device: &Device) -> Trainer {
    let network = Network::named("S");
    let options = TrainOptions { batch_size: network.batch_size, ..TrainOptions::default() };
    let task =
        Denoise::new(Arc::new(network.config()), SchedulerConfig::default()).expect("it has a schedule");
    block_on(Trainer::new(device, task, options, None)).expect("the model fits")
}

fn bench_train(criterion: &mut Criterion, name: &str, device: &Device) {
    let trainer = OnceCell::new();
    let batch = batch();
    criterion.bench_function(&format!("train_step/{name}"), |bencher| {
        let trainer = trainer.get_or_init(|| RefCell::new(self::trainer(device)));
        bencher.iter_custom(|times| {
            let mut trainer = trainer.borrow_mut();
            let start = Instant::now();
            for _ in 0..times {
                trainer.step(&batch).expect("the step runs");
            }
            // A GPU only queues the work; one reading waits for all of it.
            let loss = block_on(trainer.loss()).expect("the loss can be read");
            assert!(loss.is_finite(), "the loss is {loss}");
            start.elapsed()
        });
    });
}

struct Sampling {
    denoiser: Denoiser,
    step: Vec<Step>,
}

impl Sampling {
    fn new(device: &Device) -> Self {
        let pipeline: Pipeline = block_on(trainer(&Device::Cpu).pipeline()).expect("the weights can be read");
        let ddim = by_name("ddim").expect("there is ddim");
        let options = SamplerOptions::new(&pipeline.scheduler);
        let batch_size = Network::named("S").batch_size;
        let steps = ddim.start(&pipeline.scheduler, &options).expect("there are 50 steps");
        let step = steps.run(batch_size).next(&[]).expect("it has steps").expect("there is a first step");
        let guidance = Guidance::default();
        let denoiser =
            Denoiser::new(device, &pipeline, batch_size, Precision::F32, ddim, options.clip, &guidance);
        let mut denoiser = block_on(denoiser).expect("the model fits");
        denoiser.start(&batch().images, &Conditions::default()).expect("the images have their size");
        Self { denoiser, step }
    }

    fn run(&mut self, times: u64) {
        for _ in 0..times {
            self.denoiser.step(&self.step, 0, 0).expect("the step runs");
        }
        block_on(self.denoiser.images()).expect("the images can be read");
    }
}

fn bench_sample(criterion: &mut Criterion, name: &str, device: &Device) {
    let sampling = OnceCell::new();
    criterion.bench_function(&format!("denoising_step/{name}"), |bencher| {
        let sampling = sampling.get_or_init(|| RefCell::new(Sampling::new(device)));
        bencher.iter_custom(|times| {
            let start = Instant::now();
            sampling.borrow_mut().run(times);
            start.elapsed()
        });
    });
}

fn main() {
    let mut criterion = common::criterion();
    for (name, device) in common::devices() {
        bench_train(&mut criterion, &name, &device);
        bench_sample(&mut criterion, &name, &device);
    }
    criterion.final_summary();
}
