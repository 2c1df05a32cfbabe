//! Which timesteps the images of a batch are noised to.

use serde::{Deserialize, Serialize};

use crate::network::{Tensor, Tensors};
use crate::random::{Numbering, Purpose, Stream};

/// The numbers that the step after `done` steps draws. The generator counts steps in 32 bits; a run of four billion steps
/// repeats its noise.
pub(super) fn stream(numbering: Numbering, seed: u64, done: u64) -> Stream {
    Stream { seed, step: done as u32, stream: numbering.stream(Purpose::Timesteps), sample: 0 }
}

/// How timesteps are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimestepSampling {
    /// Each by itself, all equally likely (Ho et al. 2020, algorithm 1).
    #[default]
    Uniform,
    /// In proportion to the root of the loss's second moment, which is learned along the way (Nichol and Dhariwal 2021,
    /// equation 18).
    Importance,
    /// Evenly spread over the batch, from one random number (Kingma et al. 2021, appendix I.1).
    LowDiscrepancy,
}

impl TimestepSampling {
    /// Every way with its name on the command line.
    pub const ALL: [(&'static str, Self); 3] = [
        ("uniform", Self::Uniform),
        ("importance", Self::Importance),
        ("low-discrepancy", Self::LowDiscrepancy),
    ];
}

/// Losses that are remembered of each timestep.
const HISTORY: usize = 10;

/// Share of the timesteps that stays uniform, so that none is forgotten.
const UNIFORM_SHARE: f64 = 0.001;

/// Timesteps drawn in proportion to the root mean square of their last ten losses, as improved-diffusion's
/// `LossSecondMomentResampler`: uniformly until every timestep has ten.
#[derive(Clone, Debug, PartialEq)]
pub struct LossSecondMoments {
    /// The last losses of each timestep, the oldest first.
    history: Vec<Vec<f32>>,
}

impl LossSecondMoments {
    /// No losses yet of any of `timesteps`.
    pub fn new(timesteps: usize) -> Self {
        Self { history: vec![Vec::new(); timesteps] }
    }

    /// Whether every timestep has its ten losses.
    pub fn is_warm(&self) -> bool {
        self.history.iter().all(|losses| losses.len() == HISTORY)
    }

    /// How likely each timestep is `[T]`; the sum is 1.
    pub fn probabilities(&self) -> Vec<f64> {
        let count = self.history.len() as f64;
        if !self.is_warm() {
            return vec![1.0 / count; self.history.len()];
        }
        let mean_square = |losses: &Vec<f32>| {
            losses.iter().map(|&loss| f64::from(loss).powi(2)).sum::<f64>() / HISTORY as f64
        };
        let roots: Vec<f64> = self.history.iter().map(|losses| mean_square(losses).sqrt()).collect();
        let sum: f64 = roots.iter().sum();
        if sum == 0.0 {
            return vec![1.0 / count; self.history.len()];
        }
        roots.iter().map(|root| (1.0 - UNIFORM_SHARE) * root / sum + UNIFORM_SHARE / count).collect()
    }

    /// Remembers what images at `timesteps` contributed; what is no finite number is left out.
    pub fn update(&mut self, timesteps: &[usize], losses: &[f64]) {
        for (&t, &loss) in timesteps.iter().zip(losses) {
            let loss = loss as f32;
            if !loss.is_finite() {
                continue;
            }
            let history = &mut self.history[t];
            if history.len() == HISTORY {
                history.remove(0);
            }
            history.push(loss);
        }
    }

    /// For a checkpoint: `history` `[T, 10]`, and `counts` `[T]` of the losses that there are.
    pub fn to_tensors(&self) -> Tensors {
        let timesteps = self.history.len();
        let mut history = vec![0.0; timesteps * HISTORY];
        for (row, losses) in history.chunks_exact_mut(HISTORY).zip(&self.history) {
            row[..losses.len()].copy_from_slice(losses);
        }
        let counts = self.history.iter().map(|losses| losses.len() as f32).collect();
        Tensors::from([
            ("history".to_owned(), Tensor { shape: vec![timesteps, HISTORY], data: history }),
            ("counts".to_owned(), Tensor { shape: vec![timesteps], data: counts }),
        ])
    }

