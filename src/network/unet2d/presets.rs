//! Models by name, for `--model`.

use super::UNetConfig;
use crate::network::SampleSize;

/// A model with a name.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name on the command line.
    pub name: &'static str,
    /// One line for the help text.
    pub description: &'static str,
    /// Its configuration, for a data set's channels and number of classes.
    pub config: fn() -> UNetConfig,
}

/// All presets.
pub const PRESETS: &[Preset] = &[
    Preset { name: "digits", description: "8x8 grey, 0.7 M parameters, 10 classes", config: digits },
    Preset { name: "fashion", description: "32x32 grey, 2.8 M parameters, 10 classes", config: fashion },
    Preset { name: "emoji", description: "32x32 colour, 2.8 M parameters, 10 classes", config: emoji },
    Preset {
        name: "ddpm-cifar10-32",
        description: "32x32 colour, 35.7 M parameters: google/ddpm-cifar10-32 of Ho et al.",
        config: ddpm_cifar10_32,
    },
    Preset {
        name: "unet-s",
        description: "16x16 grey, 0.7 M parameters, no classes: for benchmarks",
        config: unet_s,
    },
    Preset {
        name: "unet-m",
        description: "32x32 colour, 5.1 M parameters, no classes: for benchmarks",
        config: unet_m,
    },
];

impl Preset {
    /// The preset of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name == name)
    }
}

fn blocks(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn digits() -> UNetConfig {
    UNetConfig {
        sample_size: Some(SampleSize::Square(8)),
        in_channels: 1,
        out_channels: 1,
        block_out_channels: vec![32, 64],
        layers_per_block: 1,
        down_block_types: blocks(&["DownBlock2D", "AttnDownBlock2D"]),
        up_block_types: blocks(&["AttnUpBlock2D", "UpBlock2D"]),
        norm_num_groups: Some(8),
        attention_head_dim: None,
        num_class_embeds: Some(10),
        ..UNetConfig::default()
    }
}

fn fashion() -> UNetConfig {
    UNetConfig {
        sample_size: Some(SampleSize::Square(32)),
        block_out_channels: vec![32, 64, 128],
        down_block_types: blocks(&["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"]),
        up_block_types: blocks(&["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"]),
        ..digits()
    }
}

fn emoji() -> UNetConfig {
    UNetConfig { in_channels: 3, out_channels: 3, ..fashion() }
}

/// `unet/config.json` of google/ddpm-cifar10-32 on the Hugging Face hub.
fn ddpm_cifar10_32() -> UNetConfig {
    UNetConfig {
        sample_size: Some(SampleSize::Square(32)),
        in_channels: 3,
        out_channels: 3,
        block_out_channels: vec![128, 256, 256, 256],
        layers_per_block: 2,
        down_block_types: blocks(&["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"]),
        up_block_types: blocks(&["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]),
        norm_num_groups: Some(32),
        norm_eps: 1e-6,
        downsample_padding: 0,
        flip_sin_to_cos: false,
        freq_shift: 1.0,
        attention_head_dim: None,
        ..UNetConfig::default()
    }
}

fn unet_s() -> UNetConfig {
    UNetConfig { sample_size: Some(SampleSize::Square(16)), num_class_embeds: None, ..digits() }
}

fn unet_m() -> UNetConfig {
    UNetConfig {
        sample_size: Some(SampleSize::Square(32)),
        in_channels: 3,
        out_channels: 3,
        block_out_channels: vec![64, 128, 128],
        layers_per_block: 2,
        down_block_types: blocks(&["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"]),
        up_block_types: blocks(&["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]),
        norm_num_groups: Some(32),
        attention_head_dim: None,
        ..UNetConfig::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::graph::Graph;
    use crate::network::{Network, Precision};

    fn parameters(config: &UNetConfig) -> (usize, usize) {
        let mut graph = Graph::new();
        let network: &dyn Network = config;
        let inputs = network.declare_inputs(&mut graph, 2).unwrap();
        network.apply(&mut graph, Precision::F32, &inputs, None).unwrap();
        let elements = graph.parameters().iter().map(|parameter| graph.ty(parameter.value).len()).sum();
        (graph.parameters().len(), elements)
    }

    /// The numbers of the published checkpoint.
    #[test]
    fn ddpm_cifar10_32_has_the_published_parameters() {
        assert_eq!(parameters(&ddpm_cifar10_32()), (328, 35_746_307));
    }

    #[test]
    fn every_preset_is_a_valid_model() {
        for preset in PRESETS {
            let (tensors, elements) = parameters(&(preset.config)());
            println!("{}: {elements} parameters in {tensors} tensors", preset.name);
            assert!(tensors > 0, "{}", preset.name);
        }
    }
}
