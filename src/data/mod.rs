//! Files to batches: datasets, and the loader that reads them ahead of training.
//!
//! Adding a dataset with a name is one file, which implements [`Dataset`] and declares a [`Source`], and one line in
//! [`ALL`]. Adding a format of files that are recognised by their path is one file, which implements `Pictures` and
//! declares a `Format`, and one line in `format::FORMATS`; a format of image files is one file and one line in
//! `codec::ALL`.

mod array;
mod axes;
mod cifar10;
mod codec;
mod decoded;
mod digits;
mod entries;
mod error;
mod fashion_mnist;
mod fingerprint;
mod folder;
mod format;
mod idx;
mod idx_folder;
mod in_memory;
mod loader;
mod numpy;
mod order;
mod paired;
mod picture;
mod positioned;
mod survey;
mod value_range;
mod web_dataset;

use std::path::{Path, PathBuf};

use crate::image_size::{LARGEST_SIDE, image_in_words, in_words};

pub use axes::ArrayOrder;
pub use codec::{is_image, read_image};
pub use entries::PassedOver;
pub use error::DataError;
pub use fingerprint::{Content, Fingerprint};
pub(crate) use loader::BATCHES_AT_ONCE;
pub use loader::{Batch, Loader, LoaderOptions};
pub use numpy::{ArrayImages, read_array};
pub use paired::Paired;
pub use survey::{Survey, survey};

use crate::conditions::Conditions;

/// Every dataset that is known by name.
pub const ALL: &[Source] = &[digits::SOURCE, fashion_mnist::SOURCE, cifar10::SOURCE];

/// Decoded images that are kept in memory, in bytes, unless something else is asked for.
pub const DEFAULT_MEMORY_BUDGET: usize = 1 << 30;

/// More classes than any dataset has.
const MAX_CLASSES: u32 = 1 << 20;

/// A set of images of one shape, with class labels or without.
pub trait Dataset: Send + Sync {
    /// The dataset's name, or the path of its folder.
    fn name(&self) -> &str;

    /// Number of images.
    fn len(&self) -> usize;

    /// Whether there are no images at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shape of every image that [`read`](Dataset::read) delivers.
    fn image_shape(&self) -> ImageShape;

    /// The class names in the order of their labels; empty when the images carry no labels.
    fn classes(&self) -> &[String];

    /// Writes image `index` to `pixels` and returns what is known of it: its class, as an index into
    /// [`classes`](Dataset::classes), when there are classes.
    ///
    /// `pixels` is \[H, W, C\] with values in \[-1, 1\].
    ///
    /// # Errors
    /// When the file is damaged or gone, when `index` is not less than `len`, and when `pixels` has another
    /// length than the image.
    fn read(&self, index: usize, pixels: &mut [f32]) -> Result<Conditions, DataError>;

    /// The shape of the condition image that [`read`](Dataset::read) gives with each image, where it gives one.
    fn condition_image(&self) -> Option<ImageShape> {
        None
    }

    /// What image `index` is called in other folders that hold images for the same things: its path in the data set
    /// without the ending. `None` where images have no files of their own.
    fn key(&self, _index: usize) -> Option<String> {
        None
    }

    /// The label of image `index`, without reading the image; `None` when there are no classes.
    fn label(&self, index: usize) -> Option<u32>;

    /// Size and colour mode that image `index` has in its file.
    ///
    /// # Errors
    /// When the file is damaged or gone.
    fn original(&self, _index: usize) -> Result<Original, DataError> {
        let shape = self.image_shape();
        Ok(Original { width: shape.width, height: shape.height, mode: shape.mode() })
    }

    /// What messages call image `index`.
    fn location(&self, index: usize) -> String {
        format!("{} [{index}]", self.name())
    }

    /// What was taken for what, where there was a choice: the numbers and the axes of an array, such as "floats 0 to
    /// 1", and channels.
    fn understood(&self) -> Option<&str> {
        None
    }

    /// The order that the axes of an array may have instead, where the one that was taken is a guess.
    fn other_order(&self) -> Option<ArrayOrder> {
        None
    }

