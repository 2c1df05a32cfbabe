//! This project's side of `tools/bench-peers`: runs what it is told on standard input and answers in JSON, a line each.
//!
//! `--list` prints the names of all devices, `--config PRESET` a model's configuration. Otherwise `--device NAME --pipeline DIR --batch-size N`, and then commands:
//! `step N` and `forward N` give the milliseconds of N training or denoising steps; `memory` gives peak bytes of the
//! process and bytes of the training step's plan.
#![allow(clippy::expect_used, clippy::panic, missing_docs)] // a benchmark that cannot run ends

mod common;

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use ddpm_gpu::conditions::Conditions;
use ddpm_gpu::device::{Device, Selection};
use ddpm_gpu::network::{Network, Precision, Preset};
use ddpm_gpu::pipeline::Pipeline;
use ddpm_gpu::sample::{Denoiser, Guidance};
use ddpm_gpu::sampler::{SamplerOptions, Step, by_name};
use ddpm_gpu::train::{Denoise, TrainOptions, Trainer};
use ddpm_gpu::workbench::random_batch;
use pollster::block_on;

fn option(flag: &str) -> String {
    let value = std::env::args().skip_while(|argument| argument != flag).nth(1);
    value.unwrap_or_else(|| panic!("{flag} is missing"))
}

/// The program under measurement.
struct Peer {
    device: Device,
    pipeline: Pipeline,
    batch_size: usize,
    trainer: Option<Trainer>,
    denoiser: Option<(Denoiser, Vec<Step>)>,
}

impl Peer {
    fn steps(&mut self, count: usize) -> Vec<f64> {
        let network = self.pipeline.denoiser().expect("it draws images").network.clone();
        let batch = random_batch(network.as_ref(), self.batch_size).expect("the model has a size");
        let trainer = self.trainer.get_or_insert_with(|| {
            let options = TrainOptions { batch_size: self.batch_size, ..TrainOptions::default() };
            let scheduler = self.pipeline.scheduler.clone();
            let task = Denoise::new(network, scheduler).expect("it has a schedule");
            block_on(Trainer::new(&self.device, task, options, None)).expect("the model fits")
        });
        let mut timed = || {
            let start = Instant::now();
            trainer.step(&batch).expect("the step runs");
            // A GPU only queues the work; reading the loss waits for it.
            let loss = block_on(trainer.loss()).expect("the loss can be read");
            assert!(loss.is_finite(), "the loss is {loss}");
            1e3 * start.elapsed().as_secs_f64()
        };
        (0..count).map(|_| timed()).collect()
    }

    fn forwards(&mut self, count: usize) -> Vec<f64> {
        let (denoiser, step) = self.denoiser.get_or_insert_with(|| {
            let ddim = by_name("ddim").expect("there is ddim");
            let options = SamplerOptions::new(&self.pipeline.scheduler);
            let steps = ddim.start(&self.pipeline.scheduler, &options).expect("50 steps");
            let step = steps.run(self.batch_size).next(&[]).expect("it has steps").expect("a first step");
            let guidance = Guidance::default();
            let denoiser = Denoiser::new(
                &self.device,
                &self.pipeline,
                self.batch_size,
                Precision::F32,
                ddim,
                options.clip,
                &guidance,
            );
            let mut denoiser = block_on(denoiser).expect("the model fits");
            let network = &self.pipeline.denoiser().expect("it draws images").network;
            let x_t = random_batch(network.as_ref(), self.batch_size).expect("the model has a size").images;
            denoiser.start(&x_t, &Conditions::default()).expect("the images have their size");
            (denoiser, step)
        });
        let mut timed = || {
            let start = Instant::now();
            denoiser.step(step, 0, 0).expect("the step runs");
            block_on(denoiser.images()).expect("the images can be read");
            1e3 * start.elapsed().as_secs_f64()
        };
        (0..count).map(|_| timed()).collect()
    }

    /// Peak bytes of the process, and bytes of the plan.
    fn memory(&self) -> [usize; 2] {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<usize>().ok());
        [peak.unwrap_or(0) * 1024, self.trainer.as_ref().map_or(0, |trainer| trainer.memory().total())]
    }
}

fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        for (name, _) in common::devices() {
            println!("{name}");
        }
        return;
    }
    if std::env::args().any(|argument| argument == "--config") {
        let preset = Preset::named(&option("--config")).expect("a preset");
        println!("{}", (preset.config)().to_json().expect("a configuration is JSON"));
        return;
    }
    let selection: Selection = option("--device").parse().expect("a device");
    let mut peer = Peer {
        device: block_on(Device::open(&selection)).expect("the device opens"),
        pipeline: Pipeline::load(Path::new(&option("--pipeline"))).expect("the pipeline loads"),
        batch_size: option("--batch-size").parse().expect("a number"),
        trainer: None,
        denoiser: None,
    };
    for line in std::io::stdin().lines() {
        let line = line.expect("commands can be read");
        let words: Vec<&str> = line.split(' ').collect();
        let count = |text: &str| text.parse().expect("a number of runs");
        let answer = match words[..] {
            ["step", runs] => serde_json::json!(peer.steps(count(runs))),
            ["forward", runs] => serde_json::json!(peer.forwards(count(runs))),
            ["memory"] => serde_json::json!(peer.memory()),
            _ => panic!("unknown command: {line}"),
        };
        println!("{answer}");
        std::io::stdout().flush().expect("answers can be written");
    }
}
