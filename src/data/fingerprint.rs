//! What tells data sets apart, so that a run does not go on with other images.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use super::{DataError, Dataset};

/// Images that are read, spread over the data set.
const IMAGES_READ: usize = 16;

/// A data set, as a checkpoint remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Name or path.
    pub name: String,
    /// Number of images.
    pub images: usize,
    /// Number of classes.
    pub classes: usize,
    /// CRC-32C of the names of the classes, all labels, and some of the images.
    pub checksum: u32,
}

impl Fingerprint {
    /// Looks at a data set; a few of its images are read.
    ///
    /// # Errors
    /// What reading them fails with.
    pub fn of(dataset: &dyn Dataset) -> Result<Self, DataError> {
        let images = dataset.len();
        let mut checksum = 0;
        let mut add = |bytes: &[u8]| checksum = crc32c::crc32c_append(checksum, bytes);
        for class in dataset.classes() {
            add(class.as_bytes());
            add(&[0]);
        }
        for index in 0..images {
            add(&dataset.label(index).unwrap_or(u32::MAX).to_le_bytes());
        }
        let mut pixels = vec![0.0; dataset.image_shape().elements()];
        let read = images.min(IMAGES_READ);
        for index in (0..read).map(|image| image * images / read) {
            dataset.read(index, &mut pixels)?;
            pixels.iter().for_each(|value| add(&value.to_le_bytes()));
        }
        Ok(Self { name: dataset.name().to_owned(), images, classes: dataset.classes().len(), checksum })
    }

    /// Whether both are of the same images; a folder may have another path than before.
    pub fn is_of_same_images(&self, other: &Self) -> bool {
        let contents = |of: &Self| (of.images, of.classes, of.checksum);
        contents(self) == contents(other)
    }
}

impl Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, images, classes, checksum } = self;
        write!(f, "{name} ({images} images, {classes} classes, checksum {checksum:08x})")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::{OpenOptions, open};

    /// A folder with a picture of each class, whose pixels are all `grey`.
    fn fingerprint(classes: &[&str], grey: u8) -> Fingerprint {
        let folder = tempfile::tempdir().unwrap();
        for class in classes {
            std::fs::create_dir(folder.path().join(class)).unwrap();
            let path = folder.path().join(class).join("a.png");
            let grid = crate::output::Grid { width: 4, height: 4, channels: 1, pixels: vec![grey; 16] };
            grid.write_png(&path).unwrap();
        }
        let options = OpenOptions { channels: Some(1), image_size: Some(4), ..OpenOptions::default() };
        let dataset = open(folder.path().to_str().unwrap(), &options).unwrap();
        Fingerprint::of(dataset.as_ref()).unwrap()
    }

    #[test]
    fn another_path_is_the_same_data_and_another_pixel_or_name_is_not() {
        let one = fingerprint(&["cat", "dog"], 7);
        let moved = fingerprint(&["cat", "dog"], 7);
        assert!(one.name != moved.name && one.is_of_same_images(&moved));
        for other in
            [fingerprint(&["cat", "dog"], 8), fingerprint(&["cat", "dot"], 7), fingerprint(&["cat"], 7)]
        {
            assert!(!one.is_of_same_images(&other), "{one} and {other}");
        }
    }
}
