//! Pictures as images of the model's shape, each decoded once where there is room to keep it.
//!
//! Decoded images stay in memory until the budget is spent; those beyond it go to a file in the cache folder. What
//! is kept is exactly what decoding gave, so a batch never depends on where its images came from.

mod cache_file;
mod cached;

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use self::cache_file::CacheFile;
use self::cached::Cached;
use super::format::Pictures;
use super::picture::Picture;
use super::{
    ArrayOrder, Content, DataError, Dataset, ImageShape, OpenOptions, Original, PassedOver, Skipped,
    require_channels, require_read,
};
use crate::conditions::Conditions;
use crate::image_size::{LARGEST_SIDE, are_swapped, in_words};

/// Files of up to this many bytes in all are decoded before training.
const MAX_CHECKED_BYTES: u64 = 256 << 20;

/// Pictures at the shape that a model takes.
pub(super) struct Decoded {
    name: String,
    pictures: Box<dyn Pictures>,
    shape: ImageShape,
    /// What numbers, axes and channels were taken for.
    understood: Option<String>,
    /// The pictures that are not left out.
    indices: Vec<usize>,
    skipped: Vec<Skipped>,
    /// \[number of pictures\], by their index; empty when nothing is kept.
    memory: Vec<OnceLock<Cached>>,
    /// Bytes of the budget that are not spent.
    budget: AtomicUsize,
    cache_file: Option<CacheFile>,
}

impl Decoded {
    /// Takes the pictures at the size and channels that the options ask for.
    ///
    /// Without a wanted size, it is that of the first picture. Under `skip_bad_images` every picture is decoded once
    /// here, and those that fail are left out.
    pub(super) fn new(
        name: String,
        path: &Path,
        pictures: Box<dyn Pictures>,
        options: &OpenOptions,
    ) -> Result<Self, DataError> {
        require_channels(&name, options.channels, &pictures.offered_channels())?;
        let [height, width] = match (options.image_size, pictures.size()) {
            (Some(wanted), Some(size)) if are_swapped(wanted, size) => {
                return Err(swapped_sides(name, wanted, size));
            }
            (Some(wanted), _) => wanted,
            (None, Some(size)) => size,
            (None, None) => {
                let picture = first_picture(pictures.as_ref(), path, options.skip_bad_images)?;
                [picture.height, picture.width].map(|side| side.min(LARGEST_SIDE))
            }
        };
        let channels = options.channels.unwrap_or_else(|| pictures.channels());
        let shape = ImageShape { channels, height, width }.check(&name)?;
        let of_files = match channels {
            2 if pictures.size().is_none() => Some("channels: grey, and alpha"),
            4 if pictures.size().is_none() => Some("channels: red, green and blue, and alpha"),
            _ => None,
        };
        let understood = pictures.understood().or(of_files).map(str::to_owned);

        let (memory, cache_file) = if pictures.is_decoded() {
            (Vec::new(), None)
        } else {
            let most = pictures.len().saturating_mul(Cached::most_bytes(shape));
            let cache_file = match &options.cache_folder {
                Some(folder) if most > options.memory_budget => {
                    CacheFile::open(folder, path, &pictures.files(), shape, pictures.len())
                }
                _ => None,
            };
            ((0..pictures.len()).map(|_| OnceLock::new()).collect(), cache_file)
        };
        let mut decoded = Self {
            name,
            indices: (0..pictures.len()).collect(),
            skipped: pictures.skipped().to_vec(),
            pictures,
            shape,
            understood,
            memory,
            budget: AtomicUsize::new(options.memory_budget),
            cache_file,
        };
        if options.skip_bad_images {
            decoded.leave_out_bad(path)?;
        }
        Ok(decoded)
    }

    /// Decodes every picture, and keeps what there is room for.
    fn decode_all(&self) -> Vec<Result<(), DataError>> {
        (0..self.pictures.len())
            .into_par_iter()
            .map_init(|| vec![0.0; self.shape.elements()], |pixels, index| self.write(index, pixels))
            .collect()
    }

    fn leave_out_bad(&mut self, path: &Path) -> Result<(), DataError> {
        let results = self.decode_all();
        self.indices.clear();
        for (index, result) in results.into_iter().enumerate() {
            match result {
                Ok(()) => self.indices.push(index),
                Err(error) => {
                    self.skipped
                        .push(Skipped { path: self.pictures.location(index), reason: error.reason() });
                }
            }
        }
        match self.skipped.first() {
            Some(first) if self.indices.is_empty() => {
                Err(all_bad(path, self.skipped.len(), &first.path, &first.reason))
            }
            _ => Ok(()),
        }
    }

