//! Schedules and samplers against the golden files from NumPy and diffusers (`tools/oracle/schedulers.py`).

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;

use ddpm_gpu::diffusion::{BetaSchedule, SchedulerConfig};
use ddpm_gpu::sampler::{SamplerOptions, by_name};
use ddpm_gpu::workbench::Walk;
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
    let is_ddpm = case["scheduler"] == "DDPMScheduler";
    let sampler = by_name(if is_ddpm { "ddpm" } else { "ddim" }).unwrap();
    let options = SamplerOptions {
        steps: case["steps"].as_u64().map(|steps| steps as usize),
        eta: if is_ddpm { None } else { case["eta"].as_f64() },
        ..SamplerOptions::new(&config)
    };
    let steps = sampler.start(&config, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut timesteps = Vec::new();
    let x = numbers(file, &format!("{name}.x_T"));
    let trajectory = numbers(file, &format!("{name}.trajectory"));
    let noise: Vec<Vec<f64>> = match file.tensor(&format!("{name}.noise")) {
        Ok(_) => numbers(file, &format!("{name}.noise")).chunks(x.len()).map(<[f64]>::to_vec).collect(),
        Err(_) => Vec::new(),
    };
    let mut network = |x: &[f64], t: f64| {
        timesteps.push(t);
        x.iter().map(|x| (0.7 * x + 0.001 * t).tanh()).collect()
    };
    let mut walk = Walk::new(x.clone(), options.clip);
    let found = walk.take_all(&steps, &mut network, &noise);
    assert_eq!(timesteps, numbers(file, &format!("{name}.timesteps")), "{name}");
    assert_eq!(trajectory.len(), x.len() * (found.len() + 1), "{name}");

    let (mut worst, mut worst_absolute): (f64, f64) = (0.0, 0.0);
    for (x, expected) in found.iter().zip(trajectory.chunks(x.len()).skip(1)) {
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
