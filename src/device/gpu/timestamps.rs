//! The device's own clock, read before and after each dispatch.

use std::ops::Range;

use super::executor::Dispatch;
use super::{GpuDevice, Kernel};
use crate::device::DeviceError;
use crate::device::webgpu::MAX_QUERIES;

/// As many as one query set can time, at their beginnings and ends.
const DISPATCHES_IN_A_SET: usize = MAX_QUERIES / 2;

const DURING: &str = " while it timed a step";

/// Two timestamps for each dispatch of a run.
struct Timestamps {
    sets: Vec<wgpu::QuerySet>,
    resolved: wgpu::Buffer,
    /// The timestamps, `[dispatches, 2]`, to be mapped after the run.
    readable: wgpu::Buffer,
    dispatches: usize,
}

impl Timestamps {
    fn new(device: &GpuDevice, dispatches: usize) -> Self {
        let buffer = |usage| {
            device.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("timestamps"),
                size: (16 * dispatches.max(1)) as u64,
                usage: usage | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        let sets = (0..dispatches.div_ceil(DISPATCHES_IN_A_SET)).map(|_| {
            device.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2 * DISPATCHES_IN_A_SET as u32,
            })
        });
        Self {
            sets: sets.collect(),
            resolved: buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
            readable: buffer(wgpu::BufferUsages::MAP_READ),
            dispatches,
        }
    }

    /// Encodes a dispatch, of this number, in a pass of its own, since timestamps are taken at the ends of passes.
    fn encode(&self, encoder: &mut wgpu::CommandEncoder, index: usize, dispatch: &Dispatch) {
        let query = 2 * (index % DISPATCHES_IN_A_SET) as u32;
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: None,
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &self.sets[index / DISPATCHES_IN_A_SET],
                beginning_of_pass_write_index: Some(query),
                end_of_pass_write_index: Some(query + 1),
            }),
        });
        dispatch.encode(&mut pass);
    }

    fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        for (index, set) in self.sets.iter().enumerate() {
            let first = index * DISPATCHES_IN_A_SET;
            let count = (self.dispatches - first).min(DISPATCHES_IN_A_SET);
            encoder.resolve_query_set(set, 0..2 * count as u32, &self.resolved, (16 * first) as u64);
        }
    }
}

/// Runs dispatches, cut into submissions as `pieces` says, and gives the start of each, counted from the first one's,
/// and its length in seconds.
///
/// Timestamps that are resolved too early are zeros: by the submission that writes them on Vulkan (wgpu issue 6406),
/// before the work is done on Metal (issue 9414). So the run is waited for; then they are resolved by an encoder of its
/// own, and copied by another.
///
/// # Errors
/// [`DeviceError::Timestamps`] for times that cannot be; [`DeviceError::Lost`] or [`DeviceError::Failed`].
pub(super) async fn time(
    device: &GpuDevice,
    dispatches: &[Dispatch],
    pieces: impl Iterator<Item = Range<usize>>,
) -> Result<Vec<(f64, f64)>, DeviceError> {
    time_and_read(device, dispatches, pieces, spans_of_work).await
}

/// As [`time`], with what makes spans of ticks.
async fn time_and_read(
    device: &GpuDevice,
    dispatches: &[Dispatch],
    pieces: impl Iterator<Item = Range<usize>>,
    read: fn(&[u64], f64) -> Spans,
) -> Result<Vec<(f64, f64)>, DeviceError> {
    let timestamps = Timestamps::new(device, dispatches.len());
    for piece in pieces {
        device.submit(|encoder| {
            for index in piece {
                timestamps.encode(encoder, index, &dispatches[index]);
            }
        });
    }
    device.wait(None, DURING)?;
    device.submit(|encoder| timestamps.resolve(encoder));
    device.submit(|encoder| {
        encoder.copy_buffer_to_buffer(
            &timestamps.resolved,
            0,
            &timestamps.readable,
            0,
            timestamps.readable.size(),
        );
    });
    let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&device.read_back(&timestamps.readable).await?);
    let tick = f64::from(device.queue.get_timestamp_period()) * 1e-9;
    read(&ticks[..2 * dispatches.len()], tick).map_err(|Bad { dispatch, problem }| DeviceError::Timestamps {
        adapter: device.name.clone(),
        kernel: dispatches[dispatch].kernel.name.clone(),
        problem,
    })
}

/// A dispatch whose times cannot be, and why, in words.
#[derive(Debug, PartialEq)]
struct Bad {
    dispatch: usize,
    problem: String,
}

/// Starts and lengths of dispatches in seconds.
type Spans = Result<Vec<(f64, f64)>, Bad>;

