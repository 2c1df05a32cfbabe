//! How much work goes into one submission.
//!
//! An operating system takes a submission that does not end for a hang, and resets the GPU: Windows after 2 seconds,
//! Linux's drivers after a few. A training step is more than that on a slow card. So a run is cut into submissions of
//! about [`TARGET`] each, far below any limit and far above the cost of submitting.
//!
//! What a submission will take is estimated from the work of its dispatches, at rates of their kernels that are
//! measured: the first runs of an executor wait for each of their submissions, and look at the clock. That is the
//! host's clock and not the device's timestamps. A limit counts from submission to end, and so does the host;
//! timestamps leave out what lies between kernels, not every adapter has them, and reading them takes submissions of
//! its own. Later runs neither wait nor measure: their cuts stay. Where they are does not change a result, since the
//! order of the dispatches is the same.

use std::collections::HashMap;
use std::ops::Range;

use crate::host::clock;
use crate::ops::Cost;

/// Seconds that a submission should take.
const TARGET: f64 = 0.05;

/// Work that a kernel which was never measured may do in a submission: a tenth of a second or two on the slowest GPU
/// known.
const FIRST_ALLOWANCE: f64 = 0.5e9;

/// What a kernel may do grows and shrinks at most by these factors from one measurement to the next: a submission is of
/// several kernels, and says which of them are fast only after a while; in the first one, drivers still compile.
const GROWTH: f64 = 16.0;
const SHRINKAGE: f64 = 4.0;

/// Runs that are measured.
const MEASURED_RUNS: u32 = 2;

/// Floating point operations that take about as long as to move a byte: GPUs have 10 to 80 of them, software
/// drivers 10.
const OPERATIONS_A_BYTE: f64 = 16.0;

/// What a call takes, in floating point operations.
pub(super) fn work(cost: Cost) -> f64 {
    (cost.flops as f64 + OPERATIONS_A_BYTE * cost.bytes as f64).max(1.0)
}

/// A dispatch as far as its time goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// A number that all dispatches of a kernel share.
    pub(super) kernel: usize,
    /// What it does; see [`work`].
    pub(super) work: f64,
}

/// How an executor cuts its runs.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// Work of each kernel that takes the target.
    allowances: HashMap<usize, f64>,
    /// That of a kernel which was not measured.
    first: f64,
    runs_to_measure: u32,
}

/// Of a plan that has not run.
impl Default for Pace {
    fn default() -> Self {
        Self { allowances: HashMap::new(), first: FIRST_ALLOWANCE, runs_to_measure: MEASURED_RUNS }
    }
}

impl Pace {
    /// The same allowance for all kernels, for ever; with 0, each dispatch is a submission of its own.
    #[cfg(test)]
    pub(super) fn fixed(allowance: f64) -> Self {
        Self { allowances: HashMap::new(), first: allowance, runs_to_measure: 0 }
    }

    /// The share of a submission that a dispatch takes.
    fn share(&self, load: Load) -> f64 {
        load.work / self.allowances.get(&load.kernel).unwrap_or(&self.first)
    }

    /// The end of the piece of `range` that begins at its start and makes a submission: of one dispatch at least.
    pub(super) fn end_of_piece(&self, range: Range<usize>, load: impl Fn(usize) -> Load) -> usize {
        let mut sum = 0.0;
        for index in range.clone() {
            sum += self.share(load(index));
            if index > range.start && sum > 1.0 {
                return index;
            }
        }
        range.end
    }

    /// Whether the submissions of a run are to be waited for and timed. Where there is no clock they are not, and the first
    /// allowance stays: a browser cannot wait for a device either.
    pub(super) fn measures(&self) -> bool {
        self.runs_to_measure > 0 && clock().is_some()
    }

    /// Runs a submission, which is waited for, and learns from what it takes.
    pub(super) fn time<R, E>(
        &mut self,
        piece: impl Iterator<Item = Load> + Clone,
        run: impl FnOnce() -> Result<R, E>,
    ) -> Result<R, E> {
        let Some(clock) = clock() else { return run() };
        let start = clock();
        let result = run()?;
        self.learn(piece, clock() - start);
        Ok(result)
    }

    fn learn(&mut self, piece: impl Iterator<Item = Load> + Clone, seconds: f64) {
        let expected: f64 = piece.clone().map(|load| self.share(load)).sum();
        let factor = (expected * TARGET / seconds.max(1e-6)).clamp(1.0 / SHRINKAGE, GROWTH);
        let mut kernels: Vec<usize> = piece.map(|load| load.kernel).collect();
        kernels.sort_unstable();
        kernels.dedup();
        for kernel in kernels {
            *self.allowances.entry(kernel).or_insert(self.first) *= factor;
        }
    }

