//! `sample` and `predict`: what they write, and that an image depends on the seed and its place alone.

use super::support::Workspace;

/// A folder with a trained model in `run`, which does not clip: all pixels of a model this young would be -1 or 1.
fn trained() -> Workspace {
    let workspace = Workspace::new();
    workspace.train("run", 6, "");
    let name = "run/checkpoint-000006/scheduler/scheduler_config.json";
    let mut scheduler: serde_json::Value = serde_json::from_slice(&workspace.read(name)).unwrap();
    scheduler["clip_sample"] = false.into();
    workspace.write(name, scheduler.to_string());
    workspace
}

/// Matrix products of another size can sum in another order.
fn assert_close(left: &[f32], right: &[f32], what: &str) {
    assert_eq!(left.len(), right.len(), "{what}");
    let scale = left.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    for (left, right) in left.iter().zip(right) {
        assert!((left - right).abs() <= 1e-5 * scale, "{what}: {left} and {right}, the largest is {scale}");
    }
}

/// Draws with `flags`; the images as floats.
fn images(workspace: &Workspace, flags: &str) -> Vec<f32> {
    workspace.succeeds(&format!("sample run --device cpu --output grid.png --save-npy images.npy {flags}"));
    workspace.npy("images.npy").1
}

const PIXELS: usize = 64;

#[test]
fn writes_a_grid_floats_and_an_animation() {
    let workspace = trained();
    let flags = "--steps 5 --num-images 20 --animate moving.png";
    let data = images(&workspace, flags);
    assert_eq!(workspace.npy("images.npy").0, [20, 1, 8, 8]);
    assert!(data.iter().all(|value| value.is_finite()));

    let decode =
        |name: &str| png::Decoder::new(std::io::Cursor::new(workspace.read(name))).read_info().unwrap();
    assert!(decode("grid.png").info().animation_control().is_none());
    let animation = decode("moving.png");
    assert!(animation.info().animation_control().unwrap().num_frames > 1);
    assert_eq!(animation.info().size(), decode("grid.png").info().size());
}

#[test]
fn the_batch_size_changes_nothing() {
    let workspace = trained();
    for sampler in ["--sampler ddim --eta 0", "--sampler ddim --eta 1", "--sampler ddpm"] {
        let flags = format!("--steps 4 --num-images 10 {sampler}");
        let at_once = images(&workspace, &flags);
        for batch_size in [3, 1] {
            let parts = images(&workspace, &format!("{flags} --batch-size {batch_size}"));
            assert_close(&at_once, &parts, &format!("{sampler}, batch size {batch_size}"));
        }
    }
}

/// Every sampler draws, with every way to bound x_0, and its images do not depend on the batch.
#[test]
fn every_sampler_draws_the_same_in_any_batch() {
    let workspace = trained();
    let noise: Vec<f32> = (0..3 * PIXELS).map(|i| (i as f32).sin()).collect();
    ddpm_gpu::output::write_npy(&workspace.path("noise.npy"), [3, 1, 8, 8], &noise).unwrap();
    let clips = ["", "--clip-sample", "--dynamic-thresholding 0.9"];
    for (sampler, clip) in ddpm_gpu::sampler::ALL.iter().zip(clips.iter().cycle()) {
        let takes_steps = sampler.choices.contains(&ddpm_gpu::sampler::Choice::Steps);
        let steps = if takes_steps { "--steps 5" } else { "--tolerance 1e-2" };
        let flags =
            format!("--sampler {} {steps} {clip} --class-label 1,2,3 --init-noise noise.npy", sampler.name);
        let at_once = images(&workspace, &flags);
        assert!(at_once.iter().all(|value| value.is_finite()), "{flags}");
        assert!(at_once != noise, "{flags}");
        let parts = images(&workspace, &format!("{flags} --batch-size 2"));
        assert_close(&at_once, &parts, &flags);
    }
    for steps in ["ddim4", "2,1", "4 --timestep-spacing trailing"] {
        assert!(images(&workspace, &format!("--steps {steps} --num-images 2")).len() == 2 * PIXELS);
    }
    let help = workspace.succeeds("sample --help").stdout;
    for sampler in ddpm_gpu::sampler::ALL {
        assert!(help.contains(sampler.name), "{} is not in the help", sampler.name);
    }
}

/// Image i depends on the seed and on i alone.
#[test]
fn fewer_images_are_the_first_of_more() {
    let workspace = trained();
    let flags = "--steps 4 --sampler ddpm --class-label 5 --seed 9";
    let more = images(&workspace, &format!("{flags} --num-images 7"));
    let fewer = images(&workspace, &format!("{flags} --num-images 3"));
    assert_close(&more[..3 * PIXELS], &fewer, "the first three");
    assert!(more[..PIXELS] != more[PIXELS..2 * PIXELS], "two images are the same");
}

