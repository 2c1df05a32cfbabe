use serde_json::{Map, Value};

use super::*;
use crate::device::{CpuExecutor, CpuKernels};
use crate::diffusion::{SchedulerConfig, VarianceType};
use crate::golden::Golden;
use crate::graph::{BufferRole, Graph, TensorType};
use crate::ops::guidance::shift_mean;
use crate::ops::reverse_step::{StepInputs, coefficients_length, reverse_step_injected};
use crate::sampler::{Guided, Process, SamplerOptions, Steps, by_name};

const PREDICTIONS: [PredictionType; 3] =
    [PredictionType::Epsilon, PredictionType::Sample, PredictionType::VPrediction];

/// Whatever the network predicts, the shifted output stands for the shifted eps.
#[test]
fn the_shift_of_the_output_is_that_of_eps() {
    let schedule = SchedulerConfig::default().schedule().unwrap();
    for prediction_type in PREDICTIONS {
        let config = SchedulerConfig { prediction_type, ..SchedulerConfig::default() };
        let options = SamplerOptions::new(&config);
        let levels = Process::new(by_name("ddim").unwrap(), &config, &options).unwrap().noise_levels();
        let shift = Shift::Output { levels, prediction_type, scale: 3.0 };
        for t in [0, 10, 500, 999] {
            let abar = schedule.alphas_cumprod(t);
            let [of_x, of_output] = prediction_type.eps_factors(abar);
            let (x, output, gradient) = (0.7, -0.3, 0.2);
            let eps = of_x * x + of_output * output;
            let shifted = of_x * x + of_output * (output + shift.at(t as f64) * gradient);
            let expected = eps - 3.0 * (1.0 - abar).sqrt() * gradient;
            assert!((shifted - expected).abs() < 1e-9, "{prediction_type:?} at {t}");
        }
    }
}

const SHAPE: [usize; 4] = [1, 1, 6, 1];
const ELEMENTS: usize = 6;

/// One ancestral step by the kernels, towards a class: x after it.
fn step(step: &Step, x: &[f32], output: &[f32], gradient: &[f32], noise: &[f32], limit: f32) -> Vec<f32> {
    let mut graph = Graph::new();
    let state = graph.state("x", TensorType::f32(SHAPE), BufferRole::Inputs);
    let history = graph.state("history", TensorType::f32([&[1], &SHAPE[..]].concat()), BufferRole::Inputs);
    let channels = output.len() / ELEMENTS;
    let of_network = graph.input("output", TensorType::f32([1, 1, 6, channels]));
    let slope = graph.input("gradient", TensorType::f32(SHAPE));
    let coefficients = graph.input("coefficients", TensorType::f32([1, coefficients_length(1)]));
    let limits = graph.input("limits", TensorType::f32([1, 2]));
    let z = graph.input("noise", TensorType::f32(SHAPE));
    let factors = graph.input("factors", TensorType::f32([1, 2]));
    let inputs = StepInputs { output: of_network, coefficients, limits };
    reverse_step_injected(&mut graph, state, history, inputs, z).unwrap();
    shift_mean(&mut graph, state, of_network, slope, factors).unwrap();
    let mut executor = CpuExecutor::new(&graph, &[state], CpuKernels::Fast).unwrap();
    let shift = Shift::Mean { scale: 1.0 }.factors(Some(step));
    let shift: Vec<f32> = shift.into_iter().map(|factor| factor as f32).collect();
    for (id, data) in [
        (state, x),
        (of_network, output),
        (slope, gradient),
        (coefficients, &step.update.coefficients(1)),
        (limits, &[limit, 1.0]),
        (z, noise),
        (factors, &shift),
    ] {
        executor.write(id, data).unwrap();
    }
    executor.run();
    executor.read(state).unwrap()
}