    /// Counts a run that was measured, of so much work of the whole plan's: a small part tells little about the rest.
    pub(super) fn has_measured(&mut self, work: f64, whole: f64) {
        if work >= 0.5 * whole {
            self.runs_to_measure -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(work: &[f64], allowance: f64) -> Vec<Range<usize>> {
        let pace = Pace::fixed(allowance);
        let mut pieces = Vec::new();
        let mut from = 0;
        while from < work.len() {
            let end = pace.end_of_piece(from..work.len(), |index| Load { kernel: 0, work: work[index] });
            pieces.push(from..end);
            from = end;
        }
        pieces
    }

    #[test]
    fn pieces_stay_within_the_allowance_and_what_is_over_it_is_alone() {
        let work = [1.0, 2.0, 3.0, 50.0, 1.0, 1.0, 4.0, 4.0];
        assert_eq!(pieces(&work, 6.0), [0..3, 3..4, 4..7, 7..8]);
        assert_eq!(pieces(&work[..], 100.0), vec![0..8]);
        assert_eq!(pieces(&work, 0.0).len(), 8);
        assert_eq!(pieces(&work[3..4], 6.0), vec![0..1]);
        assert!(pieces(&[], 6.0).is_empty());
    }

    /// Runs a plan on a made-up device, which does `rates[kernel]` of work in a second, and gives the longest
    /// submission and the number of submissions of each run.
    fn run(loads: &[Load], rates: &[f64], runs: usize) -> Vec<(f64, usize)> {
        let mut pace = Pace::default();
        let whole = loads.iter().map(|load| load.work).sum();
        let mut run = |_| {
            let measures = pace.measures();
            let (mut from, mut longest, mut count) = (0, 0.0_f64, 0);
            while from < loads.len() {
                let end = pace.end_of_piece(from..loads.len(), |index| loads[index]);
                let piece = &loads[from..end];
                let seconds = 1e-4 + piece.iter().map(|load| load.work / rates[load.kernel]).sum::<f64>();
                longest = longest.max(seconds);
                count += 1;
                if measures {
                    pace.learn(piece.iter().copied(), seconds);
                }
                from = end;
            }
            if measures {
                pace.has_measured(whole, whole);
            }
            (longest, count)
        };
        (0..runs).map(&mut run).collect()
    }

    /// 0.6 TFLOP in 500 dispatches, as a training step of ddpm-cifar10-32 at batch 16, from a phone to a large card.
    #[test]
    fn submissions_come_to_the_target_whatever_the_device() {
        let loads = vec![Load { kernel: 0, work: 1.2e9 }; 500];
        for rate in [1e10, 1e11, 1e12, 1e13] {
            let runs = run(&loads, &[rate], 4);
            assert!(runs.iter().all(|(longest, _)| *longest < 0.25), "{rate}: {runs:?}");
            let (longest, count) = runs[3];
            assert!(longest <= 1.2 * TARGET.max(1.2e9 / rate), "{rate}: {runs:?}");
            // And there are not many more than need be: submissions cost something too.
            assert!(count <= 500.min((3.0 * 6e11 / rate / TARGET) as usize + 1), "{rate}: {runs:?}");
        }
    }

    /// Kernels of a twentieth of the speed, here and there, and many at once.
    #[test]
    fn slow_kernels_do_not_make_long_submissions() {
        let mut loads = vec![Load { kernel: 0, work: 0.2e9 }; 3000];
        for slow in [500, 700, 900].into_iter().chain(1000..1300).chain(2500..2800) {
            loads[slow].kernel = 1;
        }
        let runs = run(&loads, &[1e12, 5e10], 4);
        assert!(runs.iter().all(|(longest, _)| *longest < 8.0 * TARGET), "{runs:?}");
        assert!(runs[3].0 < 2.0 * TARGET, "{runs:?}");
    }

    /// What compiles in its first submission is taken for slow, and is known better after the second run.
    #[test]
    fn two_whole_runs_are_measured_and_parts_do_not_count() {
        let mut pace = Pace::default();
        let load = Load { kernel: 0, work: 1e9 };
        for (part, seconds, measures) in
            [(0.01, 0.3, true), (1.0, 0.3, true), (0.1, 0.01, true), (0.6, 0.01, true)]
        {
            assert_eq!(pace.measures(), measures);
            pace.learn(std::iter::once(load), seconds);
            pace.has_measured(part, 1.0);
        }
        assert!(!pace.measures(), "{pace:?}");
        let allowed = pace.allowances[&0];
        assert!((allowed - 5e9).abs() < 1e6, "{pace:?}");
    }
}
