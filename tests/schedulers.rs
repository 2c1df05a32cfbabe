//! Schedules and samplers against the golden files from NumPy and diffusers (`tools/oracle/schedulers.py`).

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;

use ddpm_gpu::diffusion::{BetaSchedule, SchedulerConfig};
use ddpm_gpu::sampler::{SamplerOptions, by_name};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};

fn read(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn numbers(file: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let tensor = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let data = tensor.data();
    match tensor.dtype() {
        Dtype::F32 => data.as_chunks().0.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes))).collect(),
        Dtype::F64 => data.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect(),
        Dtype::I64 => data.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes) as f64).collect(),
        other => panic!("{name} is {other:?}"),
    }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()))
}

#[test]
fn schedules_are_those_of_the_papers() {
    let bytes = read("schedules.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut worst: f64 = 0.0;
    for &kind in BetaSchedule::ALL {
        let config = SchedulerConfig { beta_schedule: kind, ..SchedulerConfig::default() };
        let schedule = config.schedule().unwrap();
        let key = serde_json::to_value(kind).unwrap();
        let key = key.as_str().unwrap();
        for (name, found) in [("betas", schedule.betas()), ("alphas_cumprod", schedule.all_alphas_cumprod())]
        {
            let expected = numbers(&file, &format!("{name}.{key}"));
            assert_eq!(found.len(), expected.len());
            for (t, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let off = (found - expected).abs();
                assert!(off < 1e-13, "{name}.{key}[{t}]: {found} instead of {expected}");
                worst = worst.max(off);
            }
        }
    }
    println!("schedules: at most {worst:.1e} off");
}

/// How far a trajectory is from diffusers', as a share of the largest value of its row.
fn deviation(file: &SafeTensors<'_>, name: &str, case: &Value) -> (f64, f64) {
    let config: Map<String, Value> = case["config"].as_object().unwrap().clone();
    let config = SchedulerConfig::try_from(config).unwrap_or_else(|error| panic!("{name}: {error}"));
    let sampler = by_name(if case["scheduler"] == "DDPMScheduler" { "ddpm" } else { "ddim" }).unwrap();
    let options = SamplerOptions {
        steps: case["steps"].as_u64().unwrap() as usize,
        eta: case["eta"].as_f64().unwrap(),
    };
    let steps = (sampler.steps)(&config, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
    let timesteps: Vec<f64> = steps.iter().map(|step| step.timestep as f64).collect();
    assert_eq!(timesteps, numbers(file, &format!("{name}.timesteps")), "{name}");

    let mut x = numbers(file, &format!("{name}.x_T"));
    let trajectory = numbers(file, &format!("{name}.trajectory"));
    let noise = match file.tensor(&format!("{name}.noise")) {
        Ok(_) => numbers(file, &format!("{name}.noise")),
        Err(_) => vec![0.0; x.len() * steps.len()],
    };
    assert_eq!(trajectory.len(), x.len() * (steps.len() + 1), "{name}");

    let (mut worst, mut worst_absolute): (f64, f64) = (0.0, 0.0);
    let rows = trajectory.chunks(x.len()).skip(1).zip(noise.chunks(x.len()));
    for (step, (expected, noise)) in steps.iter().zip(rows) {
        let k = step.coefficients;
        for (x, z) in x.iter_mut().zip(noise) {
            let output = (0.7 * *x + 0.001 * step.timestep as f64).tanh();
            let x_0 = (k.x_0[0] * *x + k.x_0[1] * output).clamp(-k.limit, k.limit);
            *x = k.x_prev[0] * x_0 + k.x_prev[1] * *x + k.x_prev[2] * output + k.sigma * z;
        }
        let off = x.iter().zip(expected).fold(0.0, |off: f64, (x, expected)| off.max((x - expected).abs()));
        worst = worst.max(off / largest(expected));
        worst_absolute = worst_absolute.max(off);
    }
    (worst, worst_absolute)
}

fn check_all(file_name: &str, expected_cases: usize) {
    let bytes = read(file_name);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let cases = header.metadata().as_ref().unwrap()["cases"].as_str();
    let cases: BTreeMap<String, Value> = serde_json::from_str(cases).unwrap();
    assert_eq!(cases.len(), expected_cases);
    let mut all_worst = (0.0, String::new());
    for (name, case) in &cases {
        let (worst, worst_absolute) = deviation(&file, name, case);
        // diffusers computes in f32; the file says how far that took it from the same in f64.
        let rounding = case["f64_max_abs_diff"].as_f64().unwrap();
        assert!(worst < 1e-4, "{name}: {worst:.1e} of the largest value off");
        assert!(
            worst_absolute < rounding + 1e-9,
            "{name}: {worst_absolute:.2e} off, of which f32 rounding explains {rounding:.2e}"
        );
        if worst > all_worst.0 {
            all_worst = (worst, name.clone());
        }
    }
    println!("{file_name}: at most {:.1e} of the largest value off ({})", all_worst.0, all_worst.1);
}

#[test]
fn ddpm_follows_diffusers() {
    check_all("scheduler_ddpm.safetensors", 32);
}

#[test]
fn ddim_follows_diffusers() {
    check_all("scheduler_ddim.safetensors", 45);
}
