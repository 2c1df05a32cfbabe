use super::*;
use std::sync::Arc;

use crate::network::{Network, SampleSize, Tensor};
use crate::pipeline::Role;

const FILE: &str = "unet/diffusion_pytorch_model.safetensors";

fn config() -> UNetConfig {
    UNetConfig {
        sample_size: Some(SampleSize::Square(8)),
        in_channels: 1,
        out_channels: 1,
        block_out_channels: vec![8],
        layers_per_block: 1,
        norm_num_groups: Some(4),
        down_block_types: vec!["DownBlock2D".to_owned()],
        up_block_types: vec!["UpBlock2D".to_owned()],
        ..UNetConfig::default()
    }
}

fn pipeline() -> Pipeline {
    let network: Arc<dyn Network> = Arc::new(config());
    let weights = network.fresh_weights(1).unwrap();
    Pipeline::new(Role::Denoises, network, weights, SchedulerConfig::default())
}

fn weights(pipeline: &Pipeline) -> &Tensors {
    &pipeline.denoiser().unwrap().weights
}

fn weights_mut(pipeline: &mut Pipeline) -> &mut Tensors {
    &mut pipeline.networks.get_mut("unet").unwrap().weights
}

/// A pipeline's folder, called `saved`.
struct Saved {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Saved {
    fn new() -> Self {
        Self::with(&pipeline())
    }

    fn with(pipeline: &Pipeline) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("saved");
        pipeline.export(&path, Precision::F32).unwrap();
        Self { _folder: folder, path }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path.join(from), self.path.join(to)).unwrap();
    }

    /// Sets a key of a JSON file.
    fn set(&self, name: &str, key: &str, value: serde_json::Value) {
        let mut file = read_json(&self.path.join(name)).unwrap();
        file[key] = value;
        write_json(&self.path.join(name), &file).unwrap();
    }

    fn notes(&self) -> String {
        let (found, notes) = Pipeline::open(&self.path).unwrap();
        assert_eq!(weights(&found), weights(&pipeline()));
        notes.join("\n")
    }

    /// Expects an error with these words.
    fn says(&self, words: &[&str]) {
        let message = Pipeline::open(&self.path).unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "no `{word}` in: {message}");
        }
    }
}

#[test]
fn pipelines_and_parts_of_other_classes_are_refused_by_name() {
    for (index, words) in [
        (json!({"_class_name": "LDMPipeline"}), &["model_index.json", "LDMPipeline", "DDPMPipeline"][..]),
        (json!({"unet": ["diffusers", "UNet2DModel"]}), &["_class_name"]),
        (json!([1]), &["_class_name"]),
        (
            json!({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}),
            &["UNet2DConditionModel", "UNet2DModel"],
        ),
        (json!({"_class_name": "DDPMPipeline", "vqvae": ["diffusers", "VQModel"]}), &["vqvae", "VQModel"]),
    ] {
        let saved = Saved::new();
        saved.write("model_index.json", &index.to_string());
        saved.says(words);
    }
    let saved = Saved::new();
    saved.set("model_index.json", "safety_checker", json!([null, null]));
    assert_eq!(saved.notes(), "");
    saved.set("unet/config.json", "_class_name", json!("UNet2DConditionModel"));
    saved.says(&["unet/config.json", "_class_name", "UNet2DConditionModel"]);
    // The network of a foreign pipeline, given by itself.
    let saved = Saved::new();
    saved.set("model_index.json", "_class_name", json!("LDMPipeline"));
    let message = Pipeline::open(&saved.path.join("unet")).unwrap_err().to_string();
    assert!(message.contains("LDMPipeline"), "{message}");
    // No index, but a part that draws.
    let saved = Saved::new();
    fs::remove_file(saved.path.join("model_index.json")).unwrap();
    saved.write("vqvae/config.json", "{}");
    saved.says(&["no model_index.json", "vqvae"]);
}

