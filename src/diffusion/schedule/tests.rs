#![allow(clippy::unwrap_used)]

use super::*;

fn schedule(kind: BetaSchedule) -> Schedule {
    Schedule::new(kind.betas(1000, 1e-4, 0.02)).unwrap()
}

#[test]
fn names_are_read_back() {
    for &kind in BetaSchedule::ALL {
        assert_eq!(kind.name().parse(), Ok(kind));
        let serde_name = serde_json::to_value(kind).unwrap();
        assert_eq!(serde_name.as_str().unwrap().parse(), Ok(kind));
    }
    let message = "cosin".parse::<BetaSchedule>().unwrap_err().to_string();
    assert!(message.contains("`cosin`") && message.contains("scaled_linear"), "{message}");
}

#[test]
fn ends_are_those_asked_for() {
    for kind in [BetaSchedule::Linear, BetaSchedule::ScaledLinear] {
        let betas = kind.betas(1000, 1e-4, 0.02);
        assert!((betas[0] - 1e-4).abs() < 1e-18 && (betas[999] - 0.02).abs() < 1e-16, "{kind:?}");
    }
    for &kind in BetaSchedule::ALL {
        assert_eq!(kind.betas(1, 1e-4, 0.02).len(), 1);
        assert!(Schedule::new(kind.betas(1, 1e-4, 0.02)).is_ok(), "{kind:?}");
    }
}

