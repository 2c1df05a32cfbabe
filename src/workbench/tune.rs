//! The tuner by hand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::WorkbenchError;
use super::calls::denoise;
use crate::device::{Device, Tuning, TuningEvent};
use crate::network::Network;
use crate::train::{TrainOptions, Trainer};

/// What was found for a kind of call.
#[derive(Clone, Debug, Serialize)]
pub struct Choice {
    /// The kernel and its operands.
    pub call: String,
    /// The variant that runs when nothing is tuned.
    pub default: String,
    /// The variant that was chosen.
    pub chosen: String,
    /// Fastest run of each variant that was timed.
    pub milliseconds: BTreeMap<String, f64>,
}

impl Choice {
    /// Time of the default over that of the chosen variant; `None` where the default was not timed.
    pub fn gain(&self) -> Option<f64> {
        Some(self.milliseconds.get(&self.default)? / self.milliseconds.get(&self.chosen)?)
    }
}

/// Times the kinds of calls of a model's training step on a device, and gives the model in training and what was found for
/// those that were timed; the choices hold for what runs on the device afterwards.
///
/// # Errors
/// [`WorkbenchError`] for a model that cannot be trained there.
pub async fn tune(
    device: &Device,
    network: &Arc<dyn Network>,
    options: TrainOptions,
    tuning: Tuning,
) -> Result<(Trainer, Vec<Choice>), WorkbenchError> {
    let choices: Arc<Mutex<Vec<Choice>>> = Arc::default();
    let found = choices.clone();
    let Tuning { report, .. } = tuning;
    let report = Box::new(move |event: TuningEvent<'_>| {
        if let TuningEvent::Chosen { call, default, chosen, milliseconds } = event {
            found.lock().unwrap_or_else(PoisonError::into_inner).push(Choice {
                call: call.to_owned(),
                default: default.to_owned(),
                chosen: chosen.to_owned(),
                milliseconds: milliseconds.clone(),
            });
        }
        report(event);
    });
    device.set_tuning(Tuning { report, ..tuning });
    let trainer = Trainer::new(device, denoise(network)?, options, None).await?;
    let choices = choices.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok((trainer, choices))
}
