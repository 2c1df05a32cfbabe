//! Schedules and samplers against the golden files from NumPy and diffusers (`tools/oracle/schedulers.py` and
//! `tools/oracle/samplers.py`), and the kernels of every sampler against its steps.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use ddpm_gpu::device::Device;
use ddpm_gpu::diffusion::{BetaSchedule, PredictionType, Respacing, SchedulerConfig};
use ddpm_gpu::graph::{BufferRole, Graph, TensorType};
use ddpm_gpu::ops::reverse_step::{Noise, StepInputs, coefficients_length};
use ddpm_gpu::ops::step_norms::measures_length;
use ddpm_gpu::ops::{dynamic_threshold, reverse_step, step_norms};
use ddpm_gpu::random::{Purpose, Stream, normals};
use ddpm_gpu::sampler::{self, Choice, Clip, Measure, Measured, Sampler, SamplerOptions, Steps, X, by_name};
use ddpm_gpu::workbench::Walk;
use serde_json::{Map, Value};

use common::golden::Golden;

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()))
}

#[test]
fn schedules_are_those_of_the_papers() {
    let file = Golden::read("schedules");
    let mut worst: f64 = 0.0;
    for &kind in BetaSchedule::ALL {
        let config = SchedulerConfig { beta_schedule: kind, ..SchedulerConfig::default() };
        let schedule = config.schedule().unwrap();
        let key = serde_json::to_value(kind).unwrap();
        let key = key.as_str().unwrap();
        for (name, found) in [("betas", schedule.betas()), ("alphas_cumprod", schedule.all_alphas_cumprod())]
        {
            let expected = file.numbers(&format!("{name}.{key}"));
            assert_eq!(found.len(), expected.len());
            for (t, (found, expected)) in found.iter().zip(expected).enumerate() {
                let off = (found - expected).abs();
                assert!(off < 1e-13, "{name}.{key}[{t}]: {found} instead of {expected}");
                worst = worst.max(off);
            }
        }
    }
    println!("schedules: at most {worst:.1e} off");
}

