//! Models that are given an image beside the one that they draw.

use ddpm_gpu::output::write_npy;
use serde_json::{Value, json};

use super::support::Workspace;

/// A portable grey map of 8 x 8 pixels.
fn grey(level: impl Fn(usize, usize) -> usize) -> Vec<u8> {
    let pixels = (0..64).map(|i| (level(i / 8, i % 8) % 256) as u8);
    b"P5 8 8 255\n".iter().copied().chain(pixels).collect()
}

/// Six photos with a sketch each, and a model without classes.
fn pairs() -> Workspace {
    let workspace = Workspace::new();
    workspace.write_model("model.json", "num_class_embeds", Value::Null);
    for number in 0..6 {
        workspace.write(&format!("photos/{number}.pgm"), grey(|row, column| 30 * row + 7 * column * number));
        workspace
            .write(&format!("sketches/{number}.pnm"), grey(|row, column| 255 - 30 * column - number * row));
    }
    workspace
}

const TRAIN: &str =
    "train --dataset photos --model model.json --device cpu --batch-size 4 --output run --sample-every 2";
const SKETCHES: &str = "--condition-image sketches --condition-channels 1";
const DRAW: &str = "--device cpu --steps 3 --output x.png";

#[test]
fn a_model_is_trained_on_pairs_of_folders_and_draws_from_an_image_each() {
    let workspace = pairs();
    workspace.write("sketches/of nothing.pgm", grey(|row, column| row * column));
    let finished = workspace.run(&format!("{TRAIN} {SKETCHES} --steps 2 --random-flip"));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("1 image belongs to none of photos"), "{}", finished.stderr);
    workspace.succeeds(&format!("{TRAIN} {SKETCHES} --steps 3 --random-flip --resume"));
    let config: Value =
        serde_json::from_slice(&workspace.read("run/checkpoint-000003/unet/config.json")).unwrap();
    assert_eq!((&config["in_channels"], &config["_condition_channels"]), (&json!(2), &json!(1)));
    // One for each, one for all; the image counts.
    workspace.succeeds(&format!(
        "sample run --condition-image sketches/0.pnm --num-images 3 --save-npy all.npy {DRAW}"
    ));
    workspace.succeeds(&format!(
        "sample run --condition-image sketches --num-images 3 --save-npy each.npy {DRAW}"
    ));
    let ([n, c, h, w], all) = workspace.npy("all.npy");
    assert_eq!([n, c, h, w], [3, 1, 8, 8]);
    let each = workspace.npy("each.npy").1;
    assert_eq!(all[..64], each[..64], "the first image has the same sketch");
    assert_ne!(all[64..], each[64..], "the others have not");
    // diffusers' network is given x_t and the sketch as one: so is `predict`.
    let numbers: Vec<f32> = (0..128u8).map(|i| f32::from(i % 13) / 7.0 - 0.8).collect();
    write_npy(&workspace.path("both.npy"), [1, 2, 8, 8], &numbers).unwrap();
    workspace.succeeds("predict run --input both.npy --timesteps 7 --output y.npy --device cpu");
    assert_eq!(workspace.npy("y.npy").0, [1, 1, 8, 8]);
}

#[test]
fn images_that_are_no_pairs_are_refused() {
    let workspace = pairs();
    for (flags, words) in [
        ("--condition-image photos/0.pgm", &["photos/0.pgm"][..]),
        ("--condition-image sketches --condition-channels 5", &["--condition-channels", "1 to 4"]),
        ("--condition-channels 1", &["--condition-image"]),
        ("--condition-image digits --condition-channels 1", &["a folder of image files", "two folders"]),
        ("--condition-image sketches --super-resolution 4", &["--condition-image", "--super-resolution"]),
    ] {
        let finished = workspace.run(&format!("{TRAIN} --steps 1 {flags}"));
        assert_ne!(finished.code, Some(0), "{flags}");
        words.iter().for_each(|word| assert!(finished.stderr.contains(word), "{flags}: {}", finished.stderr));
    }
    workspace.write("photos/alone.pgm", grey(|row, _| row));
    let line = format!("{TRAIN} {SKETCHES} --steps 1");
    workspace.fails(&line, 1, &["1 of 7 images", "alone", "the same but for the ending"]);
    std::fs::remove_file(workspace.path("photos/alone.pgm")).unwrap();
    workspace.succeeds(&line);
    workspace.fails(&format!("sample run {DRAW}"), 1, &["--condition-image"]);
    let line = format!("sample run --condition-image sketches --num-images 9 {DRAW}");
    workspace.fails(&line, 1, &["6 images", "9"]);
    // Without the sketches the run cannot go on.
    let words = &["another model or noise schedule", "in_channels was 2, now it is 1"];
    workspace.fails(&format!("{TRAIN} --steps 2 --resume"), 1, words);
    workspace.succeeds(
        "train --dataset photos --model model.json --device cpu --batch-size 4 --steps 1 --output plain",
    );
    let line = format!("sample plain --condition-image sketches {DRAW}");
    workspace.fails(&line, 1, &["--condition-image", "given no image"]);
}
