//! Weights in every layout of files that diffusers, accelerate and PyTorch write, against PyTorch.
//!
//! `tools/oracle/layouts.py` generates `tests/golden/layouts/`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is how a test fails

mod common;

use std::path::{Path, PathBuf};

use ddpm_gpu::checkpoint::{WeightsChoice, resolve};
use ddpm_gpu::conditions::Conditions;
use ddpm_gpu::device::Device;
use ddpm_gpu::network::Precision;
use ddpm_gpu::pipeline::Pipeline;
use ddpm_gpu::sample::{Images, predict};
use pollster::block_on;

use common::golden::Golden;

/// A folder in `tests/golden/layouts`, the variant asked for, which of the two networks is expected there, and words of
/// the notes.
type Layout = (&'static str, Option<&'static str>, &'static str, &'static [&'static str]);

const MODEL: &str = "output.sample";
const OTHER: &str = "output.other";
const NO_SCHEDULER: &str = "there is no scheduler_config.json";

const LAYOUTS: [Layout; 24] = [
    ("plain", None, MODEL, &[]),
    ("variant_alone", None, MODEL, &["diffusion_pytorch_model.fp16.safetensors: taken for the weights"]),
    ("variant_alone", Some("fp16"), MODEL, &[]),
    ("variants_beside_the_plain", None, MODEL, &[]),
    ("variants_beside_the_plain", Some("ema"), OTHER, &[]),
    ("shards", None, MODEL, &[]),
    ("shards_of_a_variant", Some("bf16"), MODEL, &[]),
    ("bin_file", None, MODEL, &[]),
    ("bin_variant", None, MODEL, &["diffusion_pytorch_model.fp16.bin: taken for the weights"]),
    ("bin_shards", None, MODEL, &[]),
    ("network_alone", None, MODEL, &[NO_SCHEDULER]),
    (
        "accelerate_with_hooks/checkpoint-2",
        None,
        MODEL,
        &["scheduler_config.json: taken to go with", "unet_ema"],
    ),
    ("accelerate_with_hooks/checkpoint-2/unet", None, MODEL, &["scheduler_config.json: taken to go with"]),
    (
        "accelerate_with_hooks/checkpoint-2/unet_ema",
        None,
        OTHER,
        &["scheduler_config.json: taken to go with"],
    ),
    ("averaged_alone", None, MODEL, &["taken from unet_ema, as there is no unet", NO_SCHEDULER]),
    ("averaged_alone/unet_ema", None, MODEL, &[NO_SCHEDULER]),
    ("accelerate_without_hooks", None, MODEL, &["model.safetensors: taken for the weights", NO_SCHEDULER]),
    (
        "accelerate_without_hooks_bin",
        None,
        MODEL,
        &["pytorch_model.bin: taken for the weights", NO_SCHEDULER],
    ),
    ("data_parallel", None, MODEL, &["without `module.` before them", NO_SCHEDULER]),
    ("compiled", None, MODEL, &["without `_orig_mod.` before them", NO_SCHEDULER]),
    ("before_torch_1_6", None, MODEL, &[NO_SCHEDULER]),
    (
        "nested",
        None,
        MODEL,
        &[
            "model.pt: taken for the weights",
            "model.pt: model: taken for the network's weights; left out: args, ema, optimizer, step",
            NO_SCHEDULER,
        ],
    ),
    ("doubles_as_parameters", None, MODEL, &["pytorch_model.pth: taken for the weights", NO_SCHEDULER]),
    ("custom_pipeline", None, MODEL, &["a class of its own, TwoStepPipeline, whose code is not run"]),
];

fn folder(layout: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/layouts").join(layout)
}

fn open(layout: &str, variant: Option<&str>) -> (Pipeline, Vec<String>) {
    let choice = WeightsChoice { variant: variant.map(str::to_owned), ema_decay: None };
    Pipeline::open_chosen(&resolve(&folder(layout)).unwrap(), &choice)
        .unwrap_or_else(|error| panic!("{layout}: {error}"))
}

/// The largest difference between what a pipeline's network gives and what PyTorch gave.
fn difference(device: &Device, pipeline: &Pipeline, golden: &Golden, output: &str) -> f32 {
    // One channel lies in files as it does here.
    let &[n, 1, h, w] = golden.shape("input.sample") else { panic!("more than one channel") };
    let x_t = Images { shape: [n, h, w, 1], data: golden.floats("input.sample") };
    let timesteps: Vec<f32> = golden.floats("input.timesteps");
    let conditions = Conditions::of_classes(None);
    let got = block_on(predict(device, pipeline, &x_t, &timesteps, &conditions, Precision::F32)).unwrap();
    got.data.iter().zip(golden.floats(output)).fold(0.0, |worst, (got, expected)| {
        let difference = (got - expected).abs();
        if difference <= worst { worst } else { difference }
    })
}

#[test]
fn every_layout_is_read_and_gives_what_pytorch_gives() {
    let golden = Golden::read("layouts");
    let plain = open("plain", None).0;
    let devices = common::devices();
    let mut folders: Vec<&str> =
        LAYOUTS.iter().map(|(layout, ..)| layout.split('/').next().unwrap()).collect();
    folders.push("views_of_one_storage");
    for entry in std::fs::read_dir(folder("")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(folders.contains(&name.as_str()), "no test reads {name}");
    }
    let views: Layout = ("views_of_one_storage", None, MODEL, &[NO_SCHEDULER]);
    for (layout, variant, output, words) in LAYOUTS.into_iter().chain([views]) {
        let (pipeline, notes) = open(layout, variant);
        assert_eq!(notes.len(), words.len(), "{layout}: {notes:?}");
        for (word, note) in words.iter().zip(&notes) {
            assert!(notes.iter().any(|note| note.contains(word)), "{layout}: no `{word}` in {note}");
        }
        // The numbers are such that every type of floats holds them.
        let weights = |pipeline: &Pipeline| pipeline.denoiser().unwrap().weights.clone();
        assert_eq!(weights(&pipeline) == weights(&plain), output == MODEL, "{layout}");
        if layout.starts_with("accelerate_with_hooks") {
            assert_eq!(pipeline.scheduler, plain.scheduler, "{layout}");
        }
        for (name, device) in &devices {
            let error = difference(device, &pipeline, &golden, output);
            println!("{name}: {layout}: {error:.1e}");
            assert!(error < 2e-5, "{layout} on {name}: {error:.1e}");
        }
    }
}
