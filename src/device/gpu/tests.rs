//! What a user reads when an adapter cannot do something. Needs an adapter: any software driver will do.

use pollster::block_on;

use super::*;
use crate::device::{Device, Margin, Selection, adapters};
use crate::graph::{Graph, TensorType, ValueId};
use crate::ops;

mod lost;
mod submissions;

/// A device of our own, whose limits a test may lower.
fn open() -> Option<GpuDevice> {
    match block_on(Device::open(&Selection::Gpu)) {
        Ok(Device::Gpu(device)) => Arc::into_inner(device),
        _ => {
            eprintln!("SKIPPED: no wgpu adapter is present");
            None
        }
    }
}

/// A graph with one convolution and the value to keep.
fn convolution() -> (Graph, ValueId) {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorType::f32([2, 8, 8, 16]));
    let weight = graph.input("weight", TensorType::f32([8, 3, 3, 16]));
    let bias = graph.input("bias", TensorType::f32([8]));
    let padding = ops::conv2d::Padding::Same;
    let y =
        graph.scoped("down_blocks.0.conv1", |graph| ops::conv2d(graph, x, weight, bias, 1, padding)).unwrap();
    (graph, y)
}

/// Picks from the variants that an adapter can run.
type Pick = fn(Vec<Variant>) -> Option<Variant>;

/// The default.
const FIRST: Pick = |variants| variants.into_iter().next();

/// The variant that every adapter has.
const PLAIN: Pick = |variants| variants.into_iter().last();

fn executor(
    device: &Arc<GpuDevice>,
    graph: &Graph,
    keep: &[ValueId],
    pick: Pick,
) -> Result<GpuExecutor, DeviceError> {
    let planned = GpuPlan::new(graph, keep, &|op, types| pick(device.variants(op, types)));
    block_on(GpuExecutor::new(device.clone(), graph, planned, Margin::default()))
}

fn failure(device: GpuDevice, pick: Pick) -> DeviceError {
    let (graph, y) = convolution();
    match executor(&Arc::new(device), &graph, &[y], pick) {
        Ok(_) => panic!("this should have failed"),
        Err(error) => error,
    }
}

#[test]
fn a_binding_over_the_limit_names_kernel_path_and_shapes() {
    let Some(mut device) = open() else { return };
    device.limits.max_storage_buffer_binding_size = 8000;
    let message = failure(device, PLAIN).to_string();
    assert!(message.contains("conv2d.forward (down_blocks.0.conv1) binds x of 8192 bytes"), "{message}");
    assert!(message.contains("x [2, 8, 8, 16]") && message.contains("fewer images at a time"), "{message}");
}

#[test]
fn a_plan_over_the_memory_names_its_size_and_largest_call() {
    let Some(mut device) = open() else { return };
    device.limits.max_buffer_size = 8000;
    let message = failure(device, PLAIN).to_string();
    assert!(message.contains("out of memory") && message.contains("down_blocks.0.conv1"), "{message}");
    assert!(message.contains("fewer images at a time"), "{message}");
}

#[test]
fn too_many_bindings_name_the_kernel() {
    let Some(mut device) = open() else { return };
    device.limits.max_storage_buffers_per_shader_stage = 3;
    let message = failure(device, PLAIN).to_string();
    assert!(message.contains("conv2d.forward binds 4 storage buffers"), "{message}");
}

#[test]
fn an_adapter_without_a_variant_is_named() {
    let Some(device) = open() else { return };
    let message = failure(device, |_| None).to_string();
    assert!(message.contains("can run no variant of conv2d.forward (down_blocks.0.conv1)"), "{message}");
}

/// An override that makes workgroups larger than any adapter takes: the driver refuses the pipeline.
#[test]
fn a_kernel_that_the_driver_rejects_names_kernel_path_and_shapes() {
    let Some(device) = open() else { return };
    let huge: Pick = |variants| {
        let mut variant = variants.into_iter().last()?;
        variant.passes[0].overrides = vec![("WORKGROUP", 1_000_000.0)];
        Some(variant)
    };
    let error = failure(device, huge);
    let message = error.to_string();
    assert!(matches!(error, DeviceError::Pipeline { .. }), "{message}");
    assert!(
        message.contains("does not compile conv2d.forward (down_blocks.0.conv1, x [2, 8, 8, 16]"),
        "{message}"
    );
    assert!(message.contains("the CPU executor"), "{message}");
}

#[test]
fn wgsl_that_does_not_parse_names_the_file_and_line() {
    let op_file = ops::OpFile { name: "broken", source: "fn f() {\n  let x = ;\n}", cases: Vec::new };
    let error = Shader::load(&op_file, DType::F32, crate::device::shader::Extensions::ALL).err();
    let message = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(message.contains("kernels/broken.wgsl") && message.contains("broken.wgsl:2:11"), "{message}");
}

/// Bytes that the driver holds for us, where the driver's allocator can say.
fn allocated(device: &GpuDevice) -> Option<(usize, u64)> {
    let report = device.device.generate_allocator_report()?;
    Some((report.allocations.len(), report.total_allocated_bytes))
}

#[test]
fn a_run_allocates_nothing_after_the_first_ones() {
    let Some(device) = open() else { return };
    let device = Arc::new(device);
    let (graph, y) = convolution();
    let inputs: Vec<ValueId> = graph.nodes()[0].inputs.clone();
    let mut executor = executor(&device, &graph, &[y], PLAIN).unwrap();
    let mut run = |times: usize| {
        for _ in 0..times {
            for &id in &inputs {
                executor.write(id, &vec![1.0; graph.ty(id).len()]).unwrap();
            }
            executor.run().unwrap();
        }
        // Waits for the runs, so that what they hold is free again.
        device.device.poll(wgpu::PollType::Wait { submission_index: None, timeout: None }).unwrap();
        allocated(&device)
    };
    let warm = run(2);
    if warm.is_none() {
        eprintln!("SKIPPED: this driver's allocator gives no report");
    }
    assert_eq!(run(300), warm);
}

#[test]
fn inputs_arrive_in_order_and_before_a_reading() {
    let Some(device) = open() else { return };
    let mut graph = Graph::new();
    let x = graph.input("x", TensorType::f32([6]));
    let y = ops::silu(&mut graph, x).unwrap();
    let mut executor = executor(&Arc::new(device), &graph, &[x, y], PLAIN).unwrap();
    for value in [1.0, 2.0] {
        executor.write(x, &[value; 6]).unwrap();
    }
    assert_eq!(block_on(executor.read(x)).unwrap(), [2.0; 6]);
    for value in [3.0, 4.0, 5.0] {
        executor.write(x, &[value; 6]).unwrap();
        executor.run().unwrap();
    }
    let silu = 5.0 / (1.0 + (-5.0f32).exp());
    for y in block_on(executor.read(y)).unwrap() {
        assert!((y - silu).abs() < 1e-5, "{y} is not {silu}");
    }
}
