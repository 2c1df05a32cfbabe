//! What there is: ops, their kernels, the variants of these, and which of them an adapter can run.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Filter, WorkbenchError};
use crate::device::{Device, location};
use crate::ops::{self, Requirements};

/// One variant of one kernel.
#[derive(Clone, Debug, Serialize)]
pub struct Listing {
    /// Op and entry point, such as `conv2d.forward`.
    pub kernel: &'static str,
    /// Name of the variant.
    pub variant: &'static str,
    /// The dispatches that it takes, by entry point.
    pub entries: Vec<&'static str>,
    /// File and line of the first of them.
    pub source: String,
    /// What it needs beyond WebGPU's defaults.
    pub requires: Vec<String>,
    /// Why the device cannot run it; `None` if it can.
    pub lacks: Option<String>,
}

/// Every variant that a call can take, the preferred one of each kernel first.
///
/// Which variants there are depends on a call's shapes; these are those of the ops' cases.
///
/// # Errors
/// [`WorkbenchError::Device`] for WGSL that does not parse.
pub fn list(device: &Device, filter: &Filter) -> Result<Vec<Listing>, WorkbenchError> {
    let mut listings: Vec<Listing> = Vec::new();
    for op_file in ops::ALL {
        let cases = (op_file.cases)();
        let mut kernels: Vec<&str> = Vec::new();
        for case in &cases {
            if !kernels.contains(&case.op.name()) {
                kernels.push(case.op.name());
            }
        }
        for kernel in kernels {
            let mut seen = BTreeSet::new();
            for case in cases.iter().filter(|case| case.op.name() == kernel) {
                for variant in case.variants() {
                    if !filter.accepts(case.op.as_ref(), variant.name) || !seen.insert(variant.name) {
                        continue;
                    }
                    let entries: Vec<&str> = variant.passes.iter().map(|pass| pass.entry).collect();
                    let source = match entries.first() {
                        Some(entry) => location(op_file, entry)?,
                        None => String::new(),
                    };
                    let lacks = match device {
                        Device::Cpu => None,
                        Device::Gpu(device) => device.lacks(variant.requires),
                    };
                    let requires = words(variant.requires);
                    listings.push(Listing {
                        kernel: case.op.name(),
                        variant: variant.name,
                        entries,
                        source,
                        requires,
                        lacks,
                    });
                }
            }
        }
    }
    Ok(listings)
}

/// Requirements in words.
fn words(requires: Requirements) -> Vec<String> {
    let subgroups = requires.subgroup_size.map(|size| format!("subgroups of {size}"));
    let f16 = requires.f16.then(|| "shader-f16".to_owned());
    subgroups.into_iter().chain(f16).collect()
}
