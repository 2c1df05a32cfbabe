//! Numbers on the command line: each flag has bounds, and what is beyond them, or beyond the machine, is refused in a
//! sentence.

use super::support::Workspace;

/// Words, flags of whole numbers, flags of others, and whether 0 is allowed.
type Flags<'a> = (&'a str, &'a [(&'a str, bool)], &'a [(&'a str, bool)]);

const TRAIN: &str = "train --dataset digits --model model.json --device cpu --output run";
const CLASSIFIER: &str = "train-classifier --dataset digits --model model.json --device cpu --output run";
const RUN_COUNTS: &[(&str, bool)] = &[
    ("steps", false),
    ("batch-size", false),
    ("micro-batch-size", false),
    ("warmup-steps", true),
    ("random-shift", true),
    ("checkpoints-to-keep", false),
    ("num-train-timesteps", false),
    ("image-size", false),
];
const RUN_NUMBERS: &[(&str, bool)] = &[
    ("learning-rate", false),
    ("adam-beta1", true),
    ("adam-beta2", true),
    ("weight-decay", true),
    ("max-grad-norm", true),
    ("ema-decay", true),
    ("ema-power", false),
    ("ema-inv-gamma", false),
    ("beta-start", false),
    ("beta-end", false),
    ("dropout", true),
];
const ALL: &[Flags<'_>] = &[
    (TRAIN, RUN_COUNTS, RUN_NUMBERS),
    (
        TRAIN,
        &[("sample-every", true), ("super-resolution", false), ("data-memory", true), ("seed", true)],
        &[
            ("label-dropout", true),
            ("huber-delta", false),
            ("min-snr-gamma", false),
            ("p2-gamma", true),
            ("p2-k", false),
        ],
    ),
    // The rest is that of `train`.
    (CLASSIFIER, &[("measure-every", true), ("batch-size", false)], &[("dropout", true)]),
    (
        "evaluate run --dataset digits --nll",
        &[("num-images", false), ("batch-size", false), ("seed", true)],
        &[("ode-tolerance", false), ("guidance-scale", true), ("guidance-rescale", true)],
    ),
    ("profile train", &[("batch-size", false), ("steps", false), ("depth", true), ("top", true)], &[]),
    ("kernels bench", &[("batch-size", false)], &[]),
];

#[test]
fn every_number_beyond_its_bounds_is_refused_by_its_flag() {
    let workspace = Workspace::new();
    for (line, counts, numbers) in ALL {
        let counts = counts.iter().map(|flag| (flag, &["-1", "18446744073709551616"][..]));
        let numbers = numbers.iter().map(|flag| (flag, &["-1", "nan", "1e39"][..]));
        for ((flag, takes_0), wrong) in counts.chain(numbers) {
            let zero = if *takes_0 { &[][..] } else { &["0"][..] };
            for number in wrong.iter().chain(zero) {
                let value = format!("invalid value '{number}' for '--{flag} ");
                workspace.fails(&format!("{line} --{flag} {number}"), 2, &[&value]);
            }
        }
    }
}

#[test]
fn counts_up_to_the_largest_that_a_machine_has_a_word_for_end_in_a_sentence() {
    let workspace = Workspace::new();
    for (flag, code) in [("batch-size", 2), ("steps", 2), ("warmup-steps", 2), ("data-memory", 2)] {
        let line = format!("{TRAIN} --{flag} {}", u64::MAX);
        workspace.fails(&line, code, &[&format!("--{flag} "), "must be a whole number from"]);
    }
}

#[test]
fn a_batch_beyond_the_machine_is_refused_before_it_is_made() {
    let workspace = Workspace::new();
    for (flags, words) in [
        // The images themselves.
        (
            "--batch-size 1000000000",
            &["4 batches of 1000000000 images", "MiB are free", "smaller --batch-size"][..],
        ),
        ("--batch-size 1000000000 --micro-batch-size 1", &["4 batches of 1000000000 images", "MiB are free"]),
    ] {
        workspace.fails(&format!("{TRAIN} {flags}"), 1, words);
    }
    // The buffers of a step: the images are small, the network is not.
    let line = "train --dataset digits --model digits --device cpu --output run --batch-size 1000000";
    workspace.fails(line, 1, &["the buffers (weights", "activations", "MiB are free", "images at once fit"]);
}

#[test]
fn images_beyond_the_machine_are_refused_before_they_are_drawn() {
    let workspace = Workspace::new();
    workspace.train("run", 1, "");
    for flags in ["--batch-size 1", "--class-label 1"] {
        let line = format!(
            "sample run --device cpu --steps 2 --output grid.png --num-images 10000000 --animate moving.png {flags}"
        );
        workspace.fails(&line, 1, &["10000000 images of 8x8", "fewer images"]);
    }
}

#[test]
fn a_profile_of_too_many_images_is_refused() {
    let workspace = Workspace::new();
    for step in ["train", "sample"] {
        let line = format!("profile {step} --model digits --device cpu --batch-size 1000000000");
        workspace.fails(&line, 1, &["the buffers (", "MiB are free"]);
    }
}
