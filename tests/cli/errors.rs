//! What goes wrong: the exit status, a message that says what to do, and nothing half-written.

use std::collections::HashMap;

use safetensors::SafeTensors;
use serde_json::json;

use super::support::Workspace;

const WEIGHTS: &str = "run/checkpoint-000001/unet/diffusion_pytorch_model.safetensors";
const SAMPLE: &str = "sample run --device cpu --steps 2 --output grid.png";
const PREDICT: &str = "predict run --device cpu --input x_t.npy --output out.npy";

/// A folder with a trained model in `run`.
fn trained() -> Workspace {
    let workspace = Workspace::new();
    workspace.train("run", 1, "");
    workspace
}

#[test]
fn wrong_usage_is_status_2() {
    let workspace = Workspace::new();
    for (line, word) in [
        ("", "Usage"),
        ("paint", "unrecognized subcommand"),
        ("train --dataset digits", "--output"),
        ("train --dataset digits --output run --stpes 3", "--steps"),
        ("train --dataset digits --output run --steps many", "--steps"),
        ("train --dataset digits --output run --checkpoint-every 0", "90s, 10m or 2h"),
        ("train --dataset digits --output run --checkpoint-every soon", "90s, 10m or 2h"),
        ("train --dataset digits --output run --checkpoints-to-keep 0", "at least 1"),
        ("train --dataset digits --output run --beta-schedule zigzag", "cosine"),
        ("train --dataset digits --output run --variance-type large", "fixed_large"),
        ("train --dataset digits --output run --precision f8", "f32, f16"),
        ("sample run", "--output"),
        ("sample run --output a.png --steps many", "10,15,20"),
        ("sample run --output a.png --timestep-spacing even", "leading, trailing and linspace"),
        ("sample run --output a.png --clip-sample --no-clip-sample", "--no-clip-sample"),
        ("sample run --output a.png --clip-sample --dynamic-thresholding 0.9", "--dynamic-thresholding"),
        ("predict run --input x.npy --output y.npy", "--timesteps"),
    ] {
        workspace.fails(line, 2, &[word]);
    }
}

#[test]
fn options_of_training_that_make_no_sense() {
    let workspace = Workspace::new();
    let line = Workspace::train_line("run", "").replace("--device cpu", "--device nonesuch");
    workspace.fails(&line, 1, &["no adapter matches 'nonesuch'", "ddpm-gpu devices", "--device cpu"]);
}

#[test]
fn a_run_goes_on_in_the_precision_that_it_began_in() {
    let workspace = trained();
    let line = Workspace::train_line("run", "--resume --steps 2 --precision f16");
    workspace.fails(&line, 1, &["precision was \"f32\", now it is \"f16\""]);
}

#[test]
fn an_adapter_without_f16_says_so() {
    let adapters = pollster::block_on(ddpm_gpu::device::adapters());
    let lacks_f16 = |adapter: &ddpm_gpu::device::AdapterReport| adapter.features.contains(&("f16", false));
    let Some(adapter) = adapters.iter().find(|adapter| lacks_f16(adapter)) else {
        eprintln!("SKIPPED: every adapter has shader-f16");
        return;
    };
    let workspace = trained();
    let name = adapter.name.split(' ').next().unwrap();
    let line = format!("sample run --device {name} --precision f16 --steps 2 --output grid.png");
    workspace.fails(&line, 1, &[&adapter.name, "has no shader-f16", "--precision f32"]);
}

