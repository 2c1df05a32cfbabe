//! Runs that start from a model's weights, and runs that leave some of them as they are.

use std::fs;
use std::path::PathBuf;

use ddpm_gpu::checkpoint::TrainingState;
use ddpm_gpu::network::Tensors;
use ddpm_gpu::pipeline::Pipeline;

use crate::support::{Workspace, assert_same, devices, png};

/// The newest checkpoint's model.
fn model(workspace: &Workspace, run: &str) -> Pipeline {
    Pipeline::load(&ddpm_gpu::checkpoint::resolve(&workspace.path(run)).unwrap()).unwrap()
}

fn weights(workspace: &Workspace, run: &str) -> Tensors {
    model(workspace, run).denoiser().unwrap().weights.clone()
}

/// The weights that the newest checkpoint goes on with, which are not averaged.
fn own_weights(workspace: &Workspace, run: &str) -> Tensors {
    let folder = ddpm_gpu::checkpoint::resolve(&workspace.path(run)).unwrap();
    TrainingState::load(&folder).unwrap().weights
}

fn state(workspace: &Workspace, checkpoint: &str) -> TrainingState {
    TrainingState::load(&workspace.path(checkpoint)).unwrap()
}

/// A training line of images in a folder of three classes, with the model of --init-from.
fn line(output: &str, more: &str) -> String {
    let steps = if more.contains("--steps") { "" } else { "--steps 2" };
    format!(
        "train --dataset three --batch-size 4 --device cpu --sample-every 0 --seed 3 --output {output} {steps} {more}"
    )
}

/// A folder `three` of three classes of grey images.
fn with_three_classes() -> Workspace {
    let workspace = Workspace::new();
    for (class, grey) in ["round", "square", "star"].into_iter().zip([20, 120, 220]) {
        (0..3).for_each(|image| workspace.write(&format!("three/{class}/{image}.png"), png(grey + image)));
    }
    workspace
}

const NO_STEP: &str = "--learning-rate 1e-30 --max-grad-norm 0";

#[test]
fn a_run_starts_from_the_averaged_weights_of_another() {
    let workspace = Workspace::new();
    workspace.train("first", 3, "--ema-decay 0.9 --beta-schedule cosine --prediction-type v_prediction");
    let line =
        "train --dataset digits --init-from first --batch-size 4 --device cpu --sample-every 0 --steps 2";
    let said = workspace.succeeds(&format!("{line} {NO_STEP} --output second")).stderr;
    for words in [
        "starting from the weights in first/checkpoint-000003, averaged with decay 0.9",
        "noise schedule of that model: num_train_timesteps 1000, beta_schedule \"squaredcos_cap_v2\", prediction_type",
        "\"v_prediction\"",
    ] {
        assert!(said.contains(words), "`{words}` is not in:\n{said}");
    }
    let (first, second) = (model(&workspace, "first"), model(&workspace, "second"));
    assert_eq!(first.scheduler, second.scheduler);
    let of_second = state(&workspace, "second/checkpoint-000002");
    assert!(of_second.step == 2 && of_second.weights == first.denoiser().unwrap().weights);
    assert!(of_second.weights != own_weights(&workspace, "first"), "the weights that are not averaged");

    let said = workspace
        .succeeds(&format!("{line} --output third --num-train-timesteps 500 --prediction-type epsilon"));
    let words = "of that model, but for num_train_timesteps, prediction_type: num_train_timesteps 500";
    assert!(said.stderr.contains(words), "{}", said.stderr);
    assert_eq!(model(&workspace, "third").scheduler.num_train_timesteps, 500);
    assert!(own_weights(&workspace, "third") != weights(&workspace, "first"));
}

