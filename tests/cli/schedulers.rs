//! Pipelines with schedulers of every class, as diffusers saved them: what they draw without flags, and what is written
//! of them.

use std::path::Path;

use ddpm_gpu::diffusion::SCHEDULER_CLASSES;
use ddpm_gpu::output::write_npy;
use serde_json::{Value, json};

use super::golden::Golden;
use super::support::Workspace;

const DRAW: &str = "--device cpu --tuning off --init-noise x_T.npy --save-npy images.npy --output grid.png";

/// Numbers that JSON does not have, as Python writes them.
fn parsed(text: &str) -> Value {
    serde_json::from_str(&text.replace("-Infinity", "\"-Infinity\"")).unwrap()
}

/// Lays out the folder `name` as diffusers saved it.
fn lay_out(workspace: &Workspace, name: &str, case: &Value) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/scheduler_folders/unet");
    for file in ["config.json", "diffusion_pytorch_model.safetensors"] {
        workspace.write(&format!("{name}/unet/{file}"), std::fs::read(golden.join(file)).unwrap());
    }
    workspace.write(&format!("{name}/model_index.json"), case["model_index"].as_str().unwrap());
    let config = format!("{name}/scheduler/scheduler_config.json");
    workspace.write(&config, case["scheduler_config"].as_str().unwrap());
}

/// `sample FOLDER` takes the class's sampler and its choices, says so, and draws what diffusers draws.
#[test]
fn each_class_draws_without_flags_what_diffusers_draws() {
    let file = Golden::read("scheduler_folders");
    let x_t: Vec<f32> = file.numbers("x_T").iter().map(|x| *x as f32).collect();
    let workspace = Workspace::new();
    write_npy(&workspace.path("x_T.npy"), file.shape("x_T").try_into().unwrap(), &x_t).unwrap();
    let mut drawn = 0;
    for (name, case) in file.cases() {
        lay_out(&workspace, &name, &case);
        let expected = format!("{name}.images");
        if !file.has(&expected) {
            continue;
        }
        let said = workspace.succeeds(&format!("sample {name} --steps {} {DRAW}", case["steps"])).stderr;
        let config = parsed(case["scheduler_config"].as_str().unwrap());
        let class = config["_class_name"].as_str().unwrap();
        assert!(said.contains("the sampler is") && said.contains(class), "{name}: {said}");
        let (shape, found) = workspace.npy("images.npy");
        assert_eq!(shape, file.shape(&expected), "{name}");
        let expected = file.numbers(&expected);
        let largest = expected.iter().fold(1.0, |largest: f64, x| largest.max(x.abs()));
        let off = found.iter().zip(expected).map(|(x, y)| (f64::from(*x) - y).abs()).fold(0.0, f64::max);
        // Ours is f32 as diffusers' is, and differs from f64 by as much.
        let rounding = case["f32_max_abs_diff"].as_f64().unwrap();
        println!("{name}: {off:.1e} off of {largest:.2}, diffusers in f32 {rounding:.1e}");
        assert!(
            off < 4.0 * rounding + 1e-6 * largest,
            "{name}: {off:.1e} off, diffusers in f32 {rounding:.1e}"
        );
        drawn += 1;
    }
    assert_eq!(drawn, 13);
}

/// What `export` writes of a scheduler is what diffusers wrote, key by key.
#[test]
fn each_class_is_written_as_it_was_read() {
    let file = Golden::read("scheduler_folders");
    let workspace = Workspace::new();
    let mut classes = std::collections::BTreeSet::new();
    for (name, case) in file.cases() {
        lay_out(&workspace, &name, &case);
        workspace.succeeds(&format!("export {name} --output {name}-again"));
        let read = |file: &str| String::from_utf8(workspace.read(file)).unwrap();
        let written = read(&format!("{name}-again/scheduler/scheduler_config.json"));
        let theirs = case["scheduler_config"].as_str().unwrap();
        assert_eq!(parsed(&written), parsed(theirs), "{name}");
        assert_eq!(written.matches("-Infinity").count(), written.matches(": -Infinity").count(), "{written}");
        let index = parsed(&read(&format!("{name}-again/model_index.json")));
        assert_eq!(index["scheduler"], parsed(case["model_index"].as_str().unwrap())["scheduler"]);
        classes.insert(index["scheduler"][1].as_str().unwrap().to_owned());
    }
    let all: std::collections::BTreeSet<String> =
        SCHEDULER_CLASSES.iter().map(|class| class.name.to_owned()).collect();
    assert_eq!(classes, all);
}

