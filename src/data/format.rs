//! Formats that a dataset is recognised by: what lies at its path.

use std::path::{Path, PathBuf};

use super::axes::ArrayOrder;
use super::entries::PassedOver;
use super::picture::Picture;
use super::{DataError, OpenOptions, Skipped, cifar10, folder, idx_folder, numpy, web_dataset};

/// Every format of files. A path that more than one of them recognises is refused.
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

    /// As [`Dataset::key`](super::Dataset::key).
    fn key(&self, _index: usize) -> Option<String> {
        None
    }

    /// The files that the pictures come from: when one of them changes, so may the pictures.
    fn files(&self) -> Vec<PathBuf>;

    /// A checksum of the stored bytes of a picture, by which another picture in its place is noticed.
    fn checksum(&self, index: usize) -> Result<u32, DataError> {
        Ok(self.decode(index)?.checksum())
    }

    /// Bytes of the files that are to be decoded.
    fn stored_bytes(&self) -> u64 {
        0
    }

    /// What lies beside the pictures and is not taken for one.
    fn passed_over(&self) -> &[PassedOver] {
        &[]
    }

    /// The channels that a model gets unless it asks for others.
    fn channels(&self) -> usize {
        3
    }

    /// The channels that a model may ask for. With 2, the pictures of files are grey with alpha, with 4 colour with
    /// alpha.
    fn offered_channels(&self) -> Vec<usize> {
        vec![1, 2, 3, 4]
    }

    /// Height and width of all pictures, where it is known that they are of one size.
    fn size(&self) -> Option<[usize; 2]> {
        None
    }

    /// What numbers and axes of an array were taken for, where there was a choice.
    fn understood(&self) -> Option<&str> {
        None
    }

    /// The order that the axes of an array may have instead, where the one that was taken is a guess.
    fn other_order(&self) -> Option<ArrayOrder> {
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

/// The format of what lies at a path.
///
/// # Errors
/// Where nothing is recognised, or more than one format.
pub(super) fn recognise(path: &Path) -> Result<&'static Format, DataError> {
    let found: Vec<&Format> = FORMATS.iter().filter(|format| (format.recognises)(path)).collect();
    match found.as_slice() {
        [format] => Ok(format),
        // its message is the most precise
        [] if path.is_dir() => Ok(&folder::FORMAT),
        [] => {
            let known: Vec<&str> = FORMATS.iter().map(|format| format.description).collect();
            Err(DataError::BadFile {
                path: path.to_owned(),
                expected: format!("the name of a dataset, or {}", known.join("; ")),
                found: "a file of another kind".to_owned(),
                advice: "give the folder that the images are in".to_owned(),
            })
        }
        several => {
            let found: Vec<String> = several.iter().map(|format| evidence(format, path)).collect();
            Err(DataError::BadFile {
                path: path.to_owned(),
                expected: "a dataset of one format".to_owned(),
                found: found.join("; and "),
                advice: "move what is not meant elsewhere, or give the path of the file or subfolder that is meant"
                    .to_owned(),
            })
        }
    }
}

/// What speaks for a format at a path, for people.
fn evidence(format: &Format, path: &Path) -> String {
    let Format { description, open, .. } = format;
    match open(path, &OpenOptions::default()) {
        Ok(pictures) if pictures.len() > 0 => {
            let images = if pictures.len() == 1 { "image" } else { "images" };
            let first = pictures.location(0);
            format!("{} {images} of {description}, the first {}", pictures.len(), first.display())
        }
        _ => format!("what looks like {description}"),
    }
}
