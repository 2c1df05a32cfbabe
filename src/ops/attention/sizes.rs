//! Sizes of a call of attention, and the kernels that suit them.

use super::{MASKED, Settings};
use crate::graph::TensorType;
use crate::ops::{Cost, Grid, Pass, Requirements, Types, Variant, Word};

/// Own rows and invocations of one workgroup; `OWN` and `WORKGROUP` of the kernel.
const OWN: usize = 16;
const WORKGROUP: usize = 256;

/// Own rows and invocations of one workgroup of the `_lanes` kernels; `LANES` of `shared/lanes.wgsl`.
const LANES: usize = 8;

/// Sizes of a call.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) settings: Settings,
    pub(super) samples: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) channels: usize,
    pub(super) heads: usize,
    /// Channels of one head.
    pub(super) size: usize,
    pub(super) scale: f64,
}

/// Which rows a kernel owns; the others it walks.
#[derive(Clone, Copy)]
pub(super) enum Own {
    Queries,
    Keys,
}

impl Sizes {
    pub(super) fn of(q: &TensorType, k: &TensorType, settings: Settings) -> Self {
        let (samples, channels) = (q.shape[0], q.channels());
        let size = channels / settings.heads;
        Self {
            settings,
            samples,
            queries: q.rows() / samples,
            keys: k.rows() / samples,
            channels,
            heads: settings.heads,
            size,
            scale: 1.0 / (size as f64).sqrt(),
        }
    }

    /// Index of the first channel of a head in row `token` of sample `n` of a tensor with a row for each query.
    pub(super) fn query(&self, n: usize, head: usize, token: usize) -> usize {
        (n * self.queries + token) * self.channels + head * self.size
    }

    /// The same of a tensor with a row for each key.
    pub(super) fn key(&self, n: usize, head: usize, token: usize) -> usize {
        (n * self.keys + token) * self.channels + head * self.size
    }

    /// Whether a query sees a key.
    pub(super) fn sees(&self, query: usize, key: usize) -> bool {
        !self.settings.causal || key <= query
    }

    /// What the mask adds to the scores of a key.
    pub(super) fn mask(&self, mask: Option<&[f32]>, n: usize, key: usize) -> f32 {
        mask.map_or(0.0, |mask| mask[n * self.keys + key].clamp(MASKED, -MASKED))
    }

    pub(super) fn params(&self) -> Vec<(&'static str, Word)> {
        vec![
            ("samples", self.samples.into()),
            ("queries", self.queries.into()),
            ("keys", self.keys.into()),
            ("channels", self.channels.into()),
            ("heads", self.heads.into()),
            ("scale", (self.scale as f32).into()),
        ]
    }

    fn own_rows(&self, own: Own) -> usize {
        match own {
            Own::Queries => self.queries,
            Own::Keys => self.keys,
        }
    }

    fn variant(&self, entry: &'static str, workgroups: usize, overrides: &[(&'static str, f64)]) -> Variant {
        let causal = ("CAUSAL", f64::from(u8::from(self.settings.causal)));
        Variant {
            name: entry,
            requires: Requirements::default(),
            scratch: Vec::new(),
            passes: vec![Pass {
                overrides: [&[causal], overrides].concat(),
                ..Pass::new(entry, Grid::Workgroups(workgroups), self.params())
            }],
        }
    }

    /// The kernel for workgroups of 256, each of whose invocations adds up some own rows of a channel.
    fn tiles(&self, entry: &'static str, own: Own) -> Variant {
        // As many as keep all invocations at work.
        let rows = [4, 8].into_iter().find(|rows| self.size <= WORKGROUP * rows / OWN).unwrap_or(OWN);
        let chunks = self.size.div_ceil(WORKGROUP * rows / OWN);
        let workgroups = self.samples * self.heads * self.own_rows(own).div_ceil(OWN) * chunks;
        self.variant(entry, workgroups, &[("ROWS", rows as f64)])
    }

    /// The kernel for eight lanes, for heads that are multiples of four. A lane adds up at most `most` quads of
    /// channels.
    fn lanes(&self, entry: &'static str, own: Own, most: usize) -> Option<Variant> {
        let quads = self.size.is_multiple_of(4).then_some(self.size / 4)?;
        // The more quads a lane adds up, the fewer workgroups compute the scores again; but not more than there are.
        let fits = |&per_lane: &usize| per_lane <= most && quads <= LANES * per_lane;
        let per_lane = [1, 2, 4, 5].into_iter().find(fits).unwrap_or(most.min(4));
        let chunks = quads.div_ceil(LANES * per_lane);
        let workgroups = self.samples * self.heads * self.own_rows(own).div_ceil(LANES) * chunks;
        let requires = Requirements { subgroup_size: Some(LANES as u32), ..Requirements::default() };
        Some(Variant { requires, ..self.variant(entry, workgroups, &[("QUADS", per_lane as f64)]) })
    }

    /// Both, by the names of their entry points, without a mask and with one.
    pub(super) fn variants(
        &self,
        lanes: [&'static str; 2],
        tiles: [&'static str; 2],
        own: Own,
        most: usize,
    ) -> Vec<Variant> {
        let form = usize::from(self.settings.masked);
        let lanes = self.lanes(lanes[form], own, most);
        lanes.into_iter().chain([self.tiles(tiles[form], own)]).collect()
    }

    /// The cost of a call that multiplies `products` pairs of matrices, of queries and keys, per head.
    pub(super) fn cost(&self, types: Types<'_>, products: usize) -> Cost {
        let bytes = types.inputs.iter().chain(types.outputs).map(TensorType::bytes).sum();
        let pairs = match self.settings.causal {
            true => (1..=self.queries).map(|seen| seen.min(self.keys)).sum(),
            false => self.queries * self.keys,
        };
        Cost { bytes, flops: 2 * products * self.samples * pairs * self.channels }
    }
}
