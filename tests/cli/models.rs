//! Models as folders have them: what is read of them, and what is refused.

use serde_json::{Value, json};

use super::support::Workspace;

const CHECKPOINT: &str = "run/checkpoint-000001";
const SAMPLE: &str = "--device cpu --steps 2 --num-images 1 --output grid.png";

/// A folder with a trained model in `run`.
fn trained() -> Workspace {
    let workspace = Workspace::new();
    workspace.train("run", 1, "");
    workspace
}

fn set(workspace: &Workspace, file: &str, key: &str, value: Value) {
    let mut json: Value = serde_json::from_slice(&workspace.read(file)).unwrap();
    json[key] = value;
    workspace.write(file, json.to_string());
}

#[test]
fn a_network_alone_draws_the_same_and_says_what_was_assumed() {
    let workspace = trained();
    let sample = |model: &str| {
        let finished = workspace.succeeds(&format!("sample {model} {SAMPLE} --save-npy image.npy"));
        (workspace.npy("image.npy"), finished.stderr)
    };
    let (expected, said) = sample("run");
    assert!(!said.contains("note:"), "{said}");
    let (found, said) = sample(&format!("{CHECKPOINT}/unet"));
    assert!(found == expected && said.contains("note:") && said.contains("scheduler_config.json"), "{said}");

    let unet = |name: &str| format!("{CHECKPOINT}/unet/{name}");
    let rename = |from: &str, to: &str| std::fs::rename(workspace.path(from), workspace.path(to)).unwrap();
    let usual = unet("diffusion_pytorch_model.safetensors");
    rename(&usual, &unet("diffusion_pytorch_model.fp16.safetensors"));
    let (found, said) = sample("run");
    assert!(found == expected && said.contains("fp16.safetensors: taken for the weights"), "{said}");
}

/// Folders that diffusers, accelerate and PyTorch wrote: the same weights in each.
#[test]
fn every_layout_draws_the_same() {
    let workspace = Workspace::new();
    let layouts = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/layouts");
    let draw = |layout: &str, flags: &str| {
        let line = format!("sample {} {SAMPLE} {flags} --save-npy image.npy", layouts.join(layout).display());
        let finished = workspace.succeeds(&line);
        (workspace.npy("image.npy"), finished.stderr)
    };
    let (plain, said) = draw("plain", "");
    assert!(!said.contains("note:"), "{said}");
    for layout in [
        "variant_alone",
        "variants_beside_the_plain",
        "shards",
        "shards_of_a_variant",
        "bin_file",
        "bin_variant",
        "bin_shards",
        "accelerate_with_hooks/checkpoint-2",
        "accelerate_with_hooks/checkpoint-2/unet",
        "custom_pipeline",
    ] {
        assert!(draw(layout, "").0 == plain, "{layout}");
    }
    assert!(draw("variants_beside_the_plain", "--variant ema").0 != plain);
    // Without a scheduler's file they are drawn by another process, all alike.
    let (alone, said) = draw("network_alone", "");
    assert!(alone != plain && said.contains("no scheduler_config.json"), "{said}");
    for layout in [
        "averaged_alone",
        "accelerate_without_hooks",
        "accelerate_without_hooks_bin",
        "data_parallel",
        "compiled",
        "before_torch_1_6",
        "nested",
        "doubles_as_parameters",
        "views_of_one_storage",
    ] {
        assert!(draw(layout, "").0 == alone, "{layout}");
    }
}

#[test]
fn weights_that_cannot_be_read_are_refused_with_what_to_do() {
    let workspace = trained();
    let refused = |path: &str, words: &[&str]| workspace.fails(&format!("sample {path} {SAMPLE}"), 1, words);
    let weights = format!("{CHECKPOINT}/unet/diffusion_pytorch_model.safetensors");
    refused(&weights, &["this is a file", "config.json", "ddpm-gpu import"]);
    for (name, words) in [
        ("model.gguf", &["GGUF", "safetensors"][..]),
        ("model.ckpt", &["Lightning", "state_dict"]),
        ("flax_model.msgpack", &["Flax"]),
        ("weights.npz", &["NumPy"]),
    ] {
        workspace.write(name, "x");
        refused(name, words);
    }
    // What accelerate writes without hooks: weights, but not of which network.
    workspace.write("accelerate/model.safetensors", workspace.read(&weights));
    workspace.write("accelerate/optimizer.bin", "x");
    refused("accelerate", &["there are weights, model.safetensors, but no config.json"]);
    workspace.write("accelerate/config.json", workspace.read(&format!("{CHECKPOINT}/unet/config.json")));
    workspace.succeeds(&format!("sample accelerate {SAMPLE}"));
    // A file that would run code.
    std::fs::remove_file(workspace.path("accelerate/model.safetensors")).unwrap();
    workspace.write(
        "accelerate/pytorch_model.bin",
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.M\xe9\x03.}.cos\nsystem\n(Vtouch ran\ntR.",
    );
    refused("accelerate", &["pytorch_model.bin", "it imports os.system", "nothing in it was run"]);
    assert!(!workspace.path("ran").exists());
    let rename = |from: &str, to: &str| std::fs::rename(workspace.path(from), workspace.path(to)).unwrap();
    let unet = |name: &str| format!("{CHECKPOINT}/unet/{name}");
    workspace.write(&unet("diffusion_pytorch_model.fp16.safetensors"), "x");
    rename(&weights, &unet("diffusion_pytorch_model.bf16.safetensors"));
    refused("run", &["the variants bf16, fp16 only", "--variant"]);
    workspace.succeeds(&format!("sample run {SAMPLE} --variant bf16"));
    workspace.fails(
        &format!("sample run {SAMPLE} --variant ema"),
        1,
        &["variant ema", "there is bf16, fp16", "--variant"],
    );
}

