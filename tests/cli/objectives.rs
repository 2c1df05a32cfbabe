//! `train` with the other processes and objectives: that they run, are resumed exactly, and what does not go together.

use super::support::{Workspace, assert_same};

/// Flags of the process and the objective, one set for each method.
const METHODS: [&str; 8] = [
    "--beta-schedule learned --objective vlb --prediction-type v_prediction",
    "--objective hybrid --variance-type learned_range",
    "--objective vlb --variance learned-range --timestep-sampler importance --num-train-timesteps 6",
    "--objective vlb --variance-type fixed_large --timestep-sampler low-discrepancy",
    "--prediction-type v_prediction --rescale-betas-zero-snr --loss-weighting min-snr --min-snr-gamma 3",
    "--prediction-type sample --loss-weighting truncated-snr --beta-schedule cosine",
    "--loss-type huber --huber-delta 0.5 --timestep-sampler importance --num-train-timesteps 4",
    "--loss-type l1 --beta-start 0.001 --beta-end 0.1 --num-train-timesteps 100",
];

/// With importance sampling the runs are long enough for every timestep to have its ten losses.
fn steps(method: &str) -> u32 {
    if method.contains("importance") { 40 } else { 4 }
}

#[test]
fn every_method_is_resumed_exactly() {
    let workspace = Workspace::new();
    for (index, method) in METHODS.iter().enumerate() {
        let steps = steps(method);
        let (whole, parts) = (format!("{index}-whole"), format!("{index}-parts"));
        workspace.train(&whole, steps, method);
        workspace.train(&parts, steps / 2, method);
        workspace.train(&parts, steps, &format!("{method} --resume"));
        let last = format!("checkpoint-{steps:06}");
        assert_same(
            &workspace.files(&format!("{whole}/{last}")),
            &workspace.files(&format!("{parts}/{last}")),
        );
        let files = workspace.files(&format!("{whole}/{last}/training_state"));
        let has_losses = files.keys().any(|path| path.ends_with("timestep_sampler.safetensors"));
        assert_eq!(has_losses, method.contains("importance"), "{method}");
    }
}

#[test]
fn the_process_is_saved_as_diffusers_reads_it() {
    let workspace = Workspace::new();
    workspace.write("betas.json", "[0.1, 0.2, 0.4]");
    workspace.train("run", 1, "--trained-betas betas.json --variance learned-range --objective hybrid");
    let config = |part: &str| -> serde_json::Value {
        serde_json::from_slice(&workspace.read(&format!("run/checkpoint-000001/{part}"))).unwrap()
    };
    let scheduler = config("scheduler/scheduler_config.json");
    assert_eq!(scheduler["trained_betas"], serde_json::json!([0.1, 0.2, 0.4]));
    assert_eq!(scheduler["num_train_timesteps"], 3);
    assert_eq!(scheduler["variance_type"], "learned_range");
    assert_eq!(config("unet/config.json")["out_channels"], 2);

    workspace.train("zero", 1, "--rescale-betas-zero-snr --prediction-type v-prediction");
    let path = "zero/checkpoint-000001/scheduler/scheduler_config.json";
    let scheduler: serde_json::Value = serde_json::from_slice(&workspace.read(path)).unwrap();
    assert_eq!(
        (&scheduler["rescale_betas_zero_snr"], &scheduler["prediction_type"]),
        (&true.into(), &"v_prediction".into())
    );
}

#[test]
fn options_that_do_not_go_together_are_refused_in_a_sentence() {
    let workspace = Workspace::new();
    workspace.write("betas.json", "[0.1, 1.5]");
    workspace.write("no-betas.json", "{}");
    for (flags, words) in [
        (
            "--variance-type learned_range",
            &["a learned variance", "the objective `hybrid` or `vlb`", "--objective and --variance-type"][..],
        ),
        (
            "--objective hybrid",
            &["the objective `hybrid`", "`learned_range`", "--objective and --variance-type"],
        ),
        ("--objective vlb --loss-type l1", &["the objective `vlb`", "--objective and --loss-type"]),
        (
            "--objective vlb --loss-weighting snr",
            &["the objective `vlb`", "--objective and --loss-weighting"],
        ),
        ("--loss-type l1 --loss-weighting p2", &["`loss_type` mse", "--loss-weighting and --loss-type"]),
        (
            "--loss-type huber --loss-weighting min-snr",
            &["`loss_type` mse", "--loss-weighting and --loss-type"],
        ),
        ("--huber-delta 0.1", &["--huber-delta belongs to --loss-type huber"]),
        ("--min-snr-gamma 5", &["--min-snr-gamma belongs to --loss-weighting min-snr"]),
        ("--loss-weighting p2 --min-snr-gamma 5", &["--min-snr-gamma belongs to --loss-weighting min-snr"]),
        ("--p2-gamma 1", &["--p2-gamma belongs to --loss-weighting p2"]),
        ("--loss-weighting min-snr --p2-k 1", &["--p2-k belongs to --loss-weighting p2"]),
        (
            "--beta-schedule learned --timestep-sampler importance",
            &["learned", "importance", "use one of them"],
        ),
        ("--beta-schedule learned --num-train-timesteps 1", &["learned", "at least 2 timesteps"]),
        (
            "--beta-schedule learned --rescale-betas-zero-snr --prediction-type sample",
            &["learned", "leave `rescale_betas_zero_snr` out", "--rescale-betas-zero-snr"],
        ),
        ("--rescale-betas-zero-snr", &["prediction_type", "epsilon", "v_prediction or sample"]),
        (
            "--loss-weighting p2 --p2-gamma 10 --p2-k 1e9",
            &["loss weighting", "no error of the network counts", "gamma"],
        ),
        ("--trained-betas betas.json", &["beta 1.5 at timestep 1"]),
        ("--trained-betas no-betas.json", &["no-betas.json", "list of numbers"]),
        ("--trained-betas nowhere.json", &["nowhere.json", "cannot be read"]),
    ] {
        for dry_run in ["", "--dry-run"] {
            workspace.fails(
                &format!("{} --steps 1 {flags} {dry_run}", Workspace::train_line("run", "")),
                1,
                words,
            );
        }
    }
    for (flags, word) in [
        ("--loss-type l3", "huber"),
        ("--objective best", "hybrid"),
        ("--timestep-sampler random", "low-discrepancy"),
        ("--prediction-type noise", "v_prediction"),
        ("--loss-weighting max-snr", "truncated-snr"),
        ("--trained-betas betas.json --beta-schedule cosine", "--beta-schedule"),
    ] {
        workspace.fails(&Workspace::train_line("run", flags), 2, &[word]);
    }
}

#[test]
fn a_run_goes_on_with_the_objective_that_it_began_with() {
    let workspace = Workspace::new();
    workspace.train("run", 1, "");
    for (flags, words) in [
        ("--loss-type l1", &["loss_type was \"mse\", now it is \"l1\""][..]),
        ("--timestep-sampler importance", &["timestep_sampling was \"uniform\""]),
        ("--loss-weighting snr", &["loss_weighting was \"uniform\""]),
        ("--prediction-type sample", &["another model or noise schedule"]),
    ] {
        let line = Workspace::train_line("run", &format!("--resume --steps 2 {flags}"));
        workspace.fails(&line, 1, words);
    }
}
