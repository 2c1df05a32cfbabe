//! `evaluate`: what it prints and writes, and what it refuses.

use super::support::Workspace;

const EVALUATE: &str =
    "evaluate run --dataset digits --split train --device cpu --num-images 5 --batch-size 3";

/// A folder with a trained model in `run`.
fn trained(flags: &str) -> Workspace {
    let workspace = Workspace::new();
    workspace.train("run", 1, &format!("--num-train-timesteps 12 --beta-end 0.5 {flags}"));
    workspace
}

#[test]
fn the_likelihood_is_printed_and_written_term_by_term() {
    for flags in ["", "--variance learned-range --objective hybrid --prediction-type v_prediction"] {
        let workspace = trained(flags);
        let said =
            workspace.succeeds(&format!("{EVALUATE} --nll --ode-tolerance 1e-2 --output nll.json")).stdout;
        for word in
            ["5 images of digits", "variational bound", "L_T", "L_(t-1)", "L_0", "probability-flow ODE"]
        {
            assert!(said.contains(word), "`{word}` is not in:\n{said}");
        }
        let found: serde_json::Value = serde_json::from_slice(&workspace.read("nll.json")).unwrap();
        let vlb = &found["vlb"];
        let mean = |term: &serde_json::Value| term["mean"].as_f64().unwrap();
        let divergences = vlb["divergences"].as_array().unwrap();
        assert_eq!(divergences.len(), 11);
        let sum = mean(&vlb["prior"]) + mean(&vlb["decoder"]) + divergences.iter().map(mean).sum::<f64>();
        assert!((sum - mean(&vlb["total"])).abs() < 1e-9 * sum.abs(), "{sum}");
        assert!(divergences.iter().all(|term| mean(term) >= 0.0));
        assert!(mean(&found["ode"]["bits_per_dimension"]).is_finite());

        // The same noise for an image, whatever batch it is in; up to rounding.
        let line = EVALUATE.replace("--batch-size 3", "--batch-size 5");
        workspace.succeeds(&format!("{line} --nll vlb --output other.json"));
        let other: serde_json::Value = serde_json::from_slice(&workspace.read("other.json")).unwrap();
        let (a, b) = (mean(&vlb["total"]), mean(&other["vlb"]["total"]));
        assert!((a - b).abs() < 1e-4 * a.abs(), "{a} and {b}");
        assert!(other["ode"].is_null());
    }
}

const MEASURE: &str = "evaluate run --classifier judge --dataset digits --split train --device cpu";

/// A workspace with a model in `run`, and a classifier of noised digits in `judge`.
fn trained_with_classifier() -> Workspace {
    let workspace = Workspace::new();
    workspace.train("run", 1, "--label-dropout 0.5");
    workspace.succeeds(
        "train-classifier --dataset digits --model model.json --batch-size 8 --device cpu --output judge --steps 30 \
         --learning-rate 0.01 --warmup-steps 0 --measure-every 0",
    );
    workspace
}

fn json(workspace: &Workspace, name: &str) -> serde_json::Value {
    serde_json::from_slice(&workspace.read(name)).unwrap()
}

#[test]
fn samplers_steps_and_guidance_make_a_table() {
    let workspace = trained_with_classifier();
    let said = workspace.succeeds(&format!(
        "{MEASURE} --num-images 12 --batch-size 5 --sampler ddim,pndm --steps 2,5 --guidance-scale 1,3 \
         --output table.json"
    ));
    for line in [
        "12 images drawn in each way, seed 0",
        "accuracy and Frechet distance, by steps",
        "precision and recall, by steps",
        "| sampler | guidance |",
        "| ddim    |        3 |",
        "pndm, 2 steps: the sampler `pndm` takes at least 4 steps, not 2",
        "pndm, 2 steps, guidance scale 3: the sampler",
    ] {
        assert!(said.stdout.contains(line), "`{line}` is not in:\n{}", said.stdout);
    }
    let table = json(&workspace, "table.json");
    let trials = table["trials"].as_array().unwrap();
    assert_eq!(trials.len(), 8);
    for trial in trials {
        let is_refused = trial["sampler"] == "pndm" && trial["steps"] == "2";
        assert_eq!(trial["refused"].is_string(), is_refused, "{trial}");
        assert_eq!(trial["frechet_distance"].as_f64().is_some_and(|distance| distance > 0.0), !is_refused);
    }
    let trial = |steps: &str, scale: f64| {
        let is_it = |trial: &&serde_json::Value| {
            trial["sampler"] == "ddim" && trial["steps"] == steps && trial["guidance_scale"] == scale
        };
        trials.iter().find(is_it).unwrap()
    };
    assert_ne!(trial("5", 1.0)["frechet_distance"], trial("5", 3.0)["frechet_distance"]);

    // What one of them drew is what `sample` draws, and is measured alike.
    workspace.succeeds(
        "sample run --device cpu --num-images 12 --batch-size 5 --steps 5 --guidance-scale 3 --output grid.png \
         --save-npy drawn.npy",
    );
    workspace.succeeds(&format!("{} --output drawn.json", MEASURE.replace("run", "drawn.npy")));
    let found = json(&workspace, "drawn.json");
    let (found, expected) = (&found["quality"], trial("5", 3.0));
    for metric in ["frechet_distance", "precision", "recall"] {
        let (found, expected) = (found[metric].as_f64().unwrap(), expected[metric].as_f64().unwrap());
        assert!((found - expected).abs() < 1e-4 * expected.abs(), "{metric}: {found} and {expected}");
    }
    assert!(found["accuracy"].is_null());

    // Of one number of steps, all metrics are one table; a sampler that finds its steps itself has none to be told.
    let line = format!(
        "{MEASURE} --num-images 4 --sampler ode --tolerance 0.3 --guiding-classifier judge --classifier-scale 0,2"
    );
    let said = workspace.succeeds(&line).stdout;
    assert!(said.contains("own steps") && said.contains("| sampler | classifier | accuracy |"), "{said}");
}