#[test]
fn data_that_is_not_there() {
    let workspace = Workspace::new();
    let train = |dataset: &str| {
        format!("train --device cpu --steps 1 --output run --model model.json --dataset {dataset}")
    };
    workspace.fails(
        &train("no-such-folder"),
        1,
        &["no-such-folder", "digits, fashion-mnist", "folder of images"],
    );
    workspace.fails(&train("model.json"), 1, &["model.json", "a file"]);
    workspace.write("empty/readme.txt", "no pictures here");
    workspace.fails(&train("empty"), 1, &["empty", "expected"]);
    workspace.write_model("model-32.json", "sample_size", json!(32));
    let line = "train --device cpu --output run --model model-32.json --dataset";
    // The message says how to get the files.
    let flags = "fashion-mnist --data-path empty";
    workspace.fails(
        &format!("{line} {flags}"),
        1,
        &["train-images-idx3-ubyte", "empty", "dataset-fashion-mnist"],
    );
    workspace.fails(&format!("{line} digits"), 1, &["digits", "image size", "32", "sample_size"]);
}

#[test]
fn models_that_cannot_be_built() {
    let workspace = Workspace::new();
    for (key, value, words) in [
        (
            "down_block_types",
            json!(["DownBlock2D", "CrossAttnDownBlock2D"]),
            &["CrossAttnDownBlock2D", "AttnDownBlock2D", "SkipDownBlock2D"][..],
        ),
        ("down_block_types", json!(["DownBlock2D"]), &["down_block_types", "2 levels"]),
        ("attention_head_dim", json!(64), &["attention_head_dim", "64", "16 channels"]),
        ("attention_head_dim", json!(0), &["attention_head_dim", "at least 1"]),
        ("sample_size", json!(9), &["sample_size", "9x9", "multiples of 2"]),
        ("sample_size", json!(null), &["sample_size"]),
        ("norm_num_groups", json!(3), &["norm_num_groups", "multiple"]),
        ("block_out_channels", json!([8, -16]), &["model.json"]),
        ("block_out_channels", json!("wide"), &["model.json"]),
        ("act_fn", json!("tanh"), &["act_fn", "tanh", "silu", "mish", "gelu", "relu"]),
        ("mid_block_type", json!("UNetMidBlock2DCrossAttn"), &["mid_block_type", "UNetMidBlock2D, null"]),
        ("mid_block_scale_factor", json!(0), &["mid_block_scale_factor", "other than 0"]),
        ("time_embedding_type", json!("random"), &["time_embedding_type", "positional, fourier, learned"]),
        (
            "time_embedding_type",
            json!("learned"),
            &["num_train_timesteps is null", "a row for each timestep"],
        ),
        ("class_embed_type", json!("projection"), &["class_embed_type", "null, timestep, identity"]),
        ("downsample_type", json!("pool"), &["downsample_type", "conv, resnet"]),
        ("down_block_types", json!(["SkipDownBlock2D", "DownBlock2D"]), &["in_channels is 1", "3 channels"]),
        ("up_block_types", json!(["SkipUpBlock2D", "UpBlock2D"]), &["up_block_types", "behind a Skip block"]),
        ("num_class_embeds", json!(3), &["3 classes", "10 classes"]),
        ("out_channels", json!(2), &["2 output channels"]),
    ] {
        workspace.write_model("model.json", key, value);
        workspace.fails(&format!("{} --steps 1", Workspace::train_line("run", "")), 1, words);
    }
    workspace.write("model.json", "{\"sample_size\": 8,");
    workspace.fails(&Workspace::train_line("run", ""), 1, &["model.json"]);
    let line = "train --dataset digits --output run --device cpu --model huge";
    workspace.fails(line, 1, &["no such preset", "ddpm-cifar10-32", "no such file"]);
}

#[test]
fn outputs_of_training_that_are_in_the_way() {
    let workspace = trained();
    let again = |flags: &str| format!("{} {flags}", Workspace::train_line("run", ""));
    workspace.fails(&again("--steps 2"), 1, &["earlier run", "--resume", "another --output"]);
    workspace.fails(&again("--steps 1 --resume"), 1, &["already has 1 steps", "--steps"]);
    let settings = "--steps 2 --resume --learning-rate 0.5";
    workspace.fails(&again(settings), 1, &["other settings", "learning_rate was 0.0002, now it is 0.5"]);
    workspace.fails(
        &again("--steps 2 --resume --beta-schedule cosine"),
        1,
        &["another model or noise schedule: beta_schedule was \"linear\", now it is", "give the same"],
    );
    workspace.write("in-the-way", "a file where a folder should be");
    for output in ["in-the-way", "in-the-way/run"] {
        workspace.fails(&format!("{} --steps 1", Workspace::train_line(output, "")), 1, &["in-the-way"]);
    }
}