#[test]
fn a_flag_wins_over_the_scheduler_of_the_model() {
    let file = Golden::read("scheduler_folders");
    let cases = file.cases();
    let workspace = Workspace::new();
    lay_out(&workspace, "model", &cases["dpm_multistep_third"]);
    let draw = |flags: &str| {
        let line =
            "--device cpu --tuning off --steps 5 --num-images 1 --save-npy images.npy --output grid.png";
        let said = workspace.succeeds(&format!("sample model {line} {flags}")).stderr;
        (workspace.npy("images.npy").1, said)
    };
    let (own, said) = draw("");
    for words in ["dpmpp_2m", "DPMSolverMultistepScheduler", "solver_order = 3", "use_karras_sigmas = true"] {
        assert!(said.contains(words), "{said}");
    }
    assert!(!said.contains("nothing here uses"), "{said}");
    // The sampler's name alone changes nothing of its choices; flags do, one by one.
    let (same, said) = draw("--sampler dpmpp_2m");
    assert!(same == own && said.contains("solver_order = 3"), "{said}");
    let (second, _) = draw("--solver-order 2");
    let (at_timesteps, _) = draw("--noise-levels timesteps");
    let (other, said) = draw("--sampler ddim");
    assert!(!said.contains("solver_order"), "{said}");
    for (i, images) in [&second, &at_timesteps, &other].into_iter().enumerate() {
        assert!(*images != own, "{i}");
    }
    for (flags, words) in [
        ("--sampler ddim --solver-order 2", &["`ddim` takes no `solver_order`", "dpmpp_2m"][..]),
        ("--sampler plms --noise-levels karras", &["`plms` takes no `noise_levels`", "heun"]),
        ("--solver-order 4", &["4", "1 to 3"]),
        ("--sampler dpmpp_2m_sde --solver-order 3", &["solver order is 3", "from 1 to 2"]),
        ("--noise-levels zigzag", &["zigzag", "karras"]),
    ] {
        let code = if flags.contains("4") || flags.contains("zigzag") { 2 } else { 1 };
        workspace.fails(&format!("sample model --output x.png {flags}"), code, words);
    }
}

