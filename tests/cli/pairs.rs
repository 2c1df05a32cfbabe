//! Pairs of options that exclude each other: each alone is accepted, both together are refused in one sentence.

use ddpm_gpu::output::write_npy;
use serde_json::json;

use super::support::Workspace;

const TRAIN: &str = "train --dataset digits --model model.json --output new --device cpu --dry-run";
const SAMPLE: &str = "sample run --device cpu --num-images 2 --output x.png";
const INTERPOLATE: &str = "interpolate run --device cpu --steps 2 --frames 2 --class-label 1 --output x.png";
const NOISE: &str = "noise digits --num-images 2 --timesteps 0 --output x.png";

/// A command, two options, and what the refusal of both names.
const PAIRS: &[(&str, &str, &str, &[&str])] = &[
    (TRAIN, "--unconditional", "--label-dropout 0.1", &["--unconditional", "--label-dropout"]),
    (TRAIN, "--trained-betas betas.json", "--beta-schedule cosine", &["--trained-betas", "--beta-schedule"]),
    (
        TRAIN,
        "--trained-betas betas.json",
        "--num-train-timesteps 9",
        &["--trained-betas", "--num-train-timesteps"],
    ),
    (TRAIN, "--beta-schedule learned", "--timestep-sampler importance", &["learned", "importance"]),
    (
        TRAIN,
        "--beta-schedule learned",
        "--rescale-betas-zero-snr --prediction-type sample",
        &["learned", "--rescale-betas-zero-snr"],
    ),
    (TRAIN, "--objective vlb", "--loss-type l1", &["the objective `vlb`", "--objective", "--loss-type"]),
    (TRAIN, "--objective vlb", "--loss-type huber", &["the objective `vlb`", "--objective", "--loss-type"]),
    (
        TRAIN,
        "--objective vlb",
        "--loss-weighting snr",
        &["the objective `vlb`", "--objective", "--loss-weighting"],
    ),
    (TRAIN, "--loss-type l1", "--loss-weighting p2", &["--loss-type", "--loss-weighting"]),
    (TRAIN, "--loss-type huber", "--loss-weighting min-snr", &["--loss-type", "--loss-weighting"]),
    (SAMPLE, "--clip-sample 1", "--no-clip-sample", &["--clip-sample", "--no-clip-sample"]),
    (SAMPLE, "--clip-sample 1", "--dynamic-thresholding 0.9", &["--clip-sample", "--dynamic-thresholding"]),
    (
        SAMPLE,
        "--no-clip-sample",
        "--dynamic-thresholding 0.9",
        &["--no-clip-sample", "--dynamic-thresholding"],
    ),
    (SAMPLE, "--steps ddim4", "--timestep-spacing trailing", &["ddim4", "--timestep-spacing"]),
    (SAMPLE, "--steps 1,2", "--sampler euler", &["`1,2`", "`euler`"]),
    (SAMPLE, "--steps 1,2", "--sampler heun", &["`1,2`", "`heun`"]),
    (SAMPLE, "--steps 2,4", "--sampler pndm", &["`2,4`", "`pndm`"]),
    (SAMPLE, "--steps 2", "--sampler pndm", &["`pndm`", "at least 4 steps"]),
    (SAMPLE, "--steps 2", "--sampler ode --tolerance 0.5", &["`ode`", "--steps"]),
    (
        SAMPLE,
        "--timestep-spacing trailing",
        "--sampler ode --tolerance 0.5",
        &["`ode`", "--timestep-spacing"],
    ),
    (SAMPLE, "--eta 0.5", "--sampler ddpm", &["`ddpm`", "--eta"]),
    (SAMPLE, "--eta 0.5", "--sampler dpmpp_2m_sde", &["`dpmpp_2m_sde`", "--eta"]),
    (SAMPLE, "--sampler ode --tolerance 0.5", "--eta 0.5", &["`ode`", "--eta"]),
    (SAMPLE, "--sampler pc --snr 0.1", "--eta 0.5", &["`pc`", "--eta"]),
    (SAMPLE, "--then large", "--animate moving.png", &["--then", "--animate"]),
    (INTERPOLATE, "--seeds 1,2", "--images two.npy", &["--seeds", "--images"]),
    (NOISE, "--beta-schedule cosine", "--checkpoint run", &["--beta-schedule", "--checkpoint"]),
];

#[test]
fn each_option_of_a_pair_is_accepted_alone_and_both_are_refused_in_a_sentence() {
    let workspace = Workspace::new();
    workspace.write("betas.json", "[0.1, 0.2, 0.4]");
    write_npy(&workspace.path("two.npy"), [2, 1, 8, 8], &[0.5; 128]).unwrap();
    workspace.train("run", 1, "--num-train-timesteps 60 --beta-end 0.2");
    workspace.write_model("model.json", "sample_size", json!(16));
    workspace.train("large", 1, "--super-resolution 8");
    for &(command, first, second, words) in PAIRS {
        for alone in [first, second] {
            workspace.succeeds(&format!("{command} {alone}"));
        }
        let line = format!("{command} {first} {second}");
        let code = workspace.run(&line).code.unwrap();
        workspace.fails(&line, code, words);
        let said = workspace.run(&line).stderr;
        let errors = said.lines().filter(|line| line.starts_with("error: ")).count();
        assert!((code == 1 || code == 2) && errors == 1, "`{line}` ended with {code} and said:\n{said}");
        // clap adds how the command is used, and the program which flags may help.
        let last = said.lines().rfind(|line| !line.starts_with("hint: ")).unwrap();
        assert!(code == 2 || last.starts_with("error: "), "`{line}` said:\n{said}");
    }
}
