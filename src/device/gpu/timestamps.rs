//! The device's own clock, read before and after each dispatch.

use super::GpuDevice;
use super::executor::Dispatch;

/// Two timestamps for each dispatch of a run.
pub(super) struct Timestamps {
    sets: Vec<wgpu::QuerySet>,
    resolved: wgpu::Buffer,
    /// The timestamps, `[dispatches, 2]`, to be mapped after the run.
    pub(super) readable: wgpu::Buffer,
    /// Seconds of one tick.
    tick: f64,
    dispatches: usize,
}

/// As many as one query set can time: WebGPU allows 4096 queries in a set.
const DISPATCHES_IN_A_SET: usize = 2048;

impl Timestamps {
    pub(super) fn new(device: &GpuDevice, dispatches: usize) -> Self {
        let buffer = |usage| {
            device.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("timestamps"),
                size: (16 * dispatches.max(1)) as u64,
                usage: usage | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
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
            resolved: buffer(wgpu::BufferUsages::QUERY_RESOLVE),
            readable: device.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("timestamps to be read"),
                size: (16 * dispatches.max(1)) as u64,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            }),
            tick: f64::from(device.queue.get_timestamp_period()) * 1e-9,
            dispatches,
        }
    }

    /// Encodes each dispatch in a pass of its own, since timestamps are taken at the ends of passes.
    pub(super) fn encode(&self, encoder: &mut wgpu::CommandEncoder, dispatches: &[Dispatch]) {
        for (set, dispatches) in self.sets.iter().zip(dispatches.chunks(DISPATCHES_IN_A_SET)) {
            for (query, dispatch) in (0..).step_by(2).zip(dispatches) {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: None,
                    timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                        query_set: set,
                        beginning_of_pass_write_index: Some(query),
                        end_of_pass_write_index: Some(query + 1),
                    }),
                });
                dispatch.encode(&mut pass);
            }
        }
        for (index, set) in self.sets.iter().enumerate() {
            let first = index * DISPATCHES_IN_A_SET;
            let count = (self.dispatches - first).min(DISPATCHES_IN_A_SET);
            encoder.resolve_query_set(set, 0..2 * count as u32, &self.resolved, (16 * first) as u64);
        }
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.readable, 0, self.readable.size());
    }

    /// Start, counted from the first dispatch's, and length of each dispatch in seconds.
    pub(super) fn spans(&self, bytes: &[u8]) -> Vec<(f64, f64)> {
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(bytes);
        let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 * self.tick;
        let pairs = ticks.chunks_exact(2).take(self.dispatches);
        pairs.map(|pair| (seconds(ticks[0], pair[0]), seconds(pair[0], pair[1]))).collect()
    }
}
