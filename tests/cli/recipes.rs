//! `train`: how weights follow gradients, averages of them, augmentation, and what stops a run.

use super::support::{Workspace, assert_same};

/// All of them at once.
const FLAGS: &str = "--micro-batch-size 2 --optimizer adam --weight-decay 0.01 --ema-decay 0.5,0.9 \
                     --ema-warmup power --ema-power 0.75 --random-flip --random-shift 2 --dropout 0.1";

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

#[test]
fn a_resumed_run_has_the_same_recipe_and_ends_the_same() {
    let workspace = Workspace::new();
    workspace.train("whole", 4, FLAGS);
    workspace.train("parts", 2, FLAGS);
    for (flags, words) in [
        (
            FLAGS.replace("--micro-batch-size 2", "--micro-batch-size 1"),
            "micro_batch_size was 2, now it is 1",
        ),
        (FLAGS.replace("0.5,0.9", "0.5"), "extra_ema_decays was [0.9], now it is []"),
        (
            FLAGS.replace("--optimizer adam", "--optimizer adamw"),
            "optimizer was \"adam\", now it is \"adamw\"",
        ),
    ] {
        let line = Workspace::train_line("parts", &format!("{flags} --steps 4 --resume"));
        let finished = workspace.run(&line);
        assert!(finished.code == Some(1) && finished.stderr.contains(words), "{}", finished.stderr);
    }
    workspace.train("parts", 4, &format!("{FLAGS} --resume"));
    let last = "checkpoint-000004";
    assert_same(&workspace.files(&format!("whole/{last}")), &workspace.files(&format!("parts/{last}")));
}

#[test]
fn each_average_is_that_of_a_run_of_its_own_and_is_chosen_afterwards() {
    let workspace = Workspace::new();
    workspace.train("both", 5, "--ema-decay 0.3,0.9");
    workspace.train("first", 5, "--ema-decay 0.3");
    workspace.train("second", 5, "--ema-decay 0.9");
    let unet = |run: &str| workspace.read(&format!("{run}/checkpoint-000005/{UNET}"));
    assert!(unet("both") == unet("first"), "the first average is not the model's");
    assert!(unet("first") != unet("second"), "the averages are the same");

    for (decay, run) in [("0.3", "first"), ("0.9", "second")] {
        workspace.succeeds(&format!("export both --ema-decay {decay} --output {decay}"));
        assert!(workspace.read(&format!("{decay}/{UNET}")) == unet(run), "--ema-decay {decay}");
    }
    let sample = |flags: &str| {
        workspace.succeeds(&format!(
            "sample both --output a.png --save-npy a.npy --num-images 2 --steps 3 --device cpu {flags}"
        ));
        workspace.read("a.npy")
    };
    let default = sample("");
    assert!(default == sample("--ema-decay 0.3") && default != sample("--ema-decay 0.9"));
    let other = "sample both --output b.png --num-images 1 --steps 2 --device cpu --ema-decay 0.99";
    workspace.fails(
        other,
        1,
        &["no average of the weights with the decay 0.99: the decays are 0.3, 0.9", "--ema-decay"],
    );
    let exported = "sample 0.9 --output b.png --num-images 1 --steps 2 --device cpu --ema-decay 0.9";
    workspace.fails(exported, 1, &["no training state", "--ema-decay; it may be left out"]);
}

#[test]
fn an_absurd_learning_rate_ends_the_run_with_step_and_module() {
    let workspace = Workspace::new();
    let flags = "--learning-rate 1e25 --warmup-steps 0 --steps 30";
    let finished = workspace.run(&Workspace::train_line("run", flags));
    let words = "step 2 gives numbers that are not finite, first in time_embedding.linear_2 / linear.forward; no \
                 checkpoint was written; smaller steps may help";
    assert!(finished.code == Some(1) && finished.stderr.contains(words), "{}", finished.stderr);
    let finished = workspace.run(&Workspace::train_line("kept", &format!("{flags} --checkpoint-every 1")));
    assert!(finished.stderr.contains("hint: a lower --learning-rate"), "{}", finished.stderr);
    assert!(finished.stderr.contains("checkpoints up to step 1 are kept"), "{}", finished.stderr);
    let names = workspace.files("kept");
    let checkpoints: Vec<_> = names.keys().filter(|path| path.components().count() == 1).collect();
    assert!(
        checkpoints.iter().filter(|path| path.to_str().unwrap().contains("checkpoint")).count() == 1,
        "{checkpoints:?}"
    );
}

#[test]
fn recipes_that_make_no_sense_are_refused() {
    let workspace = Workspace::new();
    for (flags, words) in [
        (
            "--micro-batch-size 3",
            &["`micro_batch_size` is 3; it must divide", "--micro-batch-size and --batch-size"][..],
        ),
        ("--ema-decay 0.9,0.9", &["two averages have `ema_decay` 0.9", "the flag is --ema-decay"]),
        (
            "--weight-decay 1e9",
            &["the share of itself that a weight loses in a step, is 2.0e5; it must be at most 1"],
        ),
        ("--random-shift 8", &["`random_shift` is 8; the images are 8x8", "--random-shift"]),
    ] {
        workspace.fails(&Workspace::train_line("run", &format!("--steps 1 {flags}")), 1, words);
    }
    workspace.fails(&Workspace::train_line("run", "--steps 1 --optimizer sgd"), 2, &["adamw, adam"]);
    workspace.fails(&Workspace::train_line("run", "--steps 1 --ema-warmup slow"), 2, &["ratio", "power"]);
}
