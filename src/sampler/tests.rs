#![allow(clippy::unwrap_used)]

use super::*;
use crate::diffusion::{BetaSchedule, LevelSpacing, Respacing, TimestepSpacing, VarianceType};
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
        walk.take_all(&steps_of(name, &config, steps, None).unwrap(), &mut network, &vec![vec![0.3]; 1000])
            .unwrap();
        assert!((walk.x[0] - image).abs() < 1e-10, "{name}: {}", walk.x[0]);
    }
}

/// No number of steps, spacing, prediction type or clipping divides by zero, nor does a schedule that leaves nothing of
/// the image.
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
                let steps = sampler.choices.contains(&Choice::Steps).then_some(Respacing::Steps(steps));
                let options = SamplerOptions { steps, clip, ..SamplerOptions::new(&config) };
                let found = match sampler.start(&config, &options) {
                    Ok(found) => found,
                    // `pndm` needs 4 steps, and multistep samplers tell 60 steps apart with trailing spacing only.
                    Err(SamplerError::FewSteps { .. } | SamplerError::Timesteps(_)) => continue,
                    Err(SamplerError::ZeroSnr { .. }) if rescale_betas_zero_snr && sampler.extrapolates => {
                        continue;
                    }
                    Err(error) => unreachable!("{error}"),
                };
                let mut run = found.run(1);
                while let Some(steps) = run.next(&[Measured { value: 0.5, noise: 1.0 }]).unwrap() {
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
        let first =
            sampler.start(&config, &options).unwrap().run(1).next(&[]).unwrap().unwrap()[0].timestep.unwrap();
        // Levels that lie closer together the less noise is left have their middle at less noise.
        let expected = if sampler.inverts { 0.0..=0.0 } else { 200.0..=550.0 };
        assert!(expected.contains(&first), "{}: {first}", sampler.name);
        for strength in [0.0, 1.5, f64::NAN] {
            let options = SamplerOptions { strength, ..options.clone() };
            assert!(matches!(sampler.start(&config, &options), Err(SamplerError::Strength(_))));
        }
    }
}

/// Algorithm 2 of Ho et al. adds no noise to the image, at whatever timestep the last step begins; diffusers does,
/// unless it is 0.
#[test]
fn ancestral_steps_leave_the_image_without_noise() {
    let learned = VarianceType::LearnedRange;
    for variance_type in [VarianceType::FixedSmall, VarianceType::FixedLarge, learned] {
        for (timestep_spacing, steps_offset, last) in [
            (TimestepSpacing::Leading, 0, 0.0),
            (TimestepSpacing::Leading, 1, 1.0),
            (TimestepSpacing::Trailing, 0, 99.0),
            (TimestepSpacing::Linspace, 0, 0.0),
        ] {
            let config = SchedulerConfig {
                variance_type,
                timestep_spacing,
                steps_offset,
                ..SchedulerConfig::default()
            };
            for name in ["ddpm", "pc"] {
                let last_step = |noise_in_last_step| {
                    let steps = Some(Respacing::Steps(10));
                    let options =
                        SamplerOptions { steps, noise_in_last_step, ..SamplerOptions::new(&config) };
                    let steps = by_name(name).unwrap().start(&config, &options).unwrap();
                    let mut run = steps.run(1);
                    let mut all = Vec::new();
                    while let Some(step) = run.next(&[Measured { value: 0.5, noise: 1.0 }]).unwrap() {
                        all.push(step[0].clone());
                    }
                    assert!(all[..all.len() - 1].iter().any(|step| step.update.sigma > 0.0));
                    all.pop().unwrap()
                };
                let (ours, theirs) = (last_step(false), last_step(true));
                assert_eq!((ours.timestep, ours.update.sigma), (Some(last), 0.0), "{name}");
                assert_eq!(theirs.update.sigma > 0.0, last > 0.0, "{name}, {timestep_spacing:?}");
                if last == 0.0 {
                    assert_eq!(ours, theirs, "{name}");
                }
            }
        }
    }
}

