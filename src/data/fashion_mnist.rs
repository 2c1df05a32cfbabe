//! `fashion-mnist`: 70,000 grey images of clothes, 28 x 28 pixels.
//!
//! H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
//! Algorithms" (arXiv 1708.07747).

use std::path::PathBuf;

use super::in_memory::InMemory;
use super::{
    DataError, Dataset, ImageShape, OpenOptions, Source, idx_folder, require_channels, require_square,
};
use crate::image_size::in_words;

const NAME: &str = "fashion-mnist";
/// Where Debian's package puts the files.
const SYSTEM_PATH: &str = "/usr/share/datasets/fashion-mnist";
/// Where tools/get-data puts them.
const FETCHED_PATH: &str = "data/fashion-mnist";
const ADVICE: &str = "`tools/get-data fashion-mnist` puts them in data/fashion-mnist, \
    `apt-get install dataset-fashion-mnist` in the system's place, or `data_path` names a folder that holds \
    train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each plain or \
    with .gz";
const STORED_SIZE: usize = 28;
/// What a model that halves the image five times needs.
const PADDED_SIZE: usize = 32;
const CLASSES: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

pub(super) const SOURCE: Source = Source {
    name: NAME,
    description: "60,000 images of clothes (10,000 more held out), grey, 28x28 or padded to 32x32, 10 classes",
    attribution: "Fashion-MNIST, Zalando SE, 2017, MIT licence; https://github.com/zalandoresearch/fashion-mnist",
    open,
};

fn open(options: &OpenOptions) -> Result<Box<dyn Dataset>, DataError> {
    let size = require_square(NAME, options.image_size, [STORED_SIZE, PADDED_SIZE])?;
    require_channels(NAME, options.channels, &[1])?;
    let folders = match &options.data_path {
        Some(path) => vec![path.clone(), path.join(NAME)],
        None => vec![PathBuf::from(FETCHED_PATH), PathBuf::from(SYSTEM_PATH)],
    };
    let split = idx_folder::split_prefix(options.split);
    let (images, labels, [images_path, labels_path]) = idx_folder::read(&folders, split, NAME, ADVICE)?;
    let [count, height, width] = images.dimensions;
    if (height, width) != (STORED_SIZE, STORED_SIZE) || count == 0 {
        let found = format!("{count} images of {}", in_words([height, width]));
        return Err(idx_folder::bad(&images_path, "images of 28x28".to_owned(), found));
    }
    if let Some(label) = labels.elements.iter().find(|&&label| usize::from(label) >= CLASSES.len()) {
        return Err(idx_folder::bad(&labels_path, "labels from 0 to 9".to_owned(), label.to_string()));
    }

    Ok(Box::new(InMemory {
        name: NAME,
        classes: CLASSES.map(str::to_owned).to_vec(),
        stored: ImageShape { channels: 1, height: STORED_SIZE, width: STORED_SIZE },
        padding: (size - STORED_SIZE) / 2,
        maximum: u8::MAX,
        values: images.elements,
        labels: labels.elements,
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::conditions::Conditions;
    use std::fs;
    use std::path::Path;

    use super::super::Split;
    use super::super::idx::tests::{encode, gzip};
    use super::*;

    /// A folder with two training images, whose pixels count up from 0 and from 100, labelled 9 and 3.
    fn small_folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let pixels: Vec<u8> = (0..2 * 784).map(|i| (i % 784 / 28 + i / 784 * 100) as u8).collect();
        let images = encode(&[2, 28, 28], &pixels);
        fs::write(folder.path().join("train-images-idx3-ubyte.gz"), gzip(&images)).unwrap();
        fs::write(folder.path().join("train-labels-idx1-ubyte"), encode(&[2], &[9, 3])).unwrap();
        folder
    }

    fn open_in(folder: &Path, size: Option<usize>) -> Result<Box<dyn Dataset>, DataError> {
        let image_size = size.map(|side| [side, side]);
        open(&OpenOptions { data_path: Some(folder.to_owned()), image_size, ..Default::default() })
    }

    #[test]
    fn reads_a_gzipped_and_a_plain_file() {
        let folder = small_folder();
        let images = open_in(folder.path(), None).unwrap();
        assert_eq!(images.len(), 2);
        assert_eq!(images.image_shape(), ImageShape { channels: 1, height: 28, width: 28 });
        let mut pixels = vec![0.0; 784];
        assert_eq!(images.read(1, &mut pixels).unwrap(), Conditions::of_class(Some(3)));
        assert_eq!(images.classes()[3], "Dress");
        assert_eq!(pixels[27 * 28], 2.0 * 127.0 / 255.0 - 1.0);
    }

    #[test]
    fn pads_with_background_to_32() {
        let folder = small_folder();
        let images = open_in(folder.path(), Some(32)).unwrap();
        let mut pixels = vec![0.0; 1024];
        assert_eq!(images.read(0, &mut pixels).unwrap(), Conditions::of_class(Some(9)));
        assert_eq!(pixels[32 * 3 + 1], -1.0);
        assert_eq!(pixels[32 * 3 + 2], 2.0 / 255.0 - 1.0);
        assert_eq!(pixels[32 * 29 + 29], 54.0 / 255.0 - 1.0);
        assert_eq!(pixels[32 * 29 + 30], -1.0);
        assert_eq!(pixels[32 * 30 + 29], -1.0);
    }

    #[test]
    fn finds_a_folder_named_after_the_dataset() {
        let parent = tempfile::tempdir().unwrap();
        let folder = small_folder();
        fs::rename(folder.path(), parent.path().join(NAME)).unwrap();
        assert_eq!(open_in(parent.path(), None).unwrap().len(), 2);
    }

    #[test]
    fn missing_files_say_how_to_get_them() {
        let folder = small_folder();
        let test = OpenOptions {
            data_path: Some(folder.path().to_owned()),
            split: Split::Test,
            ..Default::default()
        };
        let message = open(&test).err().unwrap().to_string();
        for part in ["apt-get install dataset-fashion-mnist", "`data_path`", "t10k-images-idx3-ubyte"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(message.contains(&folder.path().display().to_string()), "{message}");
    }

    #[test]
    fn files_that_disagree_are_errors() {
        let folder = small_folder();
        let labels = folder.path().join("train-labels-idx1-ubyte");
        fs::write(&labels, encode(&[3], &[0, 1, 2])).unwrap();
        assert!(open_in(folder.path(), None).err().unwrap().to_string().contains("2 labels"));
        fs::write(&labels, encode(&[2], &[0, 10])).unwrap();
        assert!(open_in(folder.path(), None).err().unwrap().to_string().contains("from 0 to 9"));

        let images = folder.path().join("train-images-idx3-ubyte.gz");
        for dimensions in [[2, 14, 56], [0, 28, 28]] {
            let count = dimensions.iter().product::<u32>() as usize;
            fs::write(&images, encode(&dimensions, &vec![0; count])).unwrap();
            fs::write(&labels, encode(&dimensions[..1], &vec![0; dimensions[0] as usize])).unwrap();
            assert!(open_in(folder.path(), None).err().unwrap().to_string().contains("28x28"));
        }
    }

    #[test]
    fn other_sizes_are_refused() {
        let folder = small_folder();
        let message = open_in(folder.path(), Some(64)).err().unwrap().to_string();
        assert!(message.contains("expected 28x28 or 32x32, found 64x64"), "{message}");
    }
}
