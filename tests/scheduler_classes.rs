//! The classes of diffusers' schedulers against the golden files of `tools/oracle/scheduler_classes.py` and
//! `tools/oracle/class_trajectories.py`: keys and defaults, and what a file of each draws by no more than its class and
//! keys.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "common/golden.rs"]
mod golden;

use std::collections::{BTreeMap, HashSet};

use ddpm_gpu::diffusion::{Respacing, SCHEDULER_CLASSES, SchedulerConfig};
use ddpm_gpu::sampler::{self, SamplerOptions};
use ddpm_gpu::workbench::Walk;
use serde_json::{Map, Value};

use golden::Golden;

/// The table of classes is diffusers': every key of every class, and its default.
#[test]
fn keys_and_defaults_are_those_of_diffusers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/scheduler_classes.json");
    let text = std::fs::read_to_string(path).unwrap().replace("-Infinity", "\"-Infinity\"");
    let mut theirs: BTreeMap<String, Map<String, Value>> = serde_json::from_str(&text).unwrap();
    for class in SCHEDULER_CLASSES {
        let expected = theirs.remove(class.name).unwrap_or_else(|| panic!("diffusers has no {}", class.name));
        assert_eq!(class.defaults(), expected, "{}", class.name);
    }
    assert!(theirs.is_empty(), "not in the table: {:?}", theirs.keys());
}

/// The sampler, its options, the levels and the timesteps follow from the config: nothing else is given but x_T, noise
/// and the number of steps.
#[test]
fn each_class_draws_as_diffusers_does() {
    let file = Golden::read("class_trajectories");
    let (x, noise) = (file.numbers("x_T"), file.numbers("noise"));
    let noise: Vec<Vec<f64>> = noise.chunks(x.len()).map(<[f64]>::to_vec).collect();
    let (mut classes, mut failures) = (BTreeMap::new(), Vec::new());
    let cases = file.cases();
    for (name, case) in &cases {
        let config: Map<String, Value> = case["config"].as_object().unwrap().clone();
        let config = SchedulerConfig::try_from(config).unwrap_or_else(|error| panic!("{name}: {error}"));
        let steps = case["steps"].as_u64().unwrap() as usize;
        let options = SamplerOptions { steps: Some(Respacing::Steps(steps)), ..SamplerOptions::new(&config) };
        let sampler = sampler::of(&config).unwrap();
        let steps = sampler.start(&config, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut timesteps = Vec::new();
        let mut network = |x: &[f64], t: f64| {
            timesteps.push(t);
            x.iter().map(|x| (0.7 * x + 0.001 * t).tanh()).collect()
        };
        let mut walk = Walk::new(x.to_vec(), options.clip);
        let found = walk.take_all(&steps, &mut network, &noise).unwrap();
        let told = file.numbers(&format!("{name}.timesteps"));
        let trajectory = file.numbers(&format!("{name}.trajectory"));
        let is_told = timesteps.len() == told.len()
            && timesteps.iter().zip(told).all(|(found, expected)| (found - expected).abs() < 1e-3);
        if !is_told || found.len() * x.len() != trajectory.len() {
            failures
                .push(format!("{name}: {:?} asks at {timesteps:?}, diffusers at {told:?}", case["config"]));
            continue;
        }
        let largest = |of: &[f64]| of.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
        let off = |(found, expected): (&Vec<f64>, &[f64])| {
            let off: Vec<f64> = found.iter().zip(expected).map(|(x, y)| x - y).collect();
            largest(&off) / largest(expected).max(1.0)
        };
        let offs: Vec<f64> = found.iter().zip(trajectory.chunks(x.len())).map(off).collect();
        let worst = largest(&offs);
        let of_class: &mut (usize, f64) = classes.entry(config.class_name.clone()).or_default();
        *of_class = (of_class.0 + 1, of_class.1.max(worst));
        // diffusers keeps its levels, and some classes x, in f32 even then.
        if worst.is_nan() || worst > TOLERANCE {
            failures.push(format!("{name}, {:?}: {worst:.1e}", case["config"]));
        }
    }
    for (class, (count, worst)) in &classes {
        println!("{class}: {count} trajectories, at most {worst:.1e} of the largest value off");
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
    // DDPMScheduler draws by ddim here, and by its own sampler in tests/schedulers.rs.
    let tested: HashSet<&str> = classes.keys().map(String::as_str).chain(["DDPMScheduler"]).collect();
    assert!(SCHEDULER_CLASSES.iter().all(|class| tested.contains(class.name)), "only {tested:?}");
}

/// As a share of the largest value of a row, or of 1: the golden file has f32.
const TOLERANCE: f64 = 1e-6;
