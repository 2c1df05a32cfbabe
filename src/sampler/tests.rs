#![allow(clippy::unwrap_used)]

use super::*;
use crate::diffusion::{Respacing, TimestepSpacing, VarianceType};
use crate::ops::reverse_step::Update;
use crate::workbench::Walk;

/// A process without clipping, and the steps of a sampler through it.
fn steps_of(
    name: &str,
    config: &SchedulerConfig,
    steps: usize,
    eta: Option<f64>,
) -> Result<Steps, SamplerError> {
    let options = SamplerOptions { steps: Some(Respacing::Steps(steps)), eta, ..SamplerOptions::new(config) };
    by_name(name)?.start(config, &options)
}

fn fixed(steps: Steps) -> Vec<Step> {
    let Steps::Fixed(steps) = steps else { unreachable!("these steps are known beforehand") };
    steps
}

/// Song et al. 2021, section 4.1: with eta 1, the generative process is DDPM.
#[test]
fn ddim_with_eta_one_and_every_step_is_ddpm() {
    for clip_sample in [false, true] {
        let config = SchedulerConfig { clip_sample, ..SchedulerConfig::default() };
        let ddpm = fixed(steps_of("ddpm", &config, 1000, None).unwrap());
        let ddim = fixed(steps_of("ddim", &config, 1000, Some(1.0)).unwrap());
        for (p, q) in ddpm.iter().zip(&ddim) {
            assert_eq!(p.timestep, q.timestep);
            let (p, q) = (&p.update, &q.update);
            assert!((p.sigma - q.sigma).abs() < 1e-13, "{} and {}", p.sigma, q.sigma);
            // Where x_0 is clipped, both read nothing but it and x_t; else both are linear in x_t and the output.
            let factors = |k: &Update| match clip_sample {
                true => [k.x.x_0, k.x.x],
                false => [k.x.x_0 * k.x_0[0] + k.x.x, k.x.x_0 * k.x_0[1] + k.x.output],
            };
            for (p, q) in factors(p).into_iter().zip(factors(q)) {
                assert!((p - q).abs() < 1e-9, "clipped {clip_sample}: {p} and {q}");
            }
        }
    }
}

/// A network that knows the image leads back to it.
#[test]
fn a_perfect_network_recovers_the_image() {
    let config = SchedulerConfig { variance_type: VarianceType::FixedLarge, ..SchedulerConfig::default() };
    let schedule = config.schedule().unwrap();
    let image = 0.42;
    for (name, steps) in [("ddpm", 1000), ("ddpm", 50), ("ddim", 50), ("ddim", 1)] {
        let mut network = |x: &[f64], t: f64| {
            let abar = schedule.alphas_cumprod(t as usize);
            vec![(x[0] - abar.sqrt() * image) / (1.0 - abar).sqrt()]
        };
        let mut walk = Walk::new(vec![-1.7], Clip::Clamp(1.0));
        walk.take_all(&steps_of(name, &config, steps, None).unwrap(), &mut network, &vec![vec![0.3]; 1000]);
        assert!((walk.x[0] - image).abs() < 1e-10, "{name}: {}", walk.x[0]);
    }
}

