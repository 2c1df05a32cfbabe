//! What is left when a device goes: one sentence, and what was saved before.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::*;
use crate::checkpoint;
use crate::data::{self, OpenOptions};
use crate::device::{Tuning, TuningEvent};
use crate::diffusion::SchedulerConfig;
use crate::network::{ClassifierConfig, UNetConfig};
use crate::pipeline::Pipeline;
use crate::sample::{SampleError, SampleRequest, sample};
use crate::sampler;
use crate::train::{
    CheckpointEvery, Classify, Denoise, Event, Outcome, Run, TrainError, TrainOptions, train,
};
use crate::tuning_folder::TuningFolder;

/// A device to be closed: for those who use it that is as good as lost.
fn device() -> Option<(Device, Arc<GpuDevice>)> {
    let device = Arc::new(open()?);
    Some((Device::Gpu(device.clone()), device))
}

fn close(device: &GpuDevice) {
    device.device.destroy();
}

#[test]
fn a_lost_device_says_so_and_what_ran() {
    let Some((_, device)) = device() else { return };
    let (graph, y) = convolution();
    let mut executor = executor(&device, &graph, &[y], PLAIN).unwrap();
    executor.run().unwrap();
    // What the driver's callback does when a device falls off the bus.
    lock(&device.trouble).lost = Some("the GPU was reset".to_owned());
    let message = executor.run().unwrap_err().to_string();
    assert!(message.contains("was lost while it ran a step: "), "{message}");
    assert!(message.ends_with(": the GPU was reset"), "{message}");
    device.submit_each_dispatch();
    let message = executor.run().unwrap_err().to_string();
    let call =
        "while it ran conv2d.forward (variant forward, entry point conv2d.forward) at down_blocks.0.conv1: ";
    assert!(message.contains(call), "{message}");
}

/// At whatever point it goes, the next uses are errors: no panic where inputs are staged or results mapped, and no
/// waiting.
#[test]
fn a_closed_device_is_an_error_wherever_it_is_noticed() {
    for runs_before in [0, 1, 3] {
        for closed_after_writing in [false, true] {
            let Some((_, device)) = device() else { return };
            let (graph, y) = convolution();
            let input = graph.nodes()[0].inputs[0];
            let contents = vec![1.0; graph.ty(input).len()];
            let mut executor = executor(&device, &graph, &[y], PLAIN).unwrap();
            for _ in 0..runs_before {
                executor.write(input, &contents).unwrap();
                executor.run().unwrap();
            }
            if closed_after_writing {
                executor.write(input, &contents).unwrap();
            }
            close(&device);
            let mut errors = Vec::new();
            for _ in 0..3 {
                errors.extend(executor.write(input, &contents).err());
                errors.extend(executor.run().err());
                errors.extend(block_on(executor.read(y)).err());
                errors.extend(block_on(executor.run_timed(&|| 0.0)).err());
            }
            assert!(errors.len() >= 9, "{errors:?}");
            for error in errors {
                assert!(matches!(error, DeviceError::Lost { .. }), "{error:?}");
            }
        }
    }
}

fn tiny_model() -> UNetConfig {
    UNetConfig::from_json(
        r#"{"_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 1, "out_channels": 1,
            "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
            "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"]}"#,
    )
    .unwrap()
}

fn task() -> Denoise {
    Denoise::new(Arc::new(tiny_model()), SchedulerConfig::default()).unwrap()
}

fn run(device: Device, output: &Path, resume: bool) -> Run {
    Run {
        device,
        dataset: data::open("digits", &OpenOptions::default()).unwrap().into(),
        initial_weights: None,
        base: None,
        options: TrainOptions { batch_size: 4, steps: 4, ..TrainOptions::default() },
        output: output.to_owned(),
        resume,
        checkpoint_every: CheckpointEvery::Steps(2),
        checkpoints_to_keep: 2,
        sample_every: 0,
        settings: None,
    }
}

/// Trains, and closes the device at an event.
fn train_until(output: &Path, closes: impl Fn(&Event) -> bool + Sync) -> Option<TrainError> {
    let (device, gpu) = device()?;
    let run = run(device, output, false);
    let mut report = |event: Event| {
        if closes(&event) {
            close(&gpu);
        }
    };
    Some(block_on(train(&run, task(), &AtomicBool::new(false), &mut report)).unwrap_err())
}