    /// The files that were left out under [`OpenOptions::skip_bad_images`], in the order of their paths.
    fn skipped(&self) -> &[Skipped] {
        &[]
    }

    /// What lies beside the images and is not taken for one.
    fn passed_over(&self) -> &[PassedOver] {
        &[]
    }

    /// Decodes all images ahead of training where that costs little, so that a bad one is found before the first step.
    ///
    /// # Errors
    /// The first bad image, and how many there are.
    fn check(&self) -> Result<(), DataError> {
        Ok(())
    }

    /// What tells every image from another, also those that were left out as bad; see [`Fingerprint`].
    ///
    /// # Errors
    /// As [`read`](Dataset::read).
    fn contents(&self) -> Result<Vec<Content>, DataError> {
        let mut pixels = vec![0.0; self.image_shape().elements()];
        (0..self.len())
            .map(|index| {
                self.read(index, &mut pixels)?;
                Ok(Content::new(fingerprint::checksum_of_floats(&pixels), self.label(index)))
            })
            .collect()
    }

    /// What messages call the image at a position in [`contents`](Dataset::contents).
    fn content_location(&self, position: usize) -> String {
        self.location(position)
    }

    /// The position of image `index` in [`contents`](Dataset::contents).
    fn content_position(&self, index: usize) -> usize {
        index
    }
}

/// Channels, height and width of an image as a dataset delivers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// 1 for grey, 3 for red, green and blue; others have no colour by themselves.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
}

/// The most numbers of an image: 1 GiB of floats.
const MOST_ELEMENTS: usize = 1 << 28;

impl ImageShape {
    /// Number of values in one image: channels x height x width.
    pub fn elements(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// The channels, for people.
    pub fn mode(&self) -> String {
        match self.channels {
            1 => "grey".to_owned(),
            3 => "colour".to_owned(),
            channels => format!("{channels} channels"),
        }
    }

    /// Refuses what is too large to be held.
    fn check(self, dataset: &str) -> Result<Self, DataError> {
        let Self { channels, height, width } = self;
        let has_size = [height, width].iter().all(|side| (1..=LARGEST_SIDE).contains(side));
        let product = channels.checked_mul(height).and_then(|product| product.checked_mul(width));
        if has_size && product.is_some_and(|product| product <= MOST_ELEMENTS) {
            return Ok(self);
        }
        Err(DataError::Unfit {
            dataset: dataset.to_owned(),
            what: "image size",
            expected: format!("1 to {LARGEST_SIDE} pixels a side and at most {MOST_ELEMENTS} numbers"),
            found: image_in_words([height, width, channels]),
            advice: "take another size: where there is a model, that is its sample_size".to_owned(),
        })
    }
}

/// An image as its file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Original {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Channels and depth, for people.
    pub mode: String,
}

/// A file that was left out because it could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// What was wrong with it.
    pub reason: String,
}

/// Which part of a dataset to open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// The images to train on.
    #[default]
    Train,
    /// The images held out.
    Test,
}

/// What the caller wants of a dataset.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Where the dataset's files are; `None` is the place where the system's packages put them.
    pub data_path: Option<PathBuf>,
    /// Channels per pixel; `None` is the dataset's own.
    pub channels: Option<usize>,
    /// Height and width in pixels, the model's `sample_size`; `None` is the dataset's own.
    pub image_size: Option<[usize; 2]>,
    /// Order of the axes of an array of images; `None` to go by its shape.
    pub array_order: Option<ArrayOrder>,
    /// Leave out image files that cannot be decoded, rather than fail.
    pub skip_bad_images: bool,
    /// The part to open.
    pub split: Split,
    /// Bytes of decoded images that may be kept in memory.
    pub memory_budget: usize,
    /// Folder for decoded images beyond that; `None` to decode them again each time.
    pub cache_folder: Option<PathBuf>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            data_path: None,
            channels: None,
            image_size: None,
            array_order: None,
            skip_bad_images: false,
            split: Split::Train,
            memory_budget: DEFAULT_MEMORY_BUDGET,
            cache_folder: None,
        }
    }
}

