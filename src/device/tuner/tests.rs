use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use pollster::block_on;

use super::*;
use crate::device::{Device, Selection};
use crate::graph::{Graph, Plan, TensorType, ValueId};
use crate::ops;
use crate::tuning_folder::TuningFolder;

/// A graph of two convolutions that share a class, and one of another, for a batch of `batch` images.
fn convolutions(batch: usize) -> (Graph, ValueId) {
    let mut graph = Graph::new();
    let mut x = graph.input("x", TensorType::f32([batch, 8, 8, 16]));
    for (out_channels, kernel) in [(16, 3), (16, 3), (8, 1)] {
        let weight = graph.input("weight", TensorType::f32([out_channels, kernel, kernel, 16]));
        let bias = graph.input("bias", TensorType::f32([out_channels]));
        x = ops::conv2d(&mut graph, x, weight, bias, 1, ops::conv2d::Padding::Same).unwrap();
    }
    (graph, x)
}

fn keys(batch: usize) -> Vec<String> {
    let (graph, y) = convolutions(batch);
    let plan = Plan::new(&graph, &[y], |_| Vec::new());
    let key = |node: &PlannedNode| {
        class_key(node.node.op.as_ref(), Types { inputs: &node.inputs, outputs: &node.outputs })
    };
    plan.nodes.iter().map(key).collect()
}

#[test]
fn a_class_takes_in_close_batch_sizes_and_no_other_shapes() {
    let [first, second, third] = keys(13).try_into().unwrap();
    assert_eq!(first, second);
    assert_ne!(first, third);
    assert_eq!(keys(16)[0], first);
    assert_ne!(keys(17)[0], first);
    assert!(first.contains("Stride([1, 1])"), "{first}");
}

#[test]
fn the_default_stays_unless_another_is_clearly_faster() {
    assert_eq!(fastest("a", &[]), "a");
    assert_eq!(fastest("a", &[("a", 1.0), ("b", 0.97)]), "a");
    assert_eq!(fastest("a", &[("a", 1.0), ("b", 0.9), ("c", 0.8)]), "c");
    assert_eq!(fastest("a", &[("b", 2.0), ("c", 3.0)]), "b", "the default cannot run");
}

#[test]
fn a_choice_that_time_ran_out_on_is_made_anew_by_a_larger_budget_only() {
    let (graph, y) = convolutions(1);
    let plan = Plan::new(&graph, &[y], |_| Vec::new());
    let class = Class {
        key: String::new(),
        node: &plan.nodes[0],
        candidates: vec!["forward_tiled", "forward"],
        wgsl: "1".to_owned(),
        work: 1.0,
    };
    let choice = Choice {
        variant: "forward".to_owned(),
        wgsl: "1".to_owned(),
        milliseconds: BTreeMap::new(),
        out_of_time: Some(20.0),
    };
    let seconds = Duration::from_secs;
    assert!(class.accepts(&choice, seconds(20)) && class.accepts(&choice, seconds(10)));
    assert!(!class.accepts(&choice, seconds(21)));
    let done = Choice { out_of_time: None, ..choice.clone() };
    assert!(class.accepts(&done, seconds(1000)));
    assert!(!class.accepts(&Choice { wgsl: "2".to_owned(), ..done.clone() }, seconds(20)), "other kernels");
    assert!(!class.accepts(&Choice { variant: "gone".to_owned(), ..done }, seconds(20)));
}

