//! Guidance, and what a model is used for beside drawing from noise: cascades, image-to-image, inpainting,
//! interpolation.

use ddpm_gpu::diffusion::SchedulerConfig;
use ddpm_gpu::output::write_npy;
use serde_json::{Value, json};

use super::support::Workspace;

const PIXELS: usize = 64;

/// Changes keys of a checkpoint's scheduler config.
fn change_scheduler(workspace: &Workspace, checkpoint: &str, changes: &[(&str, Value)]) {
    let name = format!("{checkpoint}/scheduler/scheduler_config.json");
    let mut scheduler: Value = serde_json::from_slice(&workspace.read(&name)).unwrap();
    for (key, value) in changes {
        scheduler[key] = value.clone();
    }
    workspace.write(&name, scheduler.to_string());
}

/// A folder with a model in `run` that has a class for none, and does not clip: all pixels would be -1 or 1.
fn trained() -> Workspace {
    let workspace = Workspace::new();
    workspace.train("run", 6, "--label-dropout 0.3 --learning-rate 0.01");
    change_scheduler(&workspace, "run/checkpoint-000006", &[("clip_sample", false.into())]);
    workspace
}

/// Runs a command that draws; the images as floats.
fn images(workspace: &Workspace, line: &str) -> Vec<f32> {
    workspace.succeeds(&format!("{line} --device cpu --output grid.png --save-npy images.npy"));
    workspace.npy("images.npy").1
}

fn largest_difference(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).fold(0.0, |largest, (left, right)| largest.max((left - right).abs()))
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

/// In one step from t = 999, the image is (x - sqrt(1 - abar) output) / sqrt(abar).
#[test]
fn classifier_free_guidance_is_the_published_formula() {
    let workspace = trained();
    let trailing = [("timestep_spacing", json!("trailing"))];
    change_scheduler(&workspace, "run/checkpoint-000006", &trailing);
    let x: Vec<f32> = (0..3 * PIXELS).map(|i| (i as f32 * 0.7).sin()).collect();
    write_npy(&workspace.path("x.npy"), [3, 1, 8, 8], &x).unwrap();
    let output = |labels: &str| {
        let line = "predict run --device cpu --input x.npy --timesteps 999 --output out.npy --class-labels";
        workspace.succeeds(&format!("{line} {labels}"));
        workspace.npy("out.npy").1
    };
    let (cond, uncond) = (output("3,0,7"), output("10"));
    assert!(largest_difference(&cond, &uncond) > 1e-4, "the classes make no difference");
    let abar = SchedulerConfig::default().schedule().unwrap().alphas_cumprod(999);
    let std = |values: &[f32]| {
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        values.iter().map(|value| (value - mean).powi(2)).sum::<f32>().sqrt()
    };
    let mut drawn = Vec::new();
    for (flags, scale, phi) in [
        ("--guidance-scale 1", 1.0, 0.0),
        ("--guidance-scale 0", 0.0, 0.0),
        ("--guidance-scale 3", 3.0, 0.0),
        ("--guidance-scale 4 --guidance-rescale 0.7", 4.0, 0.7),
    ] {
        let line = format!("sample run --steps 1 --init-noise x.npy --class-label 3,0,7 {flags}");
        let found = images(&workspace, &line);
        for image in 0..3 {
            let range = image * PIXELS..(image + 1) * PIXELS;
            let (cond, uncond) = (&cond[range.clone()], &uncond[range.clone()]);
            let mut guided: Vec<f32> =
                cond.iter().zip(uncond).map(|(cond, uncond)| uncond + scale * (cond - uncond)).collect();
            let factor = phi * std(cond) / std(&guided) + 1.0 - phi;
            guided.iter_mut().for_each(|value| *value *= factor);
            let expected: Vec<f32> = x[range.clone()]
                .iter()
                .zip(&guided)
                .map(|(x, out)| (x - (1.0 - abar).sqrt() as f32 * out) / abar.sqrt() as f32)
                .collect();
            let error = largest_difference(&found[range], &expected) / largest(&expected);
            assert!(error < 1e-5, "{flags}, image {image}: {error:.1e}");
        }
        drawn.push(found);
    }
    let [one, _, three, _] = &drawn[..] else { unreachable!() };
    assert!(largest_difference(one, three) > 1e-3 * largest(one), "scale 3 draws what scale 1 does");
}

