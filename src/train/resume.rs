//! Going on with a run: from which checkpoint, and whether it is the same run.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::{Run, Task, TrainError, TrainOptions};
use crate::checkpoint::{self, CheckpointError, TrainingState};
use crate::data::Fingerprint;
use crate::diffusion::SchedulerConfig;
use crate::network::{ModelError, Network};
use crate::pipeline::Pipeline;

/// The newest checkpoint, where the run is to go on from one; `None` for a new run.
pub(super) fn checkpoint_to_resume(run: &Run) -> Result<Option<PathBuf>, TrainError> {
    match (run.resume, checkpoint::newest(&run.output)?) {
        (false, Some(folder)) => Err(CheckpointError::AlreadyThere { folder }.into()),
        (_, newest) => Ok(newest),
    }
}

/// What is other than it was, key by key.
fn changes(then: &Value, now: &Value) -> Vec<String> {
    if then == now {
        return Vec::new();
    }
    let changed = changed_keys(then, now);
    if changed.is_empty() {
        vec![format!("it was {}, now it is {}", brief(then), brief(now))]
    } else {
        changed
    }
}

/// What is other in an object than in an earlier one.
fn changed_keys(then: &Value, now: &Value) -> Vec<String> {
    let keys: BTreeSet<&String> =
        [then, now].into_iter().filter_map(Value::as_object).flat_map(Map::keys).collect();
    let changed = keys.into_iter().filter_map(|key| {
        let [then, now] = [then, now].map(|of| of.get(key).unwrap_or(&Value::Null));
        (then != now).then(|| format!("{key} was {}, now it is {}", brief(then), brief(now)))
    });
    changed.collect()
}

/// A value, or the beginning of a long one.
fn brief(value: &Value) -> String {
    const SHOWN: usize = 80;
    let text = value.to_string();
    if text.chars().count() <= SHOWN {
        text
    } else {
        text.chars().take(SHOWN).chain(" ...".chars()).collect()
    }
}

/// What is other in a checkpoint's network and process than in those of the task.
fn changes_of_model<T: Task>(
    run: &Run,
    task: &T,
    pipeline: &Pipeline,
    state: &TrainingState,
) -> Result<Vec<String>, TrainError> {
    let then = &pipeline.network_of(T::ROLE).map_err(|error| {
        let message = format!(
            "the run in {} trains something else: {error}; give another folder",
            run.output.display()
        );
        TrainError::setting(&["output"], message)
    })?;
    let then = &then.network;
    let config = |network: &dyn Network| -> Result<Value, TrainError> {
        let text = network.to_json()?;
        serde_json::from_str(&text).map_err(|error| TrainError::Model(ModelError::Json(error)))
    };
    let scheduler = task.began_with(&pipeline.scheduler, state);
    let json = |of: &SchedulerConfig| serde_json::to_value(of).unwrap_or_default();
    let of_network = changes(&config(then.as_ref())?, &config(task.network().as_ref())?);
    Ok([of_network, changes(&json(&scheduler), &json(task.scheduler()))].concat())
}

/// Refuses to go on from a checkpoint of another network or process, or with other settings.
pub(super) fn check_resume<T: Task>(
    run: &Run,
    task: &T,
    dataset: &Fingerprint,
    pipeline: &Pipeline,
    state: &TrainingState,
) -> Result<(), TrainError> {
    let of_model = changes_of_model(run, task, pipeline, state)?;
    if !of_model.is_empty() {
        let message = format!(
            "the checkpoint in {} is of another model or noise schedule: {}; give the same model and schedule, or another \
             folder",
            run.output.display(),
            of_model.join("; ")
        );
        return Err(TrainError::setting(&["config", "output"], message));
    }
    if let Some(then) = &state.dataset
        && let Some(difference) = then.difference(dataset, run.dataset.as_ref())?
    {
        let message = format!(
            "the run in {} was started with other images: they were {then}, now they are {dataset}; {difference}; give \
             the same dataset, or another folder",
            run.output.display()
        );
        return Err(TrainError::setting(&["dataset", "output"], message));
    }
    // The number of steps may change, and how much is computed twice; anything else would change the course of the run.
    // The numbering of random streams is the run's own and no setting.
    let random_streams = TrainOptions::random_streams_of(&state.options)?;
    let mut now = TrainOptions { random_streams, ..run.options.clone() }.to_json()?;
    let mut then = match serde_json::from_value::<TrainOptions>(state.options.clone()) {
        Ok(then) => then.to_json()?,
        Err(_) => state.options.clone(),
    };
    for settings in [&mut then, &mut now].into_iter().filter_map(Value::as_object_mut) {
        settings.retain(|key, _| !["steps", "checkpointing"].contains(&key.as_str()));
    }
    let changed = changed_keys(&then, &now);
    if !changed.is_empty() {
        return Err(TrainError::Options(format!(
            "the run in {} was started with other settings; give the same ones to go on exactly: {}",
            run.output.display(),
            changed.join("; ")
        )));
    }
    if state.step >= run.options.steps {
        let message = format!(
            "the run in {} already has {} steps; ask for more steps to go on",
            run.output.display(),
            state.step
        );
        return Err(TrainError::setting(&["steps"], message));
    }
    Ok(())
}
