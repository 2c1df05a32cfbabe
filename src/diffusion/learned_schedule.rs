//! A noise schedule that is learned with the model (Kingma et al. 2021, "Variational Diffusion Models", appendices H and I).
//!
//! gamma(t) = -log SNR(t) for t from 0 to 1 is a monotone network with one hidden layer,
//!   g(t) = W t + sum over j of A_j sigmoid(U_j (t - c_j)),   W, A, U above 0 because their logarithms are the parameters,
//! shifted and scaled to fixed ends: gamma(t) = gamma_0 + (gamma_1 - gamma_0) (g(t) - g(0)) / (g(1) - g(0)). In continuous
//! time the variational bound is the mean over t of L = gamma'(t) e(gamma(t)) / 2, with e the squared error of eps.
//! That mean is the same for every schedule between the same ends (section 5.1). So the schedule minimises the
//! variance of L, and thus the mean of L^2.
//!
//! Unlike the paper, which differentiates through the network, this uses that e depends on the noise level alone: with
//! gamma in place of t, the mean of L^2 is the integral of gamma'(t(gamma)) e^2(gamma) / 4, in which the parameters enter by
//! gamma' alone. Its exact gradient is the mean over t of
//!   gamma' e^2 / 4 (d gamma' - gamma'' / gamma' d gamma),   d by the parameters at a fixed t.

use serde::{Deserialize, Serialize};

use super::{Schedule, ScheduleError};

/// Width of the hidden layer.
const HIDDEN: usize = 32;

/// Adam's learning rate and decays; the loss is divided by its own size, so that they suit any data.
const LEARNING_RATE: f64 = 3e-3;
const DECAYS: [f64; 2] = [0.9, 0.999];

/// A monotone network of the noise level, and where its training stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct LearnedSchedule {
    /// gamma at the first and the last timestep.
    ends: [f64; 2],
    timesteps: usize,
    /// log W, then log A_j, log U_j and c_j for each hidden unit.
    parameters: Vec<f64>,
    first_moment: Vec<f64>,
    second_moment: Vec<f64>,
    updates: u32,
}

/// A [`LearnedSchedule`] as a file has it, to be checked.
#[derive(Deserialize)]
struct Stored {
    ends: [f64; 2],
    timesteps: usize,
    parameters: Vec<f64>,
    first_moment: Vec<f64>,
    second_moment: Vec<f64>,
    updates: u32,
}

impl TryFrom<Stored> for LearnedSchedule {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Self, String> {
        let Stored { ends, timesteps, parameters, first_moment, second_moment, updates } = stored;
        let expected = 1 + 3 * HIDDEN;
        for (name, numbers) in
            [("parameters", &parameters), ("first_moment", &first_moment), ("second_moment", &second_moment)]
        {
            if numbers.len() != expected {
                return Err(format!(
                    "the learned noise schedule has {} numbers of {name}, expected {expected}",
                    numbers.len()
                ));
            }
        }
        if second_moment.iter().any(|&moment| moment < 0.0) {
            return Err("the learned noise schedule has a second_moment below 0".to_owned());
        }
        let learned = Self { ends, timesteps, parameters, first_moment, second_moment, updates };
        Schedule::check_length(timesteps)
            .and_then(|()| learned.schedule())
            .map_err(|error| format!("the learned noise schedule is none: {error}"))?;
        Ok(learned)
    }
}

/// A value with its derivatives by t, and the gradients of the value and of the first derivative by the parameters.
struct Point {
    value: f64,
    by_t: f64,
    by_t_twice: f64,
    d_value: Vec<f64>,
    d_by_t: Vec<f64>,
}

impl LearnedSchedule {
    /// A schedule with the ends and the number of timesteps of `range`, in between nearly a line in log SNR.
    pub fn new(range: &Schedule) -> Self {
        let gamma = |abar: f64| ((1.0 - abar) / abar).ln();
        let all = range.all_alphas_cumprod();
        let centre = |j: usize| (j as f64 + 0.5) / HIDDEN as f64;
        // Steps as wide as their distance, which add up to nearly a line.
        let unit = |j: usize| [(1.0 / HIDDEN as f64).ln(), (2.0 * HIDDEN as f64).ln(), centre(j)];
        let parameters: Vec<f64> = [0.0].into_iter().chain((0..HIDDEN).flat_map(unit)).collect();
        let zeros = vec![0.0; parameters.len()];
        Self {
            ends: [gamma(all[0]), gamma(all[all.len() - 1])],
            timesteps: all.len(),
            parameters,
            first_moment: zeros.clone(),
            second_moment: zeros,
            updates: 0,
        }
    }

