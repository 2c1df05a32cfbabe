//! `train`: what it writes, that it repeats itself, that it stops and goes on.

use super::support::{Workspace, assert_same, devices};

#[test]
fn writes_checkpoints_and_sample_grids() {
    let workspace = Workspace::new();
    let said =
        workspace.train("run", 6, "--sample-every 3 --checkpoint-every 2 --checkpoints-to-keep 2").stderr;
    assert!(said.contains("data: digits, 1797 images, 10 classes") && said.contains("step 6/6"), "{said}");
    let files = workspace.files("run");
    let folders: Vec<&str> = files
        .keys()
        .filter(|path| path.components().count() == 1)
        .map(|path| path.to_str().unwrap())
        .collect();
    assert_eq!(
        folders,
        ["checkpoint-000004", "checkpoint-000006", "metrics.jsonl", "run.toml", "samples", "tensorboard"]
    );
    for part in [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    ] {
        assert!(
            files.contains_key(&std::path::Path::new("checkpoint-000006").join(part)),
            "{part} is missing"
        );
    }
    for grid in ["run/samples/step-000003.png", "run/samples/step-000006.png"] {
        let picture = png::Decoder::new(std::io::Cursor::new(workspace.read(grid))).read_info().unwrap();
        // Ten rows of eight images of 8x8, each drawn six times as large.
        let info = picture.info();
        assert!(info.width >= 8 * 48 && info.height >= 10 * 48, "{grid}: {}x{}", info.width, info.height);
    }
}

#[test]
fn the_same_run_gives_the_same_bytes() {
    let workspace = Workspace::new();
    for device in devices() {
        let (first, second) = (format!("{device}-1"), format!("{device}-2"));
        for output in [&first, &second] {
            workspace.train(output, 4, &format!("--device {device} --checkpoint-every 2"));
        }
        let files = workspace.files(&first);
        assert!(files.len() > 10, "only {} files", files.len());
        assert_same(&files, &workspace.files(&second));
    }
}

#[test]
fn another_seed_gives_another_model() {
    let workspace = Workspace::new();
    workspace.train("a", 1, "");
    workspace
        .succeeds(&format!("{} --steps 1", Workspace::train_line("b", "").replace("--seed 3", "--seed 4")));
    let weights = "checkpoint-000001/unet/diffusion_pytorch_model.safetensors";
    assert!(workspace.read(&format!("a/{weights}")) != workspace.read(&format!("b/{weights}")));
}

#[test]
fn a_resumed_run_is_the_run_that_was_never_stopped() {
    let workspace = Workspace::new();
    for (device, precision) in devices().into_iter().flat_map(|device| [(device, "f32"), (device, "f16")]) {
        let flags =
            format!("--device {device} --precision {precision} --random-flip --dropout 0.1 --warmup-steps 5");
        let (whole, parts) = (format!("{device}-{precision}-whole"), format!("{device}-{precision}-parts"));
        workspace.train(&whole, 6, &flags);
        workspace.train(&parts, 3, &flags);
        let said = workspace.train(&parts, 6, &format!("{flags} --resume")).stderr;
        assert!(said.contains("from step 3"), "{said}");
        let last = "checkpoint-000006";
        assert_same(
            &workspace.files(&format!("{whole}/{last}")),
            &workspace.files(&format!("{parts}/{last}")),
        );
    }
}

#[test]
fn checkpointing_changes_no_bit_and_may_come_and_go_between_resumes() {
    let workspace = Workspace::new();
    for device in devices() {
        let flags = format!("--device {device} --dropout 0.1");
        let (plain, mixed) = (format!("{device}-plain"), format!("{device}-mixed"));
        workspace.train(&plain, 4, &flags);
        workspace.train(&mixed, 2, &format!("{flags} --checkpointing"));
        workspace.train(&mixed, 3, &format!("{flags} --resume"));
        workspace.train(&mixed, 4, &format!("{flags} --resume --checkpointing"));
        let tensors = |output: &str| {
            let mut files = workspace.files(&format!("{output}/checkpoint-000004"));
            files.retain(|path, _| path.extension().is_some_and(|extension| extension == "safetensors"));
            files
        };
        assert_eq!(tensors(&plain).len(), 4, "{:?}", tensors(&plain).keys());
        assert_same(&tensors(&plain), &tensors(&mixed));
    }
}

#[test]
fn a_dry_run_shows_what_checkpointing_saves() {
    let workspace = Workspace::new();
    let total = |printed: &str, start: &str| -> f64 {
        let line = printed.lines().map(str::trim).find(|line| line.starts_with(start)).unwrap();
        line.trim_end_matches(" MiB").rsplit(' ').next().unwrap().parse().unwrap()
    };
    let printed = |flags: &str| {
        let line = Workspace::train_line("run", flags).replace("--batch-size 4", "--batch-size 64");
        workspace.succeeds(&line).stdout
    };
    let (plain, checkpointing) = (printed("--dry-run"), printed("--dry-run --checkpointing"));
    let (most, least) = (total(&plain, "total"), total(&checkpointing, "total"));
    assert!(least < 0.7 * most, "{most} and {least} MiB");
    assert_eq!(total(&plain, "with --checkpointing the total is"), least);
    assert_eq!(total(&checkpointing, "without --checkpointing the total is"), most);
}

