//! Runs that train low-rank adapters of a model.

use std::fs;
use std::path::Path;

use ddpm_gpu::checkpoint::TrainingState;
use ddpm_gpu::pipeline::Pipeline;

use crate::support::{Workspace, assert_same, devices};

/// A folder with a run `base`.
fn with_base() -> Workspace {
    let workspace = Workspace::new();
    // Steps large enough for the model, which begins by predicting nothing, to predict something.
    workspace.train("base", 3, "--beta-schedule cosine --learning-rate 1e-2 --warmup-steps 0 --ema-decay 0");
    workspace
}

const LORA: &str = "--init-from base --lora-rank 3 --lora-alpha 6 --lora-target to_q --lora-target to_out.0 \
                    --lora-target conv1 --learning-rate 1e-2 --warmup-steps 0 --weight-decay 0.1";

/// A run of adapters of `base`.
fn train(workspace: &Workspace, output: &str, steps: u32, more: &str) -> String {
    // The model is that of --init-from.
    let device = if more.contains("--device") { "" } else { "--device cpu" };
    let line = format!(
        "train --dataset digits --batch-size 4 --seed 3 --sample-every 0 {device} --tuning off {LORA} \
         --output {output} --steps {steps} {more}"
    );
    workspace.succeeds(&line).stderr
}

/// What a model predicts of three images.
fn predict(workspace: &Workspace, model: &str, more: &str) -> Vec<f32> {
    if !workspace.path("x.npy").exists() {
        let noise: Vec<f32> = (0u16..192).map(|index| (1.3 * f32::from(index)).sin()).collect();
        ddpm_gpu::output::write_npy(&workspace.path("x.npy"), [3, 1, 8, 8], &noise).unwrap();
    }
    workspace.succeeds(&format!(
        "predict {model} --input x.npy --timesteps 10,500,900 --class-labels 1,2,3 --output y.npy --device cpu {more}"
    ));
    workspace.npy("y.npy").1
}

fn difference(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).fold(0.0, |worst, (left, right)| worst.max((left - right).abs()))
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| if path.is_dir() { bytes_below(&path) } else { fs::metadata(path).unwrap().len() })
        .sum()
}

#[test]
fn a_checkpoint_holds_the_adapters_alone_and_draws_with_the_base() {
    let workspace = with_base();
    let said = train(&workspace, "run", 4, "");
    assert!(said.contains("starting from the weights in base/checkpoint-000003"), "{said}");
    assert!(said.contains(" parameters are trained, ") && said.contains(" are frozen"), "{said}");
    let folder = workspace.path("run/checkpoint-000004");
    for name in [
        "pytorch_lora_weights.safetensors",
        "adapter_model.safetensors",
        "adapter_config.json",
        "base_model.json",
        "unet/config.json",
        "scheduler/scheduler_config.json",
    ] {
        assert!(folder.join(name).is_file(), "{name}");
    }
    assert!(!folder.join("unet/diffusion_pytorch_model.safetensors").exists());
    assert!(!folder.join("model_index.json").exists());
    let [adapters, whole] =
        [&folder, &workspace.path("base/checkpoint-000003")].map(|folder| bytes_below(folder));
    assert!(3 * adapters < whole, "{adapters} of {whole} bytes");
    let state = TrainingState::load(&folder).unwrap();
    assert!(
        state.weights.keys().all(|name| name.contains(".lora_")) && state.weights.len() == 32,
        "{}",
        state.weights.len()
    );
    assert!(state.second_moment.keys().eq(state.weights.keys()));

    // Merged when it is read, exported, and apart: the same network.
    workspace.succeeds("export run --output merged");
    workspace.succeeds("export run --output half --precision f16");
    let [run, merged, base, half] =
        ["run", "merged", "base", "half"].map(|model| predict(&workspace, model, ""));
    assert_eq!(difference(&run, &merged), 0.0);
    assert!(difference(&run, &base) > 1e-2, "the adapters do nothing");
    assert!((1e-6..2e-3).contains(&difference(&run, &half)));
    let [merged, base] =
        ["merged", "base/checkpoint-000003"].map(|model| Pipeline::load(&workspace.path(model)).unwrap());
    assert_eq!(merged.scheduler, base.scheduler);
    for (name, tensor) in &merged.denoiser().unwrap().weights {
        let is_adapted =
            ["to_q.weight", "to_out.0.weight", "conv1.weight"].iter().any(|end| name.ends_with(end));
        assert_eq!(base.denoiser().unwrap().weights[name] != *tensor, is_adapted, "{name}");
    }
    workspace.succeeds("sample run --num-images 2 --class-label 3 --steps 2 --device cpu --output grid.png");

    // What is trained further starts from the merged model.
    let further = "--init-from run --learning-rate 1e-30 --max-grad-norm 0 --device cpu --sample-every 0";
    workspace
        .succeeds(&format!("train --dataset digits --batch-size 4 {further} --steps 1 --output further"));
    let state = TrainingState::load(&workspace.path("further/checkpoint-000001")).unwrap();
    assert!(state.weights == merged.denoiser().unwrap().weights);
}

