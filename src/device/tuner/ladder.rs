//! How variants come to be timed at large calls though none may run for seconds.
//!
//! A kernel of one output an invocation may take a thousand times as long as one that shares tiles, and a device that a
//! submission holds for seconds is reset. So a variant runs at a call only if its speed at another one lets expect that
//! this takes no longer than [`LONGEST`]. It begins at a call that is short even for the slowest kernel on the slowest
//! GPU, and climbs from call to call, each the largest one that its speed so far allows.

use std::collections::HashMap;
use std::sync::Arc;

use crate::device::GpuDevice;
use crate::graph::TensorType;
use crate::ops::{self, Op, Types};

/// Seconds that no call which is run should exceed. Kernels do fewer operations a second at calls that leave caches,
/// several times fewer at worst; that, too, stays within what drivers allow.
const LONGEST: f64 = 0.2;

/// Work in a second that any kernel is expected to do before it has been timed.
const SLOWEST: f64 = 1e9;

/// A call to be timed.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) op: Arc<dyn Op>,
    pub(super) inputs: Vec<TensorType>,
    pub(super) outputs: Vec<TensorType>,
}

impl Call {
    pub(super) fn types(&self) -> Types<'_> {
        Types { inputs: &self.inputs, outputs: &self.outputs }
    }

    /// Floating point operations and bytes, a measure of cost by which calls are put in order.
    pub(super) fn work(&self) -> f64 {
        let cost = self.op.cost(self.types());
        (cost.flops + cost.bytes).max(1) as f64
    }
}

/// A call that a variant may climb to.
struct Rung {
    call: Call,
    work: f64,
    variants: Vec<&'static str>,
}

/// The calls of each op, with less work first.
#[derive(Default)]
pub(super) struct Ladder {
    rungs: HashMap<&'static str, Vec<Rung>>,
}

impl Ladder {
    /// Of `calls`, and of the cases of their ops, among which are small ones of every op.
    pub(super) fn new(device: &GpuDevice, calls: impl Iterator<Item = Call>) -> Self {
        let mut ladder = Self::default();
        for call in calls {
            let name = call.op.name();
            if !ladder.rungs.contains_key(name) {
                let cases = (call.op.file().cases)().into_iter().filter(|case| case.op.name() == name);
                for case in cases {
                    let inputs = case.input_types();
                    let Ok(outputs) = case.output_types() else { continue };
                    ladder.add(device, Call { op: case.op, inputs, outputs });
                }
            }
            ladder.add(device, call);
        }
        for rungs in ladder.rungs.values_mut() {
            rungs.sort_by(|a, b| a.work.total_cmp(&b.work));
        }
        ladder
    }

    fn add(&mut self, device: &GpuDevice, call: Call) {
        let work = call.work();
        let variants = device.variants(call.op.as_ref(), call.types());
        let variants = variants.iter().map(|variant: &ops::Variant| variant.name).collect();
        self.rungs.entry(call.op.name()).or_default().push(Rung { call, work, variants });
    }

    /// The calls of an op that a variant can do, with less work first.
    pub(super) fn rungs(&self, op: &str, variant: &str) -> Vec<&Call> {
        let rungs = self.rungs.get(op).map_or(&[][..], Vec::as_slice);
        let fitting = rungs.iter().filter(|rung| rung.variants.contains(&variant));
        fitting.map(|rung| &rung.call).collect()
    }
}

/// Lets a variant climb until it is known how long it takes at a call of `target` work, and says whether it may run
/// there.
///
/// `rungs` is the work of the calls that it can do on the way, in rising order; `speed` the most work in a second that
/// it has been seen to do, `None` for a variant that has never run; `run` runs it at a rung and gives seconds.
pub(super) async fn climb<E>(
    rungs: &[f64],
    target: f64,
    speed: &mut Option<f64>,
    mut run: impl AsyncFnMut(usize) -> Result<f64, E>,
) -> Result<bool, E> {
    let mut lowest = 0;
    loop {
        let is_short = |work: f64| work / speed.unwrap_or(SLOWEST) <= LONGEST;
        if is_short(target) {
            return Ok(true);
        }
        let highest = rungs.partition_point(|&work| is_short(work) && work < target);
        if highest <= lowest {
            return Ok(false);
        }
        let seconds = run(highest - 1).await?;
        let seen = rungs[highest - 1] / seconds;
        *speed = Some(speed.map_or(seen, |speed| speed.max(seen)));
        lowest = highest;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::convert::Infallible;

    use pollster::block_on;

    use super::*;

    /// Climbs on a made-up device, and gives whether the target may run, and the seconds of each run on the way.
    fn climb_at(speed_of_device: f64, rungs: &[f64], target: f64) -> (bool, Vec<f64>) {
        let mut taken = Vec::new();
        let mut speed = None;
        let may_run = block_on(climb(rungs, target, &mut speed, async |rung| {
            // Launching takes its time, too.
            let seconds = 1e-4 + rungs[rung] / speed_of_device;
            taken.push(seconds);
            Ok::<_, Infallible>(seconds)
        }));
        (may_run.unwrap(), taken)
    }

    #[test]
    fn a_slow_kernel_never_runs_for_long_and_a_fast_one_is_timed() {
        let rungs = [1e4, 1e6, 2e7, 1e8, 3e9, 5e10, 6e11];
        // One output an invocation on a phone, tiles on a large card, and what lies between.
        for (device, may_run) in [(1e9, false), (1e10, false), (1e11, false), (1e13, true), (6e13, true)] {
            let (allowed, taken) = climb_at(device, &rungs, 6e11);
            assert_eq!(allowed, may_run, "{device}: {taken:?}");
            assert!(taken.iter().all(|&seconds| seconds < 1.5 * LONGEST), "{device}: {taken:?}");
            assert!(!taken.is_empty() && taken.len() <= 5, "{device}: {taken:?}");
        }
        let (allowed, taken) = climb_at(1e11, &rungs, 1e10);
        assert!(allowed && taken.len() == 1, "{taken:?}");
    }

    #[test]
    fn a_short_call_needs_no_others_and_a_long_one_without_others_does_not_run() {
        assert_eq!(climb_at(1e9, &[1e6], 1e8), (true, Vec::new()));
        assert_eq!(climb_at(1e12, &[], 1e10), (false, Vec::new()));
        assert_eq!(climb_at(1e12, &[1e10, 1e11], 1e12), (false, Vec::new()));
    }

    /// Every op of the table has a case that is short for any kernel: the first step of a ladder, for each of its
    /// variants.
    #[test]
    fn every_variant_has_a_first_rung() {
        let mut checked = 0;
        for op_file in ops::ALL {
            let mut shortest: HashMap<(&str, &str), f64> = HashMap::new();
            for case in (op_file.cases)() {
                let (inputs, outputs) = (case.input_types(), case.output_types().unwrap());
                let work = Call { op: case.op.clone(), inputs, outputs }.work();
                for variant in case.variants() {
                    let least = shortest.entry((case.op.name(), variant.name)).or_insert(f64::INFINITY);
                    *least = least.min(work);
                }
            }
            for ((op, variant), work) in shortest {
                assert!(work / SLOWEST <= LONGEST, "{op} {variant}: {work:e}");
                checked += 1;
            }
        }
        assert!(checked > 50, "{checked}");
    }
}
