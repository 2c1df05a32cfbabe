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

#[test]
fn evaluations_that_cannot_be_done() {
    let workspace = trained("");
    workspace.fails(EVALUATE, 1, &["--nll"]);
    for (flags, words) in [
        ("--nll --batch-size 0", &["at least 1"][..]),
        ("--nll --num-images 0", &["at least 1"]),
        ("--nll ode --ode-tolerance 0", &["tolerance is 0"]),
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
    workspace.fails(&format!("{EVALUATE} --nll guess"), 2, &["both, vlb, ode"]);
    workspace.fails("evaluate nowhere --dataset digits --nll", 1, &["nowhere", "no checkpoint"]);
}
