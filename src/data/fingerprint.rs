//! What tells data sets apart, so that a run does not go on with other images.
//!
//! Every image counts: by the length and content of its file, or by its values where a file holds many images. Times of
//! change do not count, because copying a dataset to another machine changes them. Of a file of more than 64 KiB three
//! parts of 16 KiB are read, its beginning, its middle and its end, since reading all of a large dataset takes long.
//! Checkpoints of earlier versions know sixteen images; they are compared with those.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use super::positioned::PositionedFile;
use super::{DataError, Dataset};

/// Images that were read for the checksum of earlier versions, spread over the data set.
const IMAGES_READ: usize = 16;
/// Files up to this length are read whole.
const WHOLE_BYTES: u64 = 64 << 10;
/// Bytes of each of the three parts that are read of a longer file.
const PART_BYTES: u64 = 16 << 10;

/// A data set, as a checkpoint remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Name or path.
    pub name: String,
    /// Number of images that can be read.
    pub images: usize,
    /// Number of classes.
    pub classes: usize,
    /// CRC-32C of the names of the classes and of every image as stored. In checkpoints without `contents`, CRC-32C of
    /// the names of the classes, all labels, and the values of sixteen images.
    pub checksum: u32,
    /// Every image; `None` in checkpoints of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    contents: Option<Contents>,
}

/// All images of a data set, also those that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Contents {
    /// CRC-32C of the names of the classes.
    class_names: u32,
    /// CRC-32C of every image as stored, and of its label.
    #[serde(with = "hexadecimal")]
    each: Vec<u32>,
    /// Positions in `each` of images that cannot be read; they may be gone when the run goes on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    bad: Vec<usize>,
}

/// What tells an image from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// CRC-32C of the image as stored, and of its label.
    checksum: u32,
    /// Whether the image was left out because it cannot be read.
    is_bad: bool,
}

impl Content {
    /// An image by its checksum and its label.
    pub fn new(checksum: u32, label: Option<u32>) -> Self {
        let checksum = crc32c::crc32c_append(checksum, &label.unwrap_or(u32::MAX).to_le_bytes());
        Self { checksum, is_bad: false }
    }

    /// The same, of an image that was left out.
    pub(super) fn bad(self) -> Self {
        Self { is_bad: true, ..self }
    }
}

impl Fingerprint {
    /// Looks at all images of a data set, at how they are stored.
    ///
    /// # Errors
    /// What reading them fails with.
    pub fn of(dataset: &dyn Dataset) -> Result<Self, DataError> {
        let contents = dataset.contents()?;
        let each: Vec<u32> = contents.iter().map(|content| content.checksum).collect();
        let class_names = checksum_of_classes(dataset);
        let mut checksum = class_names;
        each.iter().for_each(|one| checksum = crc32c::crc32c_append(checksum, &one.to_le_bytes()));
        let bad = (0..contents.len()).filter(|&position| contents[position].is_bad).collect();
        Ok(Self {
            name: dataset.name().to_owned(),
            images: dataset.len(),
            classes: dataset.classes().len(),
            checksum,
            contents: Some(Contents { class_names, each, bad }),
        })
    }

    /// Remembers that image `index` of the data set, which this is of, cannot be read: a run may go on without it.
    pub fn mark_bad(&mut self, dataset: &dyn Dataset, index: usize) {
        let position = dataset.content_position(index);
        if let Some(Contents { bad, .. }) = &mut self.contents
            && let Err(place) = bad.binary_search(&position)
        {
            bad.insert(place, position);
        }
    }