#[test]
fn foreign_metadata_is_refused_before_anything_is_drawn() {
    let workspace = trained();
    let [index, unet, scheduler] =
        ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"]
            .map(|file| format!("{CHECKPOINT}/{file}"));
    let line = format!("sample run {SAMPLE}");
    for (file, key, value, words) in [
        (&index, "_class_name", json!("LDMPipeline"), &["model_index.json", "LDMPipeline"][..]),
        (&index, "vqvae", json!(["diffusers", "VQModel"]), &["vqvae", "VQModel"]),
        (&unet, "_class_name", json!("UNet2DConditionModel"), &["unet/config.json", "UNet2DConditionModel"]),
        (&unet, "cross_attention_dim", json!(768), &["cross_attention_dim", "768"]),
        (&unet, "sample_size", json!([16]), &["sample_size", "a whole number, or [height, width]"]),
        (&index, "unet", json!([null, null]), &["model_index.json", "leaves out the unet"]),
        (&unet, "num_class_embeds", json!(100_000_000), &["num_class_embeds", "at most"]),
        (&unet, "layers_per_block", json!(1_000_000_000), &["layers_per_block", "1024"]),
        (&scheduler, "_class_name", json!("LMSDiscreteScheduler"), &["LMSDiscreteScheduler", "from_config"]),
    ] {
        let before = workspace.read(file);
        set(&workspace, file, key, value);
        workspace.fails(&line, 1, words);
        workspace.write(file, before);
    }
    // The network predicts the image: another picture than where it predicts the noise.
    let drawn = |flags: &str| {
        workspace.succeeds(&format!("{line} --save-npy image.npy {flags}"));
        workspace.npy("image.npy")
    };
    let noise = drawn("");
    let mut config: Value = serde_json::from_slice(&workspace.read(&scheduler)).unwrap();
    config.as_object_mut().unwrap().remove("prediction_type");
    config["predict_epsilon"] = json!(false);
    workspace.write(&scheduler, config.to_string());
    let image = drawn("");
    config["prediction_type"] = json!("sample");
    workspace.write(&scheduler, config.to_string());
    assert!(image != noise && drawn("") == image);
}

#[test]
fn a_model_file_of_training_is_bounded_and_its_keys_are_understood() {
    let workspace = Workspace::new();
    for (key, value, words) in [
        ("cross_attention_dim", json!(768), &["model.json", "cross_attention_dim", "does not know"][..]),
        ("block_out_channels", json!([100_000_000, 8]), &["model.json", "block_out_channels", "at most"]),
        ("block_out_channels", json!([2048, 65_536]), &["model.json", "parameters", "GB"]),
        ("layers_per_block", json!(1_000_000_000), &["layers_per_block"]),
        ("num_class_embeds", json!(100_000_000), &["num_class_embeds"]),
        ("time_embedding_dim", json!("wide"), &["time_embedding_dim", "wide"]),
    ] {
        workspace.write_model("model.json", key, value);
        workspace.fails(&format!("{} --steps 1", Workspace::train_line("run", "")), 1, words);
    }
    workspace.write_model("model.json", "time_embedding_dim", json!(20));
    workspace.train("run", 1, "");
    let bytes = workspace.read(&format!("{CHECKPOINT}/unet/diffusion_pytorch_model.safetensors"));
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("time_embedding.linear_1.weight").unwrap().shape(), [20, 8]);
    workspace.succeeds(&format!("sample run {SAMPLE}"));
    workspace.train("run", 2, "--resume");
}

#[test]
fn a_stray_checkpoint_neither_loses_nor_hides_those_of_the_run() {
    let workspace = trained();
    let again =
        Workspace::train_line("run", "--steps 3 --checkpoint-every 1 --checkpoints-to-keep 1 --resume");
    let copy = |from: &str, to: &str| {
        for (path, contents) in workspace.files(from) {
            if let Some(contents) = contents {
                workspace.write(&format!("{to}/{}", path.display()), contents);
            }
        }
    };
    copy(CHECKPOINT, "run/checkpoint-000500");
    let words = ["checkpoint-000500", "step 500", "step 1", "rename it to checkpoint-000001"];
    for line in [again.as_str(), &format!("sample run {SAMPLE}"), &Workspace::train_line("run", "--steps 3")]
    {
        workspace.fails(line, 1, &words);
    }
    std::fs::remove_dir_all(workspace.path("run/checkpoint-000500")).unwrap();
    workspace.succeeds(&again);
    let steps = |name: &str| workspace.path(&format!("run/checkpoint-{name}")).is_dir();
    assert!(steps("000003") && !steps("000002") && !steps("000001"));
    // Cut short, it says what to do.
    let state = "run/checkpoint-000003/training_state/state.json";
    let whole = workspace.read(state);
    workspace.write(state, &whole[..whole.len() / 2]);
    workspace.fails(
        &Workspace::train_line("run", "--steps 4 --resume"),
        1,
        &["state.json", "incomplete", "checkpoint-000003", "checkpoint before it"],
    );
    workspace.succeeds(&format!("sample run {SAMPLE}"));
}

