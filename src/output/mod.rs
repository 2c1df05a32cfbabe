//! Files for people and for NumPy: picture grids, animations and `.npy` arrays.
//!
//! Every file is written beside its destination and renamed, so that a kill leaves the old file or none.

mod animation;
mod atomic;
mod grid;
mod layout;
pub(crate) mod npy;

use std::path::PathBuf;

use thiserror::Error;

pub use animation::{FrameTimes, write_animation};
pub use atomic::{check_writable, write_text};
pub(crate) use atomic::{remove_leftovers, write_atomically};
pub use grid::{Grid, GridOptions, columns_for, describe_strips, tile};
pub use layout::{nchw_to_nhwc, nhwc_to_nchw};
pub use npy::{read_npy, write_npy};

/// A file that could not be written or read, or contents that make no file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The operating system refused to write.
    #[error(
        "{}: cannot be written: {source}; check that the folder exists, that you may write to it and that \
         the disk has room", .path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },

    /// The path names something that a file must not replace.
    #[error("{}: is a folder, pipe or device; give the path of a file", .path.display())]
    NoFile {
        /// The path.
        path: PathBuf,
    },

    /// The operating system refused to read.
    #[error("{}: cannot be read: {source}; check that it exists and that you may read it", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },

    /// A file was read, and its content is damaged or of another format.
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

    /// Images that make no picture.
    #[error("no picture can be made: expected {expected}, found {found}")]
    Unfit {
        /// What makes a picture.
        expected: String,
        /// What was given.
        found: String,
    },
}

pub(crate) fn unfit(expected: impl Into<String>, found: impl Into<String>) -> OutputError {
    OutputError::Unfit { expected: expected.into(), found: found.into() }
}
