//! The networks that the engine has, by the names of their classes.

use std::sync::Arc;

use serde_json::Value;

use super::{ClassifierConfig, ModelError, Network, UNetConfig};

/// A kind of network.
pub struct NetworkClass {
    /// The name of its class, in diffusers where diffusers has it.
    pub name: &'static str,
    /// Reads and checks its config.json.
    pub read: fn(Value) -> Result<Arc<dyn Network>, ModelError>,
}

/// All of them.
pub const NETWORKS: &[NetworkClass] = &[
    NetworkClass { name: UNetConfig::CLASS, read: |value| Ok(Arc::new(UNetConfig::from_value(value)?)) },
    NetworkClass {
        name: ClassifierConfig::CLASS,
        read: |value| Ok(Arc::new(ClassifierConfig::from_value(value)?)),
    },
];

/// The network of a class that a config.json describes.
///
/// # Errors
/// [`ModelError::UnknownClass`]; [`ModelError::Unsupported`] naming the key.
pub fn from_config(class: &str, config: Value) -> Result<Arc<dyn Network>, ModelError> {
    let found = NETWORKS.iter().find(|known| known.name == class).ok_or_else(|| {
        let known: Vec<&str> = NETWORKS.iter().map(|class| class.name).collect();
        ModelError::UnknownClass { class: class.to_owned(), known: known.join(", ") }
    })?;
    (found.read)(config)
}