#[test]
fn a_run_of_adapters_in_pieces_gives_the_same_bytes() {
    let workspace = with_base();
    let flags = "--ema-decay 0.9,0.1 --micro-batch-size 2 --random-flip --timestep-sampler importance";
    let runs = devices()
        .into_iter()
        .map(|device| (device, flags))
        .chain([("cpu", "--precision f16 --checkpointing")]);
    for (number, (device, flags)) in runs.enumerate() {
        let flags = format!("--device {device} {flags}");
        train(&workspace, &format!("whole-{number}"), 5, &flags);
        for (steps, resume) in [(2, ""), (4, "--resume"), (5, "--resume")] {
            train(&workspace, &format!("parts-{number}"), steps, &format!("{flags} {resume}"));
        }
        let last = |run: &str| workspace.files(&format!("{run}-{number}/checkpoint-000005"));
        assert_same(&last("whole"), &last("parts"));
    }
    // With another average the adapters are others, and the base is the same.
    let [first, other] = ["", "--ema-decay 0.1"].map(|more| predict(&workspace, "whole-0", more));
    assert!(difference(&first, &other) > 1e-5);
    let settings = "train --config whole-0/run.toml --resume --steps 6 --device cpu";
    workspace.succeeds(settings);
    for (flags, words) in [
        ("--lora-rank 4", "_lora was"),
        ("--lora-alpha 3", "_lora was"),
        ("--freeze *.lora_A.weight", "freeze was"),
    ] {
        workspace.fails(&settings.replace("--steps 6", &format!("--steps 7 {flags}")), 1, &[words]);
    }
}

