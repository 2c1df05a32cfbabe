//! A network of which the user says what its file does not: which class means "no class".

use std::sync::Arc;

use super::{CLASS_LABELS, Element, Input, ModelError, NamedValues, Network};
use crate::graph::{Graph, ValueId};

/// The network, with a class that means none: its class labels say so, and it is the network in all else.
#[derive(Debug)]
struct WithNullClass {
    network: Arc<dyn Network>,
    none: u32,
}

/// `network`, whose class `none` means "no class" (Ho and Salimans 2022).
///
/// # Errors
/// [`ModelError::NullClass`] for a network without classes, without that class, or with another class that means none.
pub fn with_null_class(network: Arc<dyn Network>, none: u32) -> Result<Arc<dyn Network>, ModelError> {
    let refused = |reason: String| Err(ModelError::NullClass { none, reason });
    match network.classes() {
        None => refused("the model is told no class of a table of them".to_owned()),
        Some((count, _)) if none as usize >= count => {
            refused(format!("the model has {count} classes, 0 to {}", count.saturating_sub(1)))
        }
        Some((1, _)) => refused("the model has no other class".to_owned()),
        Some((_, Some(own))) if own == none => Ok(network),
        Some((_, Some(own))) => refused(format!("the model's config.json says that its class {own} does")),
        Some((_, None)) => Ok(Arc::new(WithNullClass { network, none })),
    }
}

impl Network for WithNullClass {
    fn class_name(&self) -> &'static str {
        self.network.class_name()
    }

    fn to_json(&self) -> Result<String, ModelError> {
        self.network.to_json()
    }

    fn check(&self) -> Result<(), ModelError> {
        self.network.check()
    }

    fn inputs(&self) -> Result<Vec<Input>, ModelError> {
        let mut inputs = self.network.inputs()?;
        for input in inputs.iter_mut().filter(|input| input.name == CLASS_LABELS) {
            if let Element::Class { none, .. } = &mut input.element {
                *none = Some(self.none);
            }
        }
        Ok(inputs)
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
        self.network.build(graph, inputs, dropout)
    }

    fn within(&self) -> Option<&dyn Network> {
        Some(self.network.as_ref())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::network::UNetConfig;

    fn unet(keys: &str) -> Arc<dyn Network> {
        let text = format!(
            r#"{{"_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 1, "out_channels": 1,
                "block_out_channels": [32], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]{keys}}}"#
        );
        let config: UNetConfig = serde_json::from_str(&text).unwrap();
        Arc::new(config)
    }

    #[test]
    fn a_class_that_the_user_names_is_no_class_to_ask_for() {
        let network = with_null_class(unet(r#", "num_class_embeds": 5"#), 2).unwrap();
        assert_eq!((network.classes(), network.num_classes()), (Some((5, Some(2))), Some(4)));
        assert_eq!(network.classes_in_turn(8), Some(vec![0, 0, 1, 1, 3, 3, 4, 4]));
        assert!(network.input(CLASS_LABELS).unwrap().has_unconditional());
    }

    #[test]
    fn what_the_user_says_must_fit_the_model() {
        let refused = |keys, none| with_null_class(unet(keys), none).unwrap_err().to_string();
        for (message, words) in [
            (refused("", 0), "no class of a table"),
            (refused(r#", "num_class_embeds": 5"#, 5), "5 classes, 0 to 4"),
            (refused(r#", "num_class_embeds": 5, "_null_class": true"#, 2), "its class 4 does"),
        ] {
            assert!(message.contains(words) && message.contains("means none"), "{message}");
        }
        let same = with_null_class(unet(r#", "num_class_embeds": 5, "_null_class": true"#), 4).unwrap();
        assert_eq!(same.null_class(), Some(4));
    }
}
