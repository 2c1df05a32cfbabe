//! Which kernel of a port goes wrong first.

use std::sync::Arc;

use serde::Serialize;

use super::check::{COMPUTE, check_against};
use super::{Check, Failure, WorkbenchError, check, random_batch};
use crate::device::{CpuKernels, Device, Executor};
use crate::diffusion::{SchedulerConfig, VarianceType};
use crate::network::{Network, Tensors};
use crate::ops::{Case, Op, Types};
use crate::train::{Denoise, Objective, TrainOptions, Trainer};

/// A call whose result a device gets wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Culprit {
    /// How many calls of the step come before it.
    pub index: usize,
    /// Module path.
    pub path: String,
    /// Op and entry point.
    pub kernel: &'static str,
    /// Name of the variant that ran.
    pub variant: &'static str,
    /// The dispatches of the variant, by entry point.
    pub entries: Vec<&'static str>,
    /// Shapes of the operands.
    pub shapes: String,
    /// Largest error, relative to the largest magnitude of the output; `None` if it could not run.
    pub worst_error: Option<f32>,
    /// What is allowed.
    pub tolerance: f32,
    /// The first thing that is wrong.
    pub failure: String,
}

/// Runs a training step by the CPU executor, lets `device` repeat each call on the operands that the CPU executor had, and
/// gives the first call, in the order of the step, whose result is off by more than its tolerance.
///
/// So an error is found where it arises, whatever it does to what comes after. `weights` are a checkpoint's, else fresh
/// ones; the images are noise. `done` is told how many calls are right, and how many there are.
///
/// # Errors
/// [`WorkbenchError`] for a model that cannot be trained.
pub async fn bisect(
    device: &Device,
    network: &Arc<dyn Network>,
    scheduler: &SchedulerConfig,
    weights: Option<&Tensors>,
    mut options: TrainOptions,
    done: &mut dyn FnMut(usize, usize),
) -> Result<Option<Culprit>, WorkbenchError> {
    let batch = random_batch(network.as_ref(), options.batch_size)?;
    if scheduler.variance_type == VarianceType::LearnedRange {
        // The only kinds of training that teach a variance have the bound in their loss.
        options.objective = Objective::Hybrid;
    }
    let task = Denoise::new(network.clone(), scheduler.clone())?;
    let mut trainer = Trainer::new(&Device::Cpu, task, options, None).await?;
    if let Some(weights) = weights {
        trainer.set_weights(weights)?;
    }
    let Executor::Cpu(executor) = trainer.prepare_step(&batch)? else {
        unreachable!("the CPU executor was asked for")
    };
    let total = executor.plan().nodes.len();
    for (index, case) in executor.run_capturing(|_, _| true).enumerate() {
        if let Some(culprit) = examine(device, index, &case).await? {
            return Ok(Some(culprit));
        }
        done(index + 1, total);
    }
    Ok(None)
}

/// Of two sums that are nothing but rounding, one may be so many times as far off as the other.
const ROUNDING: f32 = 16.0;

async fn examine(device: &Device, index: usize, case: &Case) -> Result<Option<Culprit>, WorkbenchError> {
    let (inputs, outputs) = (case.input_types(), case.output_types().unwrap_or_default());
    let types = Types { inputs: &inputs, outputs: &outputs };
    let Some(variant) = device.choose(case.op.as_ref(), types) else { return Ok(None) };
    // The fast kernel first: it takes seconds where the naive one takes minutes. Between the two of them may lie twice the
    // tolerance, so the naive one has the last word.
    let result = match check_against(CpuKernels::Fast, device, case, variant.name).await {
        Ok(result) if result.failure.is_none() => return Ok(None),
        Ok(_) => check(device, case, variant.name).await,
        Err(error) => Err(error),
    };
    // A result that is nothing but rounding, such as the gradient of the keys' bias, which is zero in exact arithmetic, has
    // no digit to be right: the CPU executor, which also computes in f32, misses it as far.
    if let Ok(Check { worst_error, failure: Some(Failure::Wrong { .. }), .. }) = result {
        let own = check(&Device::Cpu, case, COMPUTE).await?;
        if own.failure.is_some() && worst_error < ROUNDING * own.worst_error {
            return Ok(None);
        }
    }
    let (worst_error, failure) = match result {
        Ok(result) => match result.failure {
            None => return Ok(None),
            Some(failure) => (Some(result.worst_error), failure.to_string()),
        },
        Err(error) => (None, error.to_string()),
    };
    let op: &dyn Op = case.op.as_ref();
    Ok(Some(Culprit {
        index,
        path: case.name.clone(),
        kernel: op.name(),
        variant: variant.name,
        entries: variant.passes.iter().map(|pass| pass.entry).collect(),
        shapes: case.shapes(),
        worst_error,
        tolerance: op.tolerance(),
        failure,
    }))
}
