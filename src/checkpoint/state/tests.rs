use serde_json::json;

use super::*;
use crate::checkpoint::save;
use crate::diffusion::{BetaSchedule, Schedule};
use crate::network::Tensor;

fn tensors(shape: &[usize]) -> Tensors {
    let data = vec![0.5; shape.iter().product()];
    Tensors::from([("w".to_owned(), Tensor { shape: shape.to_vec(), data })])
}

/// A checkpoint of step 10 with everything that a state can hold.
fn saved(output: &Path) -> PathBuf {
    let schedule = Schedule::new(BetaSchedule::Linear.betas(1000, 1e-4, 0.02)).unwrap();
    let state = TrainingState {
        step: 10,
        options: json!({
            "ema_decay": 0.9, "extra_ema_decays": [0.5], "precision": "f16", "learned_schedule": true
        }),
        weights: tensors(&[2, 3]),
        first_moment: tensors(&[2, 3]),
        second_moment: tensors(&[2, 3]),
        extra_emas: vec![(0.5, tensors(&[2, 3]))],
        loss_scale: Some(LossScale::default()),
        learned_schedule: Some(LearnedSchedule::new(&schedule)),
        ..TrainingState::default()
    };
    save(output, &state, |folder| {
        fs::create_dir(folder.join("unet")).unwrap();
        fs::write(folder.join("model_index.json"), "{}").unwrap();
        tensor_file::write(&folder.join("unet/diffusion_pytorch_model.safetensors"), &tensors(&[2, 3]))
    })
    .unwrap()
}

/// What loading says after a change of state.json.
fn said(checkpoint: &Path, change: impl FnOnce(&mut Value)) -> String {
    let path = header_path(checkpoint);
    let whole = fs::read(&path).unwrap();
    let mut value = read_json(&path).unwrap();
    change(&mut value);
    write_json(&path, &value).unwrap();
    let message = TrainingState::load(checkpoint).unwrap_err().to_string();
    fs::write(&path, whole).unwrap();
    message
}

#[test]
fn a_number_that_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = saved(folder.path());
    assert_eq!(TrainingState::load(&checkpoint).unwrap().step, 10);
    assert_eq!(step_of(&checkpoint), Some(10));
    for key in ["step", "options", "loss_scale", "learned_schedule"] {
        let message = said(&checkpoint, |value| {
            value.as_object_mut().unwrap().remove(key);
        });
        for word in [key, "state.json", "not whole", "checkpoint-000010", "checkpoint before it"] {
            assert!(message.contains(word), "no `{word}` in: {message}");
        }
    }
    for (within, key) in [
        ("options", "ema_decay"),
        ("options", "extra_ema_decays"),
        ("loss_scale", "finite_steps"),
        ("learned_schedule", "updates"),
    ] {
        let message = said(&checkpoint, |value| {
            value[within].as_object_mut().unwrap().remove(key);
        });
        assert!(message.contains(key), "no `{key}` in: {message}");
    }
    let message = said(&checkpoint, |value| {
        value["learned_schedule"]["second_moment"].as_array_mut().unwrap().pop();
    });
    assert!(message.contains("second_moment") && message.contains("96 numbers"), "{message}");
    let message = said(&checkpoint, |value| value["options"]["extra_ema_decays"] = json!([]));
    assert!(message.contains("ema_0.5.safetensors"), "{message}");
    let message = said(&checkpoint, |value| value["loss_scale"]["scale"] = json!(-1));
    assert!(message.contains("loss_scale"), "{message}");
}

#[test]
fn a_file_that_was_cut_says_so_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = saved(folder.path());
    let path = header_path(&checkpoint);
    let whole = fs::read(&path).unwrap();
    for length in [0, 1, whole.len() / 2, whole.len() - 3] {
        fs::write(&path, &whole[..length]).unwrap();
        let message = TrainingState::load(&checkpoint).unwrap_err().to_string();
        let is_named = message.contains("incomplete") || message.contains("empty");
        assert!(
            is_named && message.contains("state.json") && message.contains("checkpoint before it"),
            "{message}"
        );
        assert_eq!(step_of(&checkpoint), None);
    }
}

#[test]
fn a_state_holds_nothing_of_what_is_not_trained() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = saved(folder.path());
    let model = |names: &[&str]| -> Tensors {
        let tensors = tensors(&[2, 3]);
        names.iter().map(|name| ((*name).to_owned(), tensors["w"].clone())).collect()
    };
    let weights = checkpoint.join("unet/diffusion_pytorch_model.safetensors");
    tensor_file::write(&weights, &model(&["frozen", "w"])).unwrap();
    let state = TrainingState::load(&checkpoint).unwrap();
    assert!(state.weights.keys().eq(["w"]) && state.extra_emas[0].1.keys().eq(["w"]));
    let average = extra_ema(&checkpoint, 0.5, &model(&["frozen", "w"])).unwrap().unwrap();
    assert!(average.keys().eq(["w"]));
    // An average that lacks what is trained is damaged, and one of what the model does not have is foreign.
    for (there, word) in [(model(&[]), "missing"), (model(&["w", "x"]), "tensor x")] {
        tensor_file::write(&checkpoint.join(FOLDER).join("ema_0.5.safetensors"), &there).unwrap();
        let average = extra_ema(&checkpoint, 0.5, &model(&["frozen", "w"])).unwrap_err().to_string();
        let state = TrainingState::load(&checkpoint).unwrap_err().to_string();
        for message in [average, state] {
            assert!(message.contains("ema_0.5") && message.contains(word), "no `{word}` in: {message}");
        }
    }
}

#[test]
fn tensors_that_do_not_fit_name_their_file() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = saved(folder.path());
    for name in ["weights", "first_moment", "second_moment", "ema_0.5"] {
        let path = checkpoint.join(FOLDER).join(format!("{name}.safetensors"));
        let whole = fs::read(&path).unwrap();
        for (tensors, word) in [(tensors(&[3, 2]), "[3, 2]"), (Tensors::new(), "missing")] {
            tensor_file::write(&path, &tensors).unwrap();
            let message = TrainingState::load(&checkpoint).unwrap_err().to_string();
            for word in
                [word, "[2, 3]", &format!("{name}.safetensors"), "unet/diffusion_pytorch_model", "tensor w"]
            {
                assert!(message.contains(word), "no `{word}` in: {message}");
            }
        }
        fs::write(&path, whole).unwrap();
    }
    TrainingState::load(&checkpoint).unwrap();
}
