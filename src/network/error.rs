//! Networks that cannot be built.

use crate::graph::GraphError;

/// A model that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A key of the configuration has a value that this engine does not have.
    #[error("{key} is {value}; {expected}")]
    Unsupported {
        /// Key of config.json.
        key: String,
        /// Its value.
        value: String,
        /// What can be had.
        expected: String,
    },
    /// The configuration is not JSON of the expected form.
    #[error("the model's configuration cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// The configuration is no JSON object.
    #[error(
        "the model's configuration is no JSON object of keys and values, which diffusers' config.json is"
    )]
    NoObject,
    /// The network has more parameters than can be had.
    #[error(
        "the model's configuration asks for {parameters} parameters, {:.1} GB of them; {most} can be had",
        *parameters as f64 * 4e-9
    )]
    TooLarge {
        /// Number of parameters.
        parameters: u64,
        /// Most parameters of a network.
        most: u64,
    },
    /// A class that cannot mean "no class".
    #[error("class {none} is not one that means none: {reason}")]
    NullClass {
        /// The class.
        none: u32,
        /// Why not.
        reason: String,
    },
    /// A network has no input or output of a name, or was not given it.
    #[error("there is no value `{name}`: the network does not have it, or was not given it")]
    NoValue {
        /// The name.
        name: String,
    },
    /// The engine has no network of a class.
    #[error("{class} is no network that this engine has; it has {known}")]
    UnknownClass {
        /// The class.
        class: String,
        /// Those that there are.
        known: String,
    },
    /// A layer's low-rank adapter is not one of that layer.
    #[error("the adapter of {layer} does not fit: {reason}")]
    Adapter {
        /// Module path of the layer.
        layer: String,
        /// What is wrong.
        reason: String,
    },
    /// An op does not fit its operands.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// Says which key of a config.json has which value, and what can be had.
pub(in crate::network) fn unsupported(
    key: &str,
    value: impl ToString,
    expected: impl Into<String>,
) -> ModelError {
    const SHOWN: usize = 80;
    let value = value.to_string();
    let brief: String = value.chars().take(SHOWN).collect();
    let value = if brief.len() < value.len() { brief + " ..." } else { value };
    ModelError::Unsupported { key: key.to_owned(), value, expected: expected.into() }
}
