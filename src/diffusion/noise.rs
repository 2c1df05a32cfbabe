//! Levels of noise: how much of the image and how much noise is in x_t, at whole timesteps and between them.

use super::Schedule;

/// The factors in x_t = signal x_0 + noise eps (Ho et al. 2020, equation 4); their squares add up to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mixing {
    /// The factor of x_0.
    pub signal: f64,
    /// The factor of eps.
    pub noise: f64,
}

impl Mixing {
    /// Where the share `alpha_cumprod` of the image's variance is left.
    pub fn at(alpha_cumprod: f64) -> Self {
        Self { signal: alpha_cumprod.sqrt(), noise: (1.0 - alpha_cumprod).sqrt() }
    }

    /// x_t, element by element.
    pub fn mix(self, x_start: &[f32], eps: &[f32]) -> Vec<f32> {
        let mix =
            |(x, eps): (&f32, &f32)| (self.signal * f64::from(*x) + self.noise * f64::from(*eps)) as f32;
        x_start.iter().zip(eps).map(mix).collect()
    }

    /// One row of the `coefficients` of [`q_sample`](crate::ops::q_sample::q_sample), with the factors of x_0 and eps in
    /// what the network is to say; zeros where nothing is asked of it.
    pub fn q_sample_row(self, target: [f64; 2]) -> [f64; 4] {
        [self.signal, self.noise, target[0], target[1]]
    }
}

/// The process between its training timesteps: log(noise / signal) lies on straight lines there, as in k-diffusion.
#[derive(Clone, Debug)]
pub struct NoiseCurve {
    /// log(noise / signal) by training timestep `[T]`, rising.
    log_ratios: Vec<f64>,
}

impl NoiseCurve {
    /// The curve through the timesteps of a schedule.
    ///
    /// Where nothing of the image is left at the last one, the curve ends at [`Schedule::visible_alphas_cumprod`]. Timesteps
    /// just before it may have less left than that: the curve leads past them, so that it always rises.
    pub fn new(schedule: &Schedule) -> Self {
        let log_ratio = |t: usize| {
            let alpha_cumprod = schedule.visible_alphas_cumprod(t);
            ((1.0 - alpha_cumprod) / alpha_cumprod).ln() / 2.0
        };
        let mut log_ratios: Vec<f64> = (0..schedule.num_train_timesteps()).map(log_ratio).collect();
        let last = log_ratios.len() - 1;
        if let Some(first) = (1..last).find(|&t| log_ratios[t] >= log_ratios[last]) {
            let (from, to) = (log_ratios[first - 1], log_ratios[last]);
            let count = (last + 1 - first) as f64;
            for (index, log_ratio) in log_ratios[first..last].iter_mut().enumerate() {
                *log_ratio = from + (index + 1) as f64 / count * (to - from);
            }
        }
        Self { log_ratios }
    }

    /// log(noise / signal) of the first and of the last training timestep.
    pub fn ends(&self) -> [f64; 2] {
        [self.log_ratios[0], self.log_ratios[self.log_ratios.len() - 1]]
    }

    /// A timestep, or the nearest one from 0 to T - 1.
    pub fn clamp(&self, timestep: f64) -> f64 {
        timestep.clamp(0.0, (self.log_ratios.len() - 1) as f64)
    }

    /// log(noise / signal) at a timestep, whole or not, from 0 to T - 1.
    pub fn log_ratio(&self, timestep: f64) -> f64 {
        let last = self.log_ratios.len() - 1;
        let timestep = self.clamp(timestep);
        let low = (timestep.floor() as usize).min(last.saturating_sub(1));
        let high = (low + 1).min(last);
        let share = timestep - low as f64;
        self.log_ratios[low] + share * (self.log_ratios[high] - self.log_ratios[low])
    }

