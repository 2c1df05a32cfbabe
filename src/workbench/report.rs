//! What there is to say about a port: one value, as JSON for machines and as a page for people.

mod page;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

pub use page::page;

use super::calls::denoise;
use super::{
    Ceilings, Choice, Extent, Listing, Measurement, Profile, TrainingSteps, Verdict, WorkbenchError, bench,
    ceilings, model_calls, profile, random_batch, subjects, tune,
};
use crate::device::{AdapterReport, Device, Tuning, TuningEvent};
use crate::network::{Network, Preset};
use crate::train::{TrainOptions, Trainer};

/// Everything about one device.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this program.
    pub version: &'static str,
    /// Operating system and processor.
    pub platform: String,
    /// Name of the device.
    pub device: String,
    /// What the adapter says of itself; `None` for the CPU executor.
    pub adapter: Option<AdapterReport>,
    /// Every variant, and whether it runs.
    pub kernels: Vec<Listing>,
    /// Every check.
    pub verdicts: Vec<Verdict>,
    /// What the device does at most.
    pub ceilings: Ceilings,
    /// The largest call of each kernel in a training step of U-Net S, by the variant that runs.
    pub measurements: Vec<Measurement>,
    /// The tuner's choices for U-Net S.
    pub choices: Vec<Choice>,
    /// Training steps of U-Net S.
    pub step: Profile,
    /// Seconds of the same step by the CPU executor of the same machine.
    pub cpu_step_seconds: f64,
}

/// Images in a step of U-Net S.
const BATCH: usize = 16;

/// How long the tuner may take.
const BUDGET: Duration = Duration::from_secs(60);

/// Steps of a profile.
const STEPS: usize = 5;

/// Measures what a report says beside the checks; `done` is told what comes next.
///
/// # Errors
/// [`WorkbenchError`] if U-Net S does not run on the device.
pub async fn report(
    device: &Device,
    kernels: Vec<Listing>,
    verdicts: Vec<Verdict>,
    done: &mut dyn FnMut(&str),
) -> Result<Report, WorkbenchError> {
    let Some(preset) = Preset::named("unet-s") else { unreachable!("it is in the table of presets") };
    let network: Arc<dyn Network> = Arc::new((preset.config)());
    let options = TrainOptions { batch_size: BATCH, ..TrainOptions::default() };
    done("calibrating");
    let ceilings = ceilings(device).await?;
    done("tuning");
    let ignore = Box::new(|_: TuningEvent<'_>| {});
    // Without a cache: a report shows what this run found.
    let tuning = Tuning { budget: BUDGET, store: None, again: true, report: ignore };
    let (trainer, choices) = tune(device, &network, options.clone(), tuning).await?;
    done("training steps of U-Net S");
    let batch = random_batch(network.as_ref(), BATCH)?;
    let mut steps = TrainingSteps { trainer, batch: batch.clone() };
    let step = profile(&mut steps, STEPS, &mut |_| {}).await?;
    done("the same on the CPU executor");
    let trainer = Trainer::new(&Device::Cpu, denoise(&network)?, options.clone(), None).await?;
    let cpu = profile(&mut TrainingSteps { trainer, batch }, STEPS, &mut |_| {}).await?;
    done("timing kernels");
    let mut measurements = Vec::new();
    for call in model_calls(&network, options, Extent::Largest, &|_| true).await? {
        let (inputs, outputs) = (call.case.input_types(), call.case.output_types().unwrap_or_default());
        let types = crate::ops::Types { inputs: &inputs, outputs: &outputs };
        let variant = match device.choose(call.case.op.as_ref(), types) {
            Some(variant) => Some(variant.name),
            None => subjects(device, &call.case).first().copied(),
        };
        if let Some(variant) = variant {
            measurements.push(bench(device, &call, variant, &ceilings).await?);
        }
    }
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        device: device.name(),
        adapter: device.report(),
        kernels,
        verdicts,
        ceilings,
        measurements,
        choices,
        step,
        cpu_step_seconds: cpu.step_seconds,
    })
}
