use std::path::{Path, PathBuf};

use ddpm_gpu::diffusion::TimestepSpacing;

use super::super::config;
use super::*;

/// The hints that a command line is given against an error.
fn hints(line: &str, error: impl Into<anyhow::Error>) -> String {
    let words = format!("ddpm-gpu {line}").split_whitespace().map(Into::into).collect();
    let flags = config::parse(words).ok().unwrap().flags;
    flags.hints(&error.into()).unwrap_or_default()
}

const TRAIN: &str = "train --dataset digits --output run";
const SAMPLE: &str = "sample run --output grid.png";

fn device(name: &str) -> String {
    name.to_owned()
}

#[test]
fn each_kind_of_error_has_its_flags() {
    let no_f16 = || DeviceError::NoF16 { adapter: device("an adapter") };
    let folder = || PathBuf::from("run");
    assert_eq!(hints(TRAIN, no_f16()), "--precision f32; another --device");
    assert_eq!(hints(TRAIN, TrainError::from(no_f16())), "--precision f32; another --device");
    assert_eq!(
        hints(SAMPLE, EvaluateError::from(SampleError::from(no_f16()))),
        "--precision f32; another --device"
    );
    let resumed = TrainError::Halted { error: Box::new(no_f16().into()), checkpoint: Some(folder()) };
    assert_eq!(
        hints(TRAIN, resumed),
        "--precision f32; another --device; --resume goes on from the checkpoint"
    );
    let none = DeviceError::NoSuchAdapter { what: device("is so"), found: device("none") };
    assert_eq!(hints(TRAIN, none), "`ddpm-gpu devices` lists the adapters; --device cpu always works");
    let memory =
        || DeviceError::OutOfMemory { adapter: device("an adapter"), total: 1, largest: device("x") };
    assert_eq!(hints(TRAIN, memory()), "a smaller --batch-size; --device cpu");
    let there = CheckpointError::AlreadyThere { folder: folder() };
    assert_eq!(hints(TRAIN, TrainError::from(there)), "--resume goes on with it; another --output");
    let average = CheckpointError::NoAverage { folder: folder(), decay: 0.5, there: device("none") };
    assert_eq!(hints(SAMPLE, average), "the flag is --ema-decay; it may be left out");
    let large = TrainError::DoesNotFit { error: Box::new(memory().into()), largest: 3 };
    assert_eq!(hints(TRAIN, large), "a --batch-size of at most 3; a --micro-batch-size of at most 3");
    let exploded =
        TrainError::Exploded { step: 1, loss: 9.0, mean: 1.0, place: device("x"), last_checkpoint: 0 };
    assert!(hints(TRAIN, exploded).starts_with("a lower --learning-rate; a larger --warmup-steps"));
    let last = TimestepsError::LastStep {
        steps: 10,
        spacing: TimestepSpacing::Leading,
        most: 9,
        num_train_timesteps: 10,
    };
    assert_eq!(hints(SAMPLE, SampleError::from(SamplerError::from(last))), "--timestep-spacing trailing");
    let unused = SamplerError::Unused { sampler: "ddim", field: "snr", known: device("pc") };
    assert_eq!(hints(SAMPLE, SampleError::from(unused)), "the flag is --snr");
    assert_eq!(hints(TRAIN, anyhow::anyhow!("no error of the library")), "");
}

#[test]
fn an_error_below_others_is_found() {
    let error = anyhow::Error::from(DeviceError::NoF16 { adapter: device("an adapter") }).context("a.png");
    assert_eq!(hints(TRAIN, error), "--precision f32; another --device");
}

/// A flag of another command would mislead, and so would one that the user has given.
#[test]
fn a_hint_names_what_the_command_has_and_the_user_has_not_set() {
    let bad =
        || DataError::BadImage { path: "a.png".into(), expected: device("an image"), found: device("text") };
    assert_eq!(hints(TRAIN, bad()), "--skip-bad-images leaves such files out");
    assert_eq!(hints(&format!("{TRAIN} --skip-bad-images"), bad()), "");
    assert_eq!(hints("data digits", bad()), "");
    let lost =
        || DeviceError::Lost { adapter: device("an adapter"), during: device(""), message: device("reset") };
    assert_eq!(hints("kernels check", lost()), "--submit-each-dispatch names the kernel that ran");
    assert_eq!(hints("kernels check --submit-each-dispatch", lost()), "");
    let setting = |names| SettingError { names, message: device("so") };
    assert_eq!(
        hints(TRAIN, setting(&["learning_rate", "betas[0]"])),
        "the flags are --learning-rate and --adam-beta1"
    );
    assert_eq!(hints(SAMPLE, setting(&["label_dropout"])), "of `ddpm-gpu train` the flag is --label-dropout");
}

/// The names in the calls that make a `SettingError` in the sources of the library.
fn names_in(folder: &Path, names: &mut Vec<String>) {
    const MAKERS: [&str; 4] = ["SettingError::new(", "::setting(", "refuse(", "require("];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names_in(&path, names);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        for (maker, at) in
            MAKERS.iter().flat_map(|maker| text.match_indices(maker).map(move |(at, _)| (maker, at)))
        {
            let call = &text[at + maker.len()..];
            let call = &call[..call.find(';').unwrap_or(call.len())];
            if let Some((_, list)) = call.split_once("&[\"")
                && let Some((list, _)) = list.split_once("\"]")
            {
                names.extend(list.split("\", \"").map(str::to_owned));
            }
        }
    }
}

#[test]
fn every_setting_that_the_library_refuses_has_a_flag() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut names = Vec::new();
    for folder in ["train", "sample", "evaluate", "checkpoint"] {
        names_in(&root.join(folder), &mut names);
    }
    assert!(names.len() > 30, "{names:?}");
    let words = ["ddpm-gpu", "devices"].map(Into::into).to_vec();
    let flags = config::parse(words).ok().unwrap().flags;
    for name in names.iter().map(String::as_str).chain(OTHER_NAMES.map(|(name, _)| name)) {
        assert!(flags.flags_of(&[name]).is_some(), "no command has a flag for `{name}`");
    }
}
