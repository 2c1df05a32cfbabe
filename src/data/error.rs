//! What can go wrong between a file and a batch.

use std::fs::File;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::files::{NotRegular, open_regular};

/// An error of the data layer: what was expected, what was found, and what to do about it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataError {
    /// The name is no dataset in [`ALL`](super::ALL) and no existing path.
    #[error(
        "no dataset or folder is called `{name}`: expected one of {known}, or the path of a folder of images"
    )]
    Unknown {
        /// The name or path that was asked for.
        name: String,
        /// The known names, separated by commas.
        known: String,
    },

    /// The files of a dataset are in none of the places searched.
    #[error(
        "the files of {dataset} were not found: looked in {} for {expected}; {advice}",
        list_paths(.searched)
    )]
    Missing {
        /// Name of the dataset.
        dataset: String,
        /// The file names that were looked for.
        expected: String,
        /// The folders that were searched.
        searched: Vec<PathBuf>,
        /// How to get the files.
        advice: String,
    },

    /// Images and condition images that are no pairs.
    #[error("{images} and the condition images of {conditions} are no pairs: {reason}; {advice}")]
    Unpaired {
        /// The data set of images.
        images: String,
        /// The data set of condition images.
        conditions: String,
        /// Why they are none.
        reason: String,
        /// What to do.
        advice: String,
    },

    /// A file was read, and its content is damaged, hostile or of another format.
    #[error("{}: expected {expected}, found {found}; {advice}", .path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What a good file holds.
        expected: String,
        /// What this one holds.
        found: String,
        /// What to do.
        advice: String,
    },

    /// The file of one image was read, and its content is damaged, hostile or of no known format.
    #[error("{}: expected {expected}, found {found}; remove or repair the file, or leave such files out", .path.display())]
    BadImage {
        /// The file.
        path: PathBuf,
        /// What a good file holds.
        expected: String,
        /// What this one holds.
        found: String,
    },

    /// The operating system refused to read a file or folder.
    #[error("{}: cannot be read: {source}; check that it exists and that you may read it", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },

    /// The dataset is fine and cannot deliver what was asked of it.
    #[error("{dataset}: {what}: expected {expected}, found {found}; {advice}")]
    Unfit {
        /// Name or path of the dataset.
        dataset: String,
        /// Which property does not fit, such as "image size".
        what: &'static str,
        /// What the dataset can deliver.
        expected: String,
        /// What was asked for.
        found: String,
        /// What to do.
        advice: String,
    },

    /// No batch has this many images.
    #[error(
        "{dataset}: batch size: expected at least 1, and a batch that fits in memory, found {batch_size}; choose another \
         batch size"
    )]
    BatchSize {
        /// Name or path of the dataset.
        dataset: String,
        /// Images in a batch.
        batch_size: usize,
    },

    /// The dataset has no images that are held out from training.
    #[error("{dataset}: split: expected train, the only one it has, found test; {advice}")]
    NoSplit {
        /// Name or path of the dataset.
        dataset: String,
        /// What to do.
        advice: String,
    },

    /// The thread that reads ahead panicked: a defect of this program.
    #[error("reading batch {step} of {dataset} panicked: {message}; please report this as a bug")]
    Panicked {
        /// Name of the dataset.
        dataset: String,
        /// The training step whose batch was being read.
        step: u64,
        /// The panic's message.
        message: String,
    },

    /// The loader has already returned an error and reads no further.
    #[error("the loader of {dataset} stopped at an earlier error; make a new one to go on")]
    Stopped {
        /// Name of the dataset.
        dataset: String,
    },
}

impl DataError {
    /// What is wrong, without the name of the file and without advice.
    pub(super) fn reason(self) -> String {
        match self {
            Self::BadFile { expected, found, .. } | Self::BadImage { expected, found, .. } => {
                format!("expected {expected}, found {found}")
            }
            Self::Io { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }
}

fn list_paths(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(" and ")
}

/// The most that one byte of a deflate stream can expand to, so that a short file that claims a huge image is
/// refused before memory is set aside for it. Source: zlib's technical details, "Maximum Compression Factor".
pub(super) const MAX_DEFLATE_RATIO: u64 = 1032;

/// The most that a compressed file of `length` bytes may hold: 256 MiB, or a hundred times its length where that is
/// more; images take far less than that.
pub(super) fn most_decompressed(length: u64) -> u64 {
    length.saturating_mul(100).max(1 << 28).min(length.saturating_mul(MAX_DEFLATE_RATIO))
}

/// Opens a file and returns it with its length in bytes; a pipe or a device, which could block for ever, is
/// refused.
pub(super) fn open_regular_file(path: &Path) -> Result<(File, u64), DataError> {
    open_regular(path).map_err(|source| {
        let kind = source.get_ref().and_then(|inner| inner.downcast_ref::<NotRegular>());
        match kind {
            Some(&NotRegular(kind)) => DataError::BadFile {
                path: path.to_owned(),
                expected: "a regular file".to_owned(),
                found: kind.to_owned(),
                advice: "give the path of a file".to_owned(),
            },
            None => DataError::Io { path: path.to_owned(), source },
        }
    })
}