#[test]
fn keys_that_are_not_understood_are_named_with_their_values() {
    let saved = Saved::new();
    for key in ["a_key_of_tomorrow", "attention_legacy_order"] {
        saved.set("unet/config.json", key, json!(true));
        saved.says(&["unet/config.json", key, "true", "does not know"]);
        saved.set("unet/config.json", key, json!(null));
    }
    // What diffusers itself adds, and what says nothing.
    for (key, value) in [
        ("attention_legacy_order", json!(false)),
        ("_name_or_path", json!("google/ddpm")),
        ("optimization_step", json!(500)),
        ("time_embedding_dim", json!(null)),
    ] {
        saved.set("unet/config.json", key, value);
    }
    assert_eq!(saved.notes(), "");
    saved.set("unet/config.json", "time_embedding_dim", json!(20));
    saved.says(&[
        "time_embedding.linear_1",
        "[20, 8]",
        "[32, 8]",
        "unet/config.json",
        "parameters; the file has",
    ]);
    saved.set("unet/config.json", "time_embedding_dim", json!("wide"));
    saved.says(&["time_embedding_dim", "\"wide\""]);
    saved.write("unet/config.json", "[]");
    saved.says(&["unet/config.json", "no JSON object"]);
}

#[test]
fn a_network_saved_alone_is_read_with_a_note() {
    let saved = Saved::new();
    for file in ["model_index.json", "scheduler/scheduler_config.json"] {
        fs::remove_file(saved.path.join(file)).unwrap();
    }
    assert!(saved.notes().contains("no scheduler_config.json; taken to be trained as DDPMScheduler"));
    fs::create_dir(saved.path.join("unet_ema")).unwrap();
    assert!(saved.notes().contains("saved/unet_ema"));
    let (found, notes) = Pipeline::open(&saved.path.join("unet")).unwrap();
    assert_eq!((weights(&found), notes.len()), (weights(&pipeline()), 1));
    // In the folder of its pipeline it has that pipeline's scheduler.
    let scheduler = SchedulerConfig { beta_end: 0.01, ..SchedulerConfig::default() };
    let saved = Saved::with(&Pipeline { scheduler: scheduler.clone(), ..pipeline() });
    let (found, notes) = Pipeline::open(&saved.path.join("unet")).unwrap();
    assert_eq!(found.scheduler, scheduler);
    assert!(notes[0].contains("scheduler_config.json: taken to go with"), "{notes:?}");
}

