#![allow(clippy::unwrap_used)]

use super::*;
use crate::diffusion::{TimestepSpacing, VarianceType};

fn steps_of(name: &str, config: &SchedulerConfig, steps: usize, eta: f64) -> Result<Vec<Step>, SamplerError> {
    (by_name(name)?.steps)(config, &SamplerOptions { steps, eta })
}

/// Song et al. 2021, section 4.1: with eta 1, the generative process is DDPM.
#[test]
fn ddim_with_eta_one_and_every_step_is_ddpm() {
    let config = SchedulerConfig { clip_sample: false, ..SchedulerConfig::default() };
    let ddpm = steps_of("ddpm", &config, 1000, 0.0).unwrap();
    let ddim = steps_of("ddim", &config, 1000, 1.0).unwrap();
    for (ddpm, ddim) in ddpm.iter().zip(&ddim) {
        let t = ddpm.timestep;
        assert_eq!(t, ddim.timestep);
        let (p, q) = (ddpm.coefficients, ddim.coefficients);
        assert!((p.sigma - q.sigma).abs() < 1e-13, "{t}: {} and {}", p.sigma, q.sigma);
        // Without clamping, both are linear in x_t and the output.
        let linear =
            |k: Coefficients| [k.x_prev[0] * k.x_0[0] + k.x_prev[1], k.x_prev[0] * k.x_0[1] + k.x_prev[2]];
        for (p, q) in linear(p).into_iter().zip(linear(q)) {
            assert!((p - q).abs() < 1e-9, "{t}: {p} and {q}");
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
        let mut x = -1.7;
        for step in steps_of(name, &config, steps, 0.0).unwrap() {
            let abar = schedule.alphas_cumprod(step.timestep);
            let eps = (x - abar.sqrt() * image) / (1.0 - abar).sqrt();
            let k = step.coefficients;
            let x_0 = (k.x_0[0] * x + k.x_0[1] * eps).clamp(-k.limit, k.limit);
            x = k.x_prev[0] * x_0 + k.x_prev[1] * x + k.x_prev[2] * eps + k.sigma * 0.3;
        }
        assert!((x - image).abs() < 1e-10, "{name}: {x}");
    }
}

#[test]
fn every_number_of_steps_has_finite_coefficients() {
    for spacing in [TimestepSpacing::Leading, TimestepSpacing::Trailing, TimestepSpacing::Linspace] {
        let config = SchedulerConfig {
            num_train_timesteps: 60,
            timestep_spacing: spacing,
            ..SchedulerConfig::default()
        };
        for steps in 1..=60 {
            for (name, eta) in [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 1.0)] {
                let found = steps_of(name, &config, steps, eta).unwrap();
                assert_eq!(found.len(), steps);
                for step in found {
                    let k = step.coefficients.to_array();
                    assert!(k.iter().all(|k| k.is_finite()), "{name}, {steps} steps: {k:?}");
                }
            }
        }
    }
}

#[test]
fn refuses_in_one_sentence() {
    let config = SchedulerConfig::default();
    let refused = |name: &str, steps, eta| steps_of(name, &config, steps, eta).unwrap_err().to_string();
    assert_eq!(refused("euler", 10, 0.0), "there is no sampler `euler`; the samplers are: ddpm, ddim");
    for name in ["ddpm", "ddim"] {
        assert_eq!(refused(name, 0, 0.0), "cannot sample in 0 steps: this model takes from 1 to 1000");
        assert_eq!(refused(name, 1001, 0.0), "cannot sample in 1001 steps: this model takes from 1 to 1000");
    }
    assert!(refused("ddim", 10, 1.5).starts_with("eta is 1.5; it must be from 0"));
    assert!(refused("ddim", 10, f64::NAN).starts_with("eta is NaN"));
    assert!(refused("ddpm", 10, 0.5).starts_with("the sampler `ddpm` takes no eta"));
}
