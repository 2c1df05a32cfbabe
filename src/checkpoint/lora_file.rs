//! Low-rank adapters in files of others: of diffusers' `save_lora_weights`, and of peft.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::json::read_json;
use super::lora::{DIFFUSERS, DIFFUSERS_METADATA, PEFT, PEFT_CONFIG, PEFT_PREFIX};
use super::weights_file::{listed, names};
use super::{CheckpointError, tensor_file};
use crate::network::{Adapter, Tensor, merge};
use crate::pipeline::{CLASSES, Pipeline};

/// Which of an adapter's tensors one is.
#[derive(Clone, Copy, PartialEq)]
enum Leaf {
    A,
    B,
    /// A number; the adapter counts it divided by the rank.
    Alpha,
}

/// How names of tensors end, in the files that there are, and what stands there in the name of the layer.
const ENDINGS: &[(&str, &str, Leaf)] = &[
    (".lora_A.weight", "", Leaf::A),
    (".lora_B.weight", "", Leaf::B),
    (".lora_A.default.weight", "", Leaf::A),
    (".lora_B.default.weight", "", Leaf::B),
    (".lora.down.weight", "", Leaf::A),
    (".lora.up.weight", "", Leaf::B),
    // diffusers before 0.22
    (".processor.to_q_lora.down.weight", ".to_q", Leaf::A),
    (".processor.to_q_lora.up.weight", ".to_q", Leaf::B),
    (".processor.to_k_lora.down.weight", ".to_k", Leaf::A),
    (".processor.to_k_lora.up.weight", ".to_k", Leaf::B),
    (".processor.to_v_lora.down.weight", ".to_v", Leaf::A),
    (".processor.to_v_lora.up.weight", ".to_v", Leaf::B),
    (".processor.to_out_lora.down.weight", ".to_out.0", Leaf::A),
    (".processor.to_out_lora.up.weight", ".to_out.0", Leaf::B),
    (".alpha", "", Leaf::Alpha),
];

/// Settings of adapters that change what they do, with the values that change nothing.
const REFUSED: &[(&str, &[&str])] = &[
    ("bias", &["\"none\"", "null"]),
    ("fan_in_fan_out", &["false", "null"]),
    ("lora_bias", &["false", "null"]),
    ("modules_to_save", &["null", "[]"]),
    ("peft_type", &["\"LORA\""]),
    ("use_dora", &["false", "null"]),
    ("use_qalora", &["false", "null"]),
];

/// What is known of one layer's adapter.
#[derive(Default)]
struct Parts {
    a: Option<Tensor>,
    b: Option<Tensor>,
    alpha: Option<f32>,
}

/// The settings that a file has with it.
struct Settings(Map<String, Value>);

/// Adds the adapters of a file to the weights of a pipeline's network, and says in sentences what was taken and
/// assumed.
///
/// `path` is a safetensors file, or the folder that it lies in.
///
/// # Errors
/// [`CheckpointError`] naming the file and the tensor.
pub fn add_lora(pipeline: &mut Pipeline, path: &Path) -> Result<Vec<String>, CheckpointError> {
    let file = find(path)?;
    let invalid = |message: String| CheckpointError::invalid(&file, message);
    let settings = settings(&file)?;
    settings.check().map_err(invalid)?;
    let mut layers: BTreeMap<String, Parts> = BTreeMap::new();
    for (name, tensor) in tensor_file::read(&file)? {
        let (layer, leaf) = parse(&name).ok_or_else(|| {
            invalid(format!(
                "the tensor {name} is of no low-rank adapter as diffusers and peft write them: expected a layer's name and \
                 lora_A.weight, lora_B.weight, lora.down.weight or lora.up.weight"
            ))
        })?;
        let parts = layers.entry(layer).or_default();
        match leaf {
            Leaf::A => parts.a = Some(tensor),
            Leaf::B => parts.b = Some(tensor),
            Leaf::Alpha => parts.alpha = tensor.data.first().copied(),
        }
    }
    if layers.is_empty() {
        return Err(invalid("there are no adapters in it".to_owned()));
    }
    // A pipeline that takes adapters has one network.
    let Some(component) = pipeline.networks.values_mut().next() else { return Ok(Vec::new()) };
    let mut assumed = 0;
    for (layer, Parts { a, b, alpha }) in &layers {
        let (Some(a), Some(b)) = (a, b) else {
            return Err(invalid(format!("the adapter of {layer} has one of its two matrices only")));
        };
        let rank = a.shape.first().copied().unwrap_or(0) as f32;
        let alpha = match alpha.or(settings.alpha(layer).map_err(invalid)?) {
            Some(alpha) => alpha,
            None => {
                assumed += 1;
                rank
            }
        };
        let scale = if settings.is_of_root() { alpha / rank.sqrt() } else { alpha / rank };
        merge(&mut component.weights, layer, Adapter { a, b, scale })
            .map_err(|source| CheckpointError::Model { path: file.clone(), source })?;
    }
    let mut notes =
        vec![format!("{}: adapters of {} layers are added to the model", file.display(), layers.len())];
    if assumed > 0 {
        notes.push(format!(
            "{}: nothing says how much {assumed} of them count; taken to count once, as diffusers does",
            file.display()
        ));
    }
    Ok(notes)
}

/// The file of adapters that a path means.
fn find(path: &Path) -> Result<PathBuf, CheckpointError> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let there = [DIFFUSERS, PEFT].map(|name| path.join(name));
    there.into_iter().find(|file| file.is_file()).ok_or_else(|| {
        let message = format!("expected {DIFFUSERS} or {PEFT}; there is {}", listed(&names(path)));
        CheckpointError::invalid(path, message)
    })
}

