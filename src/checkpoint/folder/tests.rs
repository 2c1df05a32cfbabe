use super::*;
use crate::model::{Tensor, Tensors};

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
    prune(folder.path(), 2).unwrap();
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