#[test]
fn guidance_with_scale_1_is_no_guidance() {
    let workspace = trained();
    let line = "sample run --sampler ddpm --steps 4 --num-images 10 --seed 5";
    let plain = images(&workspace, line);
    assert!(plain == images(&workspace, &format!("{line} --guidance-scale 1")), "scale 1 changes a bit");
    // So near to 1 that only the doubled batch is left of guidance.
    let doubled = images(&workspace, &format!("{line} --guidance-scale 1.0000001"));
    let error = largest_difference(&plain, &doubled) / largest(&plain);
    assert!(error < 1e-5, "the doubled batch is off by {error:.1e}");
    let far = images(&workspace, &format!("{line} --guidance-scale 100"));
    assert!(largest_difference(&plain, &far) > 1e-3 * largest(&plain), "scale 100 changes nothing");
    let guided = images(&workspace, &format!("{line} --guidance-scale 3"));
    let parts = images(&workspace, &format!("{line} --guidance-scale 3 --batch-size 3"));
    assert!(
        largest_difference(&parts, &guided) < 1e-5 * largest(&guided),
        "the batch size makes a difference"
    );
}

#[test]
fn a_classifier_guides_conditional_and_unconditional_models() {
    let workspace = trained();
    workspace.train("free", 4, "--unconditional");
    let trailing = [("timestep_spacing", json!("trailing")), ("clip_sample", false.into())];
    change_scheduler(&workspace, "free/checkpoint-000004", &trailing);
    workspace.succeeds(
        "train-classifier --dataset digits --model model.json --batch-size 8 --device cpu --output judge --steps 20 \
         --learning-rate 0.01 --warmup-steps 0 --measure-every 0",
    );
    let line = "sample free --steps 1 --num-images 2 --seed 4";
    let draw = |flags: &str| images(&workspace, &format!("{line} {flags}"));
    let plain = draw("");
    let guided = |class: &str, scale: f32| {
        draw(&format!("--class-label {class} --classifier judge --classifier-scale {scale}"))
    };
    assert!(largest_difference(&plain, &guided("3", 0.0)) < 1e-6 * largest(&plain), "scale 0 guides");
    let shift = |class: &str, scale: f32| -> Vec<f32> {
        guided(class, scale).iter().zip(&plain).map(|(guided, plain)| guided - plain).collect()
    };
    // Of a single step the shift is in proportion to the scale.
    let (once, twice) = (shift("3", 2000.0), shift("3", 4000.0));
    assert!(largest(&once) > 1e-2 * largest(&plain), "{} of {}", largest(&once), largest(&plain));
    let doubled: Vec<f32> = once.iter().map(|shift| 2.0 * shift).collect();
    assert!(largest_difference(&doubled, &twice) < 1e-3 * largest(&twice));
    assert!(largest_difference(&once, &shift("4", 2000.0)) > 0.1 * largest(&once), "the class is not heeded");
    // Both kinds of guidance at once, with the class of the model.
    let both = "sample run --steps 3 --num-images 2 --class-label 3 --guidance-scale 2 --classifier judge";
    assert!(images(&workspace, both).iter().all(|value| value.is_finite()));
    assert_eq!(images(&workspace, "sample free --steps 2 --classifier judge").len(), 80 * PIXELS);
}

#[test]
fn a_cascade_of_two_models_draws_digits_of_16_pixels() {
    let workspace = trained();
    workspace.write_model("model.json", "sample_size", json!(16));
    let drawn = workspace.train("large", 4, "--super-resolution 8 --sample-every 4");
    assert!(drawn.stderr.contains("drew"), "{}", drawn.stderr);
    workspace.train("free", 4, "--super-resolution 8 --unconditional");

    let base = "sample run --steps 3 --num-images 5 --class-label 1,2,3,4,5 --guidance-scale 2";
    for large in ["large", "free"] {
        images(&workspace, &format!("{base} --then {large}"));
        assert_eq!(workspace.npy("images.npy").0, [5, 1, 16, 16]);
    }
    // The same in two commands, but for the levels of noise.
    let whole = images(&workspace, &format!("{base} --then large --noise-augmentation 7"));
    images(&workspace, base);
    let small = workspace.read("images.npy");
    workspace.write("small.npy", small);
    let enlarge = "sample large --steps 3 --class-label 1,2,3,4,5 --low-resolution small.npy";
    let parts = images(&workspace, &format!("{enlarge} --noise-augmentation 7"));
    assert!(whole == parts, "two commands draw other images than one");
    assert!(parts != images(&workspace, enlarge), "the augmentation is not heeded");
    images(&workspace, "sample free --steps 3 --low-resolution digits --num-images 3");
    assert_eq!(workspace.npy("images.npy").0, [3, 1, 16, 16]);
}

