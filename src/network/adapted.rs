//! A network with low-rank adapters: its own weights stay as they are, and only the adapters are trained.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::layers::{ADAPTER_A, ADAPTER_B};
use super::{Input, ModelError, NamedValues, Network, Tensor, Tensors};
use crate::graph::{Graph, LowRank, ValueId};

/// A network whose layers have low-rank adapters.
#[derive(Clone, Debug)]
pub struct Adapted {
    network: Arc<dyn Network>,
    low_rank: Arc<LowRank>,
}

/// The two matrices of a layer's adapter, and how much their product counts.
#[derive(Clone, Copy, Debug)]
pub struct Adapter<'a> {
    /// `[rank, ...]`, with the axes of the layer's weight after the first.
    pub a: &'a Tensor,
    /// `[outputs, rank]`, or `[outputs, rank, 1, 1]`.
    pub b: &'a Tensor,
    /// alpha / rank.
    pub scale: f32,
}

impl Adapted {
    /// Adapters of the layers at these module paths.
    pub fn new(network: Arc<dyn Network>, rank: usize, alpha: f32, layers: BTreeSet<String>) -> Self {
        Self { network, low_rank: Arc::new(LowRank { rank, alpha, layers: Some(layers) }) }
    }

    /// The module paths of all layers that can have an adapter: convolutions and fully connected ones.
    ///
    /// # Errors
    /// [`ModelError`] for a configuration that cannot be built.
    pub fn layers_of(network: &Arc<dyn Network>) -> Result<BTreeSet<String>, ModelError> {
        let low_rank = Arc::new(LowRank { rank: 1, alpha: 1.0, layers: None });
        let all: &dyn Network = &Self { network: network.clone(), low_rank };
        let graph = all.alone()?;
        let layers = graph.parameters().iter().filter_map(|parameter| layer_of(&parameter.name));
        Ok(layers.map(str::to_owned).collect())
    }

    /// The network without adapters.
    pub fn network(&self) -> &Arc<dyn Network> {
        &self.network
    }

    /// The form of the adapters.
    pub fn low_rank(&self) -> &LowRank {
        &self.low_rank
    }

    /// The module paths of the layers that have adapters.
    pub fn layers(&self) -> impl Iterator<Item = &String> {
        self.low_rank.layers.iter().flatten()
    }

    /// Tells the tensors of the network from those of the adapters.
    pub fn split(&self, mut tensors: Tensors) -> (Tensors, Tensors) {
        let mut adapters = Tensors::new();
        for name in self.layers().flat_map(|layer| names(layer)) {
            adapters.extend(tensors.remove_entry(&name));
        }
        (tensors, adapters)
    }

    /// The weights of the network with the adapters added to them.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] for an adapter that lacks a tensor, or whose shape is not that of its layer.
    pub fn merge(&self, tensors: Tensors) -> Result<Tensors, ModelError> {
        let (mut weights, adapters) = self.split(tensors);
        for layer in self.layers() {
            let [a, b] = names(layer).map(|name| {
                let missing =
                    || ModelError::Adapter { layer: layer.clone(), reason: format!("it lacks {name}") };
                adapters.get(&name).ok_or_else(missing)
            });
            merge(&mut weights, layer, Adapter { a: a?, b: b?, scale: self.low_rank.scale() })?;
        }
        Ok(weights)
    }
}

/// The names of the tensors of a layer's adapter.
pub(super) fn names(layer: &str) -> [String; 2] {
    [ADAPTER_A, ADAPTER_B].map(|matrix| format!("{layer}.{matrix}.weight"))
}

/// The layer of whose adapter a tensor is; `None` for a tensor that is of none.
fn layer_of(name: &str) -> Option<&str> {
    let matrix = name.strip_suffix(".weight")?;
    [ADAPTER_A, ADAPTER_B].iter().find_map(|end| matrix.strip_suffix(end)?.strip_suffix('.'))
}

/// Adds a layer's adapter to its weight: W + scale B A, in double precision.
///
/// # Errors
/// [`ModelError::Adapter`] for a layer that is not there, or whose weight is not of the shape of B A, and for a
/// rank of 0.
pub fn merge(weights: &mut Tensors, layer: &str, adapter: Adapter<'_>) -> Result<(), ModelError> {
    let Adapter { a, b, scale } = adapter;
    let fault = |reason: String| Err(ModelError::Adapter { layer: layer.to_owned(), reason });
    let Some(weight) = weights.get_mut(&format!("{layer}.weight")) else {
        return fault("the model has no such layer".to_owned());
    };
    let (rank, outputs) = (a.shape.first().copied().unwrap_or(0), b.shape.first().copied().unwrap_or(0));
    if rank == 0 {
        return fault(format!("A is {:?}, of rank 0; a rank of at least 1 was expected", a.shape));
    }
    let inputs: usize = a.shape.iter().skip(1).product();
    let fits = weight.shape.first() == Some(&outputs)
        && weight.data.len() == outputs * inputs
        && a.data.len() == rank * inputs
        && b.data.len() == outputs * rank;
    if !fits {
        return fault(format!(
            "A {:?} and B {:?} make no weight {:?}, which the layer has",
            a.shape, b.shape, weight.shape
        ));
    }
    for (o, row) in weight.data.chunks_exact_mut(inputs.max(1)).enumerate() {
        for (i, weight) in row.iter_mut().enumerate() {
            let terms =
                (0..rank).map(|k| f64::from(b.data[o * rank + k]) * f64::from(a.data[k * inputs + i]));
            *weight = (f64::from(*weight) + f64::from(scale) * terms.sum::<f64>()) as f32;
        }
    }
    Ok(())
}

impl Network for Adapted {
    fn class_name(&self) -> &'static str {
        self.network.class_name()
    }

    /// That of the network, with what is said of the adapters under a key of its own; no file has it.
    fn to_json(&self) -> Result<String, ModelError> {
        let mut value: Value = serde_json::from_str(&self.network.to_json()?)?;
        let LowRank { rank, alpha, layers } = self.low_rank();
        value["_lora"] = json!({ "rank": rank, "alpha": alpha, "layers": layers });
        Ok(serde_json::to_string_pretty(&value)? + "\n")
    }

    fn check(&self) -> Result<(), ModelError> {
        self.network.check()
    }

    fn inputs(&self) -> Result<Vec<Input>, ModelError> {
        self.network.inputs()
    }

    fn outputs(&self) -> Result<Vec<(&'static str, Vec<usize>)>, ModelError> {
        self.network.outputs()
    }

    fn build(
        &self,
        graph: &mut Graph,
        inputs: &NamedValues,
        dropout: Option<ValueId>,
    ) -> Result<NamedValues, ModelError> {
        let outputs =
            graph.with_low_rank(self.low_rank.clone(), |graph| self.network.build(graph, inputs, dropout))?;
        graph.freeze(|name| layer_of(name).is_none());
        Ok(outputs)
    }

    fn within(&self) -> Option<&dyn Network> {
        Some(self.network.as_ref())
    }

    fn adapted(&self) -> Option<&Adapted> {
        Some(self)
    }
}