/// Nichol and Dhariwal's alpha-bar in closed form, up to where betas are clipped.
#[test]
fn cosine_products_telescope() {
    let schedule = schedule(BetaSchedule::SquaredcosCapV2);
    let f = |u: f64| ((u + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
    for t in 0..999 {
        let expected = f((t + 1) as f64 / 1000.0) / f(0.0);
        let found = schedule.alphas_cumprod(t);
        assert!((found - expected).abs() < 1e-13, "{t}: {found} instead of {expected}");
    }
    assert_eq!(schedule.betas()[999], 0.999);
}

/// Bayes' rule on scalars: prior x_s ~ N(sqrt(abar_s) x_0, 1 - abar_s), likelihood x_t ~ N(sqrt(a) x_s, 1 - a).
#[test]
fn posterior_follows_from_bayes() {
    let schedule = schedule(BetaSchedule::Linear);
    let (x_start, x_t) = (0.6, -1.3);
    for (t, s) in [(1, 0), (10, 9), (500, 400), (999, 998), (999, 0)] {
        let (abar_t, abar_s) = (schedule.alphas_cumprod(t), schedule.alphas_cumprod(s));
        let a = abar_t / abar_s;
        let precision = 1.0 / (1.0 - abar_s) + a / (1.0 - a);
        let mean = (abar_s.sqrt() * x_start / (1.0 - abar_s) + a.sqrt() * x_t / (1.0 - a)) / precision;

        let posterior = Posterior::between(abar_t, abar_s);
        let found = posterior.mean_of_x_start * x_start + posterior.mean_of_x_t * x_t;
        assert!((found - mean).abs() < 1e-10, "{t} from {s}: mean {found} instead of {mean}");
        let relative = (posterior.variance * precision - 1.0).abs();
        assert!(relative < 1e-10, "{t} from {s}: variance off by {relative}");
        if s + 1 == t {
            assert_eq!(schedule.posterior(t), posterior);
            assert!((posterior.beta - schedule.betas()[t]).abs() < 1e-14);
        }
    }
}

#[test]
fn the_first_posterior_is_the_image() {
    let first = schedule(BetaSchedule::Linear).posterior(0);
    assert_eq!((first.mean_of_x_start, first.mean_of_x_t, first.variance), (1.0, 0.0, 0.0));
}

#[test]
fn q_sample_keeps_the_variance() {
    let schedule = schedule(BetaSchedule::Sigmoid);
    for t in [0, 17, 999] {
        let [signal, noise, of_x, of_eps] = schedule.q_sample_coefficients(t, PredictionType::VPrediction);
        assert!((signal.powi(2) + noise.powi(2) - 1.0).abs() < 1e-14);
        assert_eq!((of_x, of_eps), (-noise, signal));
    }
}

#[test]
fn refuses_betas_that_make_no_schedule() {
    assert_eq!(Schedule::new(vec![]), Err(ScheduleError::Length(0)));
    for beta in [0.0, 1.0, -0.1, f64::INFINITY, 1e-300] {
        assert!(Schedule::new(vec![0.5, beta, 0.5]).is_ok() == (beta == 1e-300), "{beta}");
    }
    // Only the last may be 1, and there must be an image before it.
    assert!(Schedule::new(vec![0.5, 1.0]).is_ok());
    assert_eq!(Schedule::new(vec![1.0]), Err(ScheduleError::Beta { t: 0, beta: 1.0 }));
    assert!(Schedule::new(vec![f64::NAN]).is_err());
    // A first beta too small for 1 - beta to notice would divide by zero later.
    assert!(matches!(Schedule::new(vec![1e-300]), Err(ScheduleError::AlphaCumprod { t: 0, .. })));
    assert!(matches!(Schedule::new(vec![0.999; 1000]), Err(ScheduleError::AlphaCumprod { .. })));
}

/// Lin et al. 2023, algorithm 1: the first timestep stays as noisy as it was, the last has nothing left of the image.
#[test]
fn rescaled_betas_end_without_any_signal() {
    for &kind in BetaSchedule::ALL {
        let betas = kind.betas(1000, 1e-4, 0.02);
        let rescaled = Schedule::new(rescale_betas_zero_snr(&betas)).unwrap();
        assert!(rescaled.has_zero_terminal_snr() && !schedule(kind).has_zero_terminal_snr(), "{kind:?}");
        assert!((rescaled.alphas_cumprod(0) - schedule(kind).alphas_cumprod(0)).abs() < 1e-14, "{kind:?}");
        let last = rescaled.posterior(999);
        assert!((last.beta, last.mean_of_x_t) == (1.0, 0.0) && last.variance > 0.0, "{kind:?}: {last:?}");
        // What the network says at the last timestep is all there is to know of the image.
        for (prediction_type, factors) in
            [(PredictionType::VPrediction, [0.0, -1.0]), (PredictionType::Sample, [0.0, 1.0])]
        {
            assert_eq!(prediction_type.x_start_factors(0.0), factors);
            assert!(prediction_type.eps_factors(0.0).iter().all(|factor| factor.is_finite()));
            let k = rescaled.vlb_coefficients(999, prediction_type, VarianceType::LearnedRange).to_array();
            assert!(k.iter().all(|k| k.is_finite()), "{k:?}");
        }
    }
    assert_eq!(rescale_betas_zero_snr(&[0.3]), [1.0]);
}

/// A term of the bound in closed form: the posterior and the model as two normal distributions of a number.
#[test]
fn terms_of_the_bound_are_divergences_of_normal_distributions() {
    let schedule = schedule(BetaSchedule::Linear);
    let (x_start, eps, output) = (0.3, -0.8, 0.1);
    for t in [1, 40, 999] {
        for prediction_type in [PredictionType::Epsilon, PredictionType::Sample, PredictionType::VPrediction]
        {
            let abar = schedule.alphas_cumprod(t);
            let x_t = abar.sqrt() * x_start + (1.0 - abar).sqrt() * eps;
            let [of_x_t, of_output] = prediction_type.x_start_factors(abar);
            let posterior = schedule.posterior(t);
            let mean = |x_start: f64| posterior.mean_of_x_start * x_start + posterior.mean_of_x_t * x_t;
            let (p, q) = (mean(of_x_t * x_t + of_output * output), mean(x_start));
            let [of_x, of_eps] = prediction_type.target_factors(abar);
            let truth = of_x * x_start + of_eps * eps;
            for (variance_type, variance) in [
                (VarianceType::FixedSmall, posterior.variance),
                (VarianceType::FixedLarge, posterior.beta),
                (VarianceType::LearnedRange, posterior.variance.powf(0.7) * posterior.beta.powf(0.3)),
            ] {
                let expected = 0.5 * (variance / posterior.variance).ln()
                    + (posterior.variance + (q - p).powi(2)) / (2.0 * variance)
                    - 0.5;
                let k = schedule.vlb_coefficients(t, prediction_type, variance_type);
                let difference = k.mean_of_output * (truth - output);
                // 0.3 of the way from -1 to 1.
                let found = k.term(x_start, difference, k.log_variance_of(Some(-0.4))).nats;
                let off = (found - expected).abs() / expected.max(1e-9);
                assert!(
                    off < 1e-6,
                    "{t} {prediction_type:?} {variance_type:?}: {found}, expected {expected}"
                );
            }
        }
    }
}