    /// What [`LossSecondMoments::to_tensors`] gave, for as many timesteps; `None` for anything else.
    pub fn from_tensors(tensors: &Tensors, timesteps: usize) -> Option<Self> {
        let (history, counts) = (tensors.get("history")?, tensors.get("counts")?);
        if history.shape != [timesteps, HISTORY] || counts.shape != [timesteps] {
            return None;
        }
        let rows = history.data.chunks_exact(HISTORY).zip(&counts.data);
        Some(Self {
            history: rows.map(|(row, &count)| row[..HISTORY.min(count as usize)].to_vec()).collect(),
        })
    }
}

/// Draws `count` timesteps of `timesteps`, image n's from sample n of `stream`; and how much each counts, so that weighted
/// means are those of uniform timesteps. `moments` is for [`TimestepSampling::Importance`].
pub(super) fn draw(
    sampling: TimestepSampling,
    moments: Option<&LossSecondMoments>,
    timesteps: usize,
    count: usize,
    stream: Stream,
) -> (Vec<usize>, Vec<f64>) {
    let uniform = |n: usize| f64::from(Stream { sample: n as u32, ..stream }.uniform(0));
    let at = |u: f64| ((u * timesteps as f64) as usize).min(timesteps - 1);
    match (sampling, moments) {
        (TimestepSampling::LowDiscrepancy, _) => {
            let first = uniform(0);
            let spread = (0..count).map(|n| (first + n as f64 / count as f64).fract());
            (spread.map(at).collect(), vec![1.0; count])
        }
        (TimestepSampling::Importance, Some(moments)) => {
            let probabilities = moments.probabilities();
            let mut sum = 0.0;
            let cumulative: Vec<f64> = probabilities
                .iter()
                .map(|probability| {
                    sum += probability;
                    sum
                })
                .collect();
            let drawn: Vec<usize> = (0..count)
                .map(|n| cumulative.partition_point(|&below| below <= uniform(n) * sum).min(timesteps - 1))
                .collect();
            let weights = drawn.iter().map(|&t| 1.0 / (timesteps as f64 * probabilities[t])).collect();
            (drawn, weights)
        }
        _ => ((0..count).map(|n| at(uniform(n))).collect(), vec![1.0; count]),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const STREAM: Stream = Stream { seed: 11, step: 3, stream: Purpose::Timesteps.node(0), sample: 0 };

    /// Losses that differ by timestep and by time, enough for every timestep.
    fn warm(timesteps: usize) -> LossSecondMoments {
        let mut moments = LossSecondMoments::new(timesteps);
        for round in 0..12 {
            assert_eq!(moments.is_warm(), round >= HISTORY);
            for t in 0..timesteps {
                moments.update(&[t], &[(1.0 + t as f64) * (1.0 + 0.1 * round as f64)]);
            }
        }
        moments
    }

    #[test]
    fn images_count_so_that_means_are_those_of_uniform_timesteps() {
        let moments = warm(7);
        // The mean of f over uniform timesteps, estimated from importance sampling.
        let f = |t: usize| (t as f64 - 2.5).powi(2);
        let expected = (0..7).map(f).sum::<f64>() / 7.0;
        let count = 200_000;
        let (drawn, weights) = draw(TimestepSampling::Importance, Some(&moments), 7, count, STREAM);
        let found = drawn.iter().zip(&weights).map(|(&t, weight)| f(t) * weight).sum::<f64>() / count as f64;
        assert!((found - expected).abs() < 0.05, "{found}, expected {expected}");
        for (t, probability) in moments.probabilities().iter().enumerate() {
            let share = drawn.iter().filter(|&&drawn| drawn == t).count() as f64 / count as f64;
            assert!((share - probability).abs() < 0.005, "{t}: {share}, expected {probability}");
        }
    }

    #[test]
    fn the_first_draws_are_uniform_and_count_one() {
        let mut moments = LossSecondMoments::new(5);
        moments.update(&[0, 0, 3], &[9.0, 4.0, f64::NAN]);
        let importance = draw(TimestepSampling::Importance, Some(&moments), 5, 64, STREAM);
        assert!(importance.1.iter().all(|&weight| (weight - 1.0).abs() < 1e-12));
        assert_eq!(moments.history, [vec![9.0, 4.0], vec![], vec![], vec![], vec![]]);
        assert_eq!(moments.probabilities(), [0.2; 5]);
    }

    #[test]
    fn low_discrepancy_fills_every_stratum() {
        let (drawn, weights) = draw(TimestepSampling::LowDiscrepancy, None, 1000, 50, STREAM);
        let mut strata: Vec<usize> = drawn.iter().map(|t| t / 20).collect();
        strata.sort_unstable();
        assert_eq!(strata, (0..50).collect::<Vec<_>>());
        assert_eq!(weights, [1.0; 50]);
    }

    #[test]
    fn a_checkpoint_holds_all_of_it() {
        let mut moments = warm(4);
        moments.update(&[2], &[0.1]);
        assert_eq!(LossSecondMoments::from_tensors(&moments.to_tensors(), 4), Some(moments.clone()));
        assert_eq!(LossSecondMoments::from_tensors(&moments.to_tensors(), 5), None);
        let fresh = LossSecondMoments::new(4);
        assert_eq!(LossSecondMoments::from_tensors(&fresh.to_tensors(), 4), Some(fresh));
    }
}