/// How far a trajectory is from diffusers', as a share of the largest value of its row.
fn deviation(file: &Golden, name: &str, case: &Value) -> (f64, f64) {
    let config: Map<String, Value> = case["config"].as_object().unwrap().clone();
    let config = SchedulerConfig::try_from(config).unwrap_or_else(|error| panic!("{name}: {error}"));
    let is_ddpm = case["scheduler"] == "DDPMScheduler";
    let sampler = by_name(if is_ddpm { "ddpm" } else { "ddim" }).unwrap();
    let options = SamplerOptions {
        steps: case["steps"].as_u64().map(|steps| Respacing::Steps(steps as usize)),
        eta: if is_ddpm { None } else { case["eta"].as_f64() },
        noise_in_last_step: is_ddpm,
        ..SamplerOptions::new(&config)
    };
    let steps = sampler.start(&config, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut timesteps = Vec::new();
    let x = file.numbers(&format!("{name}.x_T"));
    let trajectory = file.numbers(&format!("{name}.trajectory"));
    let of_noise = format!("{name}.noise");
    let noise = if file.has(&of_noise) { file.numbers(&of_noise) } else { &[] };
    let noise: Vec<Vec<f64>> = noise.chunks(x.len()).map(<[f64]>::to_vec).collect();
    let mut network = |x: &[f64], t: f64| {
        timesteps.push(t);
        x.iter().map(|x| (0.7 * x + 0.001 * t).tanh()).collect()
    };
    let mut walk = Walk::new(x.to_vec(), options.clip);
    let found = walk.take_all(&steps, &mut network, &noise).unwrap();
    assert_eq!(timesteps, file.numbers(&format!("{name}.timesteps")), "{name}");
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
    let file = Golden::read(file_name);
    let cases = file.cases();
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
    check_all("scheduler_ddpm", 32);
}

#[test]
fn ddim_follows_diffusers() {
    check_all("scheduler_ddim", 45);
}

/// Trajectories of `tools/oracle/samplers.py`: the network is asked at the same timesteps, and x is the same after
/// every step. x_T and noise are those of the file.
fn check_sampler(name: &str, expected_cases: usize) {
    let file = Golden::read(&format!("sampler_{name}"));
    let cases = file.cases();
    assert_eq!(cases.len(), expected_cases);
    let x = file.numbers("x_T");
    let noise: Vec<Vec<f64>> = file.numbers("noise").chunks(x.len()).map(<[f64]>::to_vec).collect();
    let (mut worst, mut failures): (f64, Vec<String>) = (0.0, Vec::new());
    for (case_name, case) in &cases {
        let mut config: Map<String, Value> = case["config"].as_object().unwrap().clone();
        let corrector_steps = config.remove("corrector_steps").map(|steps| steps.as_u64().unwrap() as usize);
        let snr = config.remove("snr").map(|snr| snr.as_f64().unwrap());
        // What a class of diffusers has no key for it does not do.
        let has_clip = config.contains_key("clip_sample") || config.contains_key("thresholding");
        let is_clipping = has_clip || case["sampler"] == "ddim";
        config.entry("clip_sample").or_insert(Value::Bool(is_clipping));
        let spacing = if ["ddpm", "ddim", "ddim_inverse", "pc"].contains(&case["sampler"].as_str().unwrap()) {
            "leading"
        } else {
            "linspace"
        };
        config.entry("timestep_spacing").or_insert(Value::from(spacing));
        let config = SchedulerConfig::try_from(config).unwrap_or_else(|error| panic!("{case_name}: {error}"));
        let steps = case["steps"].as_u64().unwrap() as usize;
        let options = SamplerOptions {
            steps: Some(Respacing::Steps(steps)),
            corrector_steps,
            snr,
            noise_in_last_step: case["sampler"] == "ddpm",
            ..SamplerOptions::new(&config)
        };
        let sampler = by_name(case["sampler"].as_str().unwrap()).unwrap();
        let steps = sampler.start(&config, &options).unwrap_or_else(|error| panic!("{case_name}: {error}"));
        let mut timesteps = Vec::new();
        let mut network = |x: &[f64], t: f64| {
            timesteps.push(t);
            let mean = x.iter().map(|x| (0.7 * x + 0.001 * t).tanh());
            mean.chain(x.iter().map(|x| (1.3 * x - 0.002 * t).tanh())).collect()
        };
        let mut walk = Walk::new(x.to_vec(), options.clip);
        let found = walk.take_all(&steps, &mut network, &noise).unwrap();
        let expected = file.numbers(&format!("{case_name}.timesteps"));
        let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-3;
        assert!(
            timesteps.len() == expected.len() && timesteps.iter().zip(expected).all(close),
            "{name} {case_name}: evaluated at {timesteps:?} instead of {expected:?}"
        );
        let trajectory = file.numbers(&format!("{case_name}.trajectory"));
        assert_eq!(found.len() * x.len(), trajectory.len(), "{name} {case_name}: the number of steps");
        for (step, (found, expected)) in found.iter().zip(trajectory.chunks(x.len())).enumerate() {
            let off = found.iter().zip(expected).fold(0.0, |off: f64, (a, b)| off.max((a - b).abs()));
            let off = off / largest(expected);
            worst = worst.max(off);
            if off.is_nan() || off >= 1e-4 {
                failures.push(format!("{case_name}, step {step}: {off:.1e} of the largest value off"));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{name}: {}", failures.join("\n"));
    println!("{name}: {} trajectories, at most {worst:.1e} of the largest value off", cases.len());
}

#[test]
fn ddim_inversion_follows_diffusers() {
    check_sampler("ddim_inverse", 24);
}

#[test]
fn pndm_follows_diffusers() {
    check_sampler("pndm", 24);
    check_sampler("plms", 24);
}

#[test]
fn dpm_solver_follows_diffusers() {
    check_sampler("dpmpp_2m", 36);
    check_sampler("dpmpp_2m_sde", 36);
}

#[test]
fn unipc_follows_diffusers() {
    check_sampler("unipc", 36);
}

#[test]
fn euler_and_heun_follow_diffusers() {
    check_sampler("euler", 36);
    check_sampler("heun", 36);
}

#[test]
fn predictor_corrector_follows_the_paper() {
    check_sampler("pc", 12);
}

#[test]
fn dynamic_thresholding_is_that_of_diffusers() {
    check_sampler("threshold", 48);
}

#[test]
fn learned_variance_is_that_of_diffusers() {
    check_sampler("learned_range", 24);
}

const IMAGES: usize = 3;
const SHAPE: [usize; 4] = [IMAGES, 3, 5, 2];
const ELEMENTS: usize = 30;
const SEED: u64 = 77;

/// A closed form in place of a network: a different one for each image.
fn closed_form(x: f64, t: f64, image: usize) -> f64 {
    (0.7 * x + 0.001 * t).tanh() + 0.1 * image as f64
}

/// The noise that image `image` gets from its update number `update` with noise, counted from 1; 0 is x_T.
fn noise_of(image: usize, update: u32) -> Vec<f64> {
    let purpose = if update > 0 { Purpose::ReverseStep } else { Purpose::InitialNoise };
    let stream = Stream { seed: SEED, step: update, stream: purpose.into(), sample: 5 + image as u32 };
    normals(stream, ELEMENTS).into_iter().map(f64::from).collect()
}

/// All steps of a sampler by the kernels of a device, with the closed form evaluated on the host.
async fn by_kernels(device: &Device, sampler: &Sampler, steps: &Steps, clip: Clip) -> Vec<f32> {
    let slots = sampler.slots.max(1);
    let mut graph = Graph::new();
    let x = graph.state("x", TensorType::f32(SHAPE), BufferRole::Inputs);
    let history =
        graph.state("history", TensorType::f32([&[slots], &SHAPE[..]].concat()), BufferRole::Inputs);
    let output = graph.state("output", TensorType::f32(SHAPE), BufferRole::Inputs);
    let coefficients = graph.input("coefficients", TensorType::f32([IMAGES, coefficients_length(slots)]));
    let measures = graph.input("measures", TensorType::f32([IMAGES, measures_length(slots)]));
    let key_step_sample = graph.input("key_step_sample", TensorType::u32([4]));
    let given = graph.input("limits", TensorType::f32([IMAGES, 2]));
    let (limits, limit) = match clip {
        Clip::None => (given, f32::MAX),
        Clip::Clamp(limit) => (given, limit as f32),
        Clip::Dynamic { ratio, max } => {
            (dynamic_threshold(&mut graph, x, output, coefficients, [ratio, max]).unwrap(), 0.0)
        }
    };
    let noise = Noise { key_step_sample, stream: graph.random_stream(Purpose::ReverseStep) };
    let inputs = StepInputs { output, coefficients, limits };
    let norms = step_norms(&mut graph, [x, history, measures], inputs, noise).unwrap();
    reverse_step(&mut graph, x, history, inputs, noise).unwrap();
    let mut executor = device.prepare(&graph, &[x, norms]).await.unwrap();
    executor.write(given, &[limit, 1.0].repeat(IMAGES)).unwrap();
    let x_t: Vec<f32> = (0..IMAGES).flat_map(|image| noise_of(image, 0)).map(|z| z as f32).collect();
    executor.write(x, &x_t).unwrap();
    let mut run = steps.run(IMAGES);
    let mut measured = vec![Measured::default(); IMAGES];
    let mut update = 1;
    while let Some(next) = run.next(&measured).unwrap() {
        let of_image = |image: usize| &next[image.min(next.len() - 1)];
        if next[0].timestep.is_some() {
            let x_t = executor.read(x).await.unwrap();
            let network = |(at, &x): (usize, &f32)| {
                let image = at / ELEMENTS;
                closed_form(f64::from(x), of_image(image).timestep.unwrap(), image) as f32
            };
            let outputs: Vec<f32> = x_t.iter().enumerate().map(network).collect();
            executor.write(output, &outputs).unwrap();
        }
        let rows = |row: &dyn Fn(usize) -> Vec<f32>| (0..IMAGES).flat_map(row).collect::<Vec<f32>>();
        let row = |image: usize| of_image(image).update.coefficients(slots);
        executor.write(coefficients, &rows(&row)).unwrap();
        let nothing = Measure { noise: false, ..Measure::norms([0.0, 0.0], X) };
        let row = |image: usize| of_image(image).measure.unwrap_or(nothing).to_row(slots);
        executor.write(measures, &rows(&row)).unwrap();
        let key = Stream { seed: SEED, step: update, stream: Purpose::ReverseStep.into(), sample: 5 };
        executor.write(key_step_sample, &key.key_step_sample()).unwrap();
        update += u32::from(next.iter().any(|step| step.update.sigma != 0.0));
        executor.run().unwrap();
        let pairs = executor.read(norms).await.unwrap();
        let of_pair = |pair: &[f32; 2]| Measured { value: f64::from(pair[0]), noise: f64::from(pair[1]) };
        measured = pairs.as_chunks().0.iter().map(of_pair).collect();
    }
    executor.read(x).await.unwrap()
}

/// Every sampler's kernels, with each image's own noise and step sizes, lead where its steps lead in f64.
#[test]
fn kernels_follow_the_steps_of_every_sampler() {
    let config =
        SchedulerConfig { prediction_type: PredictionType::VPrediction, ..SchedulerConfig::default() };
    let dynamic = Clip::Dynamic { ratio: 0.8, max: 10.0 };
    for (name, device) in common::devices() {
        let mut worst: f64 = 0.0;
        for sampler in sampler::ALL {
            for clip in [Clip::None, Clip::Clamp(1.0), dynamic] {
                let is_adaptive = !sampler.choices.contains(&Choice::Steps);
                let options = SamplerOptions {
                    steps: (!is_adaptive).then_some(Respacing::Steps(6)),
                    // Beyond this the arithmetic of f32 shows, and steps become another number.
                    tolerance: is_adaptive.then_some(1e-4),
                    clip,
                    ..SamplerOptions::new(&config)
                };
                let steps = sampler.start(&config, &options).unwrap();
                let found = pollster::block_on(by_kernels(&device, sampler, &steps, clip));
                for (image, found) in found.chunks(ELEMENTS).enumerate() {
                    let mut walk = Walk::new(noise_of(image, 0), clip);
                    let noise: Vec<Vec<f64>> = (1..20).map(|update| noise_of(image, update)).collect();
                    let mut network =
                        |x: &[f64], t: f64| x.iter().map(|&x| closed_form(x, t, image)).collect();
                    walk.take_all(&steps, &mut network, &noise).unwrap();
                    let off = walk.x.iter().zip(found);
                    let off = off.fold(0.0, |off: f64, (a, &b)| off.max((a - f64::from(b)).abs()));
                    let off = off / largest(&walk.x);
                    let limit = if is_adaptive { 1e-3 } else { 1e-4 };
                    assert!(
                        off < limit,
                        "{} with {clip:?} on {name}, image {image}: {off:.1e}",
                        sampler.name
                    );
                    worst = worst.max(off);
                }
            }
        }
        println!("{name}: at most {worst:.1e} of the largest value off");
    }
}
