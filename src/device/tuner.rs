//! The tuner: which variant of a kernel a call runs, chosen by timing the candidates on the device.
//!
//! Calls are tuned by class: op, settings, and shapes with the first size rounded up to a power of two, so that a batch
//! a little larger asks for no new measurement. Classes are timed in order of their arithmetic, until all are done or the
//! budget is spent; a variant comes to large calls by way of smaller ones (`ladder`). A choice once made stays: with
//! the same choices a device gives the same bytes, which resuming a run relies on.

mod cache;
mod ladder;
mod stopwatch;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::cache::TuningStore;
use self::ladder::{Call, Ladder, climb};
use self::stopwatch::Stopwatch;
use super::{DeviceError, GpuDevice};
use crate::graph::PlannedNode;
use crate::hash::fnv1a;
use crate::host::{self, Clock};
use crate::ops::{Op, Types, Variant};

/// How kernels are chosen among their variants; see [`super::Device::set_tuning`].
pub struct Tuning {
    /// How long the calls of one plan may be timed, compilation included. What the time does not suffice for takes its
    /// default, now and in later runs with no larger budget. With 0, only earlier choices are used.
    pub budget: Duration,
    /// Keeps the choices from run to run; `None` forgets them.
    pub store: Option<Box<dyn TuningStore>>,
    /// Whether to time again what earlier runs have chosen, and replace their choices.
    pub again: bool,
    /// Is told what happens.
    pub report: Box<dyn Fn(TuningEvent<'_>) + Send + Sync>,
}

/// What happens while kernels are chosen.
#[derive(Clone, Copy, Debug)]
pub enum TuningEvent<'a> {
    /// There is something to time.
    Started {
        /// Name of the adapter.
        adapter: &'a str,
        /// How many kinds of calls.
        calls: usize,
        /// The time they may take together.
        budget: Duration,
    },
    /// A kind of call was timed.
    Chosen {
        /// The kernel and its operands.
        call: &'a str,
        /// The variant that runs when nothing is tuned.
        default: &'a str,
        /// The variant that was chosen.
        chosen: &'a str,
        /// Fastest run of each variant that was timed.
        milliseconds: &'a BTreeMap<String, f64>,
    },
    /// All is timed, or the time is over.
    Finished {
        /// Time spent.
        elapsed: Duration,
        /// How many kinds of calls keep a choice that is not fully timed.
        left: usize,
    },
    /// Choices cannot be read or kept; says why, and what follows. The plan still runs.
    Warning(&'a str),
}

/// Choices hold for adapters that agree in these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AdapterIdentity {
    pub(super) name: String,
    pub(super) driver: String,
    pub(super) driver_info: String,
    pub(super) backend: String,
}

/// The choices by class.
type Table = BTreeMap<String, Choice>;

/// What was chosen for a class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Choice {
    /// Name of the variant.
    variant: String,
    /// Hash of the op's WGSL that was timed.
    wgsl: String,
    /// Fastest run of each candidate that was timed.
    milliseconds: BTreeMap<String, f64>,
    /// The budget in seconds, where it was over before all candidates were timed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    out_of_time: Option<f64>,
}

/// A class that a plan calls and that has several candidates.
struct Class<'a> {
    key: String,
    node: &'a PlannedNode,
    /// Names of the candidates, the default first.
    candidates: Vec<&'static str>,
    /// Hash of the op's WGSL.
    wgsl: String,
    /// Floating point operations and bytes of all its calls together.
    work: f64,
}

impl Class<'_> {
    /// Whether a choice was made among these candidates, and with at least as much time as now.
    fn accepts(&self, choice: &Choice, budget: Duration) -> bool {
        self.wgsl == choice.wgsl
            && self.candidates.contains(&choice.variant.as_str())
            && choice.out_of_time.is_none_or(|seconds| budget.as_secs_f64() <= seconds)
    }
}

/// Chooses variants for the plans of one device.
pub(super) struct Tuner {
    tuning: Tuning,
    adapter: AdapterIdentity,
    table: Mutex<Table>,
}

/// A variant must be this much faster than the default to take its place: repeated measurements differ by less.
const WORTHWHILE: f64 = 0.95;

/// A candidate expected to take this many times as long as the best, by its speed in other calls of the op, is not tried.
const HOPELESS: f64 = 2.5;