/// Every refusal names the file, the key, its value and what there is.
#[test]
fn choices_that_there_are_not_are_refused_by_key() {
    let file = Golden::read("scheduler_folders");
    let cases = file.cases();
    let workspace = Workspace::new();
    for (name, key, value, words) in [
        ("dpm_multistep", "solver_order", json!(4), &["`solver_order` = 4", "1, 2, 3"][..]),
        ("dpm_multistep", "algorithm_type", json!("sde-dpmsolver"), &["sde-dpmsolver", "sde-dpmsolver++"]),
        ("dpm_multistep", "use_flow_sigmas", json!(true), &["`use_flow_sigmas` = true", "must be false"]),
        ("dpm_multistep", "use_beta_sigmas", json!("yes"), &["`use_beta_sigmas`", "true or false"]),
        ("dpm_multistep_third", "use_beta_sigmas", json!(true), &["`use_beta_sigmas`", "another key"]),
        ("dpm_multistep", "lambda_min_clipped", json!(null), &["`lambda_min_clipped` = null", "-Infinity"]),
        ("dpm_noise", "final_sigmas_type", json!("zero"), &["`final_sigmas_type`", "sigma_min"]),
        ("dpm_multistep_sde", "solver_order", json!(3), &["`solver_order` = 3", "1, 2"]),
        ("dpm_singlestep", "algorithm_type", json!("sde-dpmsolver++"), &["sde-dpmsolver++", "dpmsolver++"]),
        ("unipc", "predict_x0", json!(false), &["`predict_x0` = false", "must be true"]),
        ("unipc", "disable_corrector", json!("all"), &["`disable_corrector`", "list of whole numbers"]),
        ("unipc", "solver_p", json!({}), &["`solver_p`", "must be null"]),
        ("euler", "interpolation_type", json!("log_linear"), &["log_linear", "\"linear\""]),
        ("euler_karras", "timestep_type", json!("continuous"), &["continuous", "\"discrete\""]),
        ("euler", "sigma_max", json!(-1), &["`sigma_max` = -1", "a number from 0.000001"]),
        ("heun", "use_karras_sigmas", json!(3), &["`use_karras_sigmas` = 3"]),
        ("plms", "skip_prk_steps", json!("no"), &["`skip_prk_steps` = \"no\""]),
    ] {
        let case = &cases[name];
        lay_out(&workspace, "model", case);
        let mut config = parsed(case["scheduler_config"].as_str().unwrap());
        config[key] = value;
        let text = config.to_string().replace("\"-Infinity\"", "-Infinity");
        workspace.write("model/scheduler/scheduler_config.json", text);
        let words = [words, &["scheduler_config.json"]].concat();
        workspace.fails("sample model --output x.png --device cpu", 1, &words);
    }
    // What is wrong with some numbers of steps only is said where they are known.
    let text = cases["dpm_multistep"]["scheduler_config"].as_str().unwrap();
    lay_out(&workspace, "model", &cases["dpm_multistep"]);
    workspace.write("model/scheduler/scheduler_config.json", text.replace("-Infinity", "4.0"));
    let words = ["in 9 steps", "`lambda_min_clipped` = 4 ", "leaves 2 of the timesteps"];
    workspace.fails("sample model --steps 9 --output x.png --device cpu", 1, &words);
}

/// `--null-class` is to a model of others what `_null_class` is to ours.
#[test]
fn the_user_says_which_class_means_none() {
    let workspace = Workspace::new();
    workspace.train("ours", 2, "--label-dropout 0.5");
    workspace.succeeds("export ours --output theirs");
    let mut config: Value = serde_json::from_slice(&workspace.read("theirs/unet/config.json")).unwrap();
    config.as_object_mut().unwrap().remove("_null_class").unwrap();
    workspace.write("theirs/unet/config.json", config.to_string());
    let usual =
        "--device cpu --tuning off --steps 2 --save-npy images.npy --output grid.png --guidance-scale 3";
    let draw = |line: &str| {
        workspace.succeeds(&format!("{line} {usual}"));
        workspace.npy("images.npy")
    };
    // All classes but that one in turn, and one by name.
    for flags in ["--num-images 20", "--num-images 2 --class-label 3,10"] {
        let ours = draw(&format!("sample ours {flags}"));
        assert_eq!(draw(&format!("sample theirs --null-class 10 {flags}")), ours);
        assert_eq!(draw(&format!("sample ours --null-class 10 {flags}")), ours);
        let other = draw(&format!("sample theirs --null-class 4 {flags}"));
        assert!(other.1 != ours.1, "another class makes no difference");
    }
    workspace.write("image.png", super::support::png(200));
    workspace.write("mask.png", super::support::png(255));
    let paint = "--images image.png --mask mask.png --class-label 1 --resample 1";
    let ours = draw(&format!("inpaint ours {paint}"));
    assert_eq!(draw(&format!("inpaint theirs --null-class 10 {paint}")), ours);

    for (line, words) in [
        ("sample theirs", &["no class that its file says to mean none", "--null-class"][..]),
        ("sample theirs --null-class 11", &["--null-class", "class 11", "11 classes, 0 to 10"]),
        ("sample ours --null-class 3", &["--null-class", "class 3", "its class 10 does"]),
        ("image-to-image theirs --images image.png --null-class 99", &["class 99"]),
    ] {
        workspace.fails(&format!("{line} --guidance-scale 3 --output x.png --device cpu"), 1, words);
    }
}
