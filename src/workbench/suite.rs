//! All checks of a device: every case of every variant, in both precisions, and every gradient rule.

use std::collections::BTreeSet;

use serde::Serialize;

use super::check::COMPUTE;
use super::{Check, Filter, WorkbenchError, check, check_gradient, in_f16, subjects};
use crate::device::Device;
use crate::ops::{self, Case};

/// Relative error of a gradient rule against finite differences that is put down to the differences.
pub const GRADIENT_TOLERANCE: f64 = 2e-3;

/// Differences of larger cases would take hours and show nothing that small ones do not.
const GRADIENT_ELEMENTS: usize = 3000;

/// Cases with fewer elements are small: the ragged ones, whose sizes are no multiple of anything.
const SMALL: usize = 8000;

/// Cases in 16 bits have fewer elements than this: those of a small U-Net do.
const LARGE: usize = 150_000;

/// One check that was carried out.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Op and entry point.
    pub kernel: &'static str,
    /// Name of the variant; `gradient rule` for a comparison with finite differences.
    pub variant: &'static str,
    /// Element type of the activations.
    pub precision: &'static str,
    /// What is special about the case.
    pub case: String,
    /// Shapes of the operands.
    pub shapes: String,
    /// Largest error relative to the largest magnitude of the output; `None` if the case could not run.
    pub worst_error: Option<f64>,
    /// What is allowed.
    pub tolerance: f64,
    /// The first thing that is wrong, with its index, what was expected and what was got.
    pub failure: Option<String>,
}

/// The calls that are checked in a precision.
#[derive(Clone, Debug)]
pub struct Suite {
    /// Calls in f32: all cases of all ops.
    pub cases: Vec<Case>,
    /// Calls with 16-bit activations: of each op the first small case, and the first large one of at most a small U-Net's size.
    pub f16_cases: Vec<Case>,
}

impl Suite {
    /// Cases of the ops that a filter accepts.
    ///
    /// # Errors
    /// [`WorkbenchError::Device`] for WGSL that does not parse.
    pub fn new(filter: &Filter) -> Result<Self, WorkbenchError> {
        let mut cases: Vec<Case> = ops::ALL.iter().flat_map(|op_file| (op_file.cases)()).collect();
        cases.retain(|case| {
            let variants = case.variants();
            let names = variants.iter().map(|variant| variant.name).chain([COMPUTE, RULE]);
            names.into_iter().any(|name| filter.accepts(case.op.as_ref(), name))
        });
        let mut taken = BTreeSet::new();
        let mut f16_cases = Vec::new();
        for case in &cases {
            let is_small = elements(case) < SMALL;
            if elements(case) < LARGE
                && !taken.contains(&(case.op.name(), is_small))
                && let Some(half) = in_f16(case)?
            {
                taken.insert((case.op.name(), is_small));
                f16_cases.push(half);
            }
        }
        Ok(Self { cases, f16_cases })
    }

    /// Checks all variants that the device can run; `done` is told how many checks are done, and how many there are.
    pub async fn check_kernels(
        &self,
        device: &Device,
        filter: &Filter,
        done: &mut dyn FnMut(usize, usize),
    ) -> Vec<Verdict> {
        let mut calls = Vec::new();
        for (precision, cases) in [("f32", &self.cases), ("f16", &self.f16_cases)] {
            for case in cases {
                let mut variants = subjects(device, case);
                variants.retain(|variant| filter.accepts(case.op.as_ref(), variant));
                calls.extend(variants.into_iter().map(|variant| (precision, case, variant)));
            }
        }
        let total = calls.len();
        let mut verdicts = Vec::new();
        for (index, (precision, case, variant)) in calls.into_iter().enumerate() {
            verdicts.push(verdict(case, variant, precision, check(device, case, variant).await));
            done(index + 1, total);
        }
        verdicts
    }

    /// Checks all gradient rules, which no device has a part in.
    pub fn check_gradients(&self, filter: &Filter) -> Vec<Verdict> {
        let is_wanted = |case: &&Case| {
            elements(case) <= GRADIENT_ELEMENTS
                && filter.accepts(case.op.as_ref(), RULE)
                && has_differences(case)
        };
        self.cases.iter().filter(is_wanted).filter_map(gradient_verdict).collect()
    }
}

/// Stands for a gradient rule where others have the name of a variant.
const RULE: &str = "gradient rule";

/// Whether f32 has differences of the case's results: next to numbers beyond a million they are rounded away.
fn has_differences(case: &Case) -> bool {
    let inputs = (0..).zip(&case.inputs).filter(|(index, _)| case.is_float(*index as usize));
    inputs.flat_map(|(index, fill)| fill.data(index)).all(|value| value.abs() < 1e6)
}

fn elements(case: &Case) -> usize {
    case.input_types().iter().map(|ty| ty.len()).sum()
}

fn verdict(
    case: &Case,
    variant: &'static str,
    precision: &'static str,
    result: Result<Check, WorkbenchError>,
) -> Verdict {
    let (worst_error, tolerance, failure) = match result {
        Ok(check) => (
            Some(check.worst_error.into()),
            check.tolerance,
            check.failure.map(|failure| failure.to_string()),
        ),
        Err(error) => (None, case.op.tolerance(), Some(error.to_string())),
    };
    Verdict {
        kernel: case.op.name(),
        variant,
        precision,
        case: case.name.clone(),
        shapes: case.shapes(),
        worst_error,
        tolerance: tolerance.into(),
        failure,
    }
}

/// `None` for an op without a gradient rule.
fn gradient_verdict(case: &Case) -> Option<Verdict> {
    let (worst_error, failure) = match check_gradient(case) {
        Ok(None) => return None,
        Ok(Some(error)) if error <= GRADIENT_TOLERANCE => (Some(error), None),
        Ok(Some(error)) => {
            (Some(error), Some(format!("differs from finite differences by {error:.1e} of the gradient")))
        }
        Err(error) => (None, Some(error.to_string())),
    };
    Some(Verdict {
        kernel: case.op.name(),
        variant: RULE,
        precision: "f32",
        case: case.name.clone(),
        shapes: case.shapes(),
        worst_error,
        tolerance: GRADIENT_TOLERANCE,
        failure,
    })
}
