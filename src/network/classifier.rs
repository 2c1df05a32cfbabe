//! A classifier of noised images (Dhariwal and Nichol 2021): the encoder of a U-Net with a head.

use serde::Serialize;
use serde_json::Value;

use super::error::unsupported;
use super::layers::{WeightInit, group_norm, linear};
use super::parameters::CLASSES;
use super::unet2d::encode;
use super::{Input, ModelError, NamedValues, Network, SAMPLE, TIMESTEPS, UNetConfig};
use crate::graph::{Graph, ValueId};
use crate::ops;

/// The output that is the mean over pixels of what enters the last layer.
pub const FEATURES: &str = "features";
/// The output with a number for each class.
pub const LOGITS: &str = "logits";

/// The configuration of a classifier; diffusers has no such network.
///
/// The head is group norm, SiLU, the mean over pixels and a linear layer that starts as zero (Dhariwal and Nichol's
/// `EncoderUNetModel` with pool "adaptive").
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassifierConfig {
    /// Number of classes.
    pub num_classes: usize,
    /// The U-Net of which it is the encoder.
    pub encoder: UNetConfig,
}

impl ClassifierConfig {
    /// The name of the class.
    pub const CLASS: &str = "UNet2DClassifier";

    /// Reads and checks what a config.json holds.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] naming the key.
    pub fn from_value(mut value: Value) -> Result<Self, ModelError> {
        let encoder = value.get_mut("encoder").map(Value::take).unwrap_or_default();
        if encoder.is_null() {
            return Err(unsupported(
                "encoder",
                "missing",
                "a classifier has the config of a UNet2DModel there",
            ));
        }
        let encoder = UNetConfig::from_value(encoder)?;
        let num_classes = value.get("num_classes").and_then(Value::as_u64).unwrap_or(0) as usize;
        let config = Self { num_classes, encoder };
        check_classes(num_classes, value.get("num_classes").unwrap_or(&Value::Null))?;
        Ok(config)
    }
}

/// Refuses a number of classes that is out of range; `found` is what the message shows.
fn check_classes(num_classes: usize, found: impl std::fmt::Display) -> Result<(), ModelError> {
    match num_classes {
        1..=CLASSES => Ok(()),
        _ => Err(unsupported("num_classes", found, format!("it must be from 1 to {CLASSES}"))),
    }
}

impl Network for ClassifierConfig {
    fn class_name(&self) -> &'static str {
        Self::CLASS
    }

    fn to_json(&self) -> Result<String, ModelError> {
        #[derive(Serialize)]
        struct File<'a> {
            #[serde(rename = "_class_name")]
            class_name: &'static str,
            #[serde(flatten)]
            config: &'a ClassifierConfig,
        }
        let file = File { class_name: Self::CLASS, config: self };
        Ok(serde_json::to_string_pretty(&file)? + "\n")
    }

    fn check(&self) -> Result<(), ModelError> {
        check_classes(self.num_classes, self.num_classes)?;
        self.encoder.check()?;
        let beside = self.encoder.channels_of_condition();
        if beside > 0 {
            let key = match self.encoder.super_resolution {
                Some(_) => "encoder._super_resolution",
                None => "encoder._condition_channels",
            };
            let expected = "a classifier is given no image beside the one that it tells; leave it out";
            return Err(unsupported(key, format!("of {beside} channels"), expected));
        }
        Ok(())
    }

    fn inputs(&self) -> Result<Vec<Input>, ModelError> {
        let mut inputs = Network::inputs(&self.encoder)?;
        // A classifier is not told the class, nor given another image.
        inputs.retain(|input| [SAMPLE, TIMESTEPS].contains(&input.name));
        Ok(inputs)
    }

    fn outputs(&self) -> Result<Vec<(&'static str, Vec<usize>)>, ModelError> {
        let channels = self.encoder.block_out_channels.last().copied().unwrap_or(0);
        Ok(vec![(FEATURES, vec![channels]), (LOGITS, vec![self.num_classes])])
    }

    fn check_timesteps(&self, least: f64, most: f64) -> Result<(), String> {
        self.encoder.check_timesteps(least, most)
    }

    fn build(
        &self,
        graph: &mut Graph,
        inputs: &NamedValues,
        dropout: Option<ValueId>,
    ) -> Result<NamedValues, ModelError> {
        let unconditional = self.encoder.unconditional();
        unconditional.check()?;
        let encoded = encode(graph, &unconditional, inputs, dropout)?;
        let x = group_norm(
            graph,
            "conv_norm_out",
            encoded.features(),
            self.encoder.groups(),
            self.encoder.norm_eps,
            true,
        )?;
        let features = graph.scoped("pool", |graph| ops::average_pool(graph, x))?;
        let logits = linear(graph, "classifier", features, self.num_classes, WeightInit::NearZero)?;
        Ok(NamedValues::default().with(FEATURES, features).with(LOGITS, logits))
    }
}