/// A network whose eps is off by 0.02 tanh(x + 0.003 t) leads far beyond images on the way, as it does in diffusers'
/// `PNDMScheduler`; where x ends depends on rounding then.
#[test]
fn a_warning_comes_before_images_beyond_all_bounds() {
    for beta_schedule in [BetaSchedule::Linear, BetaSchedule::SquaredcosCapV2] {
        for &timestep_spacing in TimestepSpacing::ALL {
            for clip_sample in [false, true] {
                let config = SchedulerConfig {
                    beta_schedule,
                    timestep_spacing,
                    clip_sample,
                    ..SchedulerConfig::default()
                };
                let schedule = config.schedule().unwrap();
                let mut network = |x: &[f64], t: f64| {
                    let abar = schedule.alphas_cumprod(t as usize);
                    let eps = |x: &f64| (x - abar.sqrt() * 0.3) / (1.0 - abar).sqrt();
                    x.iter().map(|x| eps(x) + 0.02 * (x + 0.003 * t).tanh()).collect()
                };
                for (name, count) in [("pndm", 10), ("pndm", 50), ("plms", 10), ("ddim", 50)] {
                    let sampler = by_name(name).unwrap();
                    let options = SamplerOptions {
                        steps: Some(Respacing::Steps(count)),
                        ..SamplerOptions::new(&config)
                    };
                    let warning = sampler.warning(&config, &options).unwrap();
                    let steps = sampler.start(&config, &options).unwrap();
                    let mut walk = Walk::new(vec![-1.2, -0.3, 0.4, 1.5], options.clip);
                    let way = walk.take_all(&steps, &mut network, &[]).unwrap().concat();
                    let largest = way.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
                    let case = format!("{name}, {count} steps, {config:?}: {largest}, {warning:?}");
                    let is_warned = beta_schedule == BetaSchedule::SquaredcosCapV2
                        && timestep_spacing != TimestepSpacing::Leading
                        && sampler.extrapolates;
                    assert_eq!(warning.is_some(), is_warned, "{case}");
                    // Clipping helps the more, the more steps there are.
                    let is_extreme = largest > 1000.0;
                    assert!(
                        if is_warned { is_extreme || count > 10 || name == "plms" } else { largest < 20.0 },
                        "{case}"
                    );
                }
            }
        }
    }
}

/// Samplers are told apart by their names.
#[test]
fn every_sampler_has_a_name_of_its_own() {
    for (position, sampler) in ALL.iter().enumerate() {
        assert!(!ALL[..position].contains(sampler), "{}", sampler.name);
        assert_eq!(by_name(sampler.name).unwrap(), sampler);
    }
}

/// With nothing of the image left at the last timestep, samplers on Karras's levels begin there, as in diffusers, and
/// come to every later one in turn.
#[test]
fn karras_levels_of_zero_snr_begin_at_the_last_timestep_and_fall() {
    let config = SchedulerConfig {
        rescale_betas_zero_snr: true,
        prediction_type: crate::diffusion::PredictionType::VPrediction,
        timestep_spacing: TimestepSpacing::Trailing,
        ..SchedulerConfig::default()
    };
    for steps in [2, 20, 300, 1000] {
        let options = SamplerOptions { steps: Some(Respacing::Steps(steps)), ..SamplerOptions::new(&config) };
        let process = Process::new(by_name("euler").unwrap(), &config, &options).unwrap();
        let levels = process.ratio_levels(LevelSpacing::Karras).unwrap();
        assert_eq!(levels.len(), steps + 1);
        assert_eq!(levels[0].timestep, 999.0);
        assert!((levels[0].ratio() - 4096.0).abs() < 1e-2, "{}", levels[0].ratio());
        for pair in levels[..steps].windows(2) {
            assert!(pair[0].timestep > pair[1].timestep && pair[0].ratio() > pair[1].ratio(), "{pair:?}");
        }
    }
}

