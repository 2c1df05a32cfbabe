//! `import`: checkpoints of improved-diffusion and guided-diffusion against their own code.
//!
//! `tools/oracle/openai_unet.py` makes `tests/golden/openai_unet/`.

use std::io::Read;
use std::path::Path;

use ddpm_gpu::device::{Device, Selection, adapters};
use ddpm_gpu::graph::Graph;
use ddpm_gpu::network::{
    CONDITION_IMAGE, Component, LOGITS, Network, Precision, SAMPLE, TIMESTEPS, WeightsError, prepare,
};
use ddpm_gpu::output::{nchw_to_nhwc, nhwc_to_nchw};
use ddpm_gpu::pipeline::Pipeline;
use flate2::read::GzDecoder;
use pollster::block_on;

use super::golden::Golden;
use super::support::Workspace;

const CASES: [&str; 5] = ["rescaled_heads", "plain", "resblock_updown", "upsampler", "classifier"];

fn checkpoint(case: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/openai_unet/{case}.pt.gz"));
    let mut bytes = Vec::new();
    GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

/// The flags that a model was made with.
fn flags(golden: &Golden, case: &str) -> String {
    serde_json::from_str::<Vec<String>>(golden.metadata(case)).unwrap().join(" ")
}

/// Images `[N, C, H, W]` as the network takes them.
fn images(golden: &Golden, name: &str) -> ([usize; 4], Vec<f32>) {
    let shape: [usize; 4] = golden.shape(name).try_into().unwrap();
    let [n, c, h, w] = shape;
    ([n, h, w, c], nchw_to_nhwc(&golden.floats(name), shape))
}

#[derive(Debug)]
struct Failed(#[allow(dead_code)] String);

impl From<WeightsError> for Failed {
    fn from(error: WeightsError) -> Self {
        Self(error.to_string())
    }
}

impl From<ddpm_gpu::device::DeviceError> for Failed {
    fn from(error: ddpm_gpu::device::DeviceError) -> Self {
        Self(error.to_string())
    }
}

/// What a network gives for the golden inputs of a case, in their layout.
fn output(device: &Device, component: &Component, golden: &Golden, case: &str) -> Vec<f32> {
    let network: &dyn Network = component.network.as_ref();
    let named = |name: &str| format!("{case}.{name}");
    let ([n, h, w, c], x) = images(golden, &named("sample"));
    let mut graph = Graph::new();
    let inputs = network.declare_inputs(&mut graph, n).unwrap();
    let outputs = network.apply(&mut graph, Precision::F32, &inputs, None).unwrap();
    let output = outputs.get(LOGITS).or_else(|_| outputs.get(SAMPLE)).unwrap();
    let weights = [("", &component.weights)];
    let mut executor = block_on(prepare::<Failed>(device, &graph, &weights, &[output])).unwrap();
    executor.write(inputs.get(SAMPLE).unwrap(), &x).unwrap();
    executor.write(inputs.get(TIMESTEPS).unwrap(), &golden.floats(&named("timesteps"))).unwrap();
    if let Some(of) = network.super_resolution() {
        let (_, low) = images(golden, &named("low_resolution"));
        executor.write(inputs.get(CONDITION_IMAGE).unwrap(), &of.enlarge(&low, c, [h, w])).unwrap();
    }
    if golden.has(&named("class_labels")) {
        let labels: Vec<u32> =
            golden.floats(&named("class_labels")).iter().map(|&label| label as u32).collect();
        executor.write(inputs.get("class_labels").unwrap(), &labels).unwrap();
    }
    executor.run().unwrap();
    let got = block_on(executor.read(output)).unwrap();
    match graph.ty(output).shape[..] {
        [n, h, w, c] => nhwc_to_nchw(&got, [n, h, w, c]),
        _ => got,
    }
}

fn devices() -> Vec<(String, Device)> {
    let open = |number| block_on(Device::open(&Selection::Number(number))).unwrap();
    let found = block_on(adapters());
    if found.is_empty() {
        println!("SKIPPED on GPUs: no wgpu adapter is present, only the CPU executor is tested");
    }
    let gpus = found.into_iter().map(|adapter| (adapter.name, open(adapter.number)));
    [("cpu".to_owned(), Device::Cpu)].into_iter().chain(gpus).collect()
}

#[test]
fn imported_models_give_what_their_own_code_gives() {
    let golden = Golden::read("openai_unet");
    let devices = devices();
    for case in CASES {
        let workspace = Workspace::new();
        workspace.write("model.pt", checkpoint(case));
        let said =
            workspace.succeeds(&format!("import model.pt --output model {}", flags(&golden, case))).stderr;
        assert!(
            said.contains("what the file does not tell is taken as the scripts have it by default"),
            "{said}"
        );
        let words = match case {
            "rescaled_heads" => {
                "timesteps are multiplied by 0.25 and attention has 2 heads at every level, which diffusers has no \
                 word for"
            }
            "plain" => {
                "diffusion_steps 1000, noise_schedule linear, predict_xstart false, sigma_small false."
            }
            "resblock_updown" => "not used: use_fp16",
            "upsampler" => "use_new_attention_order false",
            _ => "diffusion_steps 1000",
        };
        assert!(said.contains(words), "{case}: {said}");
        let pipeline = Pipeline::load(&workspace.path("model")).unwrap();
        let component = pipeline.networks.values().next().unwrap();
        let expected = golden.floats(&format!("{case}.output"));
        for (name, device) in &devices {
            let got = output(device, component, &golden, case);
            let worst = got.iter().zip(&expected).fold(0.0f32, |worst, (got, expected)| {
                let difference = (got - expected).abs();
                if difference <= worst { worst } else { difference }
            });
            println!("{name}: {case}: {worst:.1e}");
            assert!(got.len() == expected.len() && worst < 1e-4, "{case} on {name}: {worst:.1e}");
        }
    }
}

#[test]
fn the_process_is_that_of_the_flags() {
    let golden = Golden::read("openai_unet");
    let workspace = Workspace::new();
    workspace.write("model.pt", checkpoint("rescaled_heads"));
    workspace.succeeds(&format!(
        "import model.pt --output model --dropout 0.1 {}",
        flags(&golden, "rescaled_heads")
    ));
    let json = |file: &str| serde_json::from_slice::<serde_json::Value>(&workspace.read(file)).unwrap();
    let scheduler = json("model/scheduler/scheduler_config.json");
    for (key, value) in [
        ("num_train_timesteps", "4000"),
        ("beta_schedule", "\"squaredcos_cap_v2\""),
        ("variance_type", "\"learned_range\""),
        ("prediction_type", "\"epsilon\""),
        ("timestep_spacing", "\"linspace\""),
        ("clip_sample", "true"),
    ] {
        assert_eq!(scheduler[key].to_string(), value, "{key}");
    }
    let network = json("model/unet/config.json");
    for (key, value) in [
        ("_timestep_scale", "0.25"),
        ("_num_attention_heads", "2"),
        ("num_class_embeds", "10"),
        ("dropout", "0.1"),
        ("block_out_channels", "[32,64]"),
        ("down_block_types", "[\"AttnDownBlock2D\",\"AttnDownBlock2D\"]"),
    ] {
        assert_eq!(network[key].to_string(), value, "{key}");
    }
    // Drawn, guided and written again it is the same model.
    let draw = "--class-label 3 --num-images 1 --steps 2 --device cpu --output x.png --save-npy x.npy";
    workspace.succeeds(&format!("sample model {draw}"));
    let drawn = workspace.npy("x.npy");
    workspace.succeeds("export model --output again");
    workspace.succeeds(&format!("sample again {draw}"));
    assert!(workspace.npy("x.npy") == drawn);
    workspace.write("plain.pt", checkpoint("plain"));
    workspace.succeeds(
        "import plain.pt --output plain --image-size 8 --num-heads 1 --diffusion-steps 100 --sigma-small True",
    );
    let scheduler = json("plain/scheduler/scheduler_config.json");
    assert_eq!(scheduler["variance_type"], "fixed_small");
    assert!((scheduler["beta_end"].as_f64().unwrap() - 0.2).abs() < 1e-12, "{scheduler}");
    assert_eq!(json("plain/unet/config.json")["_timestep_scale"], 10.0);
}

#[test]
fn what_contradicts_the_file_or_has_no_place_is_refused() {
    let workspace = Workspace::new();
    for case in CASES {
        workspace.write(&format!("{case}.pt"), checkpoint(case));
    }
    let refused = |line: &str, words: &[&str]| {
        workspace.fails(&format!("import {line} --output out"), 1, words);
        assert!(!workspace.path("out").exists(), "{line}");
    };
    refused(
        "plain.pt",
        &["plain.pt", "does not tell the size of the images", "[1, 1]", "hint: the flag is --image-size"],
    );
    let size = "plain.pt --image-size 8";
    for (flags, words) in [
        (
            "--num-channels 64",
            &["`num_channels` is 64, but in the file it is 32", "hint: the flag is --num-channels"][..],
        ),
        ("--num_res_blocks 2", &["`num_res_blocks` is 2, but in the file it is 1"]),
        ("--channel_mult 1,2", &["`channel_mult` is [1, 2]", "[1, 1]"]),
        ("--class-cond True", &["`class_cond` is true"]),
        ("--learn-sigma True", &["`learn_sigma` is true, but in the file it is false"]),
        ("--use-scale-shift-norm True", &["`use_scale_shift_norm`"]),
        ("--resblock-updown yes", &["`resblock_updown`"]),
        ("--attention_resolutions 8", &["`attention_resolutions` is [8]", "attention at [4]"]),
        ("--num-heads 5", &["`num_heads` is 5, which does not divide the 32 channels"]),
        ("--num-head-channels 48", &["`num_head_channels` is 48"]),
        ("--num-heads 2 --num-heads-upsample 4", &["`num_heads_upsample` is 4"]),
        ("--diffusion-steps 0", &["`diffusion_steps` is 0"]),
        ("--key ema", &["no tensors at the key ema"]),
    ] {
        refused(&format!("{size} {flags}"), words);
    }
    refused("upsampler.pt --image-size 8", &["6 channels", "`small_size`"]);
    refused("upsampler.pt --small-size 4", &["`image_size`"]);
    refused("classifier.pt --image-size 8", &["classifier", "`num_res_blocks`"]);
    workspace.write("damaged.pt", &checkpoint("plain")[..1000]);
    refused("damaged.pt --image-size 8", &["damaged.pt", "no whole file of torch.save"]);
    // A network of diffusers.
    let layouts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/layouts");
    let bin = layouts.join("data_parallel/diffusion_pytorch_model.bin");
    refused(
        &bin.display().to_string(),
        &["no tensor time_embed.0.weight", "names of diffusers", "config.json"],
    );
    workspace.fails(
        &format!("import {size} --noise-schedule sigmoid --output out"),
        2,
        &["linear and cosine"],
    );
    workspace.fails(&format!("import {size} --class-cond maybe --output out"), 2, &["True or False"]);
    workspace.succeeds(
        "import resblock_updown.pt --output out --image-size 8 --num-head-channels 16 --use-kl True",
    );
}
