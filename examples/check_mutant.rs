//! The half of tools/mutate-kernels that runs kernels: checks variants of an op, as the WGSL in the folder that
//! `DDPM_GPU_KERNELS` names has them, again and again.
//!
//! Reads a request a line, `check DEVICE OP ENTRY,...` or `spirv OP ENTRY,...`, with the entry points whose code the
//! edit reaches. Answers a check by lines `run WHAT` and a verdict, `killed WHAT`, `survived CHECKS` or `invalid WHY`; and
//! the other by `spirv HASH`, of what naga makes of the entry points.
#![allow(clippy::expect_used)] // a tool for ourselves: what goes wrong may end it

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, Write};

use ddpm_gpu::device::{Device, DeviceError, Target, translate};
use ddpm_gpu::ops::{self, Case, Types, Variant};
use ddpm_gpu::workbench::{WorkbenchError, check, in_f16, subjects};
use pollster::block_on;

fn main() {
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("standard input is text");
        let words: Vec<&str> = line.split(' ').collect();
        let verdict = match words[..] {
            ["check", device, op_file, entries] => {
                check_op(device, op_file, &entries.split(',').collect::<Vec<_>>())
            }
            ["spirv", op_file, entries] => spirv(op_file, &entries.split(',').collect::<Vec<_>>()),
            _ => format!("invalid request: {line}"),
        };
        say(&verdict.replace('\n', " "));
    }
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("standard output is read");
}

/// The cases of an op, the smallest first, each with its form for 16-bit activations.
fn cases(op_file: &str) -> Result<Vec<Case>, DeviceError> {
    let op_file = ops::ALL.iter().find(|known| known.name == op_file).expect("the op is in the table");
    let mut cases = Vec::new();
    for case in (op_file.cases)() {
        cases.extend(in_f16(&case)?);
        cases.push(case);
    }
    cases.sort_by_cached_key(|case| case.cost().flops);
    Ok(cases)
}

/// The variants of a case that use one of the entry points.
fn reached(case: &Case, entries: &[&str]) -> Vec<Variant> {
    let mut variants = case.variants();
    variants.retain(|variant| variant.passes.iter().any(|pass| entries.contains(&pass.entry)));
    variants
}

fn check_op(device: &str, op_file: &str, entries: &[&str]) -> String {
    // A device of its own for every request: devices keep what they have compiled.
    let device =
        block_on(Device::open(&device.parse().expect("no name is wrong"))).expect("the device opens");
    let cases = match cases(op_file) {
        Ok(cases) => cases,
        Err(error) => return format!("invalid {error}"),
    };
    let mut checks = 0;
    for case in &cases {
        let reached = reached(case, entries);
        for variant in subjects(&device, case) {
            if !reached.iter().any(|reached| reached.name == variant) {
                continue;
            }
            let dtype =
                if case.inputs.iter().any(|fill| matches!(fill, ops::Fill::F16(_))) { " f16" } else { "" };
            let what = format!("{} {variant} [{}]{dtype}", case.op.name(), case.name);
            say(&format!("run {what}"));
            match block_on(check(&device, case, variant)) {
                Ok(result) => {
                    if let Some(failure) = result.failure {
                        return format!("killed {what}: {failure}");
                    }
                }
                Err(WorkbenchError::Device(
                    error @ (DeviceError::Shader { .. } | DeviceError::Pipeline { .. }),
                )) => {
                    return format!("invalid {error}");
                }
                // A kernel that loses the device, or does not end, is a kernel that is caught.
                Err(error) => return format!("killed {what}: {error}"),
            }
            checks += 1;
        }
    }
    format!("survived {checks}")
}

fn spirv(op_file: &str, entries: &[&str]) -> String {
    let mut hasher = DefaultHasher::new();
    let mut seen = Vec::new();
    let cases = match cases(op_file) {
        Ok(cases) => cases,
        Err(error) => return format!("invalid {error}"),
    };
    for case in &cases {
        let (inputs, outputs) = (case.input_types(), case.output_types().unwrap_or_default());
        let types = Types { inputs: &inputs, outputs: &outputs };
        for pass in reached(case, entries).iter().flat_map(|variant| &variant.passes) {
            let key = format!("{:?} {} {:?}", types.activation(), pass.entry, pass.overrides);
            if !entries.contains(&pass.entry) || seen.contains(&key) {
                continue;
            }
            match translate(case.op.as_ref(), types, pass, Target::Spirv) {
                Ok(translation) => format!("{translation:?}").hash(&mut hasher),
                Err(error) => return format!("invalid {error}"),
            }
            seen.push(key);
        }
    }
    format!("spirv {:016x}", hasher.finish())
}