    /// How the images of `dataset`, whose fingerprint is `now`, differ from the images of this fingerprint, in words.
    /// `None` where they are the same, except for images that could not be read. The path of the folder may differ.
    ///
    /// # Errors
    /// What reading them fails with.
    pub fn difference(&self, now: &Self, dataset: &dyn Dataset) -> Result<Option<String>, DataError> {
        let (Some(then), Some(now)) = (&self.contents, &now.contents) else {
            let is_same = (self.images, self.classes) == (now.images, now.classes)
                && self.checksum == checksum_of_some(dataset)?;
            return Ok((!is_same).then(|| "their number, the labels or some of the images differ".to_owned()));
        };
        let mut position = 0;
        for (number, one) in then.each.iter().enumerate() {
            // one that is left out now may have been damaged since
            if now.each.get(position) == Some(one) || now.bad.binary_search(&position).is_ok() {
                position += 1;
            } else if then.bad.binary_search(&number).is_err() {
                let missing = then.each.len() - number;
                return Ok(Some(if position < now.each.len() {
                    let found = dataset.content_location(position);
                    format!(
                        "the first that differs is number {} of {}, {found}",
                        position + 1,
                        now.each.len()
                    )
                } else {
                    format!("the last {missing} of {} are gone", then.each.len())
                }));
            } else if let Some(found) = now.each.get(position) {
                // A bad image is gone if the next good one is here, and repaired if another is.
                let mut later =
                    (number + 1..then.each.len()).filter(|later| then.bad.binary_search(later).is_err());
                if later.next().map(|later| then.each[later]) != Some(*found) {
                    position += 1;
                }
            }
        }
        if position < now.each.len() {
            let new = dataset.content_location(position);
            return Ok(Some(format!("{} are new, the first {new}", now.each.len() - position)));
        }
        let is_same = then.class_names == now.class_names;
        Ok((!is_same).then(|| "the names of the classes differ".to_owned()))
    }
}

/// A checksum of what lies in a file from `position` on, `length` bytes: of all of it, or of three parts of it.
pub(super) fn checksum_at(file: &PositionedFile, position: u64, length: u64) -> Result<u32, DataError> {
    let parts = if length <= WHOLE_BYTES {
        vec![(0, length)]
    } else {
        [0, (length - PART_BYTES) / 2, length - PART_BYTES].map(|start| (start, PART_BYTES)).to_vec()
    };
    let mut checksum = crc32c::crc32c(&length.to_le_bytes());
    for (start, length) in parts {
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, position + start)
            .map_err(|source| DataError::Io { path: file.path().to_owned(), source })?;
        checksum = crc32c::crc32c_append(checksum, &bytes);
    }
    Ok(checksum)
}

/// A checksum of pixels.
pub(super) fn checksum_of_floats(pixels: &[f32]) -> u32 {
    crc32c::crc32c(bytemuck::cast_slice(pixels))
}

fn checksum_of_classes(dataset: &dyn Dataset) -> u32 {
    dataset.classes().iter().fold(0, |checksum, class| {
        crc32c::crc32c_append(crc32c::crc32c_append(checksum, class.as_bytes()), &[0])
    })
}

/// The checksum of earlier versions: of the names of the classes, all labels, and the values of sixteen images.
fn checksum_of_some(dataset: &dyn Dataset) -> Result<u32, DataError> {
    let images = dataset.len();
    let mut checksum = checksum_of_classes(dataset);
    let mut add = |bytes: &[u8]| checksum = crc32c::crc32c_append(checksum, bytes);
    for index in 0..images {
        add(&dataset.label(index).unwrap_or(u32::MAX).to_le_bytes());
    }
    let mut pixels = vec![0.0; dataset.image_shape().elements()];
    let read = images.min(IMAGES_READ);
    for index in (0..read).map(|image| image * images / read) {
        dataset.read(index, &mut pixels)?;
        pixels.iter().for_each(|value| add(&value.to_le_bytes()));
    }
    Ok(checksum)
}

/// Numbers as text of eight hexadecimal digits each, which takes less than a list of numbers.
mod hexadecimal {
    use std::fmt::Write;

    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    const DIGITS: usize = 8;

    pub(super) fn serialize<S: Serializer>(numbers: &[u32], serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(DIGITS * numbers.len());
        for number in numbers {
            write!(text, "{number:08x}").map_err(S::Error::custom)?;
        }
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let chunks = text.as_bytes().chunks(DIGITS);
        let parsed = chunks.map(|digits| {
            let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.len() == DIGITS);
            digits.and_then(|digits| u32::from_str_radix(digits, 16).ok())
        });
        let numbers: Option<Vec<u32>> = parsed.collect();
        numbers.ok_or_else(|| {
            D::Error::custom("expected the checksums of the images, eight hexadecimal digits each")
        })
    }
}

impl Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, images, classes, checksum, .. } = self;
        write!(f, "{name} ({images} images, {classes} classes, checksum {checksum:08x})")
    }
}

#[cfg(test)]
mod tests;