/// The settings within a file, or in peft's configuration beside it; empty where there are none.
fn settings(file: &Path) -> Result<Settings, CheckpointError> {
    let invalid = |error: serde_json::Error| {
        CheckpointError::invalid(file, format!("its metadata {DIFFUSERS_METADATA} cannot be read: {error}"))
    };
    if let Some(text) = tensor_file::text(file, DIFFUSERS_METADATA)? {
        let value: Map<String, Value> = serde_json::from_str(&text).map_err(invalid)?;
        let settings = value.into_iter().map(|(key, value)| (without_part(&key).to_owned(), value));
        return Ok(Settings(settings.collect()));
    }
    let beside = file.with_file_name(PEFT_CONFIG);
    if !beside.is_file() {
        return Ok(Settings(Map::new()));
    }
    match read_json(&beside)? {
        Value::Object(settings) => Ok(Settings(settings)),
        _ => Err(CheckpointError::invalid(&beside, "expected an object of settings, as peft writes it")),
    }
}

impl Settings {
    /// Refuses what would make other numbers of the adapters.
    fn check(&self) -> Result<(), String> {
        for (key, harmless) in REFUSED {
            if let Some(value) = self.0.get(*key).map(Value::to_string)
                && !harmless.contains(&value.as_str())
            {
                return Err(format!("its settings have {key} = {value}, which this program does not have"));
            }
        }
        Ok(())
    }

    fn is_of_root(&self) -> bool {
        self.0.get("use_rslora") == Some(&Value::Bool(true))
    }

    /// The alpha of a layer, where they say it.
    fn alpha(&self, layer: &str) -> Result<Option<f32>, String> {
        let of_layers = self.0.get("alpha_pattern").and_then(Value::as_object).into_iter().flatten();
        for (pattern, value) in of_layers {
            let end = pattern.strip_prefix('^').unwrap_or(pattern);
            if end.contains(|character: char| "*+?()[]{}|\\$^".contains(character)) {
                return Err(format!(
                    "its settings have the expression {pattern} in alpha_pattern; names of layers alone are read"
                ));
            }
            if layer == end || layer.strip_suffix(end).is_some_and(|before| before.ends_with('.')) {
                return Ok(value.as_f64().map(|alpha| alpha as f32));
            }
        }
        Ok(self.0.get("lora_alpha").and_then(Value::as_f64).map(|alpha| alpha as f32))
    }
}

/// A name without that of the network in its pipeline before it.
fn without_part(name: &str) -> &str {
    let mut parts = CLASSES.iter().flat_map(|class| class.networks);
    parts.find_map(|part| name.strip_prefix(part.name)?.strip_prefix('.')).unwrap_or(name)
}

/// The layer that a tensor belongs to, and which of its tensors it is.
fn parse(name: &str) -> Option<(String, Leaf)> {
    let name = without_part(name.strip_prefix(PEFT_PREFIX).unwrap_or(name));
    ENDINGS.iter().find_map(|(ending, instead, leaf)| {
        let layer = name.strip_suffix(ending)?;
        Some((format!("{layer}{instead}"), *leaf))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_kinds_of_files_are_read() {
        for (name, layer, leaf) in [
            (
                "base_model.model.mid_block.attentions.0.to_q.lora_A.weight",
                "mid_block.attentions.0.to_q",
                Leaf::A,
            ),
            (
                "unet.mid_block.attentions.0.to_out.0.lora.up.weight",
                "mid_block.attentions.0.to_out.0",
                Leaf::B,
            ),
            (
                "mid_block.attentions.0.processor.to_out_lora.down.weight",
                "mid_block.attentions.0.to_out.0",
                Leaf::A,
            ),
            ("unet.conv_in.alpha", "conv_in", Leaf::Alpha),
        ] {
            assert!(parse(name).is_some_and(|found| found == (layer.to_owned(), leaf)), "{name}");
        }
        assert!(parse("unet.conv_in.lora_magnitude_vector").is_none());
        assert!(parse("lora_unet_mid_block_attentions_0_to_q.lora_down.weight").is_none());
    }

    #[test]
    fn alphas_are_those_of_the_layer_or_of_all() {
        let of = |text: &str| Settings(serde_json::from_str(text).unwrap());
        let settings = of(r#"{"lora_alpha": 8, "alpha_pattern": {"to_q": 2, "^mid_block.conv": 3.5}}"#);
        for (layer, alpha) in [("a.to_q", 2.0), ("a.into_q", 8.0), ("mid_block.conv", 3.5), ("to_q", 2.0)] {
            assert_eq!(settings.alpha(layer).unwrap(), Some(alpha), "{layer}");
        }
        assert_eq!(of("{}").alpha("to_q").unwrap(), None);
        let error = of(r#"{"alpha_pattern": {".*to_q": 2}}"#).alpha("to_q").unwrap_err();
        assert!(error.contains(".*to_q"), "{error}");
        for (text, word) in
            [(r#"{"use_dora": true}"#, "use_dora = true"), (r#"{"peft_type": "LOHA"}"#, "LOHA")]
        {
            assert!(of(text).check().is_err_and(|error| error.contains(word)), "{text}");
        }
        assert!(of(r#"{"use_dora": false, "bias": "none", "r": 4}"#).check().is_ok());
    }
}