/// A dataset that is known by name.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// The name that [`open`] takes.
    pub name: &'static str,
    /// One line on what the images are.
    pub description: &'static str,
    /// Who made the images, and under which licence they may be used.
    pub attribution: &'static str,
    /// Opens it.
    pub open: fn(&OpenOptions) -> Result<Box<dyn Dataset>, DataError>,
}

/// Opens a dataset by its name in [`ALL`], or what is at a path: a folder of images, or files of another format.
///
/// A name wins over a folder of the same name; write `./digits` for the folder.
///
/// # Errors
/// When the name is unknown, the files are missing or damaged, or the dataset cannot deliver the size and
/// channels asked for.
pub fn open(name_or_path: &str, options: &OpenOptions) -> Result<Box<dyn Dataset>, DataError> {
    if let Some(source) = ALL.iter().find(|source| source.name == name_or_path) {
        return (source.open)(options);
    }
    let path = Path::new(name_or_path);
    if !path.exists() {
        let known: Vec<&str> = ALL.iter().map(|source| source.name).collect();
        return Err(DataError::Unknown { name: name_or_path.to_owned(), known: known.join(", ") });
    }
    let pictures = (format::recognise(path)?.open)(path, options)?;
    Ok(Box::new(decoded::Decoded::new(name_or_path.to_owned(), path, pictures, options)?))
}

/// Checks that wanted channels are among those that a dataset can deliver.
fn require_channels(dataset: &str, wanted: Option<usize>, offered: &[usize]) -> Result<(), DataError> {
    let words = |channels: &usize| channels.to_string();
    require(dataset, "channels", wanted.as_ref(), offered, words, "in_channels")
}

/// Checks that a wanted size is one of the squares that a dataset can deliver, and gives its side.
fn require_square(
    dataset: &str,
    wanted: Option<[usize; 2]>,
    offered: [usize; 2],
) -> Result<usize, DataError> {
    let words = |&size: &[usize; 2]| in_words(size);
    let squares = offered.map(|side| [side; 2]);
    require(dataset, "image size", wanted.as_ref(), &squares, words, "sample_size")?;
    Ok(wanted.map_or(offered[0], |[height, _]| height))
}

fn require<T: PartialEq>(
    dataset: &str,
    what: &'static str,
    wanted: Option<&T>,
    offered: &[T],
    words: impl Fn(&T) -> String,
    model_key: &str,
) -> Result<(), DataError> {
    match wanted {
        Some(wanted) if !offered.contains(wanted) => {
            let offered: Vec<String> = offered.iter().map(&words).collect();
            let offered = offered.join(" or ");
            Err(DataError::Unfit {
                dataset: dataset.to_owned(),
                what,
                found: words(wanted),
                advice: format!("choose a model whose {model_key} is {offered}, or another dataset"),
                expected: offered,
            })
        }
        _ => Ok(()),
    }
}

/// Checks that a dataset with no held-out images is not asked for them.
fn require_train(dataset: &str, split: Split, advice: &str) -> Result<(), DataError> {
    match split {
        Split::Train => Ok(()),
        Split::Test => Err(DataError::NoSplit { dataset: dataset.to_owned(), advice: advice.to_owned() }),
    }
}

/// Checks the arguments of [`Dataset::read`].
fn require_read(dataset: &dyn Dataset, index: usize, pixels: &[f32]) -> Result<(), DataError> {
    let (len, elements) = (dataset.len(), dataset.image_shape().elements());
    let (what, expected, found) = if index >= len {
        ("image index", format!("less than {len}"), index)
    } else if pixels.len() != elements {
        ("length of the pixel buffer", elements.to_string(), pixels.len())
    } else {
        return Ok(());
    };
    Err(DataError::Unfit {
        dataset: dataset.name().to_owned(),
        what,
        expected,
        found: found.to_string(),
        advice: "correct the calling code".to_owned(),
    })
}

#[cfg(test)]
mod tests;
