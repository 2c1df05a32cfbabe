//! `--tuning`: how long kernels may be timed, where the choices are kept, and what is said about it.

use std::str::FromStr;
use std::time::Duration;

use ddpm_gpu::device::{Device, Tuning, TuningEvent, TuningStore};
use ddpm_gpu::tuning_folder::TuningFolder;

use super::cache_folder;
use super::terminal::note_over_bar;

/// What `--tuning` asks for; `None` for off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget(Option<Duration>);

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self(None));
        }
        let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        seconds
            .map(|seconds| Self(Some(seconds)))
            .ok_or_else(|| "give off, or a number of seconds".to_owned())
    }
}

impl Budget {
    /// Only earlier choices.
    pub(super) const NONE_NEW: Self = Self(Some(Duration::ZERO));
}

/// Names the folder of the choices, in place of `ddpm-gpu/tuning` in the user's cache folder.
const FOLDER: &str = "DDPM_GPU_TUNING_CACHE";

/// Where the choices are kept, unless there is no such place.
fn store() -> Option<Box<dyn TuningStore>> {
    cache_folder(FOLDER, "tuning").map(|folder| Box::new(TuningFolder(folder)) as Box<dyn TuningStore>)
}

/// Lets `device` tune within the budget.
pub(super) fn set(device: &Device, Budget(budget): Budget) {
    let (Some(budget), Device::Gpu(_)) = (budget, device) else { return };
    device.set_tuning(Tuning { budget, store: store(), again: false, report: Box::new(show) });
}

/// Tuning within the budget that times again what earlier runs have chosen.
///
/// # Errors
/// With `--tuning off`, or no time.
pub(super) fn again(Budget(budget): Budget) -> anyhow::Result<Tuning> {
    let Some(budget) = budget.filter(|budget| !budget.is_zero()) else {
        anyhow::bail!("there is nothing to do without time: give --tuning a number of seconds")
    };
    Ok(Tuning { budget, store: store(), again: true, report: Box::new(show) })
}

fn show(event: TuningEvent<'_>) {
    match event {
        TuningEvent::Started { adapter, calls, budget } => note_over_bar(&format!(
            "tuning kernels: timing {calls} kinds of calls on {adapter}, at most {} s; once for each model and batch size",
            budget.as_secs_f64()
        )),
        TuningEvent::Finished { elapsed, left: 0 } => {
            note_over_bar(&format!("tuned in {:.1} s", elapsed.as_secs_f64()));
        }
        TuningEvent::Finished { elapsed, left } => note_over_bar(&format!(
            "tuned for {:.1} s; {left} kinds of calls were not reached, a larger --tuning goes on with them",
            elapsed.as_secs_f64()
        )),
        TuningEvent::Chosen { .. } => {}
        TuningEvent::Warning(text) => note_over_bar(&format!("warning: {text}")),
    }
}
