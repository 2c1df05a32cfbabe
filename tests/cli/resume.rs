//! What stops a run, and that nothing of it is lost: kills, a full disk, folders that cannot be written, other images.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::support::{Workspace, assert_same, devices};

/// Whatever draws random numbers or remembers something between steps.
const FLAGS: &str = "--random-flip --dropout 0.1 --label-dropout 0.2 --timestep-sampler importance --warmup-steps 5 \
                     --checkpoint-every 3";

/// Names in the folder of a run that are there only while something is written or removed.
fn leftovers(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.')).collect()
}

/// `tools/kill-training` kills fifty times.
#[test]
fn a_run_that_is_killed_goes_on_from_its_newest_checkpoint() {
    let workspace = Workspace::new();
    workspace.train("whole", 60, &format!("{FLAGS} --checkpoints-to-keep 20"));
    let folder = workspace.path("run");
    let mut newest = 0;
    // What to wait for before the kill: steps after the newest checkpoint, or a checkpoint that is being written.
    for in_write in [false, true, true] {
        let resume = if newest > 0 { "--resume" } else { "" };
        let flags = format!("{FLAGS} --checkpoints-to-keep 20 --steps 60 {resume}");
        let line = Workspace::train_line("run", &flags);
        let mut child = workspace.command(&line).stderr(Stdio::null()).spawn().unwrap();
        let next = folder.join(format!("checkpoint-{:06}", newest + 6));
        let is_due = || match in_write {
            true => next.exists() && folder.join(".checkpoint-in-writing").exists(),
            false => next.exists(),
        };
        let started = Instant::now();
        while !is_due() {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before it was killed");
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "the run does not come to {}",
                next.display()
            );
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let due = newest + 6;
        for step in (3..=60).step_by(3) {
            let name = format!("checkpoint-{step:06}");
            let exists = folder.join(&name).exists();
            assert!(exists || step > due, "{name} is lost");
            if exists {
                assert_same(
                    &workspace.files(&format!("whole/{name}")),
                    &workspace.files(&format!("run/{name}")),
                );
                newest = newest.max(step);
            }
        }
    }
    let said = workspace.train("run", 60, &format!("{FLAGS} --checkpoints-to-keep 20 --resume")).stderr;
    assert!(said.contains(&format!("from step {newest}")), "{said}");
    assert!(leftovers(&folder).is_empty(), "{:?}", leftovers(&folder));
    assert_same(&workspace.files("whole"), &workspace.files("run"));
}

#[test]
fn any_number_of_pieces_gives_the_same_bytes_as_one() {
    let workspace = Workspace::new();
    // The two ways of drawing timesteps exclude each other; what the learned schedule learns is on the host.
    let learned = FLAGS.replace("--timestep-sampler importance", "--beta-schedule learned");
    let runs = devices().into_iter().map(|device| (device, FLAGS)).chain([("cpu", learned.as_str())]);
    for (number, (device, flags)) in runs.enumerate() {
        let flags = format!("--device {device} {flags}");
        let run = |parts: &str| format!("{number}-{parts}");
        workspace.train(&run("whole"), 7, &flags);
        for (steps, resume) in [(2, ""), (5, "--resume"), (7, "--resume")] {
            workspace.train(&run("parts"), steps, &format!("{flags} {resume}"));
        }
        let files = |parts: &str| workspace.files(&format!("{}/checkpoint-000007", run(parts)));
        assert!(files("whole").len() > 8, "{:?}", files("whole").keys());
        assert_same(&files("whole"), &files("parts"));
    }
}

