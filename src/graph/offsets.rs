//! Which bytes of which buffer a tensor gets that lives for a part of a run.

use std::cmp::Reverse;
use std::collections::HashSet;

use super::plan::{BufferPlan, BufferRole, Place};
use crate::device::webgpu::{BINDING_ALIGNMENT, MAX_BUFFER_BYTES};

/// A tensor that shares memory with others whose lives do not overlap.
pub(super) struct Allocation {
    pub(super) bytes: usize,
    /// First and last node that touch it.
    pub(super) first: usize,
    pub(super) last: usize,
    /// Allocations that must lie in other buffers: some node writes one of the two and reads or writes the other.
    ///
    /// WebGPU forbids one buffer bound for reading and for writing in the same dispatch, whatever the ranges.
    pub(super) conflicts: Vec<usize>,
    /// Whether it is scratch space of a single node.
    pub(super) is_scratch: bool,
}

/// A place for an allocation; of two the lesser is better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// Bytes by which the buffer has to grow.
    growth: usize,
    /// Bytes that stay free between the allocation and what follows it.
    slack: usize,
    offset: usize,
}

/// A buffer under construction.
struct Shared {
    /// Index among all buffers of the plan.
    index: usize,
    /// Offset, end, and first and last node of each allocation.
    allocations: Vec<[usize; 4]>,
}

impl Shared {
    /// The best candidate for `bytes` bytes that are free from node `first` to node `last`.
    fn candidate(&self, size: usize, bytes: usize, first: usize, last: usize) -> Option<Candidate> {
        let mut taken: Vec<(usize, usize)> = self
            .allocations
            .iter()
            .filter(|&&[_, _, born, died]| first <= died && born <= last)
            .map(|&[offset, end, ..]| (offset, end))
            .collect();
        taken.sort_unstable();
        let mut candidates = Vec::new();
        let mut offset = 0;
        for (start, end) in taken {
            if start >= offset + bytes {
                candidates.push(Candidate { growth: 0, slack: start - offset - bytes, offset });
            }
            offset = offset.max(end);
        }
        let end = offset + bytes;
        candidates.push(Candidate {
            growth: end.saturating_sub(size),
            slack: size.saturating_sub(end),
            offset,
        });
        candidates.into_iter().filter(|candidate| candidate.offset + bytes <= MAX_BUFFER_BYTES).min()
    }
}

/// Places all allocations, in their order: the largest first, each where its buffer grows least and then where it fits best.
///
/// A new buffer is begun only for an allocation that has a conflict in every other one, or whose buffer would be too large.
/// An allocation that is larger than the largest buffer by itself gets one of its own.
pub(super) fn pack(allocations: &[Allocation], buffers: &mut Vec<BufferPlan>) -> Vec<Place> {
    let mut order: Vec<usize> = (0..allocations.len()).collect();
    order.sort_by_key(|&index| (Reverse(allocations[index].bytes), allocations[index].first));
    let mut shared: Vec<Shared> = Vec::new();
    let mut places = vec![Place { buffer: usize::MAX, offset: 0, bytes: 0 }; allocations.len()];
    for index in order {
        let allocation = &allocations[index];
        let (first, last) = (allocation.first, allocation.last);
        let bytes = allocation.bytes.next_multiple_of(BINDING_ALIGNMENT);
        let forbidden: HashSet<usize> =
            allocation.conflicts.iter().map(|&other| places[other].buffer).collect();
        let best = shared
            .iter()
            .enumerate()
            .filter(|(_, shared)| !forbidden.contains(&shared.index))
            .filter_map(|(at, shared)| {
                Some((shared.candidate(buffers[shared.index].bytes, bytes, first, last)?, at))
            })
            .min();
        let (offset, at) = best.map_or_else(
            || {
                let role =
                    if allocation.is_scratch { BufferRole::Workspace } else { BufferRole::Activations };
                shared.push(Shared { index: buffers.len(), allocations: Vec::new() });
                buffers.push(BufferPlan { bytes: 0, role });
                (0, shared.len() - 1)
            },
            |(candidate, at)| (candidate.offset, at),
        );
        let Shared { index: buffer, allocations: placed } = &mut shared[at];
        placed.push([offset, offset + bytes, first, last]);
        buffers[*buffer].bytes = buffers[*buffer].bytes.max(offset + bytes);
        places[index] = Place { buffer: *buffer, offset, bytes: allocation.bytes };
    }
    places
}