/// The network is given the small images beside x, and says eps and v.
#[test]
fn a_super_resolution_model_may_learn_its_variance() {
    let workspace = trained();
    workspace.write_model("model.json", "sample_size", json!(16));
    workspace.train("large", 3, "--super-resolution 8 --variance-type learned_range --objective hybrid");
    let config: Value =
        serde_json::from_slice(&workspace.read("large/checkpoint-000003/unet/config.json")).unwrap();
    assert_eq!((&config["in_channels"], &config["out_channels"]), (&json!(2), &json!(2)));
    let line = "sample run --sampler ddpm --steps 3 --num-images 3 --class-label 1,2,3 --then large";
    let learned = images(&workspace, line);
    assert_eq!(workspace.npy("images.npy").0, [3, 1, 16, 16]);
    assert!(learned.iter().all(|value| value.is_finite()));
    // The same network, taken for one that says eps alone.
    change_scheduler(&workspace, "large/checkpoint-000003", &[("variance_type", json!("fixed_large"))]);
    assert!(learned != images(&workspace, line), "the learned variance is not heeded");
}

/// Dhariwal and Nichol's own setting: DDPM with a learned variance moves each pixel's mean by its own variance.
#[test]
fn a_classifier_guides_a_model_that_learns_its_variance() {
    let workspace = Workspace::new();
    workspace.train("run", 4, "--variance-type learned_range --objective hybrid --learning-rate 0.01");
    change_scheduler(&workspace, "run/checkpoint-000004", &[("clip_sample", false.into())]);
    workspace.succeeds(
        "train-classifier --dataset digits --model model.json --batch-size 8 --device cpu --output judge --steps 20 \
         --learning-rate 0.01 --warmup-steps 0 --measure-every 0",
    );
    let line = "sample run --sampler ddpm --steps 4 --num-images 3 --class-label 1,2,3";
    let plain = images(&workspace, line);
    let guided =
        |scale: f32| images(&workspace, &format!("{line} --classifier judge --classifier-scale {scale}"));
    assert!(largest_difference(&plain, &guided(0.0)) < 1e-5 * largest(&plain), "scale 0 guides");
    let far = guided(100.0);
    assert!(far.iter().all(|value| value.is_finite()));
    assert!(largest_difference(&plain, &far) > 1e-3 * largest(&plain), "scale 100 changes nothing");
}

#[test]
fn image_to_image_stays_near_where_the_strength_is_small() {
    let workspace = trained();
    workspace.succeeds("noise digits --num-images 4 --timesteps 0 --output strip.png --save-npy digits.npy");
    let (_, given) = workspace.npy("digits.npy");
    let line = "image-to-image run --images digits.npy --steps 50 --class-label 3";
    let distance = |strength: &str| {
        let drawn = images(&workspace, &format!("{line} --strength {strength}"));
        drawn.iter().zip(&given).map(|(a, b)| (a - b).abs()).sum::<f32>() / given.len() as f32
    };
    let (near, far) = (distance("0.04"), distance("0.9"));
    assert!(near < 0.15 && near < 0.5 * far, "{near} and {far}");
    for sampler in ["ddpm", "dpmpp_2m", "heun"] {
        let drawn = images(&workspace, &format!("{line} --sampler {sampler} --strength 0.5"));
        assert!(drawn.iter().all(|value| value.is_finite()), "{sampler}");
    }
}

