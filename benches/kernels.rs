//! Every kernel at the shapes of real U-Nets: `cargo bench --bench kernels -- S/conv2d.forward/llvmpipe`.
//!
//! Names are `network/op/device/variant/call`; of each op and network the call that takes most arithmetic is timed, with
//! the contents that its operands have in a training step on random images. It is checked against its reference before
//! it is timed. The throughput is in floating point operations (or bytes, for ops that only move them) by the op's own
//! count. Networks are S, M and cifar, as in `tools/bench-peers`; without a filter this takes hours.
#![allow(clippy::expect_used, clippy::panic, missing_docs)] // a benchmark that cannot run ends

mod common;

use std::cell::OnceCell;
use std::time::Instant;

use common::network::{NETWORKS, Network};
use criterion::{Criterion, Throughput};
use ddpm_gpu::device::{CpuExecutor, Device, Executor, GpuExecutor, Twin};
use ddpm_gpu::graph::{BufferRole, Graph, Storage, TensorType, ValueId};
use ddpm_gpu::ops::Case;
use ddpm_gpu::train::TrainOptions;
use ddpm_gpu::workbench::{Extent, check, model_calls, subjects};
use pollster::block_on;

/// Of each op in a training step of a network, the call that takes most arithmetic, or moves most.
fn calls(network: Network) -> Vec<Case> {
    let options = TrainOptions { batch_size: network.batch_size, ..TrainOptions::default() };
    let calls = block_on(model_calls(&network.config(), options, Extent::Largest, &|_| true));
    calls.expect("the network can be trained").into_iter().map(|call| call.case).collect()
}

/// One call of a kernel, ready to run again and again on the case's random data.
struct Call {
    executor: Executor,
    output: ValueId,
}

impl Call {
    fn new(device: &Device, case: &Case, variant: &str) -> Self {
        let mut graph = Graph::new();
        let inputs: Vec<ValueId> =
            case.input_types().into_iter().map(|ty: TensorType| graph.input("input", ty)).collect();
        let outputs = graph.apply_dyn(case.op.clone(), &inputs).expect("the case fits its op");
        for &output in &outputs {
            graph.set_storage(output, Storage::State(BufferRole::Weights));
        }
        let mut executor = match device {
            Device::Cpu => Executor::Cpu(CpuExecutor::new(&graph, &[], Twin::Fast)),
            Device::Gpu(device) => Executor::Gpu(
                block_on(GpuExecutor::new(
                    device.clone(),
                    &graph,
                    &[],
                    &|_, _, variants| variants.into_iter().find(|candidate| candidate.name == variant),
                    0,
                ))
                .expect("a case that was checked can be prepared"),
            ),
        };
        for ((&id, fill), index) in inputs.iter().zip(&case.inputs).zip(0..) {
            executor.write(id, &fill.data(index)).expect("the input has its length");
        }
        for ((&id, fill), index) in outputs.iter().zip(&case.targets).zip(100..) {
            executor.write(id, &fill.data(index)).expect("the target has its length");
        }
        Self { executor, output: outputs[0] }
    }

    fn run(&mut self, times: u64) {
        for _ in 0..times {
            self.executor.run().expect("the kernel runs");
        }
        // A GPU only queues the work; one reading after many runs waits for all of them.
        block_on(self.executor.read(self.output)).expect("the output can be read");
    }
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
            std::cell::RefCell::new(Call::new(device, case, variant))
        });
        bencher.iter_custom(|times| {
            let start = Instant::now();
            call.borrow_mut().run(times);
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
