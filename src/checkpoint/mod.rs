//! Checkpoints: folders that diffusers loads as a pipeline, with the training state beside it.

mod choice;
mod folder;
mod foreign;
mod json;
mod lora;
mod lora_file;
mod model_index;
mod openai_unet;
mod pipeline;
mod state;
mod tensor_file;
mod torch_file;
mod weights_file;

use std::path::PathBuf;

pub use choice::WeightsChoice;
pub use folder::{create_folder, newest, prune, resolve};
pub(crate) use folder::{occupy, save};
pub use lora::BaseModel;
pub use lora_file::add_lora;
pub use openai_unet::{ImportSettings, NoiseSchedule, import};
pub use pipeline::read_config;
pub(crate) use state::record_dataset;
pub use state::{TrainingState, averages};

use crate::network::{ModelError, WeightsError};
use crate::setting::SettingError;

/// What to do with a damaged file.
const COPY_AGAIN: &str = "copy or download it again";

/// A checkpoint that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file or folder cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file or folder cannot be written.
    #[error(
        "{}: cannot be written: {source}; check that you may write there and that the disk has room",
        path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        message: String,
    },
    /// A model's configuration names something this engine does not have.
    #[error("{}: {source}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ModelError,
    },
    /// The tensors of a file are not those of the network that a config describes.
    #[error(
        "{}: {source} than {}, which asks for {parameters} parameters; the file has {found}",
        path.display(),
        config.display()
    )]
    Weights {
        /// The weights.
        path: PathBuf,
        /// The network's configuration.
        config: PathBuf,
        /// Number of weights in the file.
        found: u64,
        /// Number of parameters of the network.
        parameters: u64,
        /// The first tensor that does not fit.
        source: WeightsError,
    },
    /// The folder is no checkpoint.
    #[error("{}: there is no checkpoint: {there}", folder.display())]
    NoCheckpoint {
        /// The folder.
        folder: PathBuf,
        /// What there is, and what was expected.
        there: String,
    },
    /// The checkpoint holds no average of the weights with the decay asked for.
    #[error("{}: there is no average of the weights with the decay {decay}: {there}", folder.display())]
    NoAverage {
        /// The checkpoint.
        folder: PathBuf,
        /// The decay asked for.
        decay: f64,
        /// Which averages there are, or why none is known.
        there: String,
    },
    /// A network's weights are there as several variants, none of which is the plain one.
    #[error("{}: the weights are there as the variants {} only; choose one of them", folder.display(), there.join(", "))]
    Variants {
        /// The network's folder.
        folder: PathBuf,
        /// The variants, such as `fp16`.
        there: Vec<String>,
    },
    /// A network's weights are not there as the variant asked for.
    #[error("{}: the weights are not there as the variant {variant}; {}", folder.display(), match there.as_slice() {
        [] => "there are no variants, only the plain ones".to_owned(),
        there => format!("there is {}", there.join(", ")),
    })]
    NoVariant {
        /// The network's folder.
        folder: PathBuf,
        /// The variant asked for.
        variant: String,
        /// Those that there are.
        there: Vec<String>,
    },
    /// A setting does not fit a file that is imported, or is missing.
    #[error("{}: {source}", path.display())]
    Setting {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SettingError,
    },
    /// A new run would mix with an old one.
    #[error("{} is of an earlier run; resume that run, or choose another folder", folder.display())]
    AlreadyThere {
        /// The newest checkpoint there.
        folder: PathBuf,
    },
    /// A folder to be written is there already.
    #[error("{} is there already; delete it, or choose another folder", folder.display())]
    Taken {
        /// The folder.
        folder: PathBuf,
    },
    /// Another process trains there.
    #[error("{}: another run is writing to this folder; stop it first, or choose another folder", folder.display())]
    InUse {
        /// The output folder.
        folder: PathBuf,
    },
}

impl CheckpointError {
    fn read(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Read { path, source }
    }

    fn write(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Write { path, source }
    }

    fn invalid(path: impl Into<PathBuf>, message: impl ToString) -> Self {
        Self::Invalid { path: path.into(), message: message.to_string() }
    }
}
