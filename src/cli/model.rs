//! `--model`: a preset or a configuration file.

use std::path::Path;

use anyhow::{Context, bail};
use ddpm_gpu::model::{PRESETS, Preset, UNetConfig};

/// The model that goes by a preset's name, or that a file describes.
pub(super) fn load(name: &str) -> anyhow::Result<UNetConfig> {
    if let Some(preset) = Preset::named(name) {
        return Ok((preset.config)());
    }
    let path = Path::new(name);
    if !path.exists() {
        let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        bail!("--model {name}: there is no such preset ({}), and no such file", names.join(", "));
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("{name}: cannot be read"))?;
    UNetConfig::from_json(&text).with_context(|| name.to_owned())
}

/// The height and width of a model's images, of which both are the same: what is read is cropped to a square.
pub(super) fn square([height, width]: [usize; 2]) -> anyhow::Result<usize> {
    if height != width {
        bail!(
            "the model takes images of {width}x{height}, width x height; only square images can be read: choose a \
             model with a square sample_size"
        );
    }
    Ok(height)
}