#[test]
fn a_dry_run_prints_parameters_and_memory_and_writes_nothing() {
    let workspace = Workspace::new();
    let before = workspace.files("");
    let printed = workspace.train("run", 6, "--dry-run").stdout;
    for word in [
        "parameters: ",
        "weights",
        "moments",
        "activations",
        "total",
        "MiB",
        "largest batch: ",
        "6 steps take",
    ] {
        assert!(printed.contains(word), "{word} is not in {printed}");
    }
    assert!(printed.contains("the memory that is free"), "{printed}");
    assert_same(&before, &workspace.files(""));

    let too_large =
        Workspace::train_line("run", "--dry-run").replace("--batch-size 4", "--batch-size 100000000");
    let printed = workspace.succeeds(&too_large).stdout;
    assert!(printed.contains("100000000 images at once do not fit, so no step was timed"), "{printed}");
    assert_same(&before, &workspace.files(""));

    let activations = |device: &str, flags: &str| -> f64 {
        let line = Workspace::train_line("run", &format!("--dry-run --tuning off {flags}"))
            .replace("--batch-size 4", "--batch-size 64")
            .replace("--device cpu", &format!("--device {device}"));
        let printed = workspace.succeeds(&line).stdout;
        let line = printed.lines().find(|line| line.trim_start().starts_with("activations")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    for device in devices() {
        let (single, half) = (activations(device, ""), activations(device, "--precision f16"));
        // the CPU executor keeps 32 bits an element
        let at_most = if device == "cpu" { 1.2 } else { 0.6 };
        assert!(half < at_most * single, "{half} MiB of {single} on {device}");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_saves_and_goes_on() {
    for signal in ["INT", "TERM"] {
        a_run_that_gets_a_signal_saves_and_goes_on(signal);
    }
}

#[cfg(unix)]
fn a_run_that_gets_a_signal_saves_and_goes_on(signal: &str) {
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Command, Stdio};

    let workspace = Workspace::new();
    let mut child = workspace
        .command(&Workspace::train_line("run", "--steps 1000000"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("step ") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "the program ended before its first step");
    }
    // The shell's own kill: the program of that name is not on every machine.
    let killed = Command::new("sh").args(["-c", &format!("kill -{signal} {}", child.id())]).status().unwrap();
    assert!(killed.success());
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
    assert!(rest.contains("saved run/checkpoint-"), "{rest}");

    let stopped_at = rest.split("stopped after ").nth(1).unwrap().split(' ').next().unwrap();
    let next: u32 = stopped_at.parse::<u32>().unwrap() + 1;
    let to_go_on = rest.lines().last().unwrap().trim().strip_prefix("ddpm-gpu ").unwrap();
    assert_eq!(to_go_on, "train --config run/run.toml --resume");
    let said = workspace.succeeds(&format!("{to_go_on} --steps {next}")).stderr;
    assert!(said.contains(&format!("from step {stopped_at}")), "{said}");
    workspace.succeeds("sample run --output grid.png --num-images 1 --steps 2 --device cpu");
}

#[test]
fn logs_hold_what_was_measured_and_a_resumed_run_takes_back_what_it_repeats() {
    let workspace = Workspace::new();
    let flags = "--checkpoint-every 20 --warmup-steps 50 --learning-rate 1e-3";
    workspace.train("run", 40, &format!("{flags} --sample-every 40"));
    let metrics = |run: &str| ddpm_gpu::log::read_metrics(&workspace.path(run)).unwrap();
    let lines = metrics("run");
    let steps: Vec<u64> = lines.iter().map(|line| line.step).collect();
    assert_eq!(steps, [10, 20, 30, 40, 40]);
    for (line, rate) in lines.iter().zip([2e-4, 4e-4, 6e-4, 8e-4]) {
        assert!((line.learning_rate.unwrap() - rate).abs() < 1e-12, "{line:?}");
        assert!(line.loss.unwrap() > 0.0 && line.gradient_norm.unwrap() > 0.0, "{line:?}");
        assert!(line.images_per_second.unwrap() > 0.0, "{line:?}");
        // uniform timesteps: the loss of the batch lies between those of its quarters
        let quartiles: Vec<f32> = line.loss_quartiles.unwrap().into_iter().flatten().collect();
        let (least, most) = quartiles.iter().fold((f32::MAX, 0.0f32), |(a, b), &v| (a.min(v), b.max(v)));
        assert!(least <= 1.001 * line.loss.unwrap() && line.loss.unwrap() <= 1.001 * most, "{line:?}");
    }
    assert_eq!(lines[4].samples.as_deref(), Some(std::path::Path::new("samples/step-000040.png")));

    // as if the run had been killed behind step 40
    std::fs::remove_dir_all(workspace.path("run/checkpoint-000040")).unwrap();
    workspace.train("run", 30, &format!("{flags} --resume"));
    let resumed = metrics("run");
    assert_eq!(resumed.iter().map(|line| line.step).collect::<Vec<_>>(), [10, 20, 30]);
    assert_eq!(resumed[2].loss, lines[2].loss);
    let events = workspace.files("run/tensorboard");
    assert_eq!(events.len(), 2);
    for (name, contents) in events {
        assert!(name.to_str().unwrap().contains("tfevents") && contents.unwrap().len() > 100);
    }

    let said = workspace.succeeds("plot run --output loss.png").stderr;
    assert!(said.contains("drew loss.png") && workspace.read("loss.png").starts_with(b"\x89PNG"), "{said}");
    workspace.succeeds("plot run/metrics.jsonl --output loss.svg --title digits");
    assert!(String::from_utf8(workspace.read("loss.svg")).unwrap().contains("digits"));
    workspace.fails("plot run", 2, &["--output"]);
    workspace.fails("plot nothing --output a.png", 1, &["nothing"]);
    workspace.fails("plot model.json --output a.png", 1, &["model.json, line 1"]);
}

#[test]
fn the_dashboard_needs_a_terminal() {
    let workspace = Workspace::new();
    workspace.fails(
        &Workspace::train_line("run", "--steps 1 --dashboard"),
        1,
        &["--dashboard needs a terminal"],
    );
}