/// No number of steps, spacing, prediction type or clipping divides by zero, nor does a schedule that leaves nothing of the
/// image.
#[test]
fn every_number_of_steps_has_finite_coefficients() {
    use crate::diffusion::PredictionType::{Epsilon, Sample, VPrediction};
    let kinds =
        [(Epsilon, false), (Sample, false), (VPrediction, false), (Sample, true), (VPrediction, true)];
    let spacings = TimestepSpacing::ALL.iter().flat_map(|&spacing| kinds.map(|kind| (spacing, kind)));
    for (timestep_spacing, (prediction_type, rescale_betas_zero_snr)) in spacings {
        let config = SchedulerConfig {
            num_train_timesteps: 60,
            timestep_spacing,
            prediction_type,
            rescale_betas_zero_snr,
            variance_type: if rescale_betas_zero_snr {
                VarianceType::LearnedRange
            } else {
                VarianceType::FixedSmall
            },
            ..SchedulerConfig::default()
        };
        for (sampler, steps) in ALL.iter().flat_map(|sampler| (1..=60).map(move |steps| (sampler, steps))) {
            for clip in [Clip::None, Clip::Clamp(1.0)] {
                let steps = (sampler.name != "ode").then_some(Respacing::Steps(steps));
                let options = SamplerOptions { steps, clip, ..SamplerOptions::new(&config) };
                let found = match sampler.start(&config, &options) {
                    Ok(found) => found,
                    // `pndm` needs 4 steps, and multistep samplers tell 60 steps apart with trailing spacing only.
                    Err(SamplerError::FewSteps { .. } | SamplerError::Timesteps(_)) => continue,
                    Err(SamplerError::ZeroSnr { sampler: "pndm" | "plms" }) if rescale_betas_zero_snr => {
                        continue;
                    }
                    Err(error) => unreachable!("{error}"),
                };
                let mut run = found.run(1);
                while let Some(steps) = run.next(&[Measured { value: 0.5, noise: 1.0 }]) {
                    let k = steps[0].update.coefficients(sampler.slots.max(1));
                    assert!(k.iter().all(|k| k.is_finite()), "{}, {options:?}: {k:?}", sampler.name);
                }
                assert!(run.progress() > 1.0 - 1e-9, "{}", sampler.name);
            }
        }
    }
}

/// A model with few timesteps gets as many steps as it can take.
#[test]
fn every_sampler_starts_with_its_own_number_of_steps() {
    for &timestep_spacing in TimestepSpacing::ALL {
        let config =
            SchedulerConfig { num_train_timesteps: 10, timestep_spacing, ..SchedulerConfig::default() };
        for sampler in ALL {
            let started = sampler.start(&config, &SamplerOptions::new(&config));
            assert!(
                started.is_ok(),
                "{} with {}: {:?}",
                sampler.name,
                timestep_spacing.name(),
                started.err()
            );
        }
    }
}

/// Image-to-image begins on the way: with the noisiest timesteps left out.
#[test]
fn a_strength_leaves_the_noisiest_timesteps_out() {
    let config = SchedulerConfig::default();
    for sampler in ALL.iter().filter(|sampler| sampler.choices.contains(&Choice::Strength)) {
        let steps = sampler.choices.contains(&Choice::Steps).then_some(Respacing::Steps(20));
        let options = SamplerOptions { steps, strength: 0.5, ..SamplerOptions::new(&config) };
        let first = sampler.start(&config, &options).unwrap().run(1).next(&[]).unwrap()[0].timestep.unwrap();
        let inverted = sampler.inverts && first == 0.0;
        assert!(
            inverted || (300.0..=550.0).contains(&first) || sampler.name == "euler" || sampler.name == "heun",
            "{}: {first}",
            sampler.name
        );
        for strength in [0.0, 1.5, f64::NAN] {
            let options = SamplerOptions { strength, ..options.clone() };
            assert!(matches!(sampler.start(&config, &options), Err(SamplerError::Strength(_))));
        }
    }
}

#[test]
fn refuses_in_one_sentence() {
    let config = SchedulerConfig::default();
    let refused = |name: &str, steps, eta| steps_of(name, &config, steps, eta).unwrap_err().to_string();
    let unknown = refused("zigzag", 10, None);
    assert!(unknown.starts_with("there is no sampler `zigzag`; the samplers are: ddpm, ddim, "), "{unknown}");
    for name in ["ddpm", "ddim"] {
        assert_eq!(refused(name, 0, None), "cannot sample in 0 steps: this model takes from 1 to 1000");
        assert_eq!(refused(name, 1001, None), "cannot sample in 1001 steps: this model takes from 1 to 1000");
    }
    assert!(refused("ddim", 10, Some(1.5)).starts_with("eta is 1.5; it must be from 0"));
    assert!(refused("ddim", 10, Some(f64::NAN)).starts_with("eta is NaN"));
    assert!(refused("ddpm", 10, Some(0.5)).starts_with("the sampler `ddpm` takes no --eta"));
}

mod mixture;
