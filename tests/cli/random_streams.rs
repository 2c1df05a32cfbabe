//! Runs that were begun before each purpose had random numbers of its own go on with the numbers that they began with.

use std::path::Path;
use std::sync::Arc;

use ddpm_gpu::checkpoint::TrainingState;
use ddpm_gpu::data::{self, Batch, Loader, LoaderOptions, OpenOptions};
use ddpm_gpu::device::Device;
use ddpm_gpu::diffusion::SchedulerConfig;
use ddpm_gpu::network::UNetConfig;
use ddpm_gpu::pipeline::Pipeline;
use ddpm_gpu::random::Numbering;
use ddpm_gpu::train::{Denoise, TrainOptions, Trainer};
use pollster::block_on;
use safetensors::SafeTensors;
use serde_json::Value;

use super::support::{Workspace, assert_same};

const BATCH: usize = 4;

/// Whatever draws random numbers on the device: noise, the noise of smaller images, dropout; and on the host:
/// timesteps, labels, noise levels.
const MODEL: &str = r#"{
    "_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 2, "out_channels": 1, "dropout": 0.1,
    "block_out_channels": [8], "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"],
    "num_class_embeds": 11, "_null_class": true, "_super_resolution": {"low_size": 4, "augmentation": 100}
}"#;

fn options(random_streams: Numbering) -> TrainOptions {
    TrainOptions {
        batch_size: BATCH,
        warmup_steps: 0,
        label_dropout: 0.3,
        random_streams,
        ..TrainOptions::default()
    }
}

fn task() -> Denoise {
    Denoise::new(Arc::new(UNetConfig::from_json(MODEL).unwrap()), SchedulerConfig::default()).unwrap()
}

/// Steps of a run that begins anew or goes on, and what it leaves behind.
fn train(
    options: TrainOptions,
    resume: Option<(Pipeline, TrainingState)>,
    batches: &[Batch],
) -> (Pipeline, TrainingState) {
    block_on(async {
        let mut trainer = Trainer::new(&Device::Cpu, task(), options, resume).await.unwrap();
        for batch in batches {
            trainer.step(batch).unwrap();
        }
        (trainer.pipeline().await.unwrap(), trainer.state().await.unwrap())
    })
}

fn same(a: &(Pipeline, TrainingState), b: &(Pipeline, TrainingState)) -> bool {
    let of = |(pipeline, state): &(Pipeline, TrainingState)| {
        let TrainingState { weights, first_moment, second_moment, .. } = state.clone();
        [pipeline.denoiser().unwrap().weights.clone(), weights, first_moment, second_moment]
    };
    of(a) == of(b)
}

