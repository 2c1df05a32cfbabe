//! Why a graph cannot be built.

use super::MAX_ELEMENTS;

/// A graph that cannot be built: an op that does not fit its operands.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// An op was given operands of the wrong shape.
    #[error("{path}: {op} cannot take {operands}: {reason}")]
    Shape {
        /// Module path.
        path: String,
        /// Name of the op.
        op: &'static str,
        /// The operands' names and shapes.
        operands: String,
        /// What was expected.
        reason: String,
    },
    /// A gradient was asked for through an op that has none.
    #[error("{path}: {op} has no gradient rule, but a gradient through it was asked for")]
    NoGradient {
        /// Module path.
        path: String,
        /// Name of the op.
        op: &'static str,
    },
    /// A gradient rule broke its contract.
    #[error("{path}: the gradient rule of {op} {fault}; this is a bug in that op")]
    GradientRule {
        /// Module path.
        path: String,
        /// Name of the op.
        op: &'static str,
        /// What it did.
        fault: String,
    },
    /// A tensor is larger than any machine's memory.
    #[error(
        "{path}: {op} cannot take or give {operand}: it has more than 2^{} elements; make the batch, the images or the \
         model smaller",
        MAX_ELEMENTS.ilog2()
    )]
    TooLarge {
        /// Module path.
        path: String,
        /// Name of the op.
        op: &'static str,
        /// The operand's name and shape.
        operand: String,
    },
    /// Training was asked for, and nothing would change.
    #[error(
        "none of the {parameters} tensors of the model is trained: all of them are frozen; leave some to be trained"
    )]
    NothingTrained {
        /// How many there are.
        parameters: usize,
    },
    /// A value cannot be packed into a flat state value.
    #[error("{name}: cannot be packed into a flat buffer: {reason}")]
    Pack {
        /// Name of the value.
        name: String,
        /// Why not.
        reason: String,
    },
}
