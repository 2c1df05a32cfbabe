//! Training for guidance: label dropout, classifiers, super-resolution models; and `noise`.

use serde_json::{Value, json};

use super::support::{Workspace, assert_same};

fn unet_config(workspace: &Workspace, checkpoint: &str) -> Value {
    serde_json::from_slice(&workspace.read(&format!("{checkpoint}/unet/config.json"))).unwrap()
}

/// A workspace whose `model.json` draws 16 x 16 pixels.
fn workspace_16() -> Workspace {
    let workspace = Workspace::new();
    workspace.write_model("model.json", "sample_size", json!(16));
    workspace
}

#[test]
fn label_dropout_trains_a_class_for_none_and_resumes_exactly() {
    let workspace = Workspace::new();
    let flags = "--label-dropout 0.5";
    workspace.train("whole", 6, flags);
    workspace.train("parts", 3, flags);
    workspace.train("parts", 6, &format!("{flags} --resume"));
    let last = "checkpoint-000006";
    assert_same(&workspace.files(&format!("whole/{last}")), &workspace.files(&format!("parts/{last}")));
    let config = unet_config(&workspace, &format!("whole/{last}"));
    assert_eq!((&config["num_class_embeds"], &config["_null_class"]), (&json!(11), &json!(true)));

    // Rows of the embedding that no image had keep their first values: the last has moved, and without dropout has not.
    workspace.write_model("model.json", "num_class_embeds", json!(11));
    workspace.train("without", 6, "");
    let last_row = |run: &str, step: &str| {
        let bytes = workspace.read(&format!("{run}/{step}/training_state/weights.safetensors"));
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let table = file.tensor("class_embedding.weight").unwrap();
        assert_eq!(table.shape()[0], 11);
        table.data()[table.data().len() / 11 * 10..].to_vec()
    };
    workspace.train("start", 1, "");
    assert!(last_row("without", last) == last_row("start", "checkpoint-000001"), "it moved without dropout");
    assert!(last_row("whole", last) != last_row("start", "checkpoint-000001"), "dropout did not move it");
}

#[test]
fn a_super_resolution_model_takes_twice_the_channels() {
    let workspace = workspace_16();
    let flags = "--super-resolution 8 --noise-augmentation 50";
    workspace.train("whole", 4, flags);
    workspace.train("parts", 2, flags);
    workspace.train("parts", 4, &format!("{flags} --resume"));
    let last = "checkpoint-000004";
    assert_same(&workspace.files(&format!("whole/{last}")), &workspace.files(&format!("parts/{last}")));
    let config = unet_config(&workspace, &format!("whole/{last}"));
    assert_eq!((&config["in_channels"], &config["out_channels"]), (&json!(2), &json!(1)));
    assert_eq!(config["_super_resolution"], json!({ "low_size": 8, "augmentation": 50 }));
}

#[test]
fn a_classifier_trains_resumes_exactly_and_says_how_good_it_is() {
    let workspace = Workspace::new();
    let line = |output: &str, steps: u32, more: &str| {
        format!(
            "train-classifier --dataset digits --model model.json --batch-size 4 --device cpu --output {output} \
             --steps {steps} {more}"
        )
    };
    let said = workspace.succeeds(&line("whole", 6, "--measure-every 3")).stderr;
    assert_eq!(said.matches("accuracy on training images").count(), 2, "{said}");
    workspace.succeeds(&line("parts", 3, "--measure-every 0"));
    workspace.succeeds(&line("parts", 6, "--measure-every 0 --resume"));
    let last = "checkpoint-000006";
    assert_same(&workspace.files(&format!("whole/{last}")), &workspace.files(&format!("parts/{last}")));

    workspace.fails("sample whole --device cpu --output x.png", 1, &["classifier", "--classifier"]);
    workspace.train("run", 1, "");
    workspace.fails(&line("run", 2, "--resume"), 1, &["no classifier", "trains something else"]);
}

#[test]
fn training_options_that_exclude_each_other() {
    let workspace = workspace_16();
    for (flags, words) in [
        ("--label-dropout 0.1 --unconditional", &["--label-dropout", "--unconditional", "leave one"][..]),
        ("--super-resolution 5", &["low_size is 5", "divide", "16x16"]),
        ("--super-resolution 16", &["low_size is 16", "divide"]),
        (
            "--super-resolution 8 --noise-augmentation 2000",
            &["augmentation` is 2000", "has 1000 steps", "--noise-augmentation"],
        ),
        ("--image-size 8 --super-resolution 8", &["low_size is 8", "8x8"]),
    ] {
        workspace.fails(&Workspace::train_line("run", flags), 1, words);
    }
    for (flags, words) in [
        ("--variance-type learned_range", &["--variance-type learned_range", "no variance"][..]),
        ("--beta-schedule learned", &["--beta-schedule learned", "--trained-betas"]),
        ("--rescale-betas-zero-snr", &["prediction_type", "v_prediction"]),
    ] {
        let line = format!("train-classifier --dataset digits --output judge --device cpu {flags}");
        workspace.fails(&line, 1, words);
    }
    // A classifier has no loss that depends on t as a denoiser's does: timesteps are uniform.
    for flag in ["--timestep-sampler importance", "--objective vlb", "--label-dropout 0.1"] {
        let line = format!("train-classifier --dataset digits --output judge --device cpu {flag}");
        workspace.fails(&line, 2, &["unexpected argument", flag.split(' ').next().unwrap()]);
    }
    workspace.fails(&Workspace::train_line("run", "--noise-augmentation 3"), 2, &["--super-resolution"]);
    workspace.write_model("free.json", "num_class_embeds", Value::Null);
    let line = Workspace::train_line("run", "--label-dropout 0.1 --image-size 8");
    workspace.fails(&line.replace("model.json", "free.json"), 1, &["--label-dropout", "has none"]);
}

#[test]
fn noise_draws_the_way_from_an_image_to_noise() {
    let workspace = Workspace::new();
    let line = "noise digits --num-images 3 --timesteps 0,500,999 --output strip.png --save-npy x_t.npy";
    workspace.succeeds(line);
    let (shape, data) = workspace.npy("x_t.npy");
    assert_eq!(shape, [9, 1, 8, 8]);
    let first = workspace.read("x_t.npy");
    workspace.succeeds(line);
    assert_eq!(first, workspace.read("x_t.npy"));
    // The first timestep is near the image, the last far from it; all timesteps of an image have the same noise.
    workspace.succeeds("noise strip.png --image-size 8 --timesteps 0 --output again.png");
    let mean = |image: usize| data[image * 64..][..64].iter().sum::<f32>() / 64.0;
    assert!(mean(0) < -0.2 && mean(2).abs() < 0.5, "{} and {}", mean(0), mean(2));

    for (flags, words) in [
        ("noise digits --timesteps 1000", &["no timestep 1000", "0 to 999"][..]),
        ("noise digits --timesteps soon", &["--timesteps", "'soon'"]),
        ("noise nowhere.png", &["nowhere.png"]),
        ("noise x_t.npy --image-size 9", &["x_t.npy", "[9, 1, 8, 8]", "9]"]),
    ] {
        workspace.fails(&format!("{flags} --output bad.png"), 1, words);
    }
    let both = "noise digits --output bad.png --beta-schedule cosine --checkpoint run";
    workspace.fails(both, 2, &["--beta-schedule", "--checkpoint"]);
}
