//! Formats that a dataset is recognised by: what lies at its path.

use std::path::{Path, PathBuf};

use super::picture::Picture;
use super::{DataError, OpenOptions, Skipped, cifar10, folder, idx_folder, numpy, web_dataset};

/// Every format of files. The first that recognises a path opens it; the folder of images comes last, because it
/// takes any folder.
pub(super) const FORMATS: &[Format] =
    &[web_dataset::FORMAT, numpy::FORMAT, cifar10::FORMAT, idx_folder::FORMAT, folder::FORMAT];

/// Finds the pictures at a path.
type Open = fn(&Path, &OpenOptions) -> Result<Box<dyn Pictures>, DataError>;

/// A format of files.
pub(super) struct Format {
    /// What a path of this format is, for messages.
    pub(super) description: &'static str,
    /// Whether the path looks like this format, by names alone.
    pub(super) recognises: fn(&Path) -> bool,
    /// Opens it; fails when nothing usable is there.
    pub(super) open: Open,
}

/// Pictures of any size, as the files of a format hold them.
pub(super) trait Pictures: Send + Sync {
    fn len(&self) -> usize;

    /// The class names in the order of their labels; empty when the pictures carry no labels.
    fn classes(&self) -> &[String];

    /// The label of a picture; `None` when there are no classes.
    fn label(&self, index: usize) -> Option<u32>;

    /// Decodes a picture.
    fn decode(&self, index: usize) -> Result<Picture, DataError>;

    /// What messages call a picture: its file, or its place in a file.
    fn location(&self, index: usize) -> PathBuf;

    /// The files that the pictures come from: when one of them changes, so may the pictures.
    fn files(&self) -> Vec<PathBuf>;

    /// The channels that a model gets unless it asks for others.
    fn channels(&self) -> usize {
        3
    }

    /// What the numbers of an array were taken for, where there was a choice.
    fn understood(&self) -> Option<&str> {
        None
    }

    /// Whether decoding costs no more than copying, so that keeping the result saves nothing.
    fn is_decoded(&self) -> bool {
        false
    }

    /// Files that were left out when the format was opened under [`OpenOptions::skip_bad_images`].
    fn skipped(&self) -> &[Skipped] {
        &[]
    }
}
