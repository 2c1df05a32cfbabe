//! `--tuning`: kernels are timed once, choices outlive the program, and a bad file of choices does no harm.

use std::fs;
use std::path::PathBuf;

use super::support::{Workspace, assert_same, devices};

/// A workspace, unless there is no adapter to tune on.
fn workspace() -> Option<Workspace> {
    devices().contains(&"llvmpipe").then(Workspace::new)
}

/// Trains two steps on llvmpipe and returns what was said.
fn train(workspace: &Workspace, output: &str, tuning: &str) -> String {
    workspace.train(output, 2, &format!("--device llvmpipe --tuning {tuning}")).stderr
}

/// The files of choices.
fn caches(workspace: &Workspace) -> Vec<PathBuf> {
    let entries = fs::read_dir(workspace.tuning_cache()).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn cache(workspace: &Workspace) -> PathBuf {
    let [file] = caches(workspace).try_into().unwrap();
    file
}

#[test]
fn kernels_are_timed_once_and_chosen_alike_ever_after() {
    let Some(workspace) = workspace() else { return };
    let said = train(&workspace, "first", "60");
    assert!(
        said.contains("tuning kernels") && said.contains("llvmpipe") && said.contains("tuned in"),
        "{said}"
    );
    let file = cache(&workspace);
    let choices = fs::read(&file).unwrap();
    let table: serde_json::Value = serde_json::from_slice(&choices).unwrap();
    assert!(table["adapter"]["name"].as_str().unwrap().contains("llvmpipe"));
    assert!(table["choices"].as_object().unwrap().len() > 5, "{table}");

    let said = train(&workspace, "second", "60");
    assert!(!said.contains("tun"), "{said}");
    assert_eq!(fs::read(&file).unwrap(), choices);
    assert_same(&workspace.files("first"), &workspace.files("second"));

    // A run that is resumed goes on with the kernels that it began with.
    workspace.train("tuned-whole", 4, "--device llvmpipe --tuning 60");
    workspace.train("first", 4, "--device llvmpipe --tuning 0 --resume");
    let last = |run: &str| workspace.files(&format!("{run}/checkpoint-000004"));
    assert_same(&last("tuned-whole"), &last("first"));
}

#[test]
fn without_tuning_nothing_is_written() {
    let Some(workspace) = workspace() else { return };
    for tuning in ["off", "0"] {
        let said = train(&workspace, tuning, tuning);
        assert!(!said.contains("tun"), "{said}");
        assert!(caches(&workspace).is_empty());
    }
    assert_same(&workspace.files("off"), &workspace.files("0"));
    let said = workspace.train("cpu", 2, "--tuning 60").stderr;
    assert!(!said.contains("tun"), "{said}");
    assert!(caches(&workspace).is_empty());
}

#[test]
fn a_budget_that_is_over_at_once_leaves_the_defaults() {
    let Some(workspace) = workspace() else { return };
    let said = train(&workspace, "first", "0.000001");
    assert!(said.contains("kinds of calls were not reached, a larger --tuning"), "{said}");
    let choices = fs::read(cache(&workspace)).unwrap();
    let said = train(&workspace, "second", "0.000001");
    assert!(!said.contains("tun"), "{said}");
    train(&workspace, "off", "off");
    assert_same(&workspace.files("first"), &workspace.files("second"));
    assert_same(&workspace.files("first"), &workspace.files("off"));
    let said = train(&workspace, "third", "60");
    assert!(said.contains("tuned in"), "{said}");
    assert_ne!(fs::read(cache(&workspace)).unwrap(), choices);
}

#[test]
fn a_corrupt_or_foreign_cache_is_ignored_with_a_warning_and_replaced() {
    let Some(workspace) = workspace() else { return };
    train(&workspace, "first", "60");
    let file = cache(&workspace);
    let whole = fs::read(&file).unwrap();
    let mut foreign: serde_json::Value = serde_json::from_slice(&whole).unwrap();
    foreign["adapter"]["name"] = "Another GPU".into();
    let bad = [
        ("half", whole[..whole.len() / 2].to_vec(), "expected a tuning cache"),
        ("foreign", foreign.to_string().into_bytes(), "of Another GPU"),
    ];
    for (what, contents, words) in bad {
        fs::write(&file, contents).unwrap();
        let said = train(&workspace, what, "60");
        let name = file.to_str().unwrap();
        assert!(said.contains("warning: ") && said.contains(name) && said.contains(words), "{said}");
        assert!(said.contains("tuned in"), "{said}");
        let again = format!("{what}-again");
        let said = train(&workspace, &again, "60");
        assert!(!said.contains("tun"), "{said}");
        assert_same(&workspace.files(what), &workspace.files(&again));
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_a_warning() {
    let Some(workspace) = workspace() else { return };
    workspace.write("in-the-way", "a file where a folder should be");
    let line =
        "train --dataset digits --model model.json --batch-size 4 --steps 1 --sample-every 0 --output run";
    let output = workspace
        .command(&format!("{line} --device llvmpipe"))
        .env("DDPM_GPU_TUNING_CACHE", workspace.path("in-the-way/tuning"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("warning: ") && said.contains("in-the-way"), "{said}");
}

/// Without a folder of its own, the cache is in the user's.
#[cfg(unix)]
#[test]
fn choices_are_kept_in_the_users_cache_folder() {
    let Some(workspace) = workspace() else { return };
    let line =
        "train --dataset digits --model model.json --batch-size 4 --steps 1 --sample-every 0 --output run";
    let mut command = workspace.command(&format!("{line} --device llvmpipe --tuning 0.000001"));
    command.env_remove("DDPM_GPU_TUNING_CACHE").env("XDG_CACHE_HOME", workspace.path("cache"));
    assert!(command.status().unwrap().success());
    assert_eq!(fs::read_dir(workspace.path("cache/ddpm-gpu/tuning")).unwrap().count(), 1);
}

#[test]
fn budgets_that_are_none() {
    let workspace = Workspace::new();
    for tuning in ["on", "-1", "nan", "1e30"] {
        let line = Workspace::train_line("run", &format!("--tuning={tuning}"));
        workspace.fails(&line, 2, &["--tuning", tuning, "number of seconds"]);
    }
}