impl Tuner {
    /// Reads the choices of earlier runs.
    pub(super) fn new(tuning: Tuning, adapter: AdapterIdentity) -> Self {
        let table = tuning.store.as_deref().map_or_else(Table::new, |store| {
            cache::read(store, &adapter).unwrap_or_else(|warning| {
                (tuning.report)(TuningEvent::Warning(&warning));
                Table::new()
            })
        });
        Self { tuning, adapter, table: Mutex::new(table) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The variant chosen for a call, else the default.
    pub(super) fn choose(
        &self,
        op: &dyn Op,
        types: Types<'_>,
        mut variants: Vec<Variant>,
    ) -> Option<Variant> {
        let table = self.table();
        let chosen = table.get(&class_key(op, types));
        let index =
            chosen.and_then(|chosen| variants.iter().position(|variant| variant.name == chosen.variant));
        if variants.is_empty() { None } else { Some(variants.swap_remove(index.unwrap_or(0))) }
    }

    /// Times the calls for which no earlier run has chosen a variant. Says whether there were any: then what calls take
    /// is to be asked again.
    ///
    /// # Errors
    /// [`DeviceError::Lost`], and [`DeviceError::Shader`] for WGSL that does not parse.
    pub(super) async fn tune(
        &self,
        device: &Arc<GpuDevice>,
        calls: &[PlannedNode],
    ) -> Result<bool, DeviceError> {
        let Tuning { budget, report, .. } = &self.tuning;
        if budget.is_zero() {
            return Ok(false);
        }
        let mut classes = classes(device, calls)?;
        if !self.tuning.again {
            let table = self.table();
            classes.retain(|class| !table.get(&class.key).is_some_and(|known| class.accepts(known, *budget)));
        }
        if classes.is_empty() {
            return Ok(false);
        }
        let Some(clock) = host::clock() else {
            report(TuningEvent::Warning(
                "there is no clock here to time kernels by; calls take what earlier runs have chosen, or their defaults",
            ));
            return Ok(false);
        };
        classes.sort_by(|a, b| b.work.total_cmp(&a.work));
        report(TuningEvent::Started { adapter: device.name(), calls: classes.len(), budget: *budget });
        let started = clock();
        let mut chosen = Table::new();
        let ladder = Ladder::new(device, classes.iter().map(|class| call(class.node)));
        let mut session = Session { device, ladder, budget: *budget, clock, started, speeds: Speeds::new() };
        for class in &classes {
            let choice = session.time(class).await?;
            report(TuningEvent::Chosen {
                call: &describe(class.node),
                default: class.candidates[0],
                chosen: &choice.variant,
                milliseconds: &choice.milliseconds,
            });
            chosen.insert(class.key.clone(), choice);
        }
        let left = chosen.values().filter(|choice| choice.out_of_time.is_some()).count();
        report(TuningEvent::Finished { elapsed: Duration::from_secs_f64(clock() - started), left });
        self.keep(&classes, chosen);
        Ok(true)
    }

    /// Takes over new choices and stores them.
    fn keep(&self, classes: &[Class<'_>], chosen: Table) {
        let mut table = self.table();
        if let Some(store) = &self.tuning.store {
            // Another process may have tuned meanwhile: choices that are stored already are taken over. What cannot be
            // read has been reported, and is replaced.
            let stored = cache::read(store.as_ref(), &self.adapter).unwrap_or_default();
            table.extend(stored);
        }
        let mut chosen = chosen;
        for class in classes {
            let known = table.get(&class.key).is_some_and(|known| class.accepts(known, self.tuning.budget));
            let keeps = known && !self.tuning.again;
            if let (false, Some(choice)) = (keeps, chosen.remove(&class.key)) {
                table.insert(class.key.clone(), choice);
            }
        }
        if let Some(store) = &self.tuning.store
            && let Err(warning) = cache::write(store.as_ref(), &self.adapter, &table)
        {
            (self.tuning.report)(TuningEvent::Warning(&warning));
        }
    }
}

/// The most work per second that a variant of an op has been seen to do. Small calls are no faster, so that a candidate is
/// rather tried in vain than left out.
type Speeds = HashMap<(&'static str, &'static str), f64>;

/// The timing of one plan's classes.
struct Session<'a> {
    device: &'a Arc<GpuDevice>,
    ladder: Ladder,
    budget: Duration,
    clock: Clock,
    /// By the clock.
    started: f64,
    speeds: Speeds,
}

/// Why a variant is not timed any further.
enum Halt {
    /// The budget is spent.
    OutOfTime,
    /// It does not run here.
    Device(DeviceError),
}

impl Session<'_> {
    fn is_over(&self) -> bool {
        (self.clock)() - self.started >= self.budget.as_secs_f64()
    }

    /// Times the candidates of one class.
    async fn time(&mut self, class: &Class<'_>) -> Result<Choice, DeviceError> {
        let call = call(class.node);
        let mut seconds: Vec<(&'static str, f64)> = Vec::new();
        let mut out_of_time = false;
        let mut stopwatch = None;
        for &variant in &class.candidates {
            let best = seconds.iter().map(|(_, seconds)| *seconds).min_by(f64::total_cmp);
            if self.is_hopeless(&call, variant, best) {
                continue;
            }
            match self.time_variant(&call, &mut stopwatch, variant, best).await {
                Ok(Some(measured)) => seconds.push((variant, measured)),
                // It would take too long.
                Ok(None) => {}
                Err(Halt::OutOfTime) => {
                    out_of_time = true;
                    break;
                }
                Err(Halt::Device(error @ DeviceError::Lost { .. })) => return Err(error),
                // The driver does not compile it, or it does not fit: not a candidate here. Where that is the default,
                // the executor meets the same error and reports it.
                Err(Halt::Device(_)) => {}
            }
        }
        Ok(Choice {
            variant: fastest(class.candidates[0], &seconds).to_owned(),
            wgsl: class.wgsl.clone(),
            milliseconds: seconds.iter().map(|(name, seconds)| ((*name).to_owned(), 1e3 * seconds)).collect(),
            out_of_time: out_of_time.then_some(self.budget.as_secs_f64()),
        })
    }

    /// Whether a variant's speed in other calls lets expect that it takes far longer than the best one here.
    fn is_hopeless(&self, call: &Call, variant: &'static str, best: Option<f64>) -> bool {
        match (best, self.speeds.get(&(call.op.name(), variant))) {
            (Some(best), Some(speed)) => call.work() / speed > HOPELESS * best,
            _ => false,
        }
    }

    /// Seconds of a call by a variant, `None` where it would take too long.
    async fn time_variant(
        &mut self,
        call: &Call,
        stopwatch: &mut Option<Stopwatch>,
        variant: &'static str,
        best: Option<f64>,
    ) -> Result<Option<f64>, Halt> {
        let device = self.device;
        let key = (call.op.name(), variant);
        let mut speed = self.speeds.get(&key).copied();
        let rungs = self.ladder.rungs(call.op.name(), variant);
        let work: Vec<f64> = rungs.iter().map(|rung| rung.work()).collect();
        let may_run = climb(&work, call.work(), &mut speed, async |rung| {
            if self.is_over() {
                return Err(Halt::OutOfTime);
            }
            let stopwatch = Stopwatch::new(rungs[rung], self.clock).map_err(Halt::Device)?;
            stopwatch.glance(device, variant).await.map_err(Halt::Device)
        })
        .await;
        if let Some(speed) = speed {
            self.speeds.insert(key, speed);
        }
        if !may_run? || self.is_hopeless(call, variant, best) {
            return Ok(None);
        }
        if self.is_over() {
            return Err(Halt::OutOfTime);
        }
        let stopwatch = match stopwatch {
            Some(stopwatch) => stopwatch,
            None => stopwatch.insert(Stopwatch::new(call, self.clock).map_err(Halt::Device)?),
        };
        let seconds = stopwatch.time(device, variant, best, speed.is_some()).await.map_err(Halt::Device)?;
        let speed = self.speeds.entry(key).or_default();
        *speed = speed.max(call.work() / seconds);
        Ok(Some(seconds))
    }
}

/// The call of a node.
fn call(node: &PlannedNode) -> Call {
    Call { op: node.node.op.clone(), inputs: node.inputs.clone(), outputs: node.outputs.clone() }
}

/// The fastest candidate; the default where it is about as fast, or nothing was timed.
fn fastest(default: &'static str, seconds: &[(&'static str, f64)]) -> &'static str {
    let of_default = seconds.iter().find(|(name, _)| *name == default).map(|(_, seconds)| *seconds);
    match (seconds.iter().min_by(|a, b| a.1.total_cmp(&b.1)), of_default) {
        (Some((name, best)), Some(default)) if *best < WORTHWHILE * default => name,
        (Some((name, _)), None) => name,
        _ => default,
    }
}