#[test]
fn a_trainer_goes_on_with_the_numbers_that_its_run_began_with() {
    let dataset = data::open("digits", &OpenOptions::default()).unwrap();
    let loader =
        LoaderOptions { batch_size: BATCH, seed: 1, first_step: 0, random_flip: false, random_shift: 0 };
    let mut loader = Loader::new(dataset.into(), loader).unwrap();
    let batches: Vec<Batch> = (0..4).map(|_| loader.next().unwrap()).collect();
    let whole = train(options(Numbering::FirstCome), None, &batches);
    let (pipeline, mut state) = train(options(Numbering::FirstCome), None, &batches[..2]);
    // An older version does not say how its streams are numbered.
    assert_eq!(state.options.as_object_mut().unwrap().remove("random_streams"), Some("first_come".into()));
    let resumed = train(options(Numbering::ByPurpose), Some((pipeline, state)), &batches[2..]);
    assert!(same(&whole, &resumed));
    assert_eq!(resumed.1.options["random_streams"], "first_come");
    // The two numberings are not the same.
    let by_purpose = train(options(Numbering::ByPurpose), None, &batches);
    assert!(!same(&whole, &by_purpose));
    // What no version writes is refused.
    let (pipeline, mut state) = by_purpose;
    state.options["random_streams"] = "by_moon".into();
    let resume = Some((pipeline, state));
    let options = options(Numbering::ByPurpose);
    let refused = block_on(Trainer::new(&Device::Cpu, task(), options, resume));
    let message = refused.err().unwrap().to_string();
    assert!(message.contains(r#"random_streams are "by_moon""#), "{message}");
}

/// The program, for both kinds of training: no setting counts as changed, and any number of pieces gives the same
/// bytes.
#[test]
fn runs_of_older_versions_go_on_in_any_number_of_pieces() {
    let workspace = Workspace::new();
    workspace.write_model("encoder.json", "num_class_embeds", Value::Null);
    let line = |command: &str, output: &str, steps: u32| {
        let line = Workspace::train_line(output, &format!("--dropout 0.1 --tuning off --steps {steps}"));
        match command {
            "train" => line,
            _ => line
                .replace("train ", "train-classifier ")
                .replace("model.json", "encoder.json")
                .replace("sample-every", "measure-every"),
        }
    };
    for command in ["train", "train-classifier"] {
        let run = |name: &str| format!("{command}-{name}");
        let state_of =
            |name: &str, step: u32| format!("{}/checkpoint-{step:06}/training_state/state.json", run(name));
        let options_of = |name: &str, step: u32| {
            let state: Value = serde_json::from_slice(&workspace.read(&state_of(name, step))).unwrap();
            state["options"]["random_streams"].clone()
        };
        for name in ["whole", "parts", "new"] {
            workspace.succeeds(&line(command, &run(name), 2));
            assert_eq!(options_of(name, 2), "by_purpose");
            if name != "new" {
                let mut state: Value = serde_json::from_slice(&workspace.read(&state_of(name, 2))).unwrap();
                state["options"].as_object_mut().unwrap().remove("random_streams");
                workspace.write(&state_of(name, 2), state.to_string());
            }
        }
        for (name, steps) in [("whole", 5), ("parts", 4), ("parts", 5), ("new", 5)] {
            workspace.succeeds(&format!("{} --resume", line(command, &run(name), steps)));
            assert_eq!(options_of(name, steps), if name == "new" { "by_purpose" } else { "first_come" });
        }
        let files = |name: &str| workspace.files(&format!("{}/checkpoint-000005", run(name)));
        assert_same(&files("whole"), &files("parts"));
        assert!(files("whole") != files("new"));
    }
}

/// The folder of a run that an older version began, and the weights that it had two steps later
/// (`tests/golden/older-run`). Other random numbers would move them a thousand times as far as rounding does.
#[test]
fn a_run_that_an_older_version_began_ends_as_it_would_have() {
    let workspace = Workspace::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/older-run");
    let names =
        ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json"].map(str::to_owned);
    let tensors =
        ["first_moment", "second_moment", "weights"].map(|name| format!("training_state/{name}.safetensors"));
    let rest = ["training_state/state.json", "unet/diffusion_pytorch_model.safetensors"].map(str::to_owned);
    for name in names.into_iter().chain(tensors).chain(rest) {
        let bytes = std::fs::read(golden.join("checkpoint-000002").join(&name)).unwrap();
        workspace.write(&format!("run/checkpoint-000002/{name}"), bytes);
    }
    workspace.write("model.json", std::fs::read(golden.join("model.json")).unwrap());
    workspace.succeeds(
        "train --dataset digits --model model.json --batch-size 4 --micro-batch-size 2 --seed 3 --device cpu \
         --sample-every 0 --label-dropout 0.3 --warmup-steps 0 --learning-rate 1e-3 --super-resolution 4 \
         --noise-augmentation 100 --dropout 0.1 --output run --steps 4 --resume",
    );
    let found = workspace.read("run/checkpoint-000004/training_state/weights.safetensors");
    let expected = std::fs::read(golden.join("weights-000004.safetensors")).unwrap();
    let [found, expected] = [&found, &expected].map(|bytes| SafeTensors::deserialize(bytes).unwrap());
    let floats = |file: &SafeTensors<'_>, name: &str| -> Vec<f32> {
        file.tensor(name)
            .unwrap()
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect()
    };
    assert!(!expected.names().is_empty());
    for name in expected.names() {
        for (found, expected) in floats(&found, name).iter().zip(floats(&expected, name)) {
            // A step moves a weight by up to 1e-3.
            assert!((found - expected).abs() < 2e-5, "{name}: {found}, expected {expected}");
        }
    }
}
