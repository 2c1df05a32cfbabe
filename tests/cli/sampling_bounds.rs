//! Numbers that no flag takes: each is refused before anything is read, in a sentence that names the flag.

use super::support::Workspace;

const SAMPLE: &str = "sample run --output x.png";
const EDIT: &str = "image-to-image run --images x.npy --output y.png";
const PAINT: &str = "inpaint run --images x.npy --mask m.npy --output y.png";
const BETWEEN: &str = "interpolate run --seeds 1,2 --output y.png";
const NOISE: &str = "noise digits --output x.png";
const EVALUATE: &str = "evaluate run --dataset digits --nll";

/// 2^64 - 1.
const HUGE: &str = "18446744073709551615";

#[test]
fn counts_have_bounds_and_the_sentence_names_the_flag() {
    let workspace = Workspace::new();
    for (command, flag, least) in [
        (SAMPLE, "--num-images", 1),
        (SAMPLE, "--batch-size", 1),
        (SAMPLE, "--columns", 1),
        (SAMPLE, "--corrector-steps", 0),
        (SAMPLE, "--noise-augmentation", 0),
        (EDIT, "--num-images", 1),
        (EDIT, "--steps", 1),
        (PAINT, "--num-images", 1),
        (PAINT, "--jump-length", 1),
        (PAINT, "--resample", 1),
        (BETWEEN, "--frames", 2),
        (BETWEEN, "--batch-size", 1),
        (NOISE, "--num-images", 1),
    ] {
        for number in [(least - 1).to_string(), HUGE.to_owned()] {
            let refused = format!("invalid value '{number}' for '{flag} ");
            let bounds = format!("it must be a whole number from {least} to ");
            workspace.fails(&format!("{command} {flag} {number}"), 2, &[&refused, &bounds]);
        }
    }
    for wrong in ["99999999999999999999999", "1.5", "many"] {
        workspace.fails(
            &format!("{SAMPLE} --num-images {wrong}"),
            2,
            &["for '--num-images ", "whole number from 1"],
        );
    }
    // 2^32 pixels a side, and others that are none.
    for size in ["4294967296", "0", HUGE, "8x-1"] {
        let refused = format!("invalid value '{size}' for '--image-size ");
        workspace.fails(&format!("{NOISE} --image-size {size}"), 2, &[&refused, "from 1 to 8192"]);
    }
}

#[test]
fn numbers_are_finite_and_have_bounds() {
    let workspace = Workspace::new();
    let share = "it must be a number above 0 and at most 1";
    for (command, flag, wrong, words) in [
        (SAMPLE, "--eta", &["1.5", "-0.1", "nan"][..], "a number of at least 0 and at most 1"),
        (SAMPLE, "--tolerance", &["0", "1e-15", "2", "inf"], "a number of at least 0.0000001 and at most 1"),
        (SAMPLE, "--snr", &["0", "NaN"], "it must be a number above 0"),
        (SAMPLE, "--clip-sample", &["0", "-1", "inf"], "it must be a number above 0"),
        (SAMPLE, "--dynamic-thresholding", &["1.5", "0"], share),
        (SAMPLE, "--guidance-scale", &["-1", "nan"], "a number of at least 0"),
        (SAMPLE, "--guidance-rescale", &["1.5"], "a number of at least 0 and at most 1"),
        (
            SAMPLE,
            "--classifier judge --classifier-scale",
            &["inf"],
            "it must be a number of at least -1000000",
        ),
        (EDIT, "--strength", &["0", "1.5", "-1"], share),
        (EVALUATE, "--guidance-scale", &["1,-1"], "a number of at least 0"),
    ] {
        for number in wrong {
            let name = flag.rsplit(' ').next().unwrap();
            workspace.fails(&format!("{command} {flag} {number}"), 2, &[&format!("for '{name} "), words]);
        }
    }
}
