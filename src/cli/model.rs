//! `--model`: a preset or a configuration file.

use std::path::Path;

use anyhow::{Context, bail};
use ddpm_gpu::checkpoint::read_config;
use ddpm_gpu::network::{Network, PRESETS, Preset, UNetConfig};

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
    if path.is_dir() {
        bail!("--model {name}: this is a folder; give the config.json in it");
    }
    let config = read_config(path)?;
    // Counted here: a network that is too large is refused before data are read or a device is opened.
    let network: &dyn Network = &config;
    network.count_parameters().with_context(|| name.to_owned())?;
    Ok(config)
}
