//! Where the time of a training step goes, kernel by kernel: `cargo bench --bench breakdown -- --device llvmpipe`.
//!
//! Options: `--model S|M|cifar`, `--batch-size N`, `--device NAME`, `--steps N`, `--precision f32|f16`,
//! `--checkpointing`, `--calls`. Each dispatch is submitted and waited
//! for by itself, and the fastest of the steps counts for each; the last line gives the whole step for comparison.
#![allow(clippy::expect_used, missing_docs)] // a benchmark that cannot run ends

mod common;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use common::network::{Network, random_batch};
use ddpm_gpu::device::{Device, Selection};
use ddpm_gpu::diffusion::SchedulerConfig;
use ddpm_gpu::graph::Plan;
use ddpm_gpu::model::Precision;
use ddpm_gpu::ops::Types;
use ddpm_gpu::train::{TrainOptions, Trainer};
use pollster::block_on;

/// The value after `flag` on the command line.
fn option(flag: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != flag).nth(1)
}

fn number(flag: &str) -> Option<usize> {
    option(flag).map(|text| text.parse().expect("a number follows the flag"))
}

fn main() {
    let network = Network::named(&option("--model").unwrap_or_else(|| "S".to_owned()));
    let batch_size = number("--batch-size").unwrap_or(network.batch_size);
    let selection: Selection =
        option("--device").unwrap_or_else(|| "cpu".to_owned()).parse().expect("a device");
    let device = block_on(Device::open(&selection)).expect("the device opens");
    let checkpointing = std::env::args().any(|argument| argument == "--checkpointing");
    let precision = option("--precision").map_or(Precision::F32, |text| text.parse().expect("f32 or f16"));
    let options = TrainOptions { batch_size, checkpointing, precision, ..TrainOptions::default() };
    let config = network.config();
    let batch = random_batch(&config, batch_size);
    let mut trainer = block_on(Trainer::new(&device, config, SchedulerConfig::default(), options, None))
        .expect("the model fits");
    let finish = |trainer: &mut Trainer| block_on(trainer.loss()).expect("the loss can be read");

    let steps = number("--steps").unwrap_or(3);
    // A GPU only queues the work: when step() returns, the host has done its share.
    let (mut whole, mut host) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..=steps {
        let start = Instant::now();
        trainer.step(&batch).expect("the step runs");
        host = host.min(start.elapsed().as_secs_f64());
        finish(&mut trainer);
        whole = whole.min(start.elapsed().as_secs_f64());
    }
    // The dispatches of a step come in the same order each time.
    let mut dispatches: Vec<(usize, String, f64)> = Vec::new();
    for step in 0..steps {
        let mut index = 0;
        let mut last = Instant::now();
        let mut done = |node: usize, kernel: &str| {
            let seconds = last.elapsed().as_secs_f64();
            if step == 0 {
                dispatches.push((node, kernel.to_owned(), seconds));
            } else {
                dispatches[index].2 = dispatches[index].2.min(seconds);
            }
            index += 1;
            last = Instant::now();
        };
        trainer.step_each(&batch, &mut done).expect("the step runs");
    }

    let plan = trainer.plan();
    print_memory(plan);
    let mut kernels: BTreeMap<&str, (usize, f64, f64)> = BTreeMap::new();
    for (node, kernel, seconds) in &dispatches {
        let planned = &plan.nodes[*node];
        let types = Types { inputs: &planned.inputs, outputs: &planned.outputs };
        let row = kernels.entry(kernel).or_default();
        row.0 += 1;
        row.1 += seconds;
        row.2 += planned.node.op.cost(types).flops as f64;
    }
    // A call that is made again in the backward pass has the same op as the first one.
    let mut first_calls = HashMap::new();
    let (mut copies, mut copies_seconds) = (0, 0.0);
    for &(node, _, seconds) in &dispatches {
        let op = Arc::as_ptr(&plan.nodes[node].node.op).cast::<()>();
        if *first_calls.entry(op).or_insert(node) != node {
            copies += 1;
            copies_seconds += seconds;
        }
    }
    let total: f64 = dispatches.iter().map(|(_, _, seconds)| seconds).sum();
    let mut rows: Vec<_> = kernels.into_iter().collect();
    rows.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    println!("{:44} {:>6} {:>10} {:>7} {:>9}", "kernel", "calls", "ms", "share", "GFLOP/s");
    for (kernel, (calls, seconds, flops)) in rows {
        let (ms, share) = (1e3 * seconds, 100.0 * seconds / total);
        println!("{kernel:44} {calls:6} {ms:10.2} {share:6.1}% {:9.1}", flops / seconds / 1e9);
    }
    if std::env::args().any(|argument| argument == "--calls") {
        dispatches.sort_by(|a, b| b.2.total_cmp(&a.2));
        for (node, kernel, seconds) in dispatches.iter().take(40) {
            let planned = &plan.nodes[*node];
            let shapes: Vec<_> = planned.inputs.iter().map(|ty| &ty.shape).collect();
            println!("{:9.2} ms  {kernel}  {}  {shapes:?}", 1e3 * seconds, planned.node.path);
        }
    }
    let (count, name) = (dispatches.len(), device.name());
    println!("{count} dispatches, {:.2} ms one by one", 1e3 * total);
    let share = 100.0 * copies_seconds / total;
    println!("{copies} dispatches compute forward values again, in {share:.1}% of the time");
    println!("the whole step takes {:.2} ms on {name}", 1e3 * whole);
    if matches!(device, Device::Gpu(_)) {
        println!("the host's share of it: {:.2} ms, until the step is queued", 1e3 * host);
    }
}

/// What the step's buffers take, and which ops' results are alive when most is.
fn print_memory(plan: &Plan) {
    let mib = |bytes: usize| bytes as f64 / (1 << 20) as f64;
    for (role, bytes) in plan.memory().bytes {
        println!("{role:?} {:.1} MiB", mib(bytes));
    }
    let peak = plan.peak();
    let node = &plan.nodes[peak.node].node;
    println!(
        "at most {:.1} MiB of activations at once, at {} {}",
        mib(peak.bytes),
        node.path,
        node.op.name()
    );
    let mut ops: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (_, op, bytes) in &peak.alive {
        let row = ops.entry(op).or_default();
        *row = (row.0 + 1, row.1 + bytes);
    }
    for (op, (count, bytes)) in ops {
        println!("  {op:40} {count:4} {:8.1} MiB", mib(bytes));
    }
    if std::env::args().any(|argument| argument == "--calls") {
        for &(value, op, bytes) in peak.alive.iter().take(80) {
            println!("  {:8.2} MiB  {op}  {}", mib(bytes), plan.name(value));
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines().filter(|line| line.starts_with("VmHWM")) {
        println!("{line}");
    }
}
