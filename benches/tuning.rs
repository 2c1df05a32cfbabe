//! The default variant of each call against the tuned one: `cargo bench --bench tuning -- --device llvmpipe --model S`.
//!
//! Options: `--model S|M|cifar`, `--batch-size N`, `--device NAME`, `--steps N`, `--seconds N` for tuning. Steps with and
//! without tuning take turns, and the fastest counts for each, so that a machine that is busy at times does
//! harm to both alike. A default that takes more than 1.5 times as long as the tuned variant should be ranked lower in
//! the op's `variants`.
#![allow(clippy::expect_used, missing_docs)] // a benchmark that cannot run ends

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::network::Network;
use ddpm_gpu::data::Batch;
use ddpm_gpu::device::{Device, Selection, Tuning, TuningEvent};
use ddpm_gpu::diffusion::SchedulerConfig;
use ddpm_gpu::network::UNetConfig;
use ddpm_gpu::train::{Denoise, TrainOptions, Trainer};
use ddpm_gpu::workbench::random_batch;
use pollster::block_on;

/// A default slower than this is named.
const ALLOWED: f64 = 1.5;

/// The value after `flag` on the command line.
fn option(flag: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != flag).nth(1)
}

fn number(flag: &str) -> Option<usize> {
    option(flag).map(|text| text.parse().expect("a number follows the flag"))
}

/// A training step by one choice of variants, and what it takes.
struct Subject {
    trainer: Trainer,
    /// Seconds of the whole step.
    whole: f64,
    /// For each node its first kernel and the seconds of all its dispatches.
    nodes: Vec<(String, f64)>,
}

impl Subject {
    fn new(device: &Device, config: &UNetConfig, options: &TrainOptions) -> Self {
        let task =
            Denoise::new(Arc::new(config.clone()), SchedulerConfig::default()).expect("it has a schedule");
        let trainer = block_on(Trainer::new(device, task, options.clone(), None)).expect("the model fits");
        let nodes = vec![(String::new(), f64::INFINITY); trainer.plan().nodes.len()];
        Self { trainer, whole: f64::INFINITY, nodes }
    }

    fn step(&mut self, batch: &Batch) {
        let start = Instant::now();
        self.trainer.step(batch).expect("the step runs");
        block_on(self.trainer.loss()).expect("the loss can be read");
        self.whole = self.whole.min(start.elapsed().as_secs_f64());

        let mut nodes = vec![(String::new(), 0.0); self.nodes.len()];
        let executor = self.trainer.prepare_step(batch).expect("the inputs have their sizes");
        let timings = block_on(executor.run_timed(&|| start.elapsed().as_secs_f64())).expect("the step runs");
        for timing in timings {
            let (name, seconds): &mut (String, f64) = &mut nodes[timing.node];
            if name.is_empty() {
                *name = timing.kernel;
            }
            *seconds += timing.seconds;
        }
        for (fastest, (name, seconds)) in self.nodes.iter_mut().zip(nodes) {
            *fastest = (name, seconds.min(fastest.1));
        }
    }
}

/// Calls of the same op and shapes.
#[derive(Default)]
struct Row {
    calls: usize,
    default_seconds: f64,
    tuned_seconds: f64,
    kernels: [String; 2],
}

impl Row {
    fn ratio(&self) -> f64 {
        self.default_seconds / self.tuned_seconds
    }
}

fn main() {
    let network = Network::named(&option("--model").unwrap_or_else(|| "S".to_owned()));
    let batch_size = number("--batch-size").unwrap_or(network.batch_size);
    let selection: Selection =
        option("--device").unwrap_or_else(|| "gpu".to_owned()).parse().expect("a device");
    let options = TrainOptions { batch_size, ..TrainOptions::default() };
    let config = network.config();
    let batch = random_batch(&config, batch_size).expect("the model has a size");

    let open = || block_on(Device::open(&selection)).expect("the device opens");
    let (device, tuned_device) = (open(), open());
    let budget = Duration::from_secs(number("--seconds").unwrap_or(300) as u64);
    let report = |event: TuningEvent<'_>| match event {
        TuningEvent::Started { calls, .. } => println!("{calls} kinds of calls have several variants"),
        TuningEvent::Finished { elapsed, left } => {
            println!("tuned in {:.1} s; {left} kinds of calls were not reached", elapsed.as_secs_f64());
        }
        TuningEvent::Chosen { .. } => {}
        TuningEvent::Warning(text) => println!("{text}"),
    };
    tuned_device.set_tuning(Tuning { budget, store: None, again: false, report: Box::new(report) });
    let mut default = Subject::new(&device, &config, &options);
    let mut tuned = Subject::new(&tuned_device, &config, &options);
    // The first step compiles what the driver puts off.
    for _ in 0..=number("--steps").unwrap_or(3) {
        default.step(&batch);
        tuned.step(&batch);
    }

    let plan = default.trainer.plan();
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for (index, planned) in plan.nodes.iter().enumerate() {
        let shapes: Vec<_> = planned.inputs.iter().map(|ty| &ty.shape).collect();
        let row = rows.entry(format!("{} {shapes:?}", planned.node.op.name())).or_default();
        row.calls += 1;
        row.default_seconds += default.nodes[index].1;
        row.tuned_seconds += tuned.nodes[index].1;
        row.kernels = [&default, &tuned].map(|subject| subject.nodes[index].0.clone());
    }
    let mut differing: Vec<(String, Row)> =
        rows.into_iter().filter(|(_, row)| row.kernels[0] != row.kernels[1]).collect();
    differing.sort_by(|a, b| b.1.ratio().total_cmp(&a.1.ratio()));
    println!(
        "{:>5} {:>11} {:>9} {:>6}  call: default kernel -> tuned kernel",
        "calls", "default ms", "tuned ms", "ratio"
    );
    for (call, row) in &differing {
        println!(
            "{:5} {:11.2} {:9.2} {:6.2}  {call}: {} -> {}",
            row.calls,
            1e3 * row.default_seconds,
            1e3 * row.tuned_seconds,
            row.ratio(),
            row.kernels[0],
            row.kernels[1]
        );
    }
    let sum = |subject: &Subject| 1e3 * subject.nodes.iter().map(|(_, seconds)| seconds).sum::<f64>();
    let slow = differing.iter().filter(|(_, row)| row.ratio() > ALLOWED).count();
    println!(
        "all other calls run the same kernel either way; {slow} defaults take over {ALLOWED} times as long as tuned"
    );
    println!(
        "all kernels of a step one by one take {:.2} ms by default, {:.2} ms tuned, ratio {:.3}",
        sum(&default),
        sum(&tuned),
        sum(&default) / sum(&tuned)
    );
    println!(
        "U-Net {} batch {batch_size} on {}: a step takes {:.2} ms by default, {:.2} ms tuned, ratio {:.3}",
        network.name,
        device.name(),
        1e3 * default.whole,
        1e3 * tuned.whole,
        default.whole / tuned.whole
    );
}