/// The hash is written to files: it must stay the same from release to release.
#[test]
fn hashes_are_fnv1a() {
    assert_eq!(fnv1a(""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(fnv1a("foobar"), 0x8594_4171_f739_67e8);
}

/// A device of our own and a count of how often timing was started on it.
fn open(budget: Duration, folder: Option<&Path>) -> Option<(Device, Arc<AtomicUsize>)> {
    let Ok(device) = block_on(Device::open(&Selection::Gpu)) else {
        eprintln!("SKIPPED: no wgpu adapter is present");
        return None;
    };
    let started = Arc::new(AtomicUsize::new(0));
    let count = started.clone();
    let report = Box::new(move |event: TuningEvent<'_>| match event {
        TuningEvent::Started { calls, .. } => {
            assert_eq!(calls, 2);
            count.fetch_add(1, Ordering::Relaxed);
        }
        TuningEvent::Finished { .. } => {}
        TuningEvent::Chosen { .. } => {}
        TuningEvent::Warning(text) => panic!("{text}"),
    });
    let store = folder.map(|folder| Box::new(TuningFolder(folder.to_owned())) as Box<dyn TuningStore>);
    device.set_tuning(Tuning { budget, store, again: false, report });
    Some((device, started))
}

fn choices(device: &Device) -> Table {
    let Device::Gpu(device) = device else { panic!("a GPU was asked for") };
    device.tuner().unwrap().table().clone()
}

#[test]
fn choices_are_made_once_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Some(folder.path());
    let Some((device, started)) = open(Duration::from_secs(60), cache) else { return };
    for batch in [4, 3] {
        let (graph, y) = convolutions(batch);
        block_on(device.prepare(&graph, &[y])).unwrap();
    }
    assert_eq!(started.load(Ordering::Relaxed), 1);
    let chosen = choices(&device);
    assert_eq!(chosen.len(), 2);
    for choice in chosen.values() {
        assert!(choice.milliseconds.contains_key(&choice.variant), "{choice:?}");
        assert!(choice.milliseconds.values().all(|&time| time.is_finite() && time > 0.0), "{choice:?}");
        assert_eq!(choice.out_of_time, None);
    }

    let (again, started) = open(Duration::from_secs(60), cache).unwrap();
    let (graph, y) = convolutions(4);
    block_on(again.prepare(&graph, &[y])).unwrap();
    assert_eq!(started.load(Ordering::Relaxed), 0);
    assert_eq!(choices(&again), chosen);
}

#[test]
fn without_time_calls_take_their_defaults() {
    let Some((device, started)) = open(Duration::from_nanos(1), None) else { return };
    let (graph, y) = convolutions(4);
    block_on(device.prepare(&graph, &[y])).unwrap();
    assert_eq!(started.load(Ordering::Relaxed), 1);
    for choice in choices(&device).values() {
        assert_eq!((choice.milliseconds.len(), choice.out_of_time), (0, Some(1e-9)));
    }
    let Some((device, started)) = open(Duration::ZERO, None) else { return };
    block_on(device.prepare(&graph, &[y])).unwrap();
    assert_eq!((started.load(Ordering::Relaxed), choices(&device).len()), (0, 0));
}

/// What the table says is what runs, and a name that is no variant any more is passed over.
#[test]
fn the_chosen_variant_runs() {
    let Some((device, _)) = open(Duration::ZERO, None) else { return };
    let (graph, y) = convolutions(4);
    let Device::Gpu(gpu) = &device else { panic!("a GPU was asked for") };
    let run_with = |chosen: &str| {
        let choice = Choice {
            variant: chosen.to_owned(),
            wgsl: String::new(),
            milliseconds: BTreeMap::new(),
            out_of_time: None,
        };
        *gpu.tuner().unwrap().table() = keys(4).into_iter().map(|key| (key, choice.clone())).collect();
        let mut executor = block_on(device.prepare(&graph, &[y])).unwrap();
        let mut kernels = Vec::new();
        kernels.extend(
            pollster::block_on(executor.run_timed(&|| 0.0)).unwrap().into_iter().map(|timing| timing.kernel),
        );
        kernels
    };
    let executor_of_defaults = block_on(device.prepare(&graph, &[y]));
    let mut defaults = Vec::new();
    let timings = pollster::block_on(executor_of_defaults.unwrap().run_timed(&|| 0.0)).unwrap();
    defaults.extend(timings.into_iter().map(|timing| timing.kernel));
    assert_ne!(defaults[0], "conv2d.forward");
    assert_eq!(run_with("forward"), ["conv2d.forward"; 3]);
    assert_eq!(run_with("gone"), defaults);
}
