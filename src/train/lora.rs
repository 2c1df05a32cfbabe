//! Which layers of a network get low-rank adapters, of which size.

use std::sync::Arc;

use super::TrainError;
use super::patterns::{Compared, matching};
use crate::network::{Adapted, Network};

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
        let names: Vec<&str> = all.iter().map(String::as_str).collect();
        let things = "convolutions and fully connected layers";
        let layers = matching(&["lora_target"], &self.targets, Compared::End, &names, things)?;
        Ok(Adapted::new(network, self.rank, alpha, layers))
    }
}