    /// The timestep, whole or not, at which log(noise / signal) has this value; the nearest one outside of the schedule.
    pub fn timestep(&self, log_ratio: f64) -> f64 {
        // The number of timesteps with no more noise.
        match self.log_ratios.partition_point(|&lower| lower <= log_ratio) {
            0 => 0.0,
            high if high == self.log_ratios.len() => (high - 1) as f64,
            high => {
                let (low, up) = (self.log_ratios[high - 1], self.log_ratios[high]);
                (high - 1) as f64 + (log_ratio - low) / (up - low)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::diffusion::{BetaSchedule, rescale_betas_zero_snr};

    fn schedules() -> Vec<Schedule> {
        let of_kind = |(&kind, steps): (&BetaSchedule, usize)| {
            // As much noise as the usual thousand steps have, however many there are.
            let scale = 1000.0 / steps as f64;
            let betas = kind.betas(steps, 1e-4 * scale, 0.02 * scale);
            let rescaled = rescale_betas_zero_snr(&betas);
            [betas, rescaled].map(|betas| Schedule::new(betas).unwrap())
        };
        let kinds = BetaSchedule::ALL.iter().flat_map(|kind| [50, 1000, 100_000].map(|steps| (kind, steps)));
        kinds.flat_map(of_kind).collect()
    }

    #[test]
    fn images_and_noise_are_mixed_with_variance_one() {
        for abar in [1.0, 0.9999, 0.3, 0.0] {
            let mixing = Mixing::at(abar);
            assert!((mixing.signal.powi(2) + mixing.noise.powi(2) - 1.0).abs() < 1e-15);
            let expected = abar.sqrt() * 0.25 - (1.0 - abar).sqrt() * 1.5;
            assert_eq!(mixing.mix(&[0.25, 0.0], &[-1.5, 0.0]), [expected as f32, 0.0]);
        }
    }

    /// Also where nothing of the image is left at the last timestep: the curve rises there too, and ends at a number.
    #[test]
    fn the_curve_goes_through_the_timesteps_and_rises() {
        for schedule in schedules() {
            let curve = NoiseCurve::new(&schedule);
            let last = schedule.num_train_timesteps() - 1;
            assert_eq!(curve.ends(), [curve.log_ratio(0.0), curve.log_ratio(last as f64)]);
            for t in (0..last).step_by(1 + last / 500).chain([last - 1, last]) {
                let abar = schedule.alphas_cumprod(t);
                let found = curve.log_ratio(t as f64);
                if !schedule.has_zero_terminal_snr() || abar > 0.5f64.powi(24) {
                    let expected = ((1.0 - abar) / abar).ln() / 2.0;
                    assert!((found - expected).abs() < 1e-12, "{t}: {found}, expected {expected}");
                }
                assert!(
                    found.is_finite() && (t == 0 || found > curve.log_ratio(t as f64 - 1.0)),
                    "{t}: {found}"
                );
                for timestep in [t as f64, (t as f64 + 0.3).min(last as f64)] {
                    let found = curve.timestep(curve.log_ratio(timestep));
                    assert!((found - timestep).abs() < 1e-6, "{timestep}: {found}");
                }
            }
            assert_eq!(curve.timestep(f64::INFINITY), last as f64);
            assert_eq!(curve.timestep(f64::NEG_INFINITY), 0.0);
        }
    }

    /// diffusers puts 2^-24 in the place of 0, "so first sigma is not inf"
    /// (`EulerDiscreteScheduler`, `DPMSolverMultistepScheduler`, `UniPCMultistepScheduler`).
    #[test]
    fn nothing_left_of_the_image_is_seen_as_what_diffusers_leaves() {
        let betas = rescale_betas_zero_snr(&BetaSchedule::Linear.betas(1000, 1e-4, 0.02));
        let schedule = Schedule::new(betas).unwrap();
        let left = 0.5f64.powi(24);
        assert_eq!((schedule.alphas_cumprod(999), schedule.visible_alphas_cumprod(999)), (0.0, left));
        let [_, end] = NoiseCurve::new(&schedule).ends();
        assert!((end - ((1.0 - left) / left).ln() / 2.0).abs() < 1e-15);
        for t in 0..999 {
            assert_eq!(schedule.visible_alphas_cumprod(t), schedule.alphas_cumprod(t));
        }
    }
}
