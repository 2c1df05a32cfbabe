use super::*;
use crate::network::{Tensor, Tensors};

/// A checkpoint with a model of one file.
fn save_at(output: &Path, step: u64) -> Result<PathBuf, CheckpointError> {
    let tensors = Tensors::from([("w".to_owned(), Tensor { shape: vec![1], data: vec![step as f32] })]);
    let state = TrainingState {
        step,
        options: serde_json::json!({}),
        weights: tensors.clone(),
        first_moment: tensors.clone(),
        second_moment: tensors,
        ..TrainingState::default()
    };
    save(output, &state, |folder| {
        let path = folder.join("model_index.json");
        fs::write(&path, "{}").map_err(CheckpointError::write(&path))
    })
}

fn names(output: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(output)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_oldest_checkpoints_go() {
    let folder = tempfile::tempdir().unwrap();
    for step in [5, 10, 1_000_000] {
        save_at(folder.path(), step).unwrap();
    }
    prune(folder.path(), 2, &folder.path().join("checkpoint-1000000")).unwrap();
    assert_eq!(names(folder.path()), ["checkpoint-000010", "checkpoint-1000000"]);
    assert_eq!(newest(folder.path()).unwrap().unwrap(), folder.path().join("checkpoint-1000000"));
}

#[test]
fn what_cannot_be_written_whole_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    save_at(folder.path(), 5).unwrap();
    let state = TrainingState { step: 10, ..TrainingState::default() };
    let full = |folder: &Path| {
        fs::write(folder.join("model_index.json"), "half").unwrap();
        Err(CheckpointError::write(folder)(std::io::ErrorKind::StorageFull.into()))
    };
    let message = save(folder.path(), &state, full).unwrap_err().to_string();
    assert!(message.contains("the disk has room"), "{message}");
    assert_eq!(names(folder.path()), ["checkpoint-000005"]);
}

#[test]
fn what_a_killed_run_leaves_is_never_a_checkpoint_and_goes_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    for leftover in [WRITING, REMOVAL] {
        fs::create_dir(folder.path().join(leftover)).unwrap();
        fs::write(folder.path().join(leftover).join("model_index.json"), "{}").unwrap();
    }
    assert_eq!(newest(folder.path()).unwrap(), None);
    occupy(folder.path()).unwrap();
    assert!(names(folder.path()).is_empty());
}

#[cfg(unix)]
#[test]
fn two_runs_do_not_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let held = occupy(folder.path()).unwrap();
    let message = occupy(folder.path()).unwrap_err().to_string();
    assert!(message.contains("another run"), "{message}");
    drop(held);
    occupy(folder.path()).unwrap();
}

/// A copy of a checkpoint under the name of another step.
fn copy(output: &Path, from: &str, to: &str) {
    let (from, to) = (output.join(from), output.join(to));
    fs::create_dir_all(to.join("training_state")).unwrap();
    for file in ["model_index.json", "training_state/state.json"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

#[test]
fn what_was_just_written_is_never_pruned_and_neither_is_a_stranger() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path();
    for step in [5, 10, 15, 20] {
        save_at(output, step).unwrap();
    }
    // Of a later step, of another step than it says, and of none.
    save_at(output, 900).unwrap();
    copy(output, "checkpoint-000005", "checkpoint-000007");
    fs::create_dir(output.join("checkpoint-000008")).unwrap();
    fs::write(output.join("checkpoint-000008/model_index.json"), "{}").unwrap();
    let written = save_at(output, 25).unwrap();
    prune(output, 2, &written).unwrap();
    let kept = ["000007", "000008", "000020", "000025", "000900"].map(|step| format!("checkpoint-{step}"));
    assert_eq!(names(output), kept);
    prune(output, 1, &written).unwrap();
    assert_eq!(names(output).len(), 4, "{:?}", names(output));
    assert!(written.exists());
}

#[test]
fn a_name_that_its_training_state_contradicts_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    save_at(folder.path(), 20).unwrap();
    copy(folder.path(), "checkpoint-000020", "checkpoint-000500");
    for found in [newest(folder.path()).map(|_| ()), resolve(folder.path()).map(|_| ())] {
        let message = found.unwrap_err().to_string();
        for word in ["checkpoint-000500", "step 500", "step 20", "checkpoint-000020"] {
            assert!(message.contains(word), "{message}");
        }
    }
    fs::remove_dir_all(folder.path().join("checkpoint-000500")).unwrap();
    assert_eq!(newest(folder.path()).unwrap(), Some(folder.path().join("checkpoint-000020")));
}

#[test]
fn a_folder_without_a_model_says_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("notes.txt"), "").unwrap();
    let said = |path: &Path| resolve(path).unwrap_err().to_string();
    let message = said(folder.path());
    assert!(message.contains("notes.txt") && message.contains("model_index.json"), "{message}");
    assert!(said(&folder.path().join("nowhere")).contains("no such folder"));
    assert!(said(&folder.path().join("notes.txt")).contains("this is a file"));
}

/// accelerate's checkpoints are folders of networks.
#[test]
fn folders_of_networks_are_models() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "{}").unwrap();
    };
    for step in [500, 1500] {
        write(&format!("run/checkpoint-{step}/unet/config.json"));
    }
    let newest_of_run = folder.path().join("run/checkpoint-1500");
    assert_eq!(resolve(&folder.path().join("run")).unwrap(), newest_of_run);
    assert_eq!(resolve(&newest_of_run).unwrap(), newest_of_run);
    // No run of this program goes on from them.
    assert_eq!(newest(&folder.path().join("run")).unwrap(), None);
    write("alone/config.json");
    assert!(resolve(&folder.path().join("alone")).is_err());
    write("alone/diffusion_pytorch_model.safetensors");
    assert_eq!(resolve(&folder.path().join("alone")).unwrap(), folder.path().join("alone"));
}