#[test]
fn a_run_that_started_from_a_model_goes_on_without_it() {
    let workspace = with_three_classes();
    workspace.train("first", 2, "--beta-schedule cosine --label-dropout 0.2");
    let more = "--init-from first --reinit-mismatched --freeze conv_in.* --ema-decay 0.9,0.5";
    workspace.succeeds(&line("whole", &format!("{more} --steps 5")));
    workspace.succeeds(&line("parts", &format!("{more} --steps 2")));
    fs::rename(workspace.path("first"), workspace.path("gone")).unwrap();
    workspace.succeeds("train --config parts/run.toml --resume --steps 5");
    let last = |run: &str| workspace.files(&format!("{run}/checkpoint-000005"));
    assert_same(&last("whole"), &last("parts"));

    // From another model, or from none, it is another run.
    let resumed = |init: &str| {
        line("parts", &format!("{init} --freeze conv_in.* --ema-decay 0.9,0.5 --resume --steps 6"))
    };
    workspace.fails(&resumed("--init-from gone"), 1, &["init_from was \"first\", now it is \"gone\""]);
    workspace.fails(&resumed("--model model.json"), 1, &["another model"]);
    let other = line("parts", "--init-from first --freeze conv_out.* --ema-decay 0.9,0.5 --resume --steps 6");
    workspace.fails(&other, 1, &["freeze was [\"conv_in.*\"], now it is [\"conv_out.*\"]"]);
    // The first run cannot be begun again.
    workspace.fails(&line("new", more), 1, &["first", "there is no such folder"]);
}

#[test]
fn layers_of_another_shape_are_named_and_drawn_anew_when_asked_for() {
    let workspace = with_three_classes();
    workspace.train("first", 2, "");
    let embedding = "class_embedding.weight is [10, 32] there, [3, 32] in the model";
    workspace.fails(
        &line("new", "--init-from first"),
        1,
        &["of the 145 tensors there 144 fit", embedding, "--reinit-mismatched"],
    );
    let said =
        workspace.succeeds(&line("new", &format!("--init-from first --reinit-mismatched {NO_STEP}"))).stderr;
    assert!(said.contains("144 of the 145 tensors there are taken") && said.contains(embedding), "{said}");
    let (first, new) = (weights(&workspace, "first"), own_weights(&workspace, "new"));
    for (name, tensor) in &new {
        assert_eq!(first[name] == *tensor, name != "class_embedding.weight", "{name}");
    }
    assert_eq!(new["class_embedding.weight"].shape, [3, 32]);

    // More channels: the images are read in colour because the model takes colour.
    workspace.write_model("colour.json", "in_channels", 3.into());
    let colour = fs::read_to_string(workspace.path("colour.json")).unwrap();
    let colour =
        colour.replace("\"out_channels\":1", "\"out_channels\":3").replace("embeds\":10", "embeds\":null");
    workspace.write("colour.json", colour);
    let flags = "--init-from first --model colour.json --unconditional";
    let expected = [
        "conv_in.weight is [8, 1, 3, 3] there, [8, 3, 3, 3] in the model",
        "conv_out.weight is [1, 8, 3, 3] there, [3, 8, 3, 3] in the model",
        "conv_out.bias is [1] there, [3] in the model",
        "class_embedding.weight is [10, 32] there, not in the model",
    ];
    workspace.fails(&line("colour", flags), 1, &expected);
    let said = workspace.succeeds(&line("colour", &format!("{flags} --reinit-mismatched"))).stderr;
    assert!(expected.iter().all(|words| said.contains(words)), "{said}");

    // A model without classes gets some.
    let without = line("plain", "--model model.json --unconditional");
    workspace.succeeds(&without);
    let lacks = "class_embedding.weight is not there, [3, 32] in the model";
    workspace.fails(&line("classes", "--init-from plain"), 1, &[lacks, "--unconditional"]);
    workspace.succeeds(&line("classes", "--init-from plain --unconditional"));
    workspace.succeeds(&line("classes-2", "--init-from plain --reinit-mismatched"));
    assert_eq!(own_weights(&workspace, "classes-2")["class_embedding.weight"].shape, [3, 32]);

    let other = line("wide", "--init-from first --model digits");
    workspace.fails(&other, 1, &["of the 145 tensors there 1 fit", "and 104 more"]);
    workspace.fails(&line("x", "--init-from nowhere"), 1, &["nowhere", "there is no such folder"]);
    workspace.fails(&line("x", "--reinit-mismatched"), 2, &["--init-from"]);
}

#[test]
fn a_classifier_starts_from_the_encoder_of_a_model() {
    let workspace = with_three_classes();
    workspace.train("unet", 2, "");
    let line = "train-classifier --dataset three --batch-size 4 --device cpu --measure-every 0";
    let said = workspace
        .succeeds(&format!("{line} --init-from unet --reinit-mismatched {NO_STEP} --output judge --steps 2"))
        .stderr;
    assert!(said.contains("classifier.weight is not there, [3, 16] in the model"), "{said}");
    let judge = own_weights(&workspace, "judge");
    assert!(judge["conv_in.weight"] == weights(&workspace, "unet")["conv_in.weight"]);
    workspace.succeeds(&format!("{line} --init-from judge --output again --steps 2"));
    workspace.succeeds(&format!("{line} --init-from judge --output again --resume --steps 3"));
}