    /// The schedule as it stands: alphas_cumprod\[i\] = sigmoid(-gamma(i / (T - 1))).
    ///
    /// # Errors
    /// [`ScheduleError`] for a range that f64 cannot tell from all or nothing.
    pub fn schedule(&self) -> Result<Schedule, ScheduleError> {
        let mut before = 1.0;
        let [first, last] = [0.0, 1.0].map(|t| self.hidden(t));
        let betas = (0..self.timesteps).map(|i| {
            let share = (self.hidden(self.time(i)) - first) / (last - first);
            let gamma = self.ends[0] + (self.ends[1] - self.ends[0]) * share;
            let alpha_cumprod = 1.0 / (1.0 + gamma.exp());
            let beta = 1.0 - alpha_cumprod / before;
            before = alpha_cumprod;
            beta
        });
        Schedule::new(betas.collect())
    }

    /// T, the number of timesteps.
    pub fn num_train_timesteps(&self) -> usize {
        self.timesteps
    }

    /// Takes a step of Adam towards less variance, from the squared errors of eps `[N]` of images at `timesteps` `[N]`,
    /// which were drawn uniformly. What is no finite number is left out.
    pub fn update(&mut self, timesteps: &[usize], squared_errors: &[f64]) {
        let (mut loss, mut gradient) = (0.0, vec![0.0; self.parameters.len()]);
        for (&timestep, &error) in timesteps.iter().zip(squared_errors).filter(|(_, error)| error.is_finite())
        {
            let point = self.gamma(self.time(timestep));
            loss += (point.by_t * error).powi(2);
            let factor = point.by_t * error.powi(2);
            let ratio = point.by_t_twice / point.by_t;
            for (sum, (by_t, value)) in gradient.iter_mut().zip(point.d_by_t.iter().zip(&point.d_value)) {
                *sum += factor * (by_t - ratio * value);
            }
        }
        if loss <= 0.0 || !loss.is_finite() {
            return;
        }
        self.updates += 1;
        let corrections = DECAYS.map(|decay| 1.0 - decay.powf(f64::from(self.updates)));
        for (index, d) in gradient.iter().map(|d| d / loss).enumerate() {
            let (first, second) = (&mut self.first_moment[index], &mut self.second_moment[index]);
            *first = DECAYS[0] * *first + (1.0 - DECAYS[0]) * d;
            *second = DECAYS[1] * *second + (1.0 - DECAYS[1]) * d * d;
            let root = (*second / corrections[1]).sqrt() + 1e-8;
            self.parameters[index] -= LEARNING_RATE * (*first / corrections[0]) / root;
        }
    }

    /// t of a timestep, 0 to 1.
    fn time(&self, timestep: usize) -> f64 {
        timestep as f64 / (self.timesteps - 1).max(1) as f64
    }

    /// g(t).
    fn hidden(&self, t: f64) -> f64 {
        let units = self.parameters[1..].chunks_exact(3);
        let unit = |p: &[f64]| p[0].exp() / (1.0 + (-p[1].exp() * (t - p[2])).exp());
        self.parameters[0].exp() * t + units.map(unit).sum::<f64>()
    }

    /// g(t) with all derivatives.
    fn hidden_point(&self, t: f64) -> Point {
        let slope = self.parameters[0].exp();
        let mut point = Point {
            value: slope * t,
            by_t: slope,
            by_t_twice: 0.0,
            d_value: vec![slope * t],
            d_by_t: vec![slope],
        };
        for p in self.parameters[1..].chunks_exact(3) {
            let (height, steepness) = (p[0].exp(), p[1].exp());
            let z = steepness * (t - p[2]);
            let s = 1.0 / (1.0 + (-z).exp());
            let s1 = s * (1.0 - s);
            let s2 = s1 * (1.0 - 2.0 * s);
            point.value += height * s;
            point.by_t += height * steepness * s1;
            point.by_t_twice += height * steepness * steepness * s2;
            point.d_value.extend([height * s, height * s1 * z, -height * s1 * steepness]);
            point.d_by_t.extend([
                height * steepness * s1,
                height * steepness * (s1 + s2 * z),
                -height * steepness * steepness * s2,
            ]);
        }
        point
    }