#[test]
fn inpainting_keeps_known_pixels_to_the_bit_and_paints_the_others() {
    let workspace = trained();
    workspace.succeeds("noise digits --num-images 3 --timesteps 0 --output strip.png --save-npy digits.npy");
    let (_, given) = workspace.npy("digits.npy");
    // The right half is to be painted.
    let is_painted = |i: usize| i % 8 >= 4;
    let mask: Vec<f32> = (0..PIXELS).map(|i| if is_painted(i) { 1.0 } else { -1.0 }).collect();
    write_npy(&workspace.path("mask.npy"), [1, 1, 8, 8], &mask).unwrap();
    let line = "inpaint run --images digits.npy --class-label 1,2,3 --steps 6 --jump-length 2";
    let painted = images(&workspace, &format!("{line} --mask mask.npy --resample 3"));
    let mut changed = 0;
    for (i, (painted, given)) in painted.iter().zip(&given).enumerate() {
        if is_painted(i) { changed += u32::from(painted != given) } else { assert_eq!(painted, given) }
    }
    assert!(changed > 90, "{changed} of 96 pixels were painted");
    assert!(
        painted != images(&workspace, &format!("{line} --mask mask.npy --resample 1")),
        "resampling did nothing"
    );

    // Where nothing is known and there are no jumps, it is sampling.
    write_npy(&workspace.path("all.npy"), [1, 1, 8, 8], &[1.0; PIXELS]).unwrap();
    let all = images(&workspace, &format!("{line} --mask all.npy --resample 1 --batch-size 2"));
    let sampled =
        images(&workspace, "sample run --sampler ddpm --steps 6 --class-label 1,2,3 --batch-size 2");
    assert!(all == sampled, "painting everything differs from sampling");
}

#[test]
fn interpolation_ends_at_both_seeds_and_at_both_images() {
    let workspace = trained();
    let between = images(&workspace, "interpolate run --seeds 3,8 --frames 5 --steps 6 --class-label 2");
    assert_eq!(workspace.npy("images.npy").0, [5, 1, 8, 8]);
    for (seed, frame) in [(3, 0), (8, 4)] {
        let line =
            format!("sample run --sampler ddim --steps 6 --num-images 1 --class-label 2 --seed {seed}");
        let end = images(&workspace, &line);
        let found = &between[frame * PIXELS..(frame + 1) * PIXELS];
        assert!(largest_difference(&end, found) < 1e-4 * largest(&end), "seed {seed}");
    }
    assert!(largest_difference(&between[..PIXELS], &between[2 * PIXELS..3 * PIXELS]) > 0.01);

    workspace.succeeds("noise digits --num-images 2 --timesteps 0 --output strip.png --save-npy digits.npy");
    let (_, given) = workspace.npy("digits.npy");
    let between =
        images(&workspace, "interpolate run --images digits.npy --frames 4 --steps 200 --class-label 2");
    for (image, frame) in [(0, 0), (1, 3)] {
        let found = &between[frame * PIXELS..(frame + 1) * PIXELS];
        let error = largest_difference(&given[image * PIXELS..(image + 1) * PIXELS], found);
        assert!(error < 0.1, "image {image} comes back {error} off");
    }
}