#[test]
fn frozen_parameters_stay_and_are_saved_once() {
    let workspace = Workspace::new();
    let frozen = |name: &str| name.starts_with("down_blocks.0.") || name.ends_with(".bias");
    for (number, device) in devices().into_iter().enumerate() {
        let flags = format!(
            "--device {device} --freeze down_blocks.0.* --freeze *.bias --weight-decay 0.1 --ema-decay 0.9,0.5 \
             --micro-batch-size 2 --random-flip"
        );
        let [start, whole, parts] = ["start", "whole", "parts"].map(|run| format!("{run}-{number}"));
        let said = workspace.train(&whole, 4, &flags).stderr;
        assert!(said.contains("parameters are trained, ") && said.contains(" are frozen"), "{said}");
        workspace.train(&start, 1, &format!("{flags} {NO_STEP}"));
        let (before, after) = (weights(&workspace, &start), weights(&workspace, &whole));
        for (name, tensor) in &after {
            assert_eq!(before[name] == *tensor, frozen(name), "{name}");
        }
        let state = state(&workspace, &format!("{whole}/checkpoint-000004"));
        for kept in [&state.weights, &state.first_moment, &state.second_moment, &state.extra_emas[0].1] {
            let names: Vec<&String> = kept.keys().collect();
            assert!(names == after.keys().filter(|name| !frozen(name)).collect::<Vec<_>>(), "{names:?}");
        }
        for (steps, resume) in [(1, ""), (3, "--resume"), (4, "--resume")] {
            workspace.train(&parts, steps, &format!("{flags} {resume}"));
        }
        let last = |run: &str| workspace.files(&format!("{run}/checkpoint-000004"));
        assert_same(&last(&whole), &last(&parts));
        // The other average, with the frozen weights beside it.
        workspace.succeeds(&format!("export {whole} --ema-decay 0.5 --output other-{number}"));
        let other = weights(&workspace, &format!("other-{number}"));
        assert!(
            other.keys().eq(after.keys())
                && other["conv_in.weight"] == state.extra_emas[0].1["conv_in.weight"]
        );
        assert!(other["conv_in.bias"] == after["conv_in.bias"]);
    }
}

#[test]
fn a_frozen_run_in_16_bits_goes_on_exactly() {
    let workspace = Workspace::new();
    let flags = "--precision f16 --freeze mid_block.*";
    workspace.train("whole", 4, flags);
    workspace.train("parts", 2, flags);
    workspace.train("parts", 4, &format!("{flags} --resume"));
    assert_same(&workspace.files("whole/checkpoint-000004"), &workspace.files("parts/checkpoint-000004"));
}

#[test]
fn patterns_that_freeze_nothing_or_everything_are_refused() {
    let workspace = Workspace::new();
    let line = Workspace::train_line("run", "--steps 1");
    workspace.fails(&format!("{line} --freeze down_block.*"), 1, &[
        "`freeze` has `down_block.*`",
        "none of the model's 145 tensors: time_embedding.linear_1.weight, class_embedding.weight, conv_in.weight",
        "the flag is --freeze",
    ]);
    workspace.fails(&format!("{line} --freeze *"), 1, &["none of the 145 tensors", "frozen", "--freeze"]);
}

#[test]
fn a_dry_run_counts_what_is_trained() {
    let workspace = Workspace::new();
    let said =
        |more: &str| workspace.succeeds(&Workspace::train_line("run", &format!("--dry-run {more}"))).stdout;
    let bytes = |said: &str, role: &str| -> f64 {
        let line = said.lines().find(|line| line.trim_start().starts_with(role)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let (whole, part) = (said(""), said("--freeze down_blocks.* --freeze mid_block.*"));
    assert!(whole.lines().next().unwrap().ends_with(char::is_numeric), "{whole}");
    assert!(part.contains(", of which ") && part.contains(" are trained"), "{part}");
    for role in ["gradients", "moments", "ema"] {
        assert!(bytes(&part, role) < bytes(&whole, role), "{role}: {part}");
    }
    let folder: PathBuf = workspace.path("run");
    assert!(!folder.exists());
}