#[test]
fn training_leaves_the_last_checkpoint_and_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let (lost, whole) = (folder.path().join("lost"), folder.path().join("whole"));
    let Some(error) = train_until(&lost, |event| matches!(event, Event::Checkpoint(_))) else { return };
    let message = error.to_string();
    assert!(matches!(error, TrainError::Halted { .. }), "{error:?}");
    assert!(message.contains("was lost while") && !message.contains('\n'), "{message}");
    assert!(message.contains("checkpoint-000002 is whole, and the run can go on from it"), "{message}");
    // The run that goes on from there ends as one that was never stopped.
    let finish = |output: &Path, resume| {
        let run = run(device().unwrap().0, output, resume);
        let outcome = block_on(train(&run, task(), &AtomicBool::new(false), &mut |_| {})).unwrap();
        let Outcome::Finished { checkpoint } = outcome else { panic!("{outcome:?}") };
        std::fs::read(checkpoint.join("unet/diffusion_pytorch_model.safetensors")).unwrap()
    };
    assert!(finish(&lost, true) == finish(&whole, false), "other weights");
}

#[test]
fn training_promises_no_checkpoint_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run");
    let Some(error) = train_until(&output, |event| matches!(event, Event::Started { .. })) else { return };
    let message = error.to_string();
    assert!(
        message.contains("was lost while") && message.ends_with("; there was no checkpoint yet"),
        "{message}"
    );
    assert_eq!(checkpoint::newest(&output).unwrap(), None);
}

#[test]
fn a_classifier_in_training_leaves_its_last_checkpoint() {
    let Some((device, gpu)) = device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let run = run(device, folder.path(), false);
    let mut report = |event: Event| {
        if matches!(event, Event::Checkpoint(_)) {
            close(&gpu);
        }
    };
    let network = Arc::new(ClassifierConfig { num_classes: 10, encoder: tiny_model() });
    let task = Classify::new(network, SchedulerConfig::default(), None).unwrap();
    let trained = block_on(train(&run, task, &AtomicBool::new(false), &mut report));
    let message = trained.unwrap_err().to_string();
    assert!(
        message.contains("was lost while") && message.contains("checkpoint-000002 is whole"),
        "{message}"
    );
}

#[test]
fn sampling_ends_with_one_sentence() {
    let Some((device, gpu)) = device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let run = run(Device::Cpu, folder.path(), false);
    block_on(train(&run, task(), &AtomicBool::new(false), &mut |_| {})).unwrap();
    let pipeline = Pipeline::load(&checkpoint::newest(folder.path()).unwrap().unwrap()).unwrap();
    let request = SampleRequest {
        num_images: 4,
        ..SampleRequest::new(sampler::by_name("ddim").unwrap(), &pipeline.scheduler)
    };
    let mut steps = 0;
    let drawn = block_on(sample(&device, &pipeline, &request, &mut |_| {
        steps += 1;
        if steps == 2 {
            close(&gpu);
        }
    }));
    let Err(error @ SampleError::Device(DeviceError::Lost { .. })) = drawn else {
        panic!("{:?}", drawn.err())
    };
    let message = error.to_string();
    assert!(message.contains("was lost while") && !message.contains("is whole"), "{message}");
    assert!(!message.contains('\n') && steps < 1000, "{message}");
}

#[test]
fn tuning_ends_with_one_sentence_and_keeps_no_choices() {
    let Some((device, gpu)) = device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut graph = Graph::new();
    let mut x = graph.input("x", TensorType::f32([2, 8, 8, 16]));
    for kernel in [3, 1] {
        let weight = graph.input("weight", TensorType::f32([16, kernel, kernel, 16]));
        let bias = graph.input("bias", TensorType::f32([16]));
        x = ops::conv2d(&mut graph, x, weight, bias, 1, ops::conv2d::Padding::Same).unwrap();
    }
    device.set_tuning(Tuning {
        budget: Duration::from_secs(60),
        store: Some(Box::new(TuningFolder(folder.path().to_owned()))),
        again: false,
        report: Box::new(move |event| {
            if matches!(event, TuningEvent::Chosen { .. }) {
                close(&gpu);
            }
        }),
    });
    let Err(error) = block_on(device.prepare(&graph, &[x])) else { panic!("this should have failed") };
    assert!(matches!(error, DeviceError::Lost { .. }), "{error:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