/// Starts, counted from the first one, and lengths in seconds, of ticks `[dispatches, 2]` of `tick` seconds.
///
/// One dispatch of many may be over within a tick, so that a length of 0 is no error. A dispatch may also start before the
/// end of the one before it, where a device overlaps them.
fn spans(ticks: &[u64], tick: f64) -> Spans {
    let Some(&first) = ticks.first() else { return Ok(Vec::new()) };
    let bad = |dispatch, problem: String| Err(Bad { dispatch, problem });
    let mut spans = Vec::new();
    for (dispatch, pair) in ticks.chunks_exact(2).enumerate() {
        let [start, end] = [pair[0], pair[1]];
        // Metal writes u64::MAX where a sample failed.
        if [start, end].iter().any(|&ticks| ticks == 0 || ticks == u64::MAX) {
            return bad(
                dispatch,
                format!("began at tick {start} and ended at tick {end}, which was never written"),
            );
        }
        if end < start {
            return bad(dispatch, format!("began at tick {start} and ended before, at tick {end}"));
        }
        if start < first {
            return bad(
                dispatch,
                format!("began at tick {start}, before the first dispatch, which began at {first}"),
            );
        }
        spans.push(((start - first) as f64 * tick, (end - start) as f64 * tick));
    }
    Ok(spans)
}

/// As [`spans`], of dispatches that do something: not all of them are over within a tick.
fn spans_of_work(ticks: &[u64], tick: f64) -> Spans {
    let spans = spans(ticks, tick)?;
    if !spans.is_empty() && spans.iter().all(|(_, seconds)| *seconds <= 0.0) {
        let problem = format!("and all others of {} dispatches took no time at all", spans.len());
        return Err(Bad { dispatch: 0, problem });
    }
    Ok(spans)
}

/// Dispatches of [`empty`].
const EMPTY_DISPATCHES: usize = 33;

/// Seconds of a dispatch that does nothing, between the same timestamps as any: the median of several.
///
/// # Errors
/// As [`time`]; what the adapter does not compile.
pub(super) async fn empty(device: &GpuDevice) -> Result<f64, DeviceError> {
    let dispatches = empty_dispatches(device);
    device.check(" while it prepared an empty kernel")?;
    let spans = time_and_read(device, &dispatches, std::iter::once(0..dispatches.len()), spans).await?;
    let mut seconds: Vec<f64> = spans.into_iter().map(|(_, seconds)| seconds).collect();
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}

/// The same by the host's `clock`, which gives seconds: each dispatch is a submission of its own, which is waited for.
///
/// # Errors
/// [`DeviceError::Lost`] or [`DeviceError::Failed`].
pub(super) fn empty_by_clock(device: &GpuDevice, clock: &dyn Fn() -> f64) -> Result<f64, DeviceError> {
    let mut seconds = Vec::new();
    for dispatch in empty_dispatches(device) {
        let start = clock();
        let index =
            device.submit(|encoder| dispatch.encode(&mut encoder.begin_compute_pass(&Default::default())));
        device.wait(Some(index), DURING)?;
        seconds.push(clock() - start);
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}

fn empty_dispatches(device: &GpuDevice) -> Vec<Dispatch> {
    const NAME: &str = "an empty kernel";
    let module = device.device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(NAME),
        source: wgpu::ShaderSource::Wgsl("@compute @workgroup_size(1) fn empty() {}".into()),
    });
    let layout = device
        .device
        .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(NAME), entries: &[] });
    let pipeline_layout = device.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(NAME),
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let pipeline = device.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(NAME),
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some("empty"),
        compilation_options: Default::default(),
        cache: None,
    });
    let bind_group = device.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some(NAME),
        layout: &layout,
        entries: &[],
    });
    let kernel =
        std::sync::Arc::new(Kernel { name: NAME.to_owned(), pipeline, layout, bindings: Vec::new() });
    let dispatch = || Dispatch {
        node: 0,
        variant: "",
        work: 1.0,
        kernel: kernel.clone(),
        bind_group: bind_group.clone(),
        workgroups: [1, 1],
    };
    std::iter::repeat_with(dispatch).take(EMPTY_DISPATCHES).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_the_first_dispatch() {
        assert_eq!(spans(&[], 1e-9), Ok(Vec::new()));
        let spans = spans(&[100, 110, 108, 120, 120, 120], 0.5).unwrap();
        assert_eq!(spans, [(0.0, 5.0), (4.0, 6.0), (10.0, 0.0)]);
        // Dispatches that do nothing may all be over within a tick.
        assert_eq!(super::spans(&[100, 100, 100, 100], 1.0), Ok(vec![(0.0, 0.0); 2]));
    }

    #[test]
    fn ticks_that_cannot_be_are_errors_and_no_times() {
        for (ticks, dispatch, words) in [
            (&[0, 0, 100, 110][..], 0, "never written"),
            (&[100, 110, 120, 0], 1, "ended at tick 0, which was never written"),
            (&[100, u64::MAX], 0, "never written"),
            (&[100, 110, 120, 115], 1, "began at tick 120 and ended before, at tick 115"),
            (&[100, 110, 90, 120], 1, "before the first dispatch"),
            (&[100, 100, 100, 100, 100, 100], 0, "all others of 3 dispatches took no time at all"),
            (&[100, 100], 0, "no time at all"),
        ] {
            let bad = spans_of_work(ticks, 1e-9).unwrap_err();
            assert_eq!(bad.dispatch, dispatch, "{ticks:?}");
            assert!(bad.problem.contains(words), "{ticks:?}: {bad:?}");
        }
    }
}
