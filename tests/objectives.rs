//! Losses, zero-SNR schedules and importance sampling against PyTorch and diffusers (`tools/oracle/objectives.py`), and
//! the variational bound against its closed form.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is how a test fails

mod common;

use ddpm_gpu::diffusion::{BetaSchedule, PredictionType, Schedule, SchedulerConfig, VarianceType};
use ddpm_gpu::graph::{Graph, TensorType, ValueId, gradients};
use ddpm_gpu::ops::{Regression, regression_loss, vlb_loss};
use ddpm_gpu::output::{nchw_to_nhwc, nhwc_to_nchw};
use ddpm_gpu::train::LossSecondMoments;
use pollster::block_on;

use common::golden::Golden;

/// A batch of images as NHWC, of which the first `channels` channels.
fn images(golden: &Golden, name: &str, channels: usize) -> ([usize; 4], Vec<f32>) {
    let [n, c, h, w]: [usize; 4] = golden.shape(name).try_into().unwrap();
    let nhwc = nchw_to_nhwc(&golden.floats(name), [n, c, h, w]);
    let first = nhwc.chunks(c).flat_map(|pixel| &pixel[..channels]).copied().collect();
    ([n, h, w, channels], first)
}

/// Largest difference as a share of the largest value.
fn relative_difference(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(f64::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
    let differences =
        found.iter().zip(expected).map(|(&found, expected)| (f64::from(found) - expected).abs());
    differences.fold(0.0, |worst: f64, difference| if difference <= worst { worst } else { difference })
        / scale
}

/// Runs a loss of each image on every device, and compares it and its gradient with the golden file.
fn check_loss(
    golden: &Golden,
    name: &str,
    prediction: ([usize; 4], Vec<f32>),
    inputs: &[(Vec<usize>, Vec<f32>)],
    build: impl Fn(&mut Graph, ValueId, &[ValueId]) -> ValueId,
) {
    for (device_name, device) in common::devices() {
        let mut graph = Graph::new();
        let (shape, data) = &prediction;
        let says = graph.input("prediction", TensorType::f32(*shape));
        let others: Vec<ValueId> =
            inputs.iter().map(|(shape, _)| graph.input("other", TensorType::f32(shape.clone()))).collect();
        let loss = build(&mut graph, says, &others);
        let d_loss = graph.input("d_loss", graph.ty(loss).clone());
        let d_says = gradients(&mut graph, &[(loss, d_loss)], &[says]).unwrap()[0].unwrap();
        let mut executor = block_on(device.prepare(&graph, &[loss, d_says])).unwrap();
        executor.write(says, data).unwrap();
        for (&id, (_, data)) in others.iter().zip(inputs) {
            executor.write(id, data).unwrap();
        }
        executor.write(d_loss, &vec![1.0f32; shape[0]]).unwrap();
        executor.run().unwrap();
        let found = block_on(executor.read(loss)).unwrap();
        // Image by image: the losses of timesteps differ by powers of ten.
        for (n, (&found, &expected)) in found.iter().zip(golden.numbers(&format!("{name}.loss"))).enumerate()
        {
            let off = (f64::from(found) / expected - 1.0).abs();
            assert!(off < 2e-4, "{name} on {device_name}: image {n}: {found}, expected {expected}");
        }
        let found = nhwc_to_nchw(&block_on(executor.read(d_says)).unwrap(), *shape);
        let expected = golden.numbers(&format!("{name}.d_output"));
        let row = expected.len() / shape[0];
        for (n, (found, expected)) in found.chunks(row).zip(expected.chunks(row)).enumerate() {
            let off = relative_difference(found, expected);
            assert!(off < 2e-4, "{name} on {device_name}: gradient of image {n} is {off:.1e} off");
        }
    }
}

#[test]
fn terms_of_the_bound_are_those_of_pytorch() {
    let golden = Golden::read("objectives");
    let (shape, x_start) = images(&golden, "x_start", 3);
    let (_, eps) = images(&golden, "eps", 3);
    let timesteps = golden.indices("timesteps");
    let row: usize = shape[1..].iter().product();
    let mut cases = 0;
    for schedule_name in ["linear", "squaredcos_cap_v2"] {
        let betas = golden.numbers(&format!("betas.{schedule_name}")).to_vec();
        let schedule = Schedule::new(betas).unwrap();
        for (prediction_name, prediction) in [
            ("epsilon", PredictionType::Epsilon),
            ("sample", PredictionType::Sample),
            ("v_prediction", PredictionType::VPrediction),
        ] {
            let mix = |n: usize, e: usize| {
                let [_, _, of_x, of_eps] = schedule.q_sample_coefficients(timesteps[n], prediction);
                let i = n * row + e;
                (of_x * f64::from(x_start[i]) + of_eps * f64::from(eps[i])) as f32
            };
            let truth: Vec<f32> =
                (0..shape[0]).flat_map(|n| (0..row).map(move |e| (n, e))).map(|(n, e)| mix(n, e)).collect();
            for (kind, variance_name, variance) in [
                ("vlb", "fixed_small", VarianceType::FixedSmall),
                ("vlb", "fixed_large", VarianceType::FixedLarge),
                ("vlb", "learned_range", VarianceType::LearnedRange),
                ("hybrid", "learned_range", VarianceType::LearnedRange),
            ] {
                let name = format!("{kind}_{schedule_name}_{prediction_name}_{variance_name}");
                let rows = timesteps
                    .iter()
                    .flat_map(|&t| schedule.vlb_coefficients(t, prediction, variance).to_array());
                let inputs = [
                    (shape.to_vec(), truth.clone()),
                    (shape.to_vec(), x_start.clone()),
                    (vec![shape[0], 5], rows.collect()),
                ];
                let output = images(&golden, "output", variance.output_channels(3));
                check_loss(&golden, &name, output, &inputs, |graph, says, others| {
                    vlb_loss(graph, [says, others[0], others[1]], others[2], kind == "hybrid").unwrap()
                });
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 24);
}

#[test]
fn l1_and_huber_are_those_of_pytorch() {
    let golden = Golden::read("objectives");
    let (shape, eps) = images(&golden, "eps", 3);
    for (name, kind) in [("l1", Regression::L1), ("huber", Regression::Huber { delta: 0.1 })] {
        let inputs = [(shape.to_vec(), eps.clone())];
        check_loss(&golden, name, images(&golden, "output", 3), &inputs, |graph, says, others| {
            regression_loss(graph, kind, says, others[0]).unwrap()
        });
    }
}

#[test]
fn zero_snr_schedules_are_those_of_diffusers() {
    let golden = Golden::read("objectives");
    for &kind in BetaSchedule::ALL {
        let config = SchedulerConfig {
            beta_schedule: kind,
            rescale_betas_zero_snr: true,
            prediction_type: PredictionType::VPrediction,
            ..SchedulerConfig::default()
        };
        config.check().unwrap();
        let schedule = config.schedule().unwrap();
        let key = serde_json::to_value(kind).unwrap();
        let expected = golden.numbers(&format!("zero_snr.{}", key.as_str().unwrap()));
        assert_eq!(schedule.betas().len(), expected.len());
        for (t, (found, expected)) in schedule.betas().iter().zip(expected).enumerate() {
            // diffusers' tables are products in f32, of which the last are differences of nearly equal roots.
            let off = (found - expected).abs();
            assert!(off < 2e-4 * expected.max(0.01), "{kind:?} {t}: {found}, expected {expected}");
        }
        assert_eq!(schedule.betas().last(), Some(&1.0));
    }
}

#[test]
fn importance_sampling_is_that_of_pytorch() {
    let golden = Golden::read("objectives");
    let (timesteps, losses) = (golden.indices("sampler.timesteps"), golden.numbers("sampler.losses"));
    let probabilities = golden.numbers("sampler.probabilities");
    let [steps, count] = golden.shape("sampler.probabilities").try_into().unwrap();
    let batch = timesteps.len() / steps;
    let mut moments = LossSecondMoments::new(count);
    let mut warm = 0;
    for step in 0..steps {
        let range = step * batch..(step + 1) * batch;
        moments.update(&timesteps[range.clone()], &losses[range]);
        warm += usize::from(moments.is_warm());
        let expected = &probabilities[step * count..(step + 1) * count];
        for (t, (found, expected)) in moments.probabilities().iter().zip(expected).enumerate() {
            assert!((found / expected - 1.0).abs() < 1e-9, "step {step}, {t}: {found}, expected {expected}");
        }
    }
    assert!(warm > 10 && warm < steps, "{warm} of {steps} steps are warm");
}

/// Data of one number from N(0, s^2), whose best network is known: eps is linear in x_t. With the reverse process's
/// exact variance every step of the model is the true posterior of the chain, so that the bound is the entropy itself.
#[test]
fn the_bound_of_a_gaussian_is_its_closed_form() {
    let s2: f64 = 0.09;
    let schedule = Schedule::new(BetaSchedule::SquaredcosCapV2.betas(1000, 1e-4, 0.02)).unwrap();
    // The KL of q(x_{t-1} | x_t, x_0) to the model's step, averaged over x_0 and x_t, in nats.
    let mut bound = 0.0;
    for t in 1..1000 {
        let (abar, before) = (schedule.alphas_cumprod(t), schedule.alphas_cumprod(t - 1));
        let posterior = schedule.posterior(t);
        // x_0 given x_t has this variance; the best mean is off by that much, and the best variance has it added.
        let of_x_start = 1.0 / (1.0 / s2 + abar / (1.0 - abar));
        let k = schedule.vlb_coefficients(t, PredictionType::Sample, VarianceType::LearnedRange);
        let best = posterior.variance + posterior.mean_of_x_start.powi(2) * of_x_start;
        // term() is quadratic in the difference: its mean is that at the root mean square.
        let difference = posterior.mean_of_x_start * of_x_start.sqrt();
        bound += k.term(0.0, difference, best.ln()).nats;
        // What is learned lies within the range that the network can say.
        let [low, high] = k.model_log_variance;
        assert!(low <= best.ln() + 1e-9 && best.ln() <= high + 1e-9 && before > abar, "{t}");
    }
    let total = |t: usize| schedule.alphas_cumprod(t) * s2 + 1.0 - schedule.alphas_cumprod(t);
    // KL(q(x_T | x_0) || N(0, 1)), averaged over x_0.
    let abar = schedule.alphas_cumprod(999);
    bound += 0.5 * (abar * s2 + (1.0 - abar) - 1.0 - (1.0 - abar).ln());
    // H(x_0) - I = the cross entropy of the chain down to x_1: E[-log p(x_1)] - H(x_1 | x_0) of a true reverse chain,
    // but for the mismatch of x_T, whose distribution is not quite the standard normal.
    let entropy_of_first = 0.5 * (std::f64::consts::TAU * std::f64::consts::E * total(0)).ln();
    let noise = 0.5 * (std::f64::consts::TAU * std::f64::consts::E * (1.0 - schedule.alphas_cumprod(0))).ln();
    let mismatch = 0.5 * (total(999) - 1.0 - total(999).ln());
    let expected = entropy_of_first - noise + mismatch;
    assert!((bound - expected).abs() < 1e-6 * expected, "{bound} nats, expected {expected}");
}
