//! How much work goes into one submission.
//!
//! An operating system takes a submission that does not end for a hang, and resets the GPU: Windows after 2 seconds, Linux's
//! drivers after a few. A training step is more than that on a slow card. So a run is cut into submissions of about
//! [`TARGET`] each, far below any limit and far above the cost of submitting.
//!
//! What a submission will take is foretold by the work of its dispatches, at a rate that is measured: the first runs of an
//! executor wait for each of their submissions, and look at the clock. That is the host's clock and not the device's
//! timestamps. A limit counts from submission to end, and so does the host; timestamps leave out what lies between
//! kernels, not every adapter has them, and reading them takes submissions of its own. Later runs neither wait nor measure:
//! their cuts stay. Where they are does not change a result, since the order of the dispatches is the same.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::ops::Cost;

/// Seconds that a submission should take.
const TARGET: f64 = 0.05;

/// Work of a plan's first submission, when its speed is unknown: half a second for the slowest kernel on the slowest GPU known.
const FIRST_BUDGET: f64 = 0.5e9;

/// From one measured submission to the next, the budget grows at most by this: a rate holds for calls of about that size.
const GROWTH: f64 = 4.0;

/// Runs that are measured. In the first, drivers still compile; the second one counts.
const MEASURED_RUNS: u32 = 2;

/// Shorter submissions say little about the rate of the kernels in them.
const TELLING: f64 = TARGET / 4.0;

/// The slowest kernels of a run decide about the budget, down to this share of what the run as a whole would allow.
const LEAST_SHARE: f64 = 1.0 / 8.0;

/// Floating point operations that take about as long as to move a byte: GPUs have 10 to 80 of them, software drivers 10.
const OPERATIONS_A_BYTE: f64 = 16.0;

/// What a call takes, in floating point operations.
pub(super) fn work(cost: Cost) -> f64 {
    (cost.flops as f64 + OPERATIONS_A_BYTE * cost.bytes as f64).max(1.0)
}

/// The end of the piece of `range` that begins at its start and stays within `budget`, one dispatch at least.
pub(super) fn end_of_piece(range: Range<usize>, budget: f64, work: impl Fn(usize) -> f64) -> usize {
    let mut sum = 0.0;
    for index in range.clone() {
        sum += work(index);
        if index > range.start && sum > budget {
            return index;
        }
    }
    range.end
}

/// The host's clock, where there is one. A browser's WebAssembly has none that the standard library knows, and no way to wait
/// for a device; there the first budget stays.
fn now() -> Option<Instant> {
    if cfg!(target_family = "wasm") { None } else { Some(Instant::now()) }
}

/// The budget of an executor's submissions.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    budget: f64,
    runs_to_measure: u32,
}

/// Of a plan that has not run.
impl Default for Pace {
    fn default() -> Self {
        Self { budget: FIRST_BUDGET, runs_to_measure: MEASURED_RUNS }
    }
}

impl Pace {
    /// The same budget for ever; below 1, each dispatch is a submission of its own.
    #[cfg(test)]
    pub(super) fn fixed(budget: f64) -> Self {
        Self { budget, runs_to_measure: 0 }
    }

    /// Work that a submission may do.
    pub(super) fn budget(&self) -> f64 {
        self.budget
    }

    /// Begins to measure a run; `None` once enough was measured.
    pub(super) fn measure(&self) -> Option<Measured> {
        (self.runs_to_measure > 0 && now().is_some()).then(|| Measured {
            budget: self.budget,
            slowest: f64::INFINITY,
            work: 0.0,
            seconds: 0.0,
        })
    }

    /// Takes over what was measured of a run of some or all of a plan, which does `whole` work.
    pub(super) fn learn(&mut self, measured: &Measured, whole: f64) {
        self.budget = measured.result();
        // A part of a plan tells little about the rest.
        if measured.work >= 0.5 * whole {
            self.runs_to_measure -= 1;
        }
    }
}

/// What was measured so far of a run.
pub(super) struct Measured {
    /// Of the next submission.
    pub(super) budget: f64,
    /// What the slowest of those that took long enough could have done within the target.
    slowest: f64,
    work: f64,
    seconds: f64,
}

impl Measured {
    /// Runs a submission of so much work, which is waited for, and looks at the clock.
    pub(super) fn time<R, E>(&mut self, work: f64, run: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
        let start = now();
        let result = run()?;
        self.add(work, start.map_or(Duration::ZERO, |start| start.elapsed()));
        Ok(result)
    }

