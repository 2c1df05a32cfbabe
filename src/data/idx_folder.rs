//! Folders of IDX files, as MNIST and its relatives come.

use std::path::{Path, PathBuf};

use super::array::Array;
use super::format::{Format, Pictures};
use super::picture::{Layout, Samples};
use super::{DataError, OpenOptions, Split, idx};
use crate::image_size::in_words;

pub(super) const FORMAT: Format = Format {
    description: "a folder of IDX files called as MNIST's",
    recognises: |path| {
        [Split::Train, Split::Test].iter().any(|&split| file(path, &names(split_prefix(split))[0]).is_some())
    },
    open,
};

fn open(path: &Path, options: &OpenOptions) -> Result<Box<dyn Pictures>, DataError> {
    let split = split_prefix(options.split);
    let (images, labels, paths) = read(&[path.to_owned()], split, "IDX", "give a folder that holds both")?;
    let [count, height, width] = images.dimensions;
    if images.elements.is_empty() {
        return Err(bad(&paths[0], "images".to_owned(), format!("{count} of {}", in_words([height, width]))));
    }
    let classes = labels.elements.iter().max().map_or(0, |&label| u32::from(label) + 1);
    Ok(Box::new(Array {
        files: paths.to_vec(),
        classes: (0..classes).map(|class| class.to_string()).collect(),
        height,
        width,
        layout: Layout::Grey,
        planar: false,
        values: Samples::Eight(images.elements),
        understood: None,
        other_order: None,
        labels: labels.elements.into_iter().map(u32::from).collect(),
    }))
}

pub(super) fn split_prefix(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::Test => "t10k",
    }
}

/// Images and as many labels of a split, from the first of the folders that has them.
pub(super) fn read(
    folders: &[PathBuf],
    split: &str,
    dataset: &str,
    advice: &str,
) -> Result<(idx::Idx<3>, idx::Idx<1>, [PathBuf; 2]), DataError> {
    let find = |name: &str| {
        folders.iter().find_map(|folder| file(folder, name)).ok_or_else(|| DataError::Missing {
            dataset: dataset.to_owned(),
            expected: format!("{name}, or with a dot before idx, plain or .gz"),
            searched: folders.to_vec(),
            advice: advice.to_owned(),
        })
    };
    let [images_name, labels_name] = names(split);
    let images_path = find(&images_name)?;
    let labels_path = find(&labels_name)?;
    let images = idx::read::<3>(&images_path)?;
    let labels = idx::read::<1>(&labels_path)?;
    let count = images.dimensions[0];
    if labels.elements.len() != count {
        let expected = format!("{count} labels, one for each image of {}", images_path.display());
        return Err(bad(&labels_path, expected, labels.elements.len().to_string()));
    }
    Ok((images, labels, [images_path, labels_path]))
}

/// The names of the images and of the labels of a split, as they were published.
fn names(split: &str) -> [String; 2] {
    [format!("{split}-images-idx3-ubyte"), format!("{split}-labels-idx1-ubyte")]
}

/// A file of a folder, plain or gzipped, under its name or with a dot in place of the dash before `idx`, as on Kaggle
/// and after some unpackers.
fn file(folder: &Path, name: &str) -> Option<PathBuf> {
    let dotted = name.replace("-idx", ".idx");
    let names = [name, &dotted].map(|name| [name.to_owned(), format!("{name}.gz")]);
    names.iter().flatten().map(|name| folder.join(name)).find(|path| path.is_file())
}

pub(super) fn bad(path: &Path, expected: String, found: String) -> DataError {
    DataError::BadFile {
        path: path.to_owned(),
        expected,
        found,
        advice: "download or install the file again".to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::conditions::Conditions;
    use std::fs;

    use super::super::ImageShape;
    use super::super::idx::tests::{encode, gzip};
    use super::*;

    #[test]
    fn names_with_a_dot_are_known_too() {
        let (images, labels) = (encode(&[2, 3, 3], &[9; 18]), encode(&[2], &[0, 1]));
        for gzipped in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            for (name, bytes) in [("images.idx3", &images), ("labels.idx1", &labels)] {
                let at = |ending: &str| folder.path().join(format!("train-{name}-ubyte{ending}"));
                if gzipped { fs::write(at(".gz"), gzip(bytes)) } else { fs::write(at(""), bytes) }.unwrap();
            }
            // as Kaggle packs it, a folder has the other name
            fs::create_dir(folder.path().join("train-images-idx3-ubyte")).unwrap();
            let found = super::super::open(folder.path().to_str().unwrap(), &OpenOptions::default()).unwrap();
            assert_eq!((found.len(), found.label(1)), (2, Some(1)));
        }
    }

    #[test]
    fn a_folder_as_mnist_comes_is_read_by_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let pixels: Vec<u8> = (0..2 * 3 * 4).collect();
        fs::write(folder.path().join("train-images-idx3-ubyte.gz"), gzip(&encode(&[2, 3, 4], &pixels)))
            .unwrap();
        fs::write(folder.path().join("train-labels-idx1-ubyte"), encode(&[2], &[4, 1])).unwrap();
        let images = super::super::open(folder.path().to_str().unwrap(), &OpenOptions::default()).unwrap();
        assert_eq!((images.len(), images.classes().len()), (2, 5));
        assert_eq!(images.image_shape(), ImageShape { channels: 1, height: 3, width: 4 });
        let mut found = [0.0; 12];
        assert_eq!(images.read(1, &mut found).unwrap(), Conditions::of_class(Some(1)));
        assert_eq!([found[0], found[5]], [12.0, 17.0].map(|value| 2.0 * value / 255.0 - 1.0));
        // the middle column
        let tall = OpenOptions { image_size: Some([3, 1]), ..OpenOptions::default() };
        let images = super::super::open(folder.path().to_str().unwrap(), &tall).unwrap();
        let mut found = [0.0; 3];
        images.read(1, &mut found).unwrap();
        assert_eq!(found, [13.0, 17.0, 21.0].map(|value: f32| 2.0 * (value / 255.0) - 1.0));
        let test = OpenOptions { split: Split::Test, ..OpenOptions::default() };
        let message = super::super::open(folder.path().to_str().unwrap(), &test).err().unwrap().to_string();
        assert!(message.contains("t10k-images-idx3-ubyte"), "{message}");
    }
}