#[test]
fn weights_under_other_names_are_read_with_a_note_or_refused_with_what_is_there() {
    let saved = Saved::new();
    let variant = "unet/diffusion_pytorch_model.fp16.safetensors";
    saved.rename(FILE, variant);
    assert!(saved.notes().contains("fp16.safetensors: taken for the weights"));
    saved.write("unet/diffusion_pytorch_model.bf16.safetensors", "");
    saved.says(&["unet: the weights are there as the variants bf16, fp16 only; choose one"]);
    let chosen = |variant: &str| {
        let choice = WeightsChoice { variant: Some(variant.to_owned()), ema_decay: None };
        Pipeline::open_chosen(&saved.path, &choice)
    };
    assert_eq!(weights(&chosen("fp16").unwrap().0), weights(&pipeline()));
    let message = chosen("ema").unwrap_err().to_string();
    assert!(message.contains("not there as the variant ema; there is bf16, fp16"), "{message}");
    fs::remove_file(saved.path.join("unet/diffusion_pytorch_model.bf16.safetensors")).unwrap();
    saved.rename(variant, "unet/diffusion_pytorch_model-00001-of-00002.safetensors");
    saved.says(&[
        "split over several files",
        "00001-of-00002",
        "diffusion_pytorch_model.safetensors.index.json; copy",
    ]);
    fs::remove_file(saved.path.join("unet/diffusion_pytorch_model-00001-of-00002.safetensors")).unwrap();
    for (name, words) in [
        ("unet/model.ckpt", &["model.ckpt", "PyTorch Lightning"][..]),
        ("unet/diffusion_flax_model.msgpack", &["msgpack", "weights of Flax", "from_flax"]),
        ("unet/model.gguf", &["GGUF", "quantised"]),
        ("unet/weights.npz", &["arrays of NumPy"]),
        ("unet/tf_model.h5", &["Keras"]),
        ("unet/model.onnx", &["ONNX"]),
    ] {
        saved.write(name, "");
        saved.says(words);
        fs::remove_file(saved.path.join(name)).unwrap();
    }
    saved.write("unet/weights.txt", "");
    saved.says(&["there are no weights: expected diffusion_pytorch_model.safetensors", "weights.txt"]);
    saved.write(FILE, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
    saved.says(&["pointer of Git LFS", "git lfs pull"]);
}

/// Splits the weights into two files, with an index.
fn split(saved: &Saved) -> [String; 2] {
    let files = [1, 2].map(|part| format!("diffusion_pytorch_model-0000{part}-of-00002.safetensors"));
    let (mut parts, mut map) = ([Tensors::new(), Tensors::new()], Map::new());
    for (index, (name, tensor)) in weights(&pipeline()).iter().enumerate() {
        parts[index % 2].insert(name.clone(), tensor.clone());
        map.insert(name.clone(), json!(files[index % 2]));
    }
    for (file, tensors) in files.iter().zip(&parts) {
        tensor_file::write(&saved.path.join("unet").join(file), tensors).unwrap();
    }
    let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    saved.write(INDEX, &index.to_string());
    fs::remove_file(saved.path.join(FILE)).unwrap();
    files
}

const INDEX: &str = "unet/diffusion_pytorch_model.safetensors.index.json";

#[test]
fn parts_are_exactly_those_of_their_index() {
    let saved = Saved::new();
    let [first, second] = split(&saved);
    assert_eq!(saved.notes(), "");
    let index = fs::read_to_string(saved.path.join(INDEX)).unwrap();
    // A tensor that the index has in another file, or not at all.
    saved.write(INDEX, &index.replacen(&first, &second, 1));
    saved.says(&[&first, "it has tensors that not", "conv_in.bias"]);
    saved.write(INDEX, &index.replacen("conv_in.bias", "conv_in.gain", 1));
    saved.says(&[&first, "it lacks tensors that", "conv_in.gain"]);
    saved.write(INDEX, &index.replace(&first, "../x.safetensors"));
    saved.says(&["index.json", "../x.safetensors, which is no name of a file beside it"]);
    saved.write(INDEX, "{\"weight_map\": {\"a\": 1}}");
    saved.says(&["no index of weights"]);
    saved.write(INDEX, "{\"weight_map\": {}}");
    saved.says(&["lists no files"]);
    saved.write(INDEX, &index);
    saved.rename(&format!("unet/{second}"), "elsewhere");
    saved.says(&["1 of the 2 files that it lists are missing", &second]);
}

#[test]
fn a_pipeline_of_a_class_of_its_own_is_taken_for_one_of_its_parts() {
    let saved = Saved::new();
    saved.set("model_index.json", "_class_name", json!(["pipeline", "MyPipeline"]));
    assert!(saved.notes().contains(
        "a class of its own, MyPipeline, whose code is not run; its parts are taken for those of a DDPMPipeline"
    ));
    saved.set("model_index.json", "vqvae", json!(["diffusers", "VQModel"]));
    saved.says(&["vqvae", "VQModel"]);
    let index =
        json!({"_class_name": ["pipeline", "MyPipeline"], "prior": ["diffusers", "PriorTransformer"]});
    saved.write("model_index.json", &index.to_string());
    saved.says(&["MyPipeline", "prior", "DDPMPipeline"]);
}

#[test]
fn prefixes_of_wrappers_are_read_with_a_note() {
    let mut wrapped = pipeline();
    let named = weights(&wrapped).clone().into_iter();
    let prefixed = named.map(|(name, tensor)| (format!("module._orig_mod.{name}"), tensor)).collect();
    *weights_mut(&mut wrapped) = prefixed;
    let notes = Saved::with(&wrapped).notes();
    assert!(notes.contains("`module.`") && notes.contains("`_orig_mod.`"), "{notes}");
    // A prefix of some is not taken off.
    let tensor = weights_mut(&mut wrapped).remove("module._orig_mod.conv_in.bias").unwrap();
    weights_mut(&mut wrapped).insert("conv_in.bias".to_owned(), tensor);
    Saved::with(&wrapped).says(&["is missing", "of another model than", "unet/config.json"]);
}

#[test]
fn weights_that_are_not_finite_are_refused_at_every_door() {
    let mut model = pipeline();
    for bad in [f32::NAN, f32::INFINITY] {
        weights_mut(&mut model).get_mut("conv_out.weight").unwrap().data[5] = bad;
        let folder = tempfile::tempdir().unwrap();
        let message = model.export(&folder.path().join("x"), Precision::F32).unwrap_err().to_string();
        for word in
            ["conv_out.weight", &bad.to_string(), "[0, 0, 1, 2]", "diffusion_pytorch_model.safetensors"]
        {
            assert!(message.contains(word), "{message}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // Another program wrote it.
        let saved = Saved::new();
        let bytes = fs::read(saved.path.join(FILE)).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let data: Vec<u8> =
            weights(&model)["conv_out.weight"].data.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensors = file.iter().map(|(name, view)| {
            let data = if name == "conv_out.weight" { &data[..] } else { view.data() };
            (name, safetensors::tensor::TensorView::new(view.dtype(), view.shape().to_vec(), data).unwrap())
        });
        fs::write(saved.path.join(FILE), safetensors::serialize(tensors, None).unwrap()).unwrap();
        saved.says(&[
            "diffusion_pytorch_model.safetensors",
            "conv_out.weight",
            &bad.to_string(),
            "[0, 0, 1, 2]",
        ]);
    }
}

#[test]
fn weights_too_large_for_16_bits_are_not_exported_as_such() {
    let mut model = pipeline();
    let folder = tempfile::tempdir().unwrap();
    let set = |model: &mut Pipeline, value: f32| {
        weights_mut(model).insert("conv_in.bias".to_owned(), Tensor { shape: vec![8], data: vec![value; 8] });
    };
    set(&mut model, -65_504.0);
    model.export(&folder.path().join("fits"), Precision::F16).unwrap();
    let fits = Pipeline::load(&folder.path().join("fits")).unwrap();
    assert_eq!(weights(&fits)["conv_in.bias"].data, [-65_504.0; 8]);
    set(&mut model, -70_000.0);
    let path = folder.path().join("too-large");
    let message = model.export(&path, Precision::F16).unwrap_err().to_string();
    for word in ["conv_in.bias", "-70000", "[0]", "65504", "32-bit"] {
        assert!(message.contains(word), "{message}");
    }
    assert!(!path.exists());
    model.export(&path, Precision::F32).unwrap();
}

#[test]
fn sizes_that_no_network_has_are_refused_before_anything_is_built() {
    let saved = Saved::new();
    for (key, value, words) in [
        ("block_out_channels", json!([100_000_000]), &["block_out_channels", "at most"][..]),
        ("in_channels", json!(100_000_000), &["in_channels", "at most"]),
        ("num_class_embeds", json!(100_000_000), &["num_class_embeds", "at most"]),
        ("layers_per_block", json!(1_000_000_000), &["layers_per_block", "more than 1024"]),
        ("layers_per_block", json!(u64::MAX), &["layers_per_block", "more than 1024"]),
        ("time_embedding_dim", json!(1u64 << 60), &["time_embedding_dim", "at most"]),
        ("sample_size", json!(1u64 << 40), &["sample_size", "at most"]),
        // Each within its bounds, all together not.
        ("block_out_channels", json!([2048]), &["[8192, 2048]", "another model", "parameters; the file has"]),
        ("sample_size", json!(-1), &["sample_size", "-1"]),
    ] {
        let saved_config = read_json(&saved.path.join("unet/config.json")).unwrap();
        saved.set("unet/config.json", key, value);
        saved.says(words);
        write_json(&saved.path.join("unet/config.json"), &saved_config).unwrap();
    }
    let wide = UNetConfig {
        block_out_channels: vec![2048, 65_536],
        down_block_types: vec!["DownBlock2D".to_owned(); 2],
        up_block_types: vec!["UpBlock2D".to_owned(); 2],
        ..config()
    };
    let message = (&wide as &dyn Network).count_parameters().unwrap_err().to_string();
    assert!(message.contains("GB") && message.contains("parameters"), "{message}");
}

#[test]
fn numbers_as_python_writes_them_are_no_syntax_error() {
    let saved = Saved::new();
    let path = "scheduler/scheduler_config.json";
    saved.set(path, "lambda_min_clipped", json!("-Infinity"));
    let text = fs::read_to_string(saved.path.join(path)).unwrap();
    assert!(text.contains("\"lambda_min_clipped\": -Infinity"), "{text}");
    assert!(saved.notes().ends_with("keys that nothing here uses: lambda_min_clipped"), "{}", saved.notes());
    saved.set(path, "beta_end", json!("NaN"));
    saved.says(&["scheduler_config.json", "`beta_end` = NaN,", "it must be a finite number"]);
    saved.set(path, "_class_name", json!("LMSDiscreteScheduler"));
    saved.says(&["scheduler_config.json", "LMSDiscreteScheduler", "DDPMScheduler"]);
    saved.write(path, "{\"beta_end\": 0.0");
    saved.says(&["scheduler_config.json", "incomplete"]);
}
