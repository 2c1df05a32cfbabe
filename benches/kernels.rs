//! Every kernel at the shapes of real U-Nets: `cargo bench --bench kernels -- S/conv2d.forward/llvmpipe`.
//!
//! Names are `network/op/device/variant/call`; of each op and network the call that takes most arithmetic is timed, with
//! the contents that its operands have in a training step on random images. It is checked against its reference before
//! it is timed. The throughput is in floating point operations (or bytes, for ops that only move them) by the op's own
//! count. Networks are S, M and cifar, as in `tools/bench-peers`; without a filter this takes hours.
#![allow(clippy::expect_used, clippy::panic, missing_docs)] // a benchmark that cannot run ends

mod common;

use std::cell::{OnceCell, RefCell};
use std::time::Instant;

use common::network::{NETWORKS, Network};
use criterion::{Criterion, Throughput};
use ddpm_gpu::device::Device;
use ddpm_gpu::ops::Case;
use ddpm_gpu::train::TrainOptions;
use ddpm_gpu::workbench::{Extent, PreparedCall, check, model_calls, subjects};
use pollster::block_on;

/// Of each op in a training step of a network, the call that takes most arithmetic, or moves most.
fn calls(network: Network) -> Vec<Case> {
    let options = TrainOptions { batch_size: network.batch_size, ..TrainOptions::default() };
    let calls = block_on(model_calls(&network.shared(), options, Extent::Largest, &|_| true));
    calls.expect("the network can be trained").into_iter().map(|call| call.case).collect()
}

fn bench(
    criterion: &mut Criterion,
    network: &str,
    name: &str,
    device: &Device,
    case: &Case,
    variant: &'static str,
) {
    let cost = case.cost();
    let mut group = criterion.benchmark_group(format!("{network}/{}", case.op.name()));
    group.throughput(match cost.flops {
        0 => Throughput::Bytes(cost.bytes as u64),
        flops => Throughput::Elements(flops as u64),
    });
    // Criterion calls the closure for the benchmarks that the filter leaves, and for those several times.
    let call = OnceCell::new();
    group.bench_function(format!("{name}/{variant}/{}", case.name), |bencher| {
        let call = call.get_or_init(|| {
            let result = block_on(check(device, case, variant)).expect("the check runs");
            let what = format!("{} {variant} [{}] on {name}", case.op.name(), case.name);
            assert!(result.failure.is_none(), "{what} is wrong: {:?}", result.failure);
            RefCell::new(block_on(PreparedCall::new(device, case, variant)).expect("the call was checked"))
        });
        bencher.iter_custom(|times| {
            let start = Instant::now();
            call.borrow_mut().run(times as usize).expect("the kernel runs");
            start.elapsed()
        });
    });
    group.finish();
}

fn main() {
    let mut criterion = common::criterion();
    let devices = common::devices();
    for network in NETWORKS {
        for case in calls(network) {
            for (name, device) in &devices {
                for variant in subjects(device, &case) {
                    bench(&mut criterion, network.name, name, device, &case, variant);
                }
            }
        }
    }
    criterion.final_summary();
}
