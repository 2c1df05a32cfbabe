//! An ODE solved by the Runge-Kutta pair of Dormand and Prince, with steps as long as the error allows.

use crate::diffusion::dormand_prince::{ERROR, NODES, STAGES};

/// How exactly to integrate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tolerance {
    /// Error allowed in a step, relative to the size of each number.
    pub(super) relative: f64,
    /// Error allowed in a step beside that.
    pub(super) absolute: f64,
}

/// No step is short enough.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "after {evaluations} evaluations of the network the ODE is {share:.0} % solved: its steps are too short to go on, \
     as where the rounding of the network's arithmetic is larger than the tolerance of {tolerance}; give a larger one"
)]
pub struct StepTooSmall {
    /// Evaluations of the slope.
    evaluations: usize,
    /// How far it is, in percent.
    share: f64,
    /// The tolerance.
    tolerance: f64,
}

/// Evaluations before it is given up: a hundred times as many as are usual.
const MOST_EVALUATIONS: usize = 30_000;

/// What an integration took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Evaluations of the slope.
    pub(super) evaluations: usize,
    /// Steps taken, without those that were too long.
    pub(super) steps: usize,
}

/// Integrates dy/dt = `slope(t, y)` from `start` to a later `end`, in steps whose error is within `tolerance` in the root
/// mean square, as scipy's RK45 chooses them; `progress` is called with the share that is done.
///
/// # Errors
/// What `slope` returns, and [`StepTooSmall`].
pub(super) async fn integrate<E: From<StepTooSmall>>(
    mut slope: impl AsyncFnMut(f64, &[f64]) -> Result<Vec<f64>, E>,
    [start, end]: [f64; 2],
    mut y: Vec<f64>,
    tolerance: Tolerance,
    mut progress: impl FnMut(f64),
) -> Result<(Vec<f64>, Count), E> {
    let mut count = Count::default();
    let mut t = start;
    let mut first = slope(t, &y).await?;
    count.evaluations += 1;
    // Hairer, Norsett and Wanner, section II.4: an Euler step that changes little.
    let size = |values: &[f64]| rms(values.iter().zip(&y).map(|(v, y)| v / scale(tolerance, *y, *y)));
    let mut h = (0.01 * size(&y) / size(&first).max(1e-10)).clamp(1e-6 * (end - start), 0.1 * (end - start));
    while t < end {
        h = h.min(end - t);
        let mut slopes = vec![first.clone()];
        let mut next = y.clone();
        for (row, node) in STAGES.iter().zip(NODES).skip(1) {
            next = combine(&y, h, row, &slopes);
            slopes.push(slope(t + node * h, &next).await?);
            count.evaluations += 1;
        }
        let error = combine(&vec![0.0; y.len()], h, &ERROR, &slopes);
        let pairs = error.iter().zip(y.iter().zip(&next));
        let error = rms(pairs.map(|(error, (y, next))| error / scale(tolerance, *y, *next)));
        let factor = 0.9 * error.max(1e-10).powf(-0.2);
        if error <= 1.0 {
            // The last stage of a step is the first of the next.
            t = if end - (t + h) <= 1e-12 * (end - start) { end } else { t + h };
            y = next;
            first = slopes.pop().unwrap_or_default();
            count.steps += 1;
            progress((t - start) / (end - start));
            h *= factor.clamp(0.2, 10.0);
        } else {
            // A slope that is not finite has no error to go by.
            h *= if error.is_finite() { factor.clamp(0.2, 1.0) } else { 0.2 };
        }
        if t < end && (h < 1e-12 * (end - start) || count.evaluations > MOST_EVALUATIONS) {
            let share = 100.0 * (t - start) / (end - start);
            return Err(StepTooSmall {
                evaluations: count.evaluations,
                share,
                tolerance: tolerance.relative,
            }
            .into());
        }
    }
    Ok((y, count))
}

fn scale(tolerance: Tolerance, y: f64, next: f64) -> f64 {
    tolerance.absolute + tolerance.relative * y.abs().max(next.abs())
}

fn rms(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for value in values {
        sum += value * value;
        count += 1.0;
    }
    f64::sqrt(sum / f64::max(count, 1.0))
}

/// y + h times the sum of `factors` times `slopes`.
fn combine(y: &[f64], h: f64, factors: &[f64], slopes: &[Vec<f64>]) -> Vec<f64> {
    let mut result = y.to_vec();
    for (&factor, slope) in factors.iter().zip(slopes).filter(|(factor, _)| **factor != 0.0) {
        for (result, slope) in result.iter_mut().zip(slope) {
            *result += h * factor * slope;
        }
    }
    result
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn oscillator(tolerance: f64) -> (f64, Count) {
        let slope = async |_: f64, y: &[f64]| Ok::<_, StepTooSmall>(vec![y[1], -y[0]]);
        let tolerance = Tolerance { relative: tolerance, absolute: tolerance };
        let run = integrate(slope, [0.0, 10.0], vec![1.0, 0.0], tolerance, |_| {});
        let (y, count) = pollster::block_on(run).unwrap();
        let off = (y[0] - 10.0f64.cos()).abs().max((y[1] + 10.0f64.sin()).abs());
        (off, count)
    }

    #[test]
    fn an_oscillator_keeps_to_the_tolerance() {
        for tolerance in [1e-4, 1e-6, 1e-9] {
            let (off, count) = oscillator(tolerance);
            assert!(off < 20.0 * tolerance, "{tolerance}: {off}");
            assert!(count.evaluations > 6 * count.steps, "{count:?}");
        }
    }

    #[test]
    fn a_slope_that_is_no_number_is_an_error() {
        let slope =
            async |t: f64, _: &[f64]| Ok::<_, StepTooSmall>(vec![if t > 0.5 { f64::NAN } else { 1.0 }]);
        let tolerance = Tolerance { relative: 1e-5, absolute: 1e-5 };
        let error =
            pollster::block_on(integrate(slope, [0.0, 1.0], vec![0.0], tolerance, |_| {})).unwrap_err();
        assert!((error.share - 50.0).abs() < 0.1, "{error}");
    }

    /// Noise in the slopes, as rounding in f32 makes, leaves an error that no step is short enough for.
    #[test]
    fn a_tolerance_below_the_noise_is_given_up_in_a_sentence() {
        let mut calls = 0u32;
        let slope = async |_: f64, y: &[f64]| {
            calls += 1;
            let noise = if calls.is_multiple_of(2) { 1e-6 } else { -1e-6 };
            Ok::<_, StepTooSmall>(vec![y[1] + noise, -y[0]])
        };
        let tolerance = Tolerance { relative: 1e-12, absolute: 1e-12 };
        let run = integrate(slope, [0.0, 10.0], vec![1.0, 0.0], tolerance, |_| {});
        let error = pollster::block_on(run).unwrap_err();
        assert!(error.evaluations <= MOST_EVALUATIONS + 10, "{error:?}");
        assert!(error.to_string().contains("tolerance of 0.000000000001; give a larger one"), "{error}");
    }

    /// Of order 5: a tenth of the steps' length costs a hundred-thousandth of the error.
    #[test]
    fn steps_grow_as_the_fifth_root_of_the_tolerance() {
        let [coarse, fine] = [1e-4, 1e-9].map(|tolerance| oscillator(tolerance).1.steps as f64);
        assert!((fine / coarse / 10.0 - 1.0).abs() < 0.3, "{coarse} and {fine} steps");
    }
}
