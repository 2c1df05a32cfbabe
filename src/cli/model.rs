//! `--model`: a preset or a configuration file.

use std::path::Path;

use anyhow::{Context, bail};
use ddpm_gpu::files::read_regular_text;
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
    let text = read_regular_text(path).with_context(|| format!("{name}: cannot be read"))?;
    UNetConfig::from_json(&text).with_context(|| name.to_owned())
}
