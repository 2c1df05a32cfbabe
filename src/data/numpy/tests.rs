#![allow(clippy::unwrap_used)]

use super::super::ImageShape;
use super::super::tests::{golden, open_path, read_bytes};
use super::*;

/// The images that tools/oracle/datasets.py wrote, \[3, 4, 4, 3\]: the middle four of five columns.
fn formula(image: usize) -> Vec<u8> {
    let mut pixels = Vec::new();
    for y in 0..4 {
        for x in 0..4 {
            pixels.extend((0..3).map(|c| (70 * image + 13 * y + 5 * x + 2 * c) as u8));
        }
    }
    pixels
}

#[test]
fn every_element_type_and_order_of_channels_gives_the_same_images() {
    for name in ["plain.npz", "channels-first.npy", "floats.npy", "signed.npy", "sixteen.npy"] {
        let images = open_path(&golden("arrays").join(name)).unwrap();
        assert_eq!(images.image_shape(), ImageShape { channels: 3, height: 4, width: 4 });
        let found = read_bytes(images.as_ref());
        let labels = if name == "plain.npz" { [Some(2), Some(0), Some(1)] } else { [None; 3] };
        for (image, (pixels, label)) in found.into_iter().enumerate() {
            assert_eq!(pixels, formula(image), "{name}");
            assert_eq!(label, labels[image], "{name}");
        }
    }
}

#[test]
fn the_names_of_keras_and_both_splits_are_known() {
    let path = golden("arrays").join("keras.npz");
    let images = open_path(&path).unwrap();
    assert_eq!((images.len(), images.classes().len(), images.image_shape().channels), (3, 3, 1));
    let first_channel: Vec<u8> = formula(2).into_iter().step_by(3).collect();
    assert_eq!(read_bytes(images.as_ref())[2], (first_channel, Some(1)));
    let test = OpenOptions { split: Split::Test, ..OpenOptions::default() };
    let held_out = super::super::open(path.to_str().unwrap(), &test).unwrap();
    assert_eq!((held_out.len(), held_out.label(0)), (1, Some(2)));
}

#[test]
fn what_makes_no_images_is_named_with_what_to_do() {
    for (name, words) in [
        ("no-images.npz", &["images, x_train", "weights", "numpy.savez"][..]),
        ("few-labels.npz", &["3 labels", "[2]"]),
        ("fortran.npy", &["ascontiguousarray"]),
        ("integers.npy", &["<i8", "astype"]),
        ("vectors.npy", &["[3, 60]", "(N, H, W, C)"]),
    ] {
        let message = open_path(&golden("arrays").join(name)).err().unwrap().to_string();
        for word in words.iter().chain([&name]) {
            assert!(message.contains(word), "{word} is not in {message}");
        }
    }
}

#[test]
fn every_truncation_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["plain.npz", "keras.npz", "floats.npy"] {
        let whole = fs::read(golden("arrays").join(name)).unwrap();
        let path = folder.path().join(name);
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let message = open_path(&path).err().unwrap().to_string();
            assert!(message.contains(name), "{message}");
        }
    }
}

#[test]
fn a_changed_byte_is_noticed_by_the_checksum() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("images.npz");
    let whole = fs::read(golden("arrays").join("plain.npz")).unwrap();
    let header = whole.windows(6).position(|bytes| bytes == b"\x93NUMPY").unwrap();
    let mut damaged = whole.clone();
    damaged[header + 150] ^= 1;
    fs::write(&path, damaged).unwrap();
    let message = open_path(&path).err().unwrap().to_string();
    assert!(message.contains("images.npz") && message.contains("whole"), "{message}");
}