#[test]
fn damaged_checkpoints() {
    let workspace = trained();
    let whole = workspace.read(WEIGHTS);
    for length in [0, 4, 8, 100, whole.len() / 2, whole.len() - 1] {
        workspace.write(WEIGHTS, &whole[..length]);
        workspace.fails(
            SAMPLE,
            1,
            &["diffusion_pytorch_model.safetensors", "no whole safetensors file", "again"],
        );
    }
    workspace.write(WEIGHTS, [0xff; 64]);
    workspace.fails(SAMPLE, 1, &["no whole safetensors file"]);

    let file = SafeTensors::deserialize(&whole).unwrap();
    let without = file.iter().filter(|(name, _)| *name != "conv_in.bias");
    workspace.write(WEIGHTS, safetensors::serialize(without, None).unwrap());
    workspace.fails(SAMPLE, 1, &["conv_in.bias", "missing", "another model"]);

    let more = file.iter().chain([("spare.bias", file.tensor("conv_in.bias").unwrap())]);
    let more: HashMap<&str, _> = more.collect();
    workspace.write(WEIGHTS, safetensors::serialize(more, None).unwrap());
    workspace.fails(SAMPLE, 1, &["spare.bias", "no place"]);

    workspace.write(WEIGHTS, &whole);
    workspace.write("run/checkpoint-000001/unet/config.json", "{}");
    workspace.fails(SAMPLE, 1, &["config.json", "sample_size"]);
    workspace.write("run/checkpoint-000001/scheduler/scheduler_config.json", "[]");
    workspace.write("run/checkpoint-000001/unet/config.json", workspace.read("model.json"));
    workspace.fails(SAMPLE, 1, &["scheduler_config.json"]);

    std::fs::remove_dir_all(workspace.path("run/checkpoint-000001")).unwrap();
    workspace.fails(SAMPLE, 1, &["no checkpoint", "model_index.json", "there is metrics.jsonl, run.toml"]);
    workspace.fails("sample nowhere --output grid.png", 1, &["nowhere", "no checkpoint", "no such folder"]);
}

#[test]
fn a_damaged_training_state_is_not_resumed() {
    let workspace = trained();
    for name in ["weights", "first_moment", "second_moment"] {
        let path = format!("run/checkpoint-000001/training_state/{name}.safetensors");
        let whole = workspace.read(&path);
        workspace.write(&path, &whole[..whole.len() - 1]);
        let line = format!("{} --steps 2 --resume", Workspace::train_line("run", ""));
        workspace.fails(&line, 1, &[name, "no whole safetensors file"]);
        workspace.write(&path, whole);
    }
}