    fn add(&mut self, work: f64, took: Duration) {
        let seconds = took.as_secs_f64().max(1e-6);
        let within_target = work * TARGET / seconds;
        self.budget = within_target.min(GROWTH * self.budget);
        if seconds >= TELLING {
            self.slowest = self.slowest.min(within_target);
        }
        self.work += work;
        self.seconds += seconds;
    }

    /// The budget of further runs.
    fn result(&self) -> f64 {
        let average = self.work * TARGET / self.seconds.max(1e-6);
        self.slowest.clamp(LEAST_SHARE * average, average).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(work: &[f64], budget: f64) -> Vec<Range<usize>> {
        let mut pieces = Vec::new();
        let mut from = 0;
        while from < work.len() {
            let end = end_of_piece(from..work.len(), budget, |index| work[index]);
            pieces.push(from..end);
            from = end;
        }
        pieces
    }

    #[test]
    fn pieces_stay_within_the_budget_and_what_is_over_it_is_alone() {
        let work = [1.0, 2.0, 3.0, 50.0, 1.0, 1.0, 4.0, 4.0];
        assert_eq!(pieces(&work, 6.0), [0..3, 3..4, 4..7, 7..8]);
        assert_eq!(pieces(&work, 100.0), [0..8]);
        assert_eq!(pieces(&work, 0.0), [0..1, 1..2, 2..3, 3..4, 4..5, 5..6, 6..7, 7..8]);
        assert_eq!(pieces(&work[3..4], 6.0), [0..1]);
        assert!(pieces(&[], 6.0).is_empty());
    }

    /// Runs a plan on a made-up device, which does `rate` of work in a second, and gives the longest submission of each run.
    fn longest_submissions(
        work: &[f64],
        rate: impl Fn(usize) -> f64,
        pace: &mut Pace,
        runs: usize,
    ) -> Vec<f64> {
        let run = |_| {
            let mut measured = pace.measure();
            let (mut from, mut longest) = (0, 0.0_f64);
            while from < work.len() {
                let budget = measured.as_ref().map_or(pace.budget(), |measured| measured.budget);
                let end = end_of_piece(from..work.len(), budget, |index| work[index]);
                let seconds: f64 = 1e-4 + (from..end).map(|index| work[index] / rate(index)).sum::<f64>();
                longest = longest.max(seconds);
                if let Some(measured) = &mut measured {
                    measured.add(work[from..end].iter().sum(), Duration::from_secs_f64(seconds));
                }
                from = end;
            }
            if let Some(measured) = measured {
                pace.learn(&measured, work.iter().sum());
            }
            longest
        };
        (0..runs).map(run).collect()
    }

    /// 0.6 TFLOP in 500 dispatches, as a training step of ddpm-cifar10-32 at batch 16, from a phone to a large card.
    #[test]
    fn the_budget_comes_to_the_target_whatever_the_device() {
        let work = vec![1.2e9; 500];
        for rate in [1e10, 1e11, 1e12, 1e13] {
            let mut pace = Pace::default();
            let longest = longest_submissions(&work, |_| rate, &mut pace, 4);
            assert!(longest[0] < 0.25, "{rate}: {longest:?}");
            assert!(longest[3] <= 1.1 * TARGET.max(1.2e9 / rate), "{rate}: {longest:?}");
            // And is not far below: submissions cost something too.
            assert!(longest[3] > 0.5 * TARGET.min(6e11 / rate), "{rate}: {longest:?}");
        }
    }

    /// A tenth of the work at a twentieth of the speed: submissions of that part alone stay short, too.
    #[test]
    fn slow_kernels_are_what_the_budget_is_for() {
        let work = vec![0.2e9; 3000];
        let rate = |index| if (1000..1300).contains(&index) { 5e10 } else { 1e12 };
        let longest = longest_submissions(&work, rate, &mut Pace::default(), 4);
        assert!(longest[0] < 0.5 && longest[1] < 0.5, "{longest:?}");
        assert!(longest[2] < 0.2 && longest[3] < 0.2, "{longest:?}");
    }

    #[test]
    fn two_whole_runs_are_measured_and_parts_do_not_count() {
        let mut pace = Pace::default();
        for (share, measures) in [(0.01, true), (0.9, true), (0.1, true), (1.0, true), (1.0, false)] {
            let measured = pace.measure();
            assert_eq!(measured.is_some(), measures);
            if let Some(mut measured) = measured {
                measured.add(1e9, Duration::from_millis(10));
                pace.learn(&measured, 1e9 / share);
            }
        }
        assert!((pace.budget() - 5e9).abs() < 1.0, "{pace:?}");
    }
}
