//! The networks that are timed: U-Net S, U-Net M, and Ho et al.'s for CIFAR-10.

use ddpm_gpu::network::{Preset, UNetConfig};

/// A network and the batch size at which it is timed.
#[derive(Clone, Copy)]
pub(crate) struct Network {
    pub(crate) name: &'static str,
    pub(crate) preset: &'static str,
    pub(crate) batch_size: usize,
}

pub(crate) const NETWORKS: [Network; 3] = [
    Network { name: "S", preset: "unet-s", batch_size: 16 },
    Network { name: "M", preset: "unet-m", batch_size: 16 },
    Network { name: "cifar", preset: "ddpm-cifar10-32", batch_size: 2 },
];

impl Network {
    pub(crate) fn named(name: &str) -> Self {
        *NETWORKS.iter().find(|network| network.name == name).expect("networks: S, M, cifar")
    }

    pub(crate) fn config(self) -> UNetConfig {
        (Preset::named(self.preset).expect("the preset is there").config)()
    }

    pub(crate) fn shared(self) -> std::sync::Arc<dyn ddpm_gpu::network::Network> {
        std::sync::Arc::new(self.config())
    }
}