#[test]
fn samples_that_cannot_be_drawn() {
    let workspace = trained();
    workspace.write("in-the-way", "a file where a folder should be");
    ddpm_gpu::output::write_npy(&workspace.path("wide.npy"), [1, 1, 8, 9], &[0.0; 72]).unwrap();
    for (flags, words) in [
        ("--class-label 10", &["no class 10", "0 to 9"][..]),
        ("--class-label 1,2 --num-images 3", &["--class-label has 2 classes for 3 images"]),
        ("--class-label one", &["--class-label", "'one'"]),
        ("--sampler ddpm --eta 0.5", &["`ddpm` takes no `eta`", "the flag is --eta", "ddim"]),
        ("--sampler unipc --eta 0", &["`unipc` takes no `eta`", "ddim"]),
        ("--sampler zigzag", &["zigzag", "ddpm, ddim, pndm, plms", "heun"]),
        ("--sampler ode", &["`ode` takes no `steps`", "ddpm, ddim"]),
        ("--sampler heun --tolerance 1e-4", &["`heun` takes no `tolerance`", "ode"]),
        ("--sampler ddim --snr 0.2", &["`ddim` takes no `snr`", "pc"]),
        ("--corrector-steps 2", &["`ddim` takes no `corrector_steps`", "--corrector-steps", "pc"]),
        (
            "--noise-in-last-step",
            &["`ddim` takes no `noise_in_last_step`", "--noise-in-last-step", "ddpm, pc"],
        ),
        (
            "--num-images 10000000 --animate moving.png",
            &["10000000 images of 8x8 with 40 frames of each", "draw fewer"],
        ),
        ("--sampler pndm", &["`pndm` takes at least 4 steps, not 2"]),
        ("--sampler ddim_inverse", &["from images to noise", "--init-noise"]),
        ("--init-noise wide.npy", &["[1, 1, 8, 9]", "[1, 1, 8, 8]"]),
        ("--init-noise model.json", &["model.json", "numpy.save"]),
    ] {
        workspace.fails(&format!("{SAMPLE} {flags}"), 1, words);
    }
    for (steps, words) in [
        ("0", &["steps"][..]),
        ("1001", &["1001", "1000"]),
        ("ddim3 --timestep-spacing trailing", &["ddim3", "--timestep-spacing"]),
        ("ddim700", &["ddim700", "no whole stride"]),
        ("400,700", &["400,700", "section of 500"]),
        ("5,3 --sampler plms", &["`plms`", "`5,3`", "a number of steps"]),
        ("ddim3 --sampler euler", &["`euler`", "`ddim3`", "a number of steps"]),
    ] {
        workspace.fails(&SAMPLE.replace("--steps 2", &format!("--steps {steps}")), 1, words);
    }
    for output in ["in-the-way/grid.png", "no-folder/grid.png", "run"] {
        let folder = output.split('/').next().unwrap();
        workspace.fails(&SAMPLE.replace("grid.png", output), 1, &[folder]);
    }
    workspace.fails(&format!("{SAMPLE} --save-npy no-folder/images.npy"), 1, &["no-folder"]);
    workspace.fails(&format!("{SAMPLE} --animate no-folder/moving.png"), 1, &["no-folder"]);
}

#[test]
fn predictions_that_cannot_be_made() {
    let workspace = trained();
    let write = |shape: [usize; 4]| {
        let zeros = vec![0.0; shape.iter().product()];
        ddpm_gpu::output::write_npy(&workspace.path("x_t.npy"), shape, &zeros).unwrap();
    };
    workspace.fails(&format!("{PREDICT} --timesteps 1 --class-labels 1"), 1, &["x_t.npy"]);
    write([2, 3, 8, 8]);
    workspace.fails(
        &format!("{PREDICT} --timesteps 1 --class-labels 1"),
        1,
        &["[2, 3, 8, 8]", "[2, 1, 8, 8]"],
    );
    write([2, 1, 8, 8]);
    for (flags, words) in [
        ("--timesteps 1,2,3 --class-labels 1", &["3 timesteps for 2 images"][..]),
        ("--timesteps soon --class-labels 1", &["--timesteps", "'soon'"]),
        ("--timesteps 1 --class-labels 1,2,3", &["3 class labels for 2 images"]),
        ("--timesteps 1 --class-labels 10", &["no class 10"]),
        ("--timesteps 1", &["conditional on 10 classes"]),
    ] {
        workspace.fails(&format!("{PREDICT} {flags}"), 1, words);
    }
    let whole = workspace.read("x_t.npy");
    workspace.write("x_t.npy", &whole[..whole.len() - 1]);
    workspace.fails(&format!("{PREDICT} --timesteps 1 --class-labels 1"), 1, &["x_t.npy", "cut short"]);
}