/// The classes that a plan calls and that leave a choice.
fn classes<'a>(device: &GpuDevice, calls: &'a [PlannedNode]) -> Result<Vec<Class<'a>>, DeviceError> {
    let mut classes: BTreeMap<String, Class<'a>> = BTreeMap::new();
    for node in calls {
        let op = node.node.op.as_ref();
        let types = Types { inputs: &node.inputs, outputs: &node.outputs };
        let candidates: Vec<_> = device.variants(op, types).iter().map(|variant| variant.name).collect();
        if candidates.len() < 2 {
            continue;
        }
        let key = class_key(op, types);
        if let Some(class) = classes.get_mut(&key) {
            class.work += call(node).work();
            continue;
        }
        let wgsl = format!("{:016x}", fnv1a(&device.wgsl(op, types)?));
        classes.insert(key.clone(), Class { key, node, candidates, wgsl, work: call(node).work() });
    }
    Ok(classes.into_values().collect())
}

/// Names the class of a call: op and settings, then the operands. Sizes other than the first are channels, pixels of one
/// image or taps of a kernel, on which the best variant depends; where a first size matters, as with output channels of a
/// weight, another operand has it as its last.
fn class_key(op: &dyn Op, types: Types<'_>) -> String {
    let mut key = format!("{} {op:?}", op.name());
    let names = op.inputs().iter().chain(op.outputs());
    for (name, ty) in names.zip(types.inputs.iter().chain(types.outputs)) {
        let mut shape = ty.shape.clone();
        if let Some(first) = shape.first_mut() {
            *first = first.next_power_of_two();
        }
        // Writing to a String cannot fail.
        let _ = write!(key, ", {name} {:?} {shape:?}", ty.dtype);
    }
    key
}

/// The kernel of a call and its operands, for people.
fn describe(node: &PlannedNode) -> String {
    let op = node.node.op.as_ref();
    let names = op.inputs().iter().chain(op.outputs());
    let operands =
        names.zip(node.inputs.iter().chain(&node.outputs)).map(|(name, ty)| format!("{name} {ty}"));
    format!("{} {}", op.name(), operands.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