#[test]
fn a_data_set_is_at_no_distance_from_itself() {
    let workspace = trained_with_classifier();
    let line = MEASURE.replace("run", "digits");
    let said = workspace.succeeds(&format!("{line} --output digits.json")).stdout;
    assert!(said.contains("compared with 1797 images of digits"), "{said}");
    let found = json(&workspace, "digits.json");
    let quality = &found["quality"];
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    let distance = number(&quality["frechet_distance"]);
    assert!((0.0..1e-9).contains(&distance) && !said.contains("-0.000"), "{quality}, printed as\n{said}");
    assert_eq!([number(&quality["precision"]), number(&quality["recall"])], [1.0, 1.0]);
    assert_eq!(quality["accuracy"], found["dataset_accuracy"]);
    // Some of them are not as varied as all.
    workspace.succeeds(&format!("{line} --num-images 9 --output few.json"));
    let few = json(&workspace, "few.json");
    assert!(number(&few["quality"]["frechet_distance"]) > 1e-6, "{few}");
}

#[test]
fn measurements_that_cannot_be_done() {
    let workspace = trained_with_classifier();
    for (line, words) in [
        (format!("{MEASURE} --num-images 3"), &["3 images", "at least 4"][..]),
        (format!("{MEASURE} --sampler zigzag"), &["no sampler `zigzag`"]),
        (format!("{MEASURE} --sampler ddim_inverse"), &["ddim_inverse", "images to noise"]),
        (format!("{MEASURE} --output no-folder/x.json"), &["no-folder"]),
        (MEASURE.replace("judge", "run"), &["no classifier", "train-classifier"]),
        (format!("{} --steps 5", MEASURE.replace("run", "digits")), &["for drawing images", "give a model"]),
        (format!("{} --nll", MEASURE.replace("run", "digits")), &["digits", "no checkpoint"]),
        (MEASURE.replace("run", "nowhere"), &["nowhere is no checkpoint"]),
        (MEASURE.replace(" digits", " fashion-mnist"), &["fashion-mnist"]),
    ] {
        workspace.fails(&line, 1, words);
    }
    workspace.fails(&format!("{MEASURE} --steps few"), 2, &["--steps"]);
    workspace.fails(&format!("{MEASURE} --classifier-scale 2"), 2, &["--guiding-classifier"]);
}

/// Nulls in the JSON, and exit 0, were what came of it.
#[test]
fn a_likelihood_that_is_no_number_is_an_error() {
    let workspace = trained("");
    let name = "run/checkpoint-000001/unet/diffusion_pytorch_model.safetensors";
    let bytes = workspace.read(name);
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let bias = file.tensor("conv_out.bias").unwrap().data();
    let at = bias.as_ptr() as usize - bytes.as_ptr() as usize;
    let mut changed = bytes.clone();
    changed[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    workspace.write(name, changed);
    for nll in ["vlb", "ode"] {
        workspace.fails(&format!("{EVALUATE} --nll {nll} --output nll.json"), 1, &["error: ", "NaN"]);
    }
    workspace.fails("sample run --device cpu --steps 2 --output grid.png", 1, &["error: ", "NaN"]);
}

#[test]
fn evaluations_that_cannot_be_done() {
    let workspace = trained("");
    workspace.fails(EVALUATE, 1, &["--nll", "--classifier"]);
    for (flags, words) in [
        ("--nll vlb --eta 0.5", &["for drawing images", "--classifier"][..]),
        ("--nll vlb --sampler ddim", &["for drawing images", "--classifier"]),
        ("--nll --dataset nowhere", &["nowhere"]),
        ("--nll --output no-folder/nll.json", &["no-folder"]),
    ] {
        let mut line = EVALUATE.to_owned();
        for flag in ["--batch-size 3", "--num-images 5", "--dataset digits"] {
            if flags.contains(flag.split(' ').next().unwrap()) {
                line = line.replace(flag, "");
            }
        }
        workspace.fails(&format!("{line} {flags}"), 1, words);
    }
    workspace.fails(&format!("{EVALUATE} --classifier judge --ode-tolerance 1"), 2, &["--nll"]);
    workspace.fails(&format!("{EVALUATE} --nll guess"), 2, &["both, vlb, ode"]);
    workspace.fails("evaluate nowhere --dataset digits --nll", 1, &["nowhere", "no checkpoint"]);
}