/// `tools/oracle/guidance.py`: trajectories of guided-diffusion's ancestral sampling with `condition_mean`, where x_0
/// is clamped in most steps.
#[test]
fn guided_ancestral_sampling_is_that_of_guided_diffusion() {
    let file = Golden::read("guidance");
    let cases = file.cases();
    let (x_t, noise) = (file.floats("x_T"), file.floats("noise"));
    assert!(x_t.len() == ELEMENTS && cases.len() == 6, "{} cases", cases.len());
    let ddpm = by_name("ddpm").unwrap();
    assert_eq!(ddpm.guided, Guided::Mean);
    for (name, case) in &cases {
        let config: Map<String, Value> = case["config"].as_object().unwrap().clone();
        let config = SchedulerConfig::try_from(config).unwrap();
        let limit = config.clip_limit() as f32;
        let Steps::Fixed(steps) = ddpm.start(&config, &SamplerOptions::new(&config)).unwrap() else {
            unreachable!("ancestral steps are known beforehand")
        };
        let trajectory = file.floats(&format!("{name}.trajectory"));
        assert_eq!(trajectory.len(), steps.len() * ELEMENTS, "{name}: the number of steps");
        let mut x = x_t.clone();
        let rows = noise.chunks(ELEMENTS).zip(trajectory.chunks(ELEMENTS));
        let mut saturated = 0;
        for (number, (next, (noise, expected))) in steps.iter().zip(rows).enumerate() {
            let t = next.timestep.unwrap() as f32;
            let mean = |x: &f32| 1.5 * (3.0 * x + 0.5 * t).sin();
            let v = |x: &f32| (1.3 * x - 0.02 * t).tanh();
            let learned = config.variance_type == VarianceType::LearnedRange;
            let output: Vec<f32> =
                x.iter().flat_map(|x| if learned { vec![mean(x), v(x)] } else { vec![mean(x)] }).collect();
            let gradient: Vec<f32> = x.iter().map(|x| 3.0 * (1.3 * x + 0.1 * t).cos()).collect();
            let [of_x, of_output] = next.update.x_0;
            let x_0 = |x: &f32| of_x * f64::from(*x) + of_output * f64::from(mean(x));
            saturated += x.iter().filter(|x| x_0(x).abs() > 1.0).count();
            x = step(next, &x, &output, &gradient, noise, limit);
            let off = x.iter().zip(expected).fold(0.0f32, |off, (a, b)| off.max((a - b).abs()));
            // In the step to the image it guides by a variance that stands in for 0, and here there is none.
            if number + 1 < steps.len() || config.variance_type == VarianceType::FixedSmall {
                assert!(off < 2e-5, "{name}, step {number}: {off:.1e} off");
            }
            x = expected.to_vec();
        }
        assert!(saturated > steps.len() * ELEMENTS / 4, "{name}: x_0 is clamped only {saturated} times");
    }
}

/// Algorithm 1 of Dhariwal and Nichol: the mean of each step moves by s Sigma gradient, whatever the network predicts,
/// x_0 is clamped to, or Sigma is learned to be (Nichol and Dhariwal 2021, equation 15).
#[test]
fn the_mean_of_ddpm_moves_by_the_variance_times_the_gradient() {
    let variances = [VarianceType::FixedSmall, VarianceType::FixedLarge, VarianceType::LearnedRange];
    for (prediction_type, variance_type) in
        PREDICTIONS.into_iter().flat_map(|prediction| variances.map(|variance| (prediction, variance)))
    {
        let config = SchedulerConfig { prediction_type, variance_type, ..SchedulerConfig::default() };
        let schedule = config.schedule().unwrap();
        let options = SamplerOptions::new(&config);
        let Steps::Fixed(steps) = by_name("ddpm").unwrap().start(&config, &options).unwrap() else {
            unreachable!("ancestral steps are known beforehand")
        };
        for next in steps.iter().step_by(111) {
            let posterior = schedule.posterior(next.timestep.unwrap() as usize);
            let (small, large) = (posterior.variance.max(1e-20), posterior.beta);
            let v = -0.4f32;
            let variance = match variance_type {
                _ if next.timestep == Some(0.0) => 0.0,
                VarianceType::FixedSmall | VarianceType::FixedSmallLog => small,
                VarianceType::FixedLarge => large,
                VarianceType::LearnedRange => (0.3 * large.ln() + 0.7 * small.ln()).exp(),
            };
            // Most estimates of x_0 are far outside of -1..1.
            let x = [-3.0, -1.0, -0.1, 0.2, 1.0, 3.0];
            let means = [2.0, -2.0, 0.1, 0.0, -1.0, 1.5];
            let output: Vec<f32> = match variance_type {
                VarianceType::LearnedRange => means.iter().flat_map(|&mean| [mean, v]).collect(),
                _ => means.to_vec(),
            };
            let gradient = [20.0, -10.0, 3.0, -3.0, 7.0, 50.0];
            let after = |gradient: &[f32]| step(next, &x, &output, gradient, &[0.5; 6], 1.0);
            for ((moved, plain), gradient) in after(&gradient).iter().zip(after(&[0.0; 6])).zip(gradient) {
                let expected = variance * f64::from(gradient);
                let off = f64::from(moved - plain) - expected;
                let case = format!("{prediction_type:?}, {variance_type:?}, {:?}", next.timestep);
                assert!(
                    off.abs() < 1e-5 * (1.0 + expected.abs()),
                    "{case}: {moved} from {plain}, not {expected}"
                );
            }
        }
    }
}
