//! Streams that are full, closed or read by nobody: what is printed is lost, what is worked for is not.
#![cfg(target_os = "linux")]

use std::fs;
use std::process::{Command, Output};

use super::support::Workspace;

/// Runs a line of the shell in the workspace; `PROGRAM` stands for the program.
fn shell(workspace: &Workspace, line: &str) -> Output {
    let script = line.replace("PROGRAM", env!("CARGO_BIN_EXE_ddpm-gpu"));
    let mut command = Command::new("sh");
    command.current_dir(workspace.path("")).env("DDPM_GPU_TUNING_CACHE", workspace.tuning_cache());
    command.args(["-c", &script]).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn train(output: &str, more: &str) -> String {
    format!("PROGRAM {}", Workspace::train_line(output, &format!("--steps 12 --checkpoint-every 5 {more}")))
}

#[test]
fn a_run_whose_messages_nobody_takes_trains_to_its_end() {
    let workspace = Workspace::new();
    for (number, redirection) in
        ["2>&-", "2>/dev/full", ">&- 2>&-", "2>&1 | head -1 >/dev/null", "2>&1 | true"].iter().enumerate()
    {
        let name = format!("run-{number}");
        let output = shell(&workspace, &format!("{} {redirection}", train(&name, "")));
        assert!(output.status.success(), "{redirection}: {}", said(&output));
        assert!(
            workspace.path(&format!("{name}/checkpoint-000012/model_index.json")).is_file(),
            "{redirection}"
        );
    }
}

#[test]
fn results_that_cannot_be_written_are_an_error_in_a_sentence() {
    let workspace = Workspace::new();
    let dry_run = format!("{} --dry-run", train("run", ""));
    for line in [
        "PROGRAM devices",
        "PROGRAM data digits",
        "PROGRAM kernels list",
        "PROGRAM kernels list --json",
        &dry_run,
    ] {
        let output = shell(&workspace, &format!("{line} >/dev/full"));
        assert_eq!(output.status.code(), Some(1), "{line}: {}", said(&output));
        let words = "error: the results cannot be written to standard output: No space left on device";
        assert!(
            said(&output).contains(words) && !said(&output).contains("panicked"),
            "{line}: {}",
            said(&output)
        );
    }
    // Nothing is lost of a result that goes to a file.
    let output =
        shell(&workspace, "PROGRAM kernels translate silu.forward --to wgsl --output silu.wgsl >/dev/full");
    assert!(output.status.success() && !workspace.read("silu.wgsl").is_empty(), "{}", said(&output));
}

#[test]
fn a_reader_that_goes_away_ends_a_list_without_a_word() {
    let workspace = Workspace::new();
    let output = shell(&workspace, "PROGRAM kernels list | head -1");
    assert!(!said(&output).contains("error") && !said(&output).contains("panicked"), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1);
}

#[test]
fn logs_that_cannot_be_written_do_not_end_a_run() {
    let workspace = Workspace::new();
    fs::create_dir(workspace.path("run")).unwrap();
    std::os::unix::fs::symlink("/dev/full", workspace.path("run/metrics.jsonl")).unwrap();
    let finished = workspace.train("run", 30, "--checkpoint-every 5");
    assert_eq!(finished.stderr.matches("warning: ").count(), 1, "{}", finished.stderr);
    assert!(finished.stderr.contains("metrics.jsonl") && finished.stderr.contains("training goes on"));
    assert!(workspace.path("run/checkpoint-000030").is_dir());
}

#[test]
fn bytes_of_no_text_in_the_log_do_not_keep_a_run_from_going_on() {
    let workspace = Workspace::new();
    workspace.train("run", 10, "");
    let mut lines = workspace.read("run/metrics.jsonl");
    lines.extend(b"\xff\xfe\n");
    workspace.write("run/metrics.jsonl", lines);
    workspace.fails("plot run --output loss.png", 1, &["metrics.jsonl, line 2", "delete the line"]);
    let said = workspace.train("run", 20, "--resume").stderr;
    assert!(said.contains("left out 1 line"), "{said}");
    let steps: Vec<u64> =
        ddpm_gpu::log::read_metrics(&workspace.path("run")).unwrap().iter().map(|line| line.step).collect();
    assert_eq!(steps, [10, 20]);
}

/// A limit of the size of files fails writes as a full disk does.
#[test]
fn a_full_disk_before_the_first_checkpoint_promises_nothing() {
    let workspace = Workspace::new();
    let output = shell(&workspace, &format!("trap '' XFSZ; ulimit -f 8; {}", train("run", "")));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("there was no checkpoint yet"), "{}", said(&output));
    assert!(!said(&output).contains("--resume"), "{}", said(&output));
}

#[test]
fn what_is_measured_is_written_when_nobody_reads_along() {
    let workspace = Workspace::new();
    workspace.train("run", 1, "");
    let line = "evaluate run --dataset digits --nll vlb --num-images 2 --split train --device cpu --output bits.json";
    let mut child = workspace.command(line).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert!(serde_json::from_slice::<serde_json::Value>(&workspace.read("bits.json")).is_ok());
}
