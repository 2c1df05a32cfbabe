//! Runs cut into submissions, on every adapter that is present.

use super::super::pace::Pace;
use super::*;

/// Every adapter, each with a device of its own.
fn devices() -> Vec<Arc<GpuDevice>> {
    let open = |number| match block_on(Device::open(&Selection::Number(number))).unwrap() {
        Device::Gpu(device) => device,
        Device::Cpu => panic!("an adapter was asked for"),
    };
    let devices: Vec<Arc<GpuDevice>> =
        block_on(adapters()).iter().map(|adapter| open(adapter.number)).collect();
    if devices.is_empty() {
        eprintln!("SKIPPED: no wgpu adapter is present");
    }
    devices
}

/// Convolutions, norms and sums of which each needs what the one before has written, and a state value that they
/// update.
fn network() -> (Graph, Vec<ValueId>, ValueId) {
    let mut graph = Graph::new();
    let mut x = graph.input("x", TensorType::f32([2, 8, 8, 16]));
    let mut inputs = vec![x];
    for _ in 0..4 {
        let weight = graph.input("weight", TensorType::f32([16, 3, 3, 16]));
        let bias = graph.input("bias", TensorType::f32([16]));
        inputs.extend([weight, bias]);
        x = ops::conv2d(&mut graph, x, weight, bias, 1, ops::conv2d::Padding::Same).unwrap();
        x = ops::silu(&mut graph, x).unwrap();
    }
    (graph, inputs, x)
}

/// What runs of the network give, bit by bit: one whole run, and one in parts with other inputs.
fn results(device: &Arc<GpuDevice>, pace: Option<Pace>) -> (Vec<u32>, usize) {
    let (graph, inputs, y) = network();
    let mut executor = executor(device, &graph, &[y], FIRST).unwrap();
    if let Some(pace) = pace {
        executor.pace = pace;
    }
    let mut bits = Vec::new();
    let before = executor.submissions;
    let nodes = executor.plan().nodes.len();
    for run in 0..4_u32 {
        for (&id, salt) in inputs.iter().zip(run..) {
            let values = (0..graph.ty(id).len() as u32)
                .map(|index| ((index + salt).wrapping_mul(0x9e37_79b9) >> 8) as f32 / (1 << 26) as f32 - 0.1);
            executor.write(id, &values.collect::<Vec<_>>()).unwrap();
        }
        if run < 2 {
            executor.run().unwrap();
        } else {
            for part in [0..1, 1..nodes - 2, nodes - 2..nodes] {
                executor.run_nodes(part).unwrap();
            }
        }
        bits.extend(block_on(executor.read(y)).unwrap().into_iter().map(f32::to_bits));
    }
    (bits, executor.submissions - before)
}

#[test]
fn the_bits_are_the_same_in_one_submission_and_in_many() {
    for device in devices() {
        let (whole, few) = results(&device, Some(Pace::fixed(f64::INFINITY)));
        assert!(whole.iter().any(|&bits| bits != whole[0]), "the network does something");
        // Two runs, two in three parts, and four readings.
        assert_eq!(few, 2 + 2 * 3 + 4);
        let (cut, many) = results(&device, Some(Pace::fixed(0.0)));
        assert!(many >= 4 * 8 + 4, "{many}");
        assert!(cut == whole, "{}: other bits in {many} submissions", device.name());
        let (paced, _) = results(&device, None);
        assert!(paced == whole, "{}: other bits at the device's pace", device.name());
        device.submit_each_dispatch();
        let (waited, each) = results(&device, None);
        assert!(each >= many, "{each}");
        assert!(waited == whole, "{}: other bits dispatch by dispatch", device.name());
    }
}

#[test]
fn dispatches_are_timed_in_one_submission_and_in_many() {
    for device in devices() {
        let (graph, _, y) = network();
        let mut executor = executor(&device, &graph, &[y], FIRST).unwrap();
        let started = std::time::Instant::now();
        let clock = || started.elapsed().as_secs_f64();
        for budget in [f64::INFINITY, 0.0] {
            executor.pace = Pace::fixed(budget);
            let before = clock();
            let timings = block_on(executor.run_timed(&clock)).unwrap();
            let whole = clock() - before;
            assert_eq!(timings.len(), executor.plan().nodes.len(), "each of these calls is one dispatch");
            let sum: f64 = timings.iter().map(|timing| timing.seconds).sum();
            assert!(sum > 0.0 && sum < whole, "{}: {sum} of {whole}", device.name());
            assert!(timings.iter().all(|timing| (0.0..whole).contains(&timing.start)), "{timings:?}");
            assert!(timings.is_sorted_by_key(|timing| timing.node));
        }
        let empty = block_on(device.time_of_empty_dispatch(&clock)).unwrap();
        assert!((0.0..1.0).contains(&empty), "{}: {empty}", device.name());
        // Where there are no timestamps, or they are not wanted, the host's clock does.
        device.submit_each_dispatch();
        assert!(!device.has_timestamps());
        let empty = block_on(device.time_of_empty_dispatch(&clock)).unwrap();
        assert!(empty > 0.0 && empty < 1.0, "{}: {empty}", device.name());
        let timings = block_on(executor.run_timed(&clock)).unwrap();
        assert!(timings.iter().all(|timing| timing.seconds > 0.0), "{timings:?}");
    }
}
