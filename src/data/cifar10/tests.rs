#![allow(clippy::unwrap_used)]

use super::super::tests::{golden, open_path, read_bytes};
use super::super::{ImageShape, open as open_dataset};
use super::*;

/// The pixels that tools/oracle/datasets.py wrote, \[32, 32, 3\].
fn formula(batch: usize, image: usize) -> Vec<u8> {
    let mut pixels = Vec::new();
    for y in 0..SIZE {
        for x in 0..SIZE {
            pixels.extend((0..3).map(|c| ((97 * batch + 40 * image + 11 * c + 5 * y + 2 * x) % 256) as u8));
        }
    }
    pixels
}

#[test]
fn the_binary_and_the_python_version_hold_the_same_images() {
    for folder in ["cifar-binary", "cifar-python"] {
        let images = open_path(&golden(folder)).unwrap();
        assert_eq!(images.image_shape(), ImageShape { channels: 3, height: 32, width: 32 });
        assert_eq!(images.classes()[9], "truck");
        let found = read_bytes(images.as_ref());
        assert_eq!(found.len(), 10);
        for (position, (pixels, label)) in found.into_iter().enumerate() {
            let (batch, image) = (1 + position / 2, position % 2);
            assert_eq!(pixels, formula(batch, image), "{folder}: image {position}");
            assert_eq!(label, Some(((batch + 3 * image) % 10) as u32));
        }
    }
}

#[test]
fn the_name_finds_the_folder_and_the_split() {
    for folder in ["cifar-binary", "cifar-python"] {
        let options = OpenOptions {
            data_path: Some(golden(folder)),
            split: Split::Test,
            image_size: Some(16),
            channels: Some(1),
            ..OpenOptions::default()
        };
        let images = open_dataset(NAME, &options).unwrap();
        assert_eq!((images.len(), images.image_shape().elements()), (2, 256));
        assert_eq!(images.label(1), Some(9));
    }
    let empty = tempfile::tempdir().unwrap();
    let options = OpenOptions { data_path: Some(empty.path().to_owned()), ..OpenOptions::default() };
    let message = open_dataset(NAME, &options).err().unwrap().to_string();
    assert!(message.contains("cifar-10-binary.tar.gz") && message.contains("--data-path"), "{message}");
}

#[test]
fn damaged_and_missing_batches_are_named() {
    for (folder, name) in [("cifar-binary", "data_batch_3.bin"), ("cifar-python", "data_batch_3")] {
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(golden(folder)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
        let path = copy.path().join(name);
        let whole = fs::read(&path).unwrap();
        let error = || open_path(copy.path()).err().unwrap().to_string();
        for length in (0..whole.len()).step_by(97).chain([3073, whole.len() - 1]) {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(error().contains(name), "{length}");
        }
        fs::write(&path, "not a batch").unwrap();
        assert!(error().contains(name) && error().contains("unpack it again"), "{}", error());
        fs::remove_file(&path).unwrap();
        assert!(error().contains(name), "{}", error());
    }
}

#[test]
fn a_pickle_of_something_else_says_what_is_missing() {
    // None; {}; a dictionary with labels of text
    for (pickle, expected) in [
        (&b"\x80\x02N."[..], "a pickled dictionary"),
        (b"\x80\x02}.", "`data`"),
        (b"\x80\x02}(U\x04dataU\x01aU\x06labels]U\x01xau.", "numbers"),
    ] {
        let (wanted, _) = parse_python(pickle).unwrap_err();
        assert!(wanted.contains(expected), "{wanted}");
    }
}