    /// Writes picture `index` to `pixels`, from where it is kept or by decoding it.
    fn write(&self, index: usize, pixels: &mut [f32]) -> Result<(), DataError> {
        let Some(slot) = self.memory.get(index) else {
            self.pictures.decode(index)?.write(self.shape, pixels);
            return Ok(());
        };
        if let Some(cached) = slot.get() {
            cached.write(pixels);
            return Ok(());
        }
        let from_file = self.cache_file.as_ref().is_some_and(|file| file.read(index, pixels));
        if !from_file {
            self.pictures.decode(index)?.write(self.shape, pixels);
        }
        let cached = Cached::new(pixels);
        let bytes = cached.bytes();
        let spend = |left: usize| left.checked_sub(bytes);
        if self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok() {
            if slot.set(cached).is_err() {
                // another thread was faster
                self.budget.fetch_add(bytes, Ordering::Relaxed);
            }
        } else if let Some(file) = self.cache_file.as_ref().filter(|_| !from_file) {
            file.write(index, &cached);
        }
        Ok(())
    }
}

impl Dataset for Decoded {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.indices.len()
    }

    fn image_shape(&self) -> ImageShape {
        self.shape
    }

    fn classes(&self) -> &[String] {
        self.pictures.classes()
    }

    fn read(&self, index: usize, pixels: &mut [f32]) -> Result<Conditions, DataError> {
        require_read(self, index, pixels)?;
        let index = self.indices[index];
        self.write(index, pixels)?;
        Ok(Conditions::of_class(self.pictures.label(index)))
    }

    fn original(&self, index: usize) -> Result<Original, DataError> {
        let index = self.indices[index];
        let picture = self.pictures.decode(index)?;
        Ok(Original { width: picture.width, height: picture.height, mode: picture.mode() })
    }

    fn location(&self, index: usize) -> String {
        self.pictures.location(self.indices[index]).display().to_string()
    }

    fn key(&self, index: usize) -> Option<String> {
        self.pictures.key(self.indices[index])
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.pictures.label(self.indices[index])
    }

    fn understood(&self) -> Option<&str> {
        self.understood.as_deref()
    }

    fn other_order(&self) -> Option<ArrayOrder> {
        self.pictures.other_order()
    }

    fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    fn passed_over(&self) -> &[PassedOver] {
        self.pictures.passed_over()
    }

    fn check(&self) -> Result<(), DataError> {
        let is_checked = self.memory.is_empty() || self.indices.len() < self.pictures.len();
        if is_checked || self.pictures.stored_bytes() > MAX_CHECKED_BYTES {
            return Ok(());
        }
        let mut errors = self.decode_all().into_iter().filter_map(Result::err);
        match (errors.next(), errors.count()) {
            (None, _) => Ok(()),
            (Some(mut error), more @ 1..) => {
                let images = if more == 1 { "image is" } else { "images are" };
                if let DataError::BadFile { found, .. } | DataError::BadImage { found, .. } = &mut error {
                    *found = format!("{found} ({more} more {images} bad)");
                }
                Err(error)
            }
            (Some(error), _) => Err(error),
        }
    }

    fn contents(&self) -> Result<Vec<Content>, DataError> {
        let mut is_good = vec![false; self.pictures.len()];
        self.indices.iter().for_each(|&index| is_good[index] = true);
        (0..self.pictures.len())
            .into_par_iter()
            .map(|index| {
                let label = self.pictures.label(index);
                match self.pictures.checksum(index) {
                    Ok(checksum) if is_good[index] => Ok(Content::new(checksum, label)),
                    // of one that cannot even be opened nothing is known
                    checksum if !is_good[index] => Ok(Content::new(checksum.unwrap_or(0), label).bad()),
                    checksum => checksum.map(|checksum| Content::new(checksum, label)),
                }
            })
            .collect()
    }

    fn content_location(&self, position: usize) -> String {
        self.pictures.location(position).display().to_string()
    }

    fn content_position(&self, index: usize) -> usize {
        self.indices[index]
    }
}

/// The error of a size whose sides are those of the images, in the other order.
fn swapped_sides(dataset: String, wanted: [usize; 2], found: [usize; 2]) -> DataError {
    DataError::Unfit {
        dataset,
        what: "image size",
        expected: format!("{}, width x height, as the images are", in_words(found)),
        found: format!("{}, whose sides are swapped", in_words(wanted)),
        advice: "give the width before the height; in the sample_size of a config.json the height is first"
            .to_owned(),
    }
}

/// The first picture that can be decoded, or the first of all if bad ones are errors.
fn first_picture(pictures: &dyn Pictures, path: &Path, skip_bad: bool) -> Result<Picture, DataError> {
    let mut first_error = None;
    for index in 0..pictures.len() {
        match pictures.decode(index) {
            Err(error) if skip_bad => {
                first_error.get_or_insert_with(|| (pictures.location(index), error.reason()));
            }
            result => return result,
        }
    }
    let (path_of_first, reason) = first_error.unwrap_or_else(|| (path.to_owned(), "none".to_owned()));
    Err(all_bad(path, pictures.len(), &path_of_first, &reason))
}

fn all_bad(path: &Path, count: usize, first: &Path, reason: &str) -> DataError {
    DataError::BadFile {
        path: path.to_owned(),
        expected: "images that can be decoded".to_owned(),
        found: format!("only damaged ones, {count} of them, the first {}: {reason}", first.display()),
        advice: "repair them or give another dataset".to_owned(),
    }
}

#[cfg(test)]
mod tests;
