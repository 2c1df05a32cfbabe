//! Low-rank adapters of layers (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models").

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Graph;

/// Which layers have an adapter, and its form: a layer y = f(x) with one is y = f(x) + alpha / rank B(A(x)).
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// Outputs of A, which are the inputs of B.
    pub rank: usize,
    /// How much adapters count, times the rank.
    pub alpha: f32,
    /// Module paths of the layers; `None` for all that can have one.
    pub layers: Option<BTreeSet<String>>,
}

impl LowRank {
    /// How much adapters count.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank as f32
    }
}

impl Graph {
    /// Runs `build`, whose layers have these adapters.
    pub fn with_low_rank<T>(&mut self, low_rank: Arc<LowRank>, build: impl FnOnce(&mut Self) -> T) -> T {
        let outer = self.low_rank.replace(low_rank);
        let result = build(self);
        self.low_rank = outer;
        result
    }

    /// The adapter that the layer at the current module path has.
    pub fn adapter(&self) -> Option<Arc<LowRank>> {
        let low_rank = self.low_rank.as_ref()?;
        let has_one = low_rank.layers.as_ref().is_none_or(|layers| layers.contains(&self.path()));
        has_one.then(|| low_rank.clone())
    }
}
