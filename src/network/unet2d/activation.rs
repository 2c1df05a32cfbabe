//! The non-linearity of a U-Net: `act_fn` in config.json.

use crate::graph::{Graph, GraphError, ValueId};
use crate::network::layers::group_norm;
use crate::ops::{self, Gelu};

/// A non-linearity, by the name that diffusers has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activation {
    Silu,
    Mish,
    Gelu,
    Relu,
}

/// All of them; diffusers reads the names in capitals too.
pub(super) const ACTIVATIONS: &[(&str, Activation)] = &[
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("mish", Activation::Mish),
    ("gelu", Activation::Gelu),
    ("relu", Activation::Relu),
];

impl Activation {
    /// The one of a name.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        let found = ACTIVATIONS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, activation)| *activation)
    }

    /// Applies it to every element of x.
    pub(super) fn build(self, graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
        match self {
            Self::Silu => ops::silu(graph, x),
            Self::Mish => ops::mish(graph, x),
            Self::Gelu => ops::gelu(graph, x, Gelu::Erf),
            Self::Relu => ops::relu(graph, x),
        }
    }

    /// A group norm called `name` of x `[N, H, W, C]`, and then this; of SiLU in one pass.
    pub(super) fn after_group_norm(
        self,
        graph: &mut Graph,
        name: &str,
        x: ValueId,
        groups: usize,
        eps: f32,
    ) -> Result<ValueId, GraphError> {
        let normed = group_norm(graph, name, x, groups, eps, self == Self::Silu)?;
        if self == Self::Silu {
            return Ok(normed);
        }
        graph.scoped(name, |graph| self.build(graph, normed))
    }
}
