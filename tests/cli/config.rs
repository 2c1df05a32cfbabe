//! `--config`: the file of settings, and the one that a run writes.

use super::support::{Workspace, assert_same};

const FILE: &str = r#"
dataset = "digits"
model = "model.json"
output = "run"
device = "cpu"
tuning = "off"
batch_size = 4
steps = 3
seed = 3
sample_every = 0
random_flip = true
"#;

#[test]
fn a_file_says_what_flags_say_and_flags_win() {
    let workspace = Workspace::new();
    workspace.write("my.toml", FILE);
    workspace.succeeds("train --config my.toml");
    workspace.succeeds("train --output flags --steps 3 --config=my.toml");
    workspace.train("plain", 3, "--random-flip");
    let checkpoint = |run: &str| workspace.files(&format!("{run}/checkpoint-000003"));
    assert_same(&checkpoint("run"), &checkpoint("plain"));
    assert_same(&checkpoint("run"), &checkpoint("flags"));
    let settings = |run: &str| String::from_utf8(workspace.read(&format!("{run}/run.toml"))).unwrap();
    assert_eq!(settings("run"), settings("plain").replace("\"plain\"", "\"run\""));
    assert!(settings("run").contains("learning_rate = 0.0002\n"), "{}", settings("run"));
}

#[test]
fn what_a_run_writes_repeats_it_and_resumes_it() {
    let workspace = Workspace::new();
    workspace.train("run", 3, "--random-flip --learning-rate 1e-3");
    workspace.succeeds("train --config run/run.toml --output again");
    let checkpoint = |run: &str| workspace.files(&format!("{run}/checkpoint-000003"));
    assert_same(&checkpoint("run"), &checkpoint("again"));

    let before = workspace.read("run/run.toml");
    workspace.fails("train --config run/run.toml --resume", 1, &["already has 3 steps"]);
    workspace.fails(
        "train --config run/run.toml --resume --learning-rate 1",
        1,
        &["changed since the run was started: learning_rate was 0.001, now it is 1", "other settings"],
    );
    assert_eq!(workspace.read("run/run.toml"), before);
    let said = workspace.succeeds("train --config run/run.toml --resume --steps 4").stderr;
    assert!(said.contains("changed since the run was started: steps was 3, now it is 4"), "{said}");
    assert!(String::from_utf8(workspace.read("run/run.toml")).unwrap().contains("steps = 4\n"));
}

#[test]
fn a_classifier_has_it_too() {
    let workspace = Workspace::new();
    workspace.write("my.toml", FILE.replace("sample_every", "measure_every"));
    workspace.succeeds("train-classifier --config my.toml");
    let settings = String::from_utf8(workspace.read("run/run.toml")).unwrap();
    assert!(settings.contains("measure_every = 0\n") && settings.contains("train-classifier"), "{settings}");
}

#[test]
fn mistakes_are_status_2_and_write_nothing() {
    let workspace = Workspace::new();
    workspace.write("my.toml", format!("{FILE}learnin_rate = 1\n"));
    workspace.fails("train --config my.toml", 2, &["my.toml", "learnin_rate", "nearest is learning_rate"]);
    workspace.write("my.toml", FILE.replace("steps = 3", "steps = \"three\""));
    workspace.fails("train --config my.toml", 2, &["my.toml", "steps", "expected a number"]);
    workspace.fails("train --config none.toml", 2, &["none.toml: cannot be read"]);
    workspace.fails("train --config", 2, &["--config"]);
}