/// A single timestep, the best that any sampler can do is what the network says there of x_0.
#[test]
fn a_model_of_one_timestep_is_drawn_from_in_one_step() {
    for &timestep_spacing in TimestepSpacing::ALL {
        let config = SchedulerConfig {
            num_train_timesteps: 1,
            beta_start: 0.5,
            timestep_spacing,
            ..SchedulerConfig::default()
        };
        let schedule = config.schedule().unwrap();
        let abar = schedule.alphas_cumprod(0);
        let mut network = |x: &[f64], _: f64| vec![(x[0] - abar.sqrt() * 0.42) / (1.0 - abar).sqrt()];
        for sampler in ALL.iter().filter(|sampler| !sampler.inverts) {
            let options = SamplerOptions { snr: None, ..SamplerOptions::new(&config) };
            let steps = match sampler.start(&config, &options) {
                // `pndm` needs 4 steps.
                Err(SamplerError::FewSteps { .. }) => continue,
                steps => steps.unwrap(),
            };
            let mut walk = Walk::new(vec![0.9], options.clip);
            walk.take_all(&steps, &mut network, &[]).unwrap();
            // The corrector of `pc` has moved x, but x_0 is the same wherever the network stands.
            assert!((walk.x[0] - 0.42).abs() < 1e-9, "{}, {timestep_spacing:?}: {}", sampler.name, walk.x[0]);
        }
    }
}

#[test]
fn a_strength_of_less_than_a_step_says_how_many_would_do() {
    let config = SchedulerConfig::default();
    for (name, strength, steps, least) in
        [("ddim", 0.8, 1, 2), ("dpmpp_2m", 0.3, 3, 4), ("heun", 0.01, 50, 100)]
    {
        let chosen = |steps| SamplerOptions {
            steps: Some(Respacing::Steps(steps)),
            strength,
            ..SamplerOptions::new(&config)
        };
        let sampler = by_name(name).unwrap();
        let error = sampler.start(&config, &chosen(steps)).unwrap_err();
        assert_eq!(error, SamplerError::NoStep { strength, steps, least }, "{name}");
        assert!(error.to_string().contains(&format!("take at least {least} steps")), "{error}");
        assert!(sampler.start(&config, &chosen(least)).is_ok(), "{name}: {least} steps do not do");
    }
}

/// Noise in what the network says, as rounding makes, leaves an error in every step that grows with its length alone.
#[test]
fn the_ode_gives_up_where_no_step_is_short_enough() {
    let config = SchedulerConfig::default();
    let start = |tolerance| {
        let options = SamplerOptions { tolerance: Some(tolerance), ..SamplerOptions::new(&config) };
        by_name("ode").unwrap().start(&config, &options)
    };
    for tolerance in [0.0, -1.0, 1e-15, 2.0, f64::NAN, f64::INFINITY] {
        let refused = start(tolerance).unwrap_err().to_string();
        assert!(refused.contains("it must be from 0.0000001 to 1"), "{refused}");
    }
    let mut calls = 0u32;
    let mut network = |x: &[f64], t: f64| {
        calls += 1;
        let noise = if calls.is_multiple_of(3) { 0.1 } else { -0.1 };
        x.iter().map(|x| (0.7 * x + 0.001 * t).tanh() + noise).collect()
    };
    let mut walk = Walk::new(vec![0.5, -1.0], Clip::None);
    let error = walk.take_all(&start(1e-7).unwrap(), &mut network, &[]).unwrap_err();
    assert!(matches!(error, SamplerError::TooManySteps { tolerance: 1e-7, .. }), "{error}");
    assert!(calls < 40_000, "{calls} evaluations");
    // Numbers that are not finite end it too, and stay to be seen.
    let mut walk = Walk::new(vec![0.5, -1.0], Clip::None);
    walk.take_all(&start(1e-5).unwrap(), &mut |x, _| vec![f64::NAN; x.len()], &[]).unwrap();
    assert!(walk.x.iter().all(|x| x.is_nan()), "{:?}", walk.x);
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
    assert!(refused("ddpm", 10, Some(0.5)).starts_with("the sampler `ddpm` takes no `eta`"));
}

mod mixture;