#[test]
fn every_stage_is_checked_before_the_first_is_drawn() {
    let workspace = trained();
    workspace.write_model("large.json", "sample_size", json!(16));
    let mut model: Value = serde_json::from_slice(&workspace.read("large.json")).unwrap();
    model["in_channels"] = json!(2);
    model["_super_resolution"] = json!({"low_size": 8, "augmentation": 10});
    model["time_embedding_dim"] = json!(24);
    model["num_class_embeds"] = Value::Null;
    workspace.write("stage/config.json", model.to_string());
    // Weights of the first model: its tensors are not those of this config.
    let weights = format!("{CHECKPOINT}/unet/diffusion_pytorch_model.safetensors");
    workspace.write("stage/diffusion_pytorch_model.safetensors", workspace.read(&weights));
    let finished = workspace.run(&format!("sample run --then stage {SAMPLE}"));
    assert_eq!(finished.code, Some(1));
    for word in ["--then stage", "another model than", "stage/config.json"] {
        assert!(finished.stderr.contains(word), "{}", finished.stderr);
    }
    assert!(!finished.stderr.contains("steps"), "it drew: {}", finished.stderr);
    assert!(!workspace.path("grid.png").exists());
}

/// Folders of other programs' networks, at every door: the class is named, not a key of it.
#[test]
fn a_network_of_another_class_is_named_wherever_it_lies() {
    let workspace = trained();
    let weights = workspace.read(&format!("{CHECKPOINT}/unet/diffusion_pytorch_model.safetensors"));
    let config =
        json!({ "_class_name": "UNet2DConditionModel", "cross_attention_dim": 768, "sample_size": 8 });
    workspace.write("alone/config.json", config.to_string());
    workspace.write("alone/diffusion_pytorch_model.safetensors", &weights);
    let parts = json!({
        "_class_name": "LDMPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "vqvae": ["diffusers", "VQModel"],
    });
    workspace.write("ldm/model_index.json", parts.to_string());
    workspace.write("ldm/unet/config.json", workspace.read(&format!("{CHECKPOINT}/unet/config.json")));
    workspace.write("ldm/unet/diffusion_pytorch_model.safetensors", &weights);
    let x_t = "predict MODEL --input x.npy --timesteps 1 --output y.npy --device cpu";
    for door in [
        &format!("sample MODEL {SAMPLE}"),
        &format!("sample run {SAMPLE} --then MODEL"),
        &format!("sample run {SAMPLE} --classifier MODEL"),
        "export MODEL --output new",
        "evaluate MODEL --dataset digits --split train --nll --device cpu",
        "kernels bisect MODEL --device cpu",
        x_t,
    ] {
        workspace.fails(&door.replace("MODEL", "alone"), 1, &["UNet2DConditionModel", "UNet2DModel"]);
        for model in ["ldm", "ldm/unet", "ldm/unet/../unet", "ldm/unet/."] {
            workspace.fails(&door.replace("MODEL", model), 1, &["model_index.json", "LDMPipeline"]);
        }
    }
    let train = "train --dataset digits --output new --steps 1 --device cpu --model alone/config.json";
    workspace.fails(train, 1, &["UNet2DConditionModel", "UNet2DModel"]);
}

#[test]
fn a_classifier_s_network_alone_is_what_its_pipeline_says() {
    let workspace = trained();
    workspace.write_model("encoder.json", "num_class_embeds", Value::Null);
    workspace.succeeds(
        "train-classifier --dataset digits --model encoder.json --output judge --steps 1 --batch-size 4 --device cpu \
         --measure-every 0",
    );
    let judge = "judge/checkpoint-000001";
    let line = format!("sample run {SAMPLE} --class-label 3 --save-npy image.npy --classifier");
    workspace.succeeds(&format!("{line} {judge}"));
    let expected = workspace.npy("image.npy");
    workspace.succeeds(&format!("{line} {judge}/classifier"));
    assert!(workspace.npy("image.npy") == expected);
    workspace.fails(&format!("sample {judge}/classifier {SAMPLE}"), 1, &["draws no images", "--classifier"]);
    workspace.succeeds(&format!("export {judge} --output shared"));
    workspace.succeeds(&format!("{line} shared"));
    assert!(workspace.npy("image.npy") == expected);
}
