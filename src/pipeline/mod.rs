//! Models as people have them: named networks with their weights, and the diffusion process that they were trained for.
//!
//! What a pipeline can do follows from its class, a line of [`CLASSES`]. Reading and writing one is the matter of
//! `checkpoint`.

mod classes;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use classes::{CLASSES, Part, PipelineClass, Role};

use crate::diffusion::SchedulerConfig;
use crate::network::{Component, ModelError, Network, Tensors, with_null_class};

/// A pipeline that cannot do what is asked of it.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// It has no network for that.
    #[error("a pipeline of the class {} {}; {}", class.name, role.cannot(), class.purpose)]
    CannotDo {
        /// Its class.
        class: &'static PipelineClass,
        /// What it cannot do.
        role: Role,
    },
    /// A network that cannot be used so.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// Named networks, and the process that they were trained for.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// What it is.
    pub class: &'static PipelineClass,
    /// Its networks by name, such as `unet`.
    pub networks: BTreeMap<String, Component>,
    /// The process.
    pub scheduler: SchedulerConfig,
}

impl Pipeline {
    /// A pipeline of one network that does what `role` says: draw images, or tell their classes.
    ///
    /// The network may be a user's own, which no table knows. Such a pipeline does all that others do, but for being
    /// read from its files again.
    pub fn new(role: Role, network: Arc<dyn Network>, weights: Tensors, scheduler: SchedulerConfig) -> Self {
        let (class, name) = classes::of_network(role, network.class_name());
        let networks = BTreeMap::from([(name.to_owned(), Component { network, weights })]);
        Self { class, networks, scheduler }
    }

    fn name_of(&self, role: Role) -> Option<&'static str> {
        self.class.networks.iter().find(|part| part.role == role).map(|part| part.name)
    }

    /// The pipeline with its adapters added to the weights, so that its networks have none.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] for adapters that do not fit.
    pub fn merged(mut self) -> Result<Self, ModelError> {
        for component in self.networks.values_mut() {
            let network = component.network.clone();
            if let Some(adapted) = network.adapted() {
                component.weights = adapted.merge(std::mem::take(&mut component.weights))?;
                component.network = adapted.network().clone();
            }
        }
        Ok(self)
    }

    /// The network that does what `role` says.
    ///
    /// # Errors
    /// [`PipelineError::CannotDo`]
    pub fn network_of(&self, role: Role) -> Result<&Component, PipelineError> {
        let found = self.name_of(role).and_then(|name| self.networks.get(name));
        found.ok_or(PipelineError::CannotDo { class: self.class, role })
    }

    /// Refuses a network that is not made for the timesteps of the process; in one sentence.
    ///
    /// # Errors
    /// The sentence.
    pub fn check_timesteps(&self, network: &dyn Network) -> Result<(), String> {
        network.check_timesteps(0.0, self.scheduler.num_train_timesteps.saturating_sub(1) as f64)
    }

    /// The network that predicts what the noise in an image is.
    ///
    /// # Errors
    /// [`PipelineError::CannotDo`] for a pipeline that draws no images.
    pub fn denoiser(&self) -> Result<&Component, PipelineError> {
        self.network_of(Role::Denoises)
    }

    /// The pipeline, whose denoiser takes class `none` for the one that means "no class", as classifier-free guidance
    /// needs it.
    ///
    /// # Errors
    /// [`PipelineError`] for a pipeline that draws no images, or has no such class.
    pub fn with_null_class(mut self, none: u32) -> Result<Self, PipelineError> {
        let network = with_null_class(self.denoiser()?.network.clone(), none)?;
        let name = self.name_of(Role::Denoises);
        if let Some(component) = name.and_then(|name| self.networks.get_mut(name)) {
            component.network = network;
        }
        Ok(self)
    }

    /// The network that tells the classes of noised images.
    ///
    /// # Errors
    /// [`PipelineError::CannotDo`]
    pub fn classifier(&self) -> Result<&Component, PipelineError> {
        self.network_of(Role::Classifies)
    }
}
