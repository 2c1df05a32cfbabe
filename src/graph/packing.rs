//! Which bytes of which buffer a tensor gets that lives for a part of a run.

use std::cmp::Reverse;
use std::collections::HashSet;

use super::plan::{BufferPlan, BufferRole, Place};

/// A tensor that shares memory with others whose lives do not overlap.
pub(super) struct Tenant {
    pub(super) bytes: usize,
    /// First and last node that touch it.
    pub(super) first: usize,
    pub(super) last: usize,
    /// Tenants that must lie in other buffers: some node writes one of the two and reads or writes the other.
    ///
    /// WebGPU forbids one buffer bound for reading and for writing in the same dispatch, whatever the ranges.
    pub(super) rivals: Vec<usize>,
    /// Whether it is scratch space of a single node.
    pub(super) is_scratch: bool,
}

/// WebGPU wants storage bindings at multiples of 256 bytes.
const ALIGNMENT: usize = 256;

/// WebGPU's default limit of a buffer. A tensor that is larger by itself gets a buffer of its own.
const MAX_BUFFER_BYTES: usize = 256 << 20;

/// Room for a tenant; of two rooms the lesser is better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Room {
    /// Bytes by which the buffer has to grow.
    growth: usize,
    /// Bytes that stay free between the tenant and what follows it.
    slack: usize,
    offset: usize,
}

/// A buffer under construction.
struct Shared {
    /// Index among all buffers of the plan.
    index: usize,
    /// Offset, end, and first and last node of each tenant.
    tenants: Vec<[usize; 4]>,
}

impl Shared {
    /// The best room for `bytes` bytes that are free from node `first` to node `last`.
    fn room(&self, size: usize, bytes: usize, first: usize, last: usize) -> Option<Room> {
        let mut taken: Vec<(usize, usize)> = self
            .tenants
            .iter()
            .filter(|&&[_, _, born, died]| first <= died && born <= last)
            .map(|&[offset, end, ..]| (offset, end))
            .collect();
        taken.sort_unstable();
        let mut rooms = Vec::new();
        let mut offset = 0;
        for (start, end) in taken {
            if start >= offset + bytes {
                rooms.push(Room { growth: 0, slack: start - offset - bytes, offset });
            }
            offset = offset.max(end);
        }
        let end = offset + bytes;
        rooms.push(Room { growth: end.saturating_sub(size), slack: size.saturating_sub(end), offset });
        rooms.into_iter().filter(|room| room.offset + bytes <= MAX_BUFFER_BYTES).min()
    }
}

/// Places all tenants, in their order: the largest first, each where its buffer grows least and then where it fits best.
///
/// A new buffer is begun only for a tenant that has a rival in every other one, or whose buffer would be too large.
pub(super) fn pack(tenants: &[Tenant], buffers: &mut Vec<BufferPlan>) -> Vec<Place> {
    let mut order: Vec<usize> = (0..tenants.len()).collect();
    order.sort_by_key(|&index| (Reverse(tenants[index].bytes), tenants[index].first));
    let mut shared: Vec<Shared> = Vec::new();
    let mut places = vec![Place { buffer: usize::MAX, offset: 0, bytes: 0 }; tenants.len()];
    for index in order {
        let tenant = &tenants[index];
        let (first, last) = (tenant.first, tenant.last);
        let bytes = tenant.bytes.next_multiple_of(ALIGNMENT);
        let forbidden: HashSet<usize> = tenant.rivals.iter().map(|&rival| places[rival].buffer).collect();
        let best = shared
            .iter()
            .enumerate()
            .filter(|(_, shared)| !forbidden.contains(&shared.index))
            .filter_map(|(at, shared)| {
                Some((shared.room(buffers[shared.index].bytes, bytes, first, last)?, at))
            })
            .min();
        let (offset, at) = best.map_or_else(
            || {
                let role = if tenant.is_scratch { BufferRole::Workspace } else { BufferRole::Activations };
                shared.push(Shared { index: buffers.len(), tenants: Vec::new() });
                buffers.push(BufferPlan { bytes: 0, role });
                (0, shared.len() - 1)
            },
            |(room, at)| (room.offset, at),
        );
        let Shared { index: buffer, tenants: placed } = &mut shared[at];
        placed.push([offset, offset + bytes, first, last]);
        buffers[*buffer].bytes = buffers[*buffer].bytes.max(offset + bytes);
        places[index] = Place { buffer: *buffer, offset, bytes: tenant.bytes };
    }
    places
}