#[test]
fn seeds_and_classes_make_a_difference() {
    let workspace = trained();
    let flags = "--steps 4 --num-images 2";
    let first = images(&workspace, &format!("{flags} --seed 1 --class-label 3"));
    assert!(first == images(&workspace, &format!("{flags} --seed 1 --class-label 3,3")), "the same twice");
    assert!(first != images(&workspace, &format!("{flags} --seed 2 --class-label 3")), "another seed");
    assert!(first != images(&workspace, &format!("{flags} --seed 1 --class-label 4")), "another class");
}

#[test]
fn a_checkpoint_can_be_named_by_its_run() {
    let workspace = trained();
    let flags = "--steps 2 --num-images 2 --device cpu --output grid.png";
    for (name, folder) in [("a.npy", "run"), ("b.npy", "run/checkpoint-000006")] {
        workspace.succeeds(&format!("sample {folder} {flags} --save-npy {name}"));
    }
    assert_eq!(workspace.read("a.npy"), workspace.read("b.npy"));
}

#[test]
fn given_noise_is_where_it_starts() {
    let workspace = trained();
    let noise: Vec<f32> = (0..2 * PIXELS).map(|i| (i as f32).sin()).collect();
    ddpm_gpu::output::write_npy(&workspace.path("noise.npy"), [2, 1, 8, 8], &noise).unwrap();
    let flags = "--steps 3 --class-label 1 --init-noise noise.npy";
    let first = images(&workspace, &format!("{flags} --seed 1"));
    assert_eq!(first.len(), noise.len());
    assert!(first == images(&workspace, &format!("{flags} --seed 2")), "no other noise is drawn");
}

#[test]
fn predict_is_one_forward_pass() {
    let workspace = trained();
    let x_t: Vec<f32> = (0..3 * PIXELS).map(|i| (i as f32 * 0.7).sin()).collect();
    ddpm_gpu::output::write_npy(&workspace.path("x_t.npy"), [3, 1, 8, 8], &x_t).unwrap();
    let predict = |flags: &str| {
        workspace.succeeds(&format!("predict run --input x_t.npy --output out.npy --device cpu {flags}"));
        workspace.npy("out.npy")
    };
    let (shape, together) = predict("--timesteps 10,500,999 --class-labels 3,3,3");
    assert_eq!(shape, [3, 1, 8, 8]);
    let (_, same_label) = predict("--timesteps 10,500,999 --class-labels 3");
    assert!(together == same_label);
    let (_, same_timestep) = predict("--timesteps 10 --class-labels 3");
    assert_close(&together[..PIXELS], &same_timestep[..PIXELS], "the first image");
    assert!(together[PIXELS..] != same_timestep[PIXELS..]);
    let (_, half) = predict("--timesteps 10,500,999 --class-labels 3 --precision f16");
    let largest = together.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let error = together.iter().zip(&half).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
    assert!(half != together && error < 5e-3 * largest, "f16 is off by {error}, the largest is {largest}");
}

/// Where hardly anything of the image is left at the first timestep.
#[test]
fn a_combination_that_leads_beyond_all_bounds_is_warned_of() {
    let workspace = Workspace::new();
    workspace.train("run", 1, "--beta-schedule cosine");
    let line = "sample run --device cpu --num-images 1 --steps 4 --sampler plms --output grid.png";
    let wild = format!("{line} --timestep-spacing trailing --no-clip-sample");
    let said = workspace.succeeds(&wild).stderr;
    assert!(said.contains("warning: the sampler `plms` makes errors of the network"), "{said}");
    for sound in [line.to_owned(), format!("{line} --no-clip-sample"), wild.replace("plms", "ddim")] {
        let said = workspace.succeeds(&sound).stderr;
        assert!(!said.contains("makes errors"), "`{sound}` said:\n{said}");
    }
}

#[test]
fn a_model_of_one_timestep_draws() {
    let workspace = Workspace::new();
    workspace.train("run", 1, "--num-train-timesteps 1 --beta-start 0.5");
    for sampler in ["ddpm", "dpmpp_2m", "ode"] {
        let line = format!("sample run --device cpu --num-images 1 --sampler {sampler} --output grid.png");
        workspace.succeeds(&line);
    }
    let line = "sample run --device cpu --num-images 1 --sampler dpmpp_2m --steps 2 --output bad.png";
    workspace.fails(line, 1, &["cannot sample in 2 steps: this model takes from 1 to 1"]);
}