#[test]
fn a_base_that_is_gone_or_another_is_said() {
    let workspace = with_base();
    train(&workspace, "run", 2, "");
    let sample = "sample run --steps 2 --num-images 1 --class-label 0 --device cpu --output x.png";
    fs::rename(workspace.path("base"), workspace.path("elsewhere")).unwrap();
    workspace.fails(
        sample,
        1,
        &["base_model.json", "base/checkpoint-000003, which is not there", "write here where it is now"],
    );
    let resumed = "train --config run/run.toml --resume --steps 3";
    workspace.fails(resumed, 1, &["which is not there"]);
    let path = workspace.path("run/checkpoint-000002/base_model.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("/base/", "/elsewhere/")).unwrap();
    workspace.succeeds(sample);
    workspace.succeeds(resumed);

    workspace.train("other", 4, "--beta-schedule cosine");
    fs::write(&path, text.replace("/base/", "/other/").replace("000003", "000004")).unwrap();
    fs::remove_dir_all(workspace.path("run/checkpoint-000003")).unwrap();
    workspace.fails(
        sample,
        1,
        &["the adapters are for the weights that were in", "there are others now", "CRC-32C"],
    );
    // The file of a base does not matter, its weights do.
    workspace.succeeds("export elsewhere --output exported");
    fs::write(&path, text.replace("base/checkpoint-000003", "exported")).unwrap();
    workspace.succeeds(sample);
    fs::write(&path, "{}").unwrap();
    workspace.fails(sample, 1, &["base_model.json", "path"]);
}

/// Otherwise two folders could be the base of each other, or one of itself.
#[test]
fn a_base_that_is_adapters_itself_is_refused() {
    let workspace = with_base();
    for run in ["run", "other"] {
        train(&workspace, run, 1, "");
    }
    let line = "train --dataset digits --batch-size 4 --device cpu --sample-every 0 --steps 1 --lora-rank 2";
    workspace.fails(
        &format!("{line} --init-from run --output further"),
        1,
        &["run/checkpoint-000001/base_model.json: path is ", "base/checkpoint-000003, so", "export it first"],
    );
    workspace.succeeds("export run --output merged");
    workspace.succeeds(&format!("{line} --init-from merged --output further"));

    let path = |run: &str| workspace.path(run).join("checkpoint-000001/base_model.json");
    let text = fs::read_to_string(path("run")).unwrap();
    let sample = "sample run --steps 2 --num-images 1 --class-label 0 --device cpu --output x.png";
    for [of_run, of_other] in [["run", "base"], ["other", "base"], ["other", "run"]] {
        for (run, base) in [("run", of_run), ("other", of_other)] {
            let checkpoint =
                if base == "base" { "base/checkpoint-000003" } else { &format!("{base}/checkpoint-000001") };
            fs::write(path(run), text.replace("base/checkpoint-000003", checkpoint)).unwrap();
        }
        let value = format!("{of_run}/checkpoint-000001, which holds adapters of another model itself");
        workspace.fails(sample, 1, &["run/checkpoint-000001/base_model.json: path is ", &value, "export"]);
    }
}

#[test]
fn adapters_of_a_file_are_added_to_a_model() {
    let workspace = with_base();
    train(&workspace, "run", 3, "");
    let expected = predict(&workspace, "run", "");
    let checkpoint = "run/checkpoint-000003";
    let file = "pytorch_lora_weights.safetensors";
    let said = workspace.succeeds(&format!("export base --lora {checkpoint}/{file} --output merged")).stderr;
    assert!(said.contains("adapters of 16 layers are added"), "{said}");
    for (model, more) in [("merged", String::new()), ("base", format!("--lora {checkpoint}"))] {
        assert_eq!(difference(&predict(&workspace, model, &more), &expected), 0.0, "{model} {more}");
    }
    // peft's file, with its settings beside it, and without: then alpha counts as the rank.
    fs::create_dir(workspace.path("peft")).unwrap();
    for name in ["adapter_model.safetensors", "adapter_config.json"] {
        fs::copy(workspace.path(checkpoint).join(name), workspace.path("peft").join(name)).unwrap();
    }
    assert_eq!(difference(&predict(&workspace, "base", "--lora peft"), &expected), 0.0);
    let config = fs::read_to_string(workspace.path("peft/adapter_config.json")).unwrap();
    fs::remove_file(workspace.path("peft/adapter_config.json")).unwrap();
    let said = workspace.succeeds("export base --lora peft --output other").stderr;
    assert!(said.contains("taken to count once"), "{said}");
    assert!(difference(&predict(&workspace, "other", ""), &expected) > 1e-3);

    let export = "export base --output x --lora";
    fs::write(
        workspace.path("peft/adapter_config.json"),
        config.replace("\"use_dora\": false", "\"use_dora\": true"),
    )
    .unwrap();
    workspace.fails(&format!("{export} peft"), 1, &["adapter_model.safetensors", "use_dora = true"]);
    workspace.fails(
        &format!("{export} base/checkpoint-000003"),
        1,
        &["expected pytorch_lora_weights.safetensors"],
    );
    let weights = "base/checkpoint-000003/unet/diffusion_pytorch_model.safetensors";
    workspace.fails(&format!("{export} {weights}"), 1, &["is of no low-rank adapter", "lora_A.weight"]);
    // A scale of alpha / 0 makes no numbers.
    for shapes in [[vec![0, 8], vec![8, 0]], [vec![0, 1, 1, 8], vec![8, 0, 1, 1]]] {
        let leaves = ["lora_A", "lora_B"].map(|leaf| format!("mid_block.attentions.0.to_q.{leaf}.weight"));
        let tensors = leaves.into_iter().zip(shapes).map(|(name, shape)| {
            (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &[]).unwrap())
        });
        let file = safetensors::serialize(tensors, None).unwrap();
        workspace.write("rank_0.safetensors", file);
        let words = ["rank_0.safetensors", "the adapter of mid_block.attentions.0.to_q", "of rank 0"];
        workspace.fails(&format!("{export} rank_0.safetensors"), 1, &words);
    }
    let path = workspace.path(checkpoint).join("adapter_config.json");
    fs::write(&path, config.replace("\"r\": 3", "\"r\": 0")).unwrap();
    workspace.fails("export run --output x", 1, &["adapter_config.json: r is 0"]);
    fs::write(&path, config).unwrap();
    workspace.write_model("wide.json", "block_out_channels", serde_json::json!([8, 24]));
    workspace.succeeds(&Workspace::train_line("wide", "--steps 1").replace("model.json", "wide.json"));
    let line = format!("export wide --output x --lora {checkpoint}");
    workspace.fails(&line, 1, &["the adapter of down_blocks.1.attentions.0.to_out.0", "[16, 3]", "[24, 24]"]);
}