#[test]
fn options_that_exclude_each_other_are_refused_in_one_sentence() {
    let workspace = trained();
    workspace.train("plain", 1, "");
    workspace.train("free", 1, "--unconditional");
    workspace.train("cosine", 1, "--beta-schedule cosine");
    workspace.succeeds(
        "train-classifier --dataset digits --model model.json --batch-size 4 --device cpu --output judge --steps 1 \
         --measure-every 0",
    );
    workspace.write_model("model.json", "sample_size", json!(16));
    workspace.train("large", 1, "--super-resolution 8");
    write_npy(&workspace.path("one.npy"), [1, 1, 8, 8], &[0.5; PIXELS]).unwrap();
    write_npy(&workspace.path("masks.npy"), [2, 1, 8, 8], &[0.5; 2 * PIXELS]).unwrap();
    let edit = "image-to-image run --images one.npy --class-label 1 --steps 2";
    let paint = "inpaint run --images one.npy --class-label 1 --steps 2";
    for (line, words) in [
        ("sample plain --guidance-scale 2", &["classifier-free", "label dropout", "--null-class"][..]),
        ("sample free --guidance-scale 2", &["classifier-free", "label dropout", "--null-class"]),
        ("sample run --guidance-rescale 0.5", &["rescaled only where", "other than 1"]),
        ("sample run --classifier run", &["no classifier", "train-classifier"]),
        ("sample cosine --classifier judge", &["another noise schedule", "squaredcos_cap_v2"]),
        ("sample large --low-resolution one.npy --class-label 1 --classifier judge", &["8x8", "16x16"]),
        ("sample run --low-resolution one.npy", &["no super-resolution model"]),
        ("sample run --then run", &["--then", "no super-resolution model"]),
        ("sample run --then large --then large", &["enlarges images of 8x8", "16x16"]),
        ("sample run --noise-augmentation 3", &["--noise-augmentation", "--low-resolution", "--then"]),
        ("sample large --class-label 1", &["enlarges images of 8x8", "low-resolution"]),
        (
            "sample large --class-label 1 --low-resolution one.npy --noise-augmentation 1001",
            &["1001", "1000"],
        ),
        ("sample run --class-label 11", &["no class 11"]),
        (
            "image-to-image run --images one.npy --strength 0.01",
            &["strength of 0.01", "none of 50 steps", "at least 100 steps"],
        ),
        (
            "image-to-image run --images one.npy --strength 0.8 --steps 1",
            &["strength of 0.8", "none of 1 steps", "at least 2 steps"],
        ),
        ("image-to-image plain --images one.npy", &["conditional on 10 classes"]),
        ("image-to-image large --images one.npy", &["one.npy", "[1, 1, 8, 8]", "16"]),
        (&format!("{edit} --sampler zigzag"), &["no sampler `zigzag`"]),
        (&format!("{paint} --mask one.npy --sampler dpmpp_2m"), &["dpmpp_2m", "use ddpm or ddim"]),
        (&format!("{paint} --mask masks.npy"), &["2 masks for 1 images"]),
        (
            &format!("{} --mask one.npy --resample 1000000", paint.replace("--steps 2", "--steps 30")),
            &["30 steps", "1000000 times", "too many"],
        ),
        ("interpolate run --seeds 1", &["1 seeds; give two"]),
        ("interpolate run --images one.npy", &["1 image; give two"]),
    ] {
        workspace.fails(&format!("{line} --device cpu --output bad.png"), 1, words);
    }
    for (line, words) in [
        ("sample run --classifier-scale 2", &["--classifier"][..]),
        ("sample run --then large --low-resolution one.npy", &["--then", "--low-resolution"]),
        ("sample run --then large --animate moving.png", &["--then", "--animate"]),
        ("interpolate run", &["--seeds", "--images"]),
        ("interpolate run --seeds 1,2 --images one.npy", &["--seeds", "--images"]),
        ("interpolate run --seeds 1,2 --frames 1", &["--frames"]),
        ("inpaint run --images one.npy", &["--mask"]),
    ] {
        workspace.fails(&format!("{line} --device cpu --output bad.png"), 2, words);
    }
}

#[test]
fn a_model_of_few_timesteps_needs_no_number_of_steps() {
    let workspace = Workspace::new();
    workspace.train("run", 1, "--num-train-timesteps 20");
    let common = "--device cpu --class-label 1 --output x.png";
    workspace.succeeds(&format!("sample run --num-images 1 --save-npy a.npy {common}"));
    for line in [
        "image-to-image run --images a.npy",
        "interpolate run --seeds 1,2 --frames 2",
        "interpolate run --seeds 1,2 --frames 2 --steps 20",
    ] {
        workspace.succeeds(&format!("{line} {common}"));
    }
    workspace.fails(
        &format!("interpolate run --seeds 1,2 --steps 21 {common}"),
        1,
        &["21 steps", "from 1 to 20"],
    );
    workspace.succeeds("noise a.npy --checkpoint run --output strip.png");
}

#[test]
fn two_results_do_not_share_a_file() {
    let workspace = Workspace::new();
    workspace.train("run", 1, "");
    let line = "sample run --device cpu --class-label 1 --steps 1 --output x.png --animate x.png";
    workspace.fails(line, 1, &["x.png", "two results", "name of its own"]);
    assert!(!workspace.path("x.png").exists());
}

#[test]
fn keys_of_a_scheduler_that_nothing_uses_are_named() {
    let workspace = Workspace::new();
    workspace.train("run", 1, "");
    let path = "run/checkpoint-000001/scheduler/scheduler_config.json";
    let mut config: serde_json::Value = serde_json::from_slice(&workspace.read(path)).unwrap();
    config["sigma_data"] = 0.3.into();
    workspace.write(path, config.to_string());
    let line = "sample run --device cpu --class-label 1 --steps 1 --num-images 1 --output x.png";
    let said = workspace.succeeds(line).stderr;
    assert!(said.contains("scheduler_config.json: keys that nothing here uses: sigma_data"), "{said}");
}