#[test]
fn a_run_that_was_killed_before_its_first_checkpoint_starts_anew() {
    let workspace = Workspace::new();
    let mut line = Workspace::train_line("run", "--steps 1000000 --checkpoint-every 1000000");
    let mut child = workspace.command(&line).stderr(Stdio::null()).spawn().unwrap();
    let log = workspace.path("run/metrics.jsonl");
    while !fs::read_to_string(&log).is_ok_and(|text| text.lines().count() > 1) {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it was killed");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    line = line.replace("1000000", "10");
    // One command line serves a job scheduler: it begins the run, and it goes on with it.
    line += " --resume";
    let said = workspace.succeeds(&line).stderr;
    assert!(said.contains("run: there is no checkpoint to resume, so a new run is started"), "{said}");
    let steps: Vec<u64> =
        ddpm_gpu::log::read_metrics(&workspace.path("run")).unwrap().iter().map(|line| line.step).collect();
    assert_eq!(steps, [10]);
}

#[test]
fn a_run_does_not_go_on_with_other_images() {
    let workspace = Workspace::new();
    let write_images = |folder: &str, count: u8, grey: u8| {
        for image in 0..count {
            let pixels = vec![grey.wrapping_add(image); 64];
            let grid = ddpm_gpu::output::Grid { width: 8, height: 8, channels: 1, pixels };
            workspace.write(&format!("{folder}/{image}.png"), grid.to_png().unwrap());
        }
    };
    write_images("images", 5, 10);
    let line = |steps: u32, flags: &str| {
        let line = Workspace::train_line("run", &format!("--unconditional --steps {steps} {flags}"));
        line.replace("--dataset digits", "--dataset images")
    };
    workspace.succeeds(&line(1, ""));
    write_images("more", 6, 10);
    write_images("others", 5, 11);
    let resumed = line(2, "--resume");
    for (folder, counted) in [("more", "more (6 images"), ("others", "others (5 images")] {
        workspace.fails(
            &resumed.replace("--dataset images", &format!("--dataset {folder}")),
            1,
            &[
                "started with other images",
                "images (5 images",
                counted,
                "another folder",
                "--dataset and --output",
            ],
        );
    }
    fs::rename(workspace.path("images"), workspace.path("moved")).unwrap();
    workspace.succeeds(&resumed.replace("--dataset images", "--dataset moved"));
}

#[cfg(unix)]
#[test]
fn two_runs_do_not_write_to_one_folder() {
    let workspace = Workspace::new();
    let line = Workspace::train_line("run", "--steps 1000000");
    let mut child = workspace.command(&line).stderr(Stdio::null()).spawn().unwrap();
    while !workspace.path("run/tensorboard").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the first run ended");
    }
    let second = workspace.run(&Workspace::train_line("run", "--steps 1000000"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.contains("another run is writing to this folder"), "{}", second.stderr);
}

/// A limit of the size of files, which needs no rights, fails writes as a full disk does: in the middle of a file.
#[cfg(unix)]
#[test]
fn a_full_disk_ends_the_run_and_leaves_earlier_checkpoints_whole() {
    let workspace = Workspace::new();
    workspace.train("run", 2, "--checkpoint-every 1");
    let before = workspace.files("run");
    let largest = before.values().flatten().map(Vec::len).max().unwrap();
    let line = Workspace::train_line("run", "--steps 4 --checkpoint-every 1 --resume");
    let program = env!("CARGO_BIN_EXE_ddpm-gpu");
    // POSIX counts in blocks of 512 bytes.
    let script = format!("trap '' XFSZ; ulimit -f {}; exec {program} {line}", largest / 2 / 512);
    let mut command = std::process::Command::new("sh");
    let output = command.current_dir(workspace.path("")).args(["-c", &script]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for word in [
        "safetensors: cannot be written",
        "the disk has room",
        "checkpoint-000002 is whole, and the run can go on",
        "--resume goes on from the checkpoint",
    ] {
        assert!(said.contains(word), "`{word}` is not in {said}");
    }
    let after = workspace.files("run");
    for (path, contents) in &before {
        let is_log =
            path.starts_with("tensorboard") || path.ends_with("metrics.jsonl") || path.ends_with("run.toml");
        assert!(is_log || after.get(path) == Some(contents), "{} is another", path.display());
    }
    assert!(leftovers(&workspace.path("run")).is_empty());
    workspace.train("run", 4, "--checkpoint-every 1 --resume");
    workspace.train("whole", 4, "");
    let last = |run: &str| workspace.files(&format!("{run}/checkpoint-000004"));
    assert_same(&last("whole"), &last("run"));
}

#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_written_is_named_before_the_first_step() {
    use std::os::unix::fs::PermissionsExt;

    let workspace = Workspace::new();
    workspace.train("run", 1, "");
    let allow = |name: &str, mode: u32| {
        fs::set_permissions(workspace.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    for name in ["run/tensorboard", "run"] {
        allow(name, 0o555);
    }
    if fs::write(workspace.path("run/probe"), "").is_ok() {
        // Not eprintln, whose text is shown for failing tests only.
        let _ =
            writeln!(std::io::stderr(), "\nSKIPPED read-only folders: this user (root?) may write to them");
    } else {
        let resumed = Workspace::train_line("run", "--steps 2 --resume");
        workspace.fails(&resumed, 1, &["run", "cannot be written", "denied"]);
        workspace.fails(&Workspace::train_line("run/new", "--steps 2"), 1, &["run/new", "denied"]);
    }
    for name in ["run", "run/tensorboard"] {
        allow(name, 0o755);
    }
    // Not even root makes folders there.
    if cfg!(target_os = "linux") {
        let line = Workspace::train_line("/proc/run", "--steps 2");
        workspace.fails(&line, 1, &["/proc/run: cannot be written"]);
    }
}

#[test]
fn a_checkpoint_of_another_kind_is_not_resumed() {
    let workspace = Workspace::new();
    workspace.train("run", 1, "");
    workspace.write_model("other.json", "layers_per_block", 2.into());
    let resumed = Workspace::train_line("run", "--steps 2 --resume");
    let other = resumed.replace("model.json", "other.json");
    workspace.fails(&other, 1, &["another model", "another folder", "--model and --output"]);
    let classifier =
        "train-classifier --dataset digits --model model.json --device cpu --output run --steps 2";
    workspace.fails(&format!("{classifier} --resume"), 1, &["no classifier"]);
    workspace.fails(classifier, 1, &["earlier run"]);
}

#[test]
fn checkpoints_come_after_so_much_time() {
    let workspace = Workspace::new();
    let said = workspace.train("run", 5, "--checkpoint-every 1ms --checkpoints-to-keep 9").stderr;
    assert_eq!(said.matches("saved run/checkpoint-").count(), 5, "{said}");
    let said = workspace.train("slow", 5, "--checkpoint-every 2h").stderr;
    assert_eq!(said.matches("saved slow/checkpoint-").count(), 1, "{said}");
}