#[test]
fn adapters_that_make_no_sense_are_refused() {
    let workspace = with_base();
    let line = "train --dataset digits --batch-size 4 --device cpu --sample-every 0 --steps 1 --output run";
    for (flags, code, words) in [
        ("--lora-rank 4", 2, &["--init-from"][..]),
        ("--init-from base --lora-alpha 4", 2, &["--lora-rank"]),
        ("--init-from base --lora-rank 0", 2, &["from 1 to 65536"]),
        ("--init-from base --lora-rank 2 --lora-alpha -1", 2, &["--lora-alpha"]),
        ("--init-from base --lora-rank 2 --reinit-mismatched", 2, &["cannot be used with"]),
        (
            "--init-from base --lora-rank 2 --lora-target query",
            1,
            &[
                "`lora_target` has `query`",
                "fully connected layers: conv_in, conv_out, down_blocks.0.",
                "the flag is --lora-target",
            ],
        ),
        // An embedding is a table and no layer of x.
        (
            "--init-from base --lora-rank 2 --lora-target class_embedding",
            1,
            &["`lora_target` has `class_embedding`"],
        ),
        (
            "--init-from base --lora-rank 2 --unconditional",
            1,
            &["class_embedding.weight is [10, 32] there, not in the model"],
        ),
        ("--init-from base --lora-rank 2 --freeze *", 1, &["none of the", "is trained"]),
    ] {
        workspace.fails(&format!("{line} {flags}"), code, words);
    }
}

#[test]
fn adapters_take_less_memory_than_all_weights() {
    let workspace = with_base();
    let line = "train --dataset digits --batch-size 4 --device cpu --steps 1 --output run --dry-run --init-from base";
    let said = |more: &str| workspace.succeeds(&format!("{line} {more}")).stdout;
    let bytes = |said: &str, role: &str| -> f64 {
        let line = said.lines().find(|line| line.trim_start().starts_with(role)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let (whole, lora) = (said(""), said("--lora-rank 2"));
    assert!(lora.contains(", of which ") && !whole.contains(", of which "), "{lora}");
    for role in ["gradients", "moments", "ema"] {
        assert!(4.0 * bytes(&lora, role) < bytes(&whole, role), "{role}: {lora}\n{whole}");
    }
}