    /// gamma(t) with all derivatives.
    fn gamma(&self, t: f64) -> Point {
        let [first, last, mut point] = [0.0, 1.0, t].map(|t| self.hidden_point(t));
        let range = last.value - first.value;
        let scale = (self.ends[1] - self.ends[0]) / range;
        let share = (point.value - first.value) / range;
        for (index, (first, last)) in first.d_value.iter().zip(&last.d_value).enumerate() {
            let d_range = last - first;
            point.d_value[index] = scale * (point.d_value[index] - first - share * d_range);
            point.d_by_t[index] = scale * (point.d_by_t[index] - point.by_t * d_range / range);
        }
        point.value = self.ends[0] + (self.ends[1] - self.ends[0]) * share;
        point.by_t *= scale;
        point.by_t_twice *= scale;
        point
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::diffusion::BetaSchedule;

    fn fresh() -> LearnedSchedule {
        LearnedSchedule::new(&Schedule::new(BetaSchedule::Linear.betas(1000, 1e-4, 0.02)).unwrap())
    }

    /// A network's squared error of eps by noise level: all of it is missed in a clean image, nothing in noise.
    fn error(gamma: f64) -> f64 {
        0.95 / (1.0 + (0.8 * gamma + 1.0).exp()) + 0.01
    }

    /// The mean of L^2, by a fine sum over t.
    fn second_moment(learned: &LearnedSchedule) -> f64 {
        let count = 20_000;
        let at = |i: usize| {
            let point = learned.gamma((i as f64 + 0.5) / count as f64);
            (point.by_t * error(point.value)).powi(2)
        };
        (0..count).map(at).sum::<f64>() / count as f64
    }

    #[test]
    fn the_gradient_is_that_of_differences() {
        let mut learned = fresh();
        // Away from the symmetric start.
        for (index, parameter) in learned.parameters.iter_mut().enumerate() {
            *parameter += 0.3 * (index as f64 * 1.7).sin();
        }
        let count = 20_000;
        let mut gradient = vec![0.0; learned.parameters.len()];
        for i in 0..count {
            let point = learned.gamma((i as f64 + 0.5) / count as f64);
            let factor = point.by_t * error(point.value).powi(2) / count as f64;
            let ratio = point.by_t_twice / point.by_t;
            for (sum, (by_t, value)) in gradient.iter_mut().zip(point.d_by_t.iter().zip(&point.d_value)) {
                *sum += factor * (by_t - ratio * value);
            }
        }
        let scale = gradient.iter().fold(0.0, |largest: f64, d| largest.max(d.abs()));
        for index in [0, 1, 2, 3, 40, 41, 42, 94, 95, 96] {
            let step = 1e-5;
            let at = |by: f64| {
                let mut moved = learned.clone();
                moved.parameters[index] += by;
                second_moment(&moved)
            };
            let expected = (at(step) - at(-step)) / (2.0 * step);
            let off = (gradient[index] - expected).abs() / scale;
            assert!(off < 1e-4, "{index}: {}, expected {expected}", gradient[index]);
        }
    }

    /// The least second moment there is has L constant: it is the squared integral of e over gamma.
    #[test]
    fn learning_evens_out_the_terms_of_the_bound() {
        let mut learned = fresh();
        let before = second_moment(&learned);
        let [first, last] = learned.ends;
        let count = 100_000;
        let width = (last - first) / f64::from(count);
        let least =
            (0..count).map(|i| error(first + (f64::from(i) + 0.5) * width) * width).sum::<f64>().powi(2);
        for round in 0..3000usize {
            let timesteps: Vec<usize> = (0..64).map(|n| (n * 15 + round * 7) % 1000).collect();
            let errors: Vec<f64> =
                timesteps.iter().map(|&t| error(learned.gamma(learned.time(t)).value)).collect();
            learned.update(&timesteps, &errors);
        }
        let after = second_moment(&learned);
        assert!(
            after < 1.05 * least && before > 1.3 * least,
            "{before} became {after}, the least is {least}"
        );
        assert!(after >= 0.999 * least, "{after} is below the least, {least}");
    }

    #[test]
    fn it_is_a_schedule_with_the_ends_of_its_range() {
        let range = Schedule::new(BetaSchedule::Linear.betas(1000, 1e-4, 0.02)).unwrap();
        let mut learned = LearnedSchedule::new(&range);
        learned.update(&[3, 700, 999], &[0.9, f64::NAN, 0.1]);
        let schedule = learned.schedule().unwrap();
        for t in [0, 999] {
            assert!((schedule.alphas_cumprod(t) / range.alphas_cumprod(t) - 1.0).abs() < 1e-9, "{t}");
        }
        let again: LearnedSchedule = serde_json::from_value(serde_json::to_value(&learned).unwrap()).unwrap();
        assert_eq!(again, learned);
    }

    #[test]
    fn a_file_with_a_number_missing_or_wrong_is_refused_by_name() {
        let whole = serde_json::to_value(fresh()).unwrap();
        for key in ["parameters", "first_moment", "second_moment"] {
            let mut value = whole.clone();
            value[key].as_array_mut().unwrap().remove(40);
            let message = serde_json::from_value::<LearnedSchedule>(value).unwrap_err().to_string();
            assert!(
                message.contains(key) && message.contains("96 numbers") && message.contains("97"),
                "{message}"
            );
        }
        for (key, wrong) in [
            ("timesteps", serde_json::json!(0)),
            ("timesteps", serde_json::json!(1u64 << 40)),
            ("ends", serde_json::json!([10.0, -10.0])),
            ("updates", serde_json::json!(null)),
            ("second_moment", serde_json::json!(vec![-1.0; 97])),
        ] {
            let mut value = whole.clone();
            value[key] = wrong;
            assert!(serde_json::from_value::<LearnedSchedule>(value).is_err(), "{key}");
        }
    }
}
