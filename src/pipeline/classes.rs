//! The classes of pipelines that the engine has: which networks each is made of, and what these do.

use crate::network::{ClassifierConfig, UNetConfig};

/// What a network does in a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It predicts the noise in images, so that images are drawn with it.
    Denoises,
    /// It tells the classes of noised images.
    Classifies,
}

impl Role {
    /// That a pipeline has no network of this role, in words.
    pub(super) fn cannot(self) -> &'static str {
        match self {
            Self::Denoises => "draws no images",
            Self::Classifies => "is no classifier",
        }
    }
}

impl Part {
    /// The library that `model_index.json` names for a network of this class: our own for one that is in no table.
    pub(crate) fn library_of(&self, network: &str) -> &'static str {
        if self.classes.contains(&network) { self.library } else { OWN_LIBRARY }
    }
}

/// What `model_index.json` has for a library where diffusers has no such class.
const OWN_LIBRARY: &str = "ddpm_gpu";

/// A network of a pipeline.
#[derive(Debug)]
pub struct Part {
    /// Its name, and that of its folder.
    pub name: &'static str,
    /// What it does.
    pub role: Role,
    /// The library that `model_index.json` names.
    pub library: &'static str,
    /// The classes of networks that it may be of; the first where a file does not say.
    pub classes: &'static [&'static str],
}

/// A kind of pipeline.
#[derive(Debug)]
pub struct PipelineClass {
    /// The name of the class, in diffusers where diffusers has it.
    pub name: &'static str,
    /// Its networks; the others of its parts are a scheduler.
    pub networks: &'static [Part],
    /// What it is for, in words.
    pub purpose: &'static str,
}

impl PipelineClass {
    /// The class name to write: of several classes with the same networks, the first.
    pub(crate) fn written(&self) -> &'static str {
        let names = |class: &PipelineClass| class.networks.iter().map(|part| part.name).collect::<Vec<_>>();
        let same = |class: &&PipelineClass| names(class) == names(self);
        CLASSES.iter().find(same).map_or(self.name, |class| class.name)
    }
}

const UNET: &[Part] =
    &[Part { name: "unet", role: Role::Denoises, library: "diffusers", classes: &[UNetConfig::CLASS] }];

const CLASSIFIER: &[Part] = &[Part {
    name: "classifier",
    role: Role::Classifies,
    library: OWN_LIBRARY,
    classes: &[ClassifierConfig::CLASS],
}];

const DRAWS: &str = "it draws images";

/// All of them; of those that are made of the same networks the first is written.
pub const CLASSES: &[PipelineClass] = &[
    PipelineClass { name: "DDPMPipeline", networks: UNET, purpose: DRAWS },
    PipelineClass { name: "DDIMPipeline", networks: UNET, purpose: DRAWS },
    PipelineClass { name: "PNDMPipeline", networks: UNET, purpose: DRAWS },
    PipelineClass {
        name: "NoiseConditionalClassifier",
        networks: CLASSIFIER,
        purpose: "it is a classifier, which guides a model that draws",
    },
];

/// The pipeline class, and the name in it, for a network in a role. A class that lists the network comes first; a network
/// that none lists gets the first class with the role.
pub(super) fn of_network(role: Role, network: &str) -> (&'static PipelineClass, &'static str) {
    let parts = || CLASSES.iter().flat_map(|class| class.networks.iter().map(move |part| (class, part)));
    let mut of_role: Vec<_> = parts().filter(|(_, part)| part.role == role).collect();
    of_role.sort_by_key(|(_, part)| !part.classes.contains(&network));
    let (class, part) = of_role.first().unwrap_or_else(|| unreachable!("every role is that of some part"));
    (class, part.name)
}
