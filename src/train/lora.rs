//! Which layers of a network get low-rank adapters, of which size.

use std::collections::BTreeSet;
use std::sync::Arc;

use wildmatch::WildMatch;

use super::TrainError;
use crate::network::{Adapted, Network, some_names};

/// Low-rank adapters (Hu et al. 2021, "LoRA").
#[derive(Clone, Debug, PartialEq)]
pub struct LoraOptions {
    /// Outputs of the first matrix of each adapter, which are the inputs of the second.
    pub rank: usize,
    /// Adapters count alpha / rank; `None` for an alpha that is the rank.
    pub alpha: Option<f32>,
    /// Patterns of the layers that have one, by the ends of their names: `to_q`, `attentions.*.to_q`; `*` stands for
    /// any text.
    pub targets: Vec<String>,
}

impl LoraOptions {
    /// The layers that diffusers' training scripts take: the projections of attention.
    pub const TARGETS: [&str; 4] = ["to_q", "to_k", "to_v", "to_out.0"];

    /// The network with these adapters.
    ///
    /// # Errors
    /// [`TrainError::Setting`] for a pattern that matches no layer, or numbers that make no sense.
    pub fn adapt(&self, network: Arc<dyn Network>) -> Result<Adapted, TrainError> {
        let alpha = self.alpha.unwrap_or(self.rank as f32);
        if self.rank == 0 {
            return Err(TrainError::setting(&["lora_rank"], "`lora_rank` is 0; it must be at least 1"));
        }
        if !(alpha.is_finite() && alpha > 0.0) {
            return Err(TrainError::setting(
                &["lora_alpha"],
                format!("`lora_alpha` is {alpha}; it must be above 0"),
            ));
        }
        let all = Adapted::layers_of(&network)?;
        let mut layers = BTreeSet::new();
        for target in &self.targets {
            let [whole, end] =
                [target.clone(), format!("*.{target}")].map(|pattern| WildMatch::new(&pattern));
            let matches = |layer: &&String| whole.matches(layer) || end.matches(layer);
            let found: Vec<&String> = all.iter().filter(matches).collect();
            if found.is_empty() {
                let names: Vec<&str> = all.iter().map(String::as_str).collect();
                let message = format!(
                    "`lora_target` has `{target}`, which is the end of none of the names of the model's {} convolutions and \
                     fully connected layers: {}; `*` stands for any text",
                    names.len(),
                    some_names(&names)
                );
                return Err(TrainError::setting(&["lora_target"], message));
            }
            layers.extend(found.into_iter().cloned());
        }
        Ok(Adapted::new(network, self.rank, alpha, layers))
    }
}
