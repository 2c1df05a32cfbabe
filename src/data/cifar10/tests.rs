#![allow(clippy::unwrap_used)]

use std::fs;

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
            image_size: Some([16, 16]),
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
    assert!(message.contains("cifar-10-binary.tar.gz") && message.contains("`data_path`"), "{message}");
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

/// A pickled batch of one image, with this label and dtype.
fn batch_of_one(label: &[u8], dtype: &str, fortran: u8) -> Vec<u8> {
    let mut bytes = b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n".to_vec();
    bytes.extend(b"K\x00\x85U\x01b\x87R(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU");
    bytes.push(dtype.len() as u8);
    bytes.extend(dtype.as_bytes());
    bytes.extend(b"K\x00K\x01\x87R");
    bytes.push(fortran);
    bytes.extend(b"T\x00\x0c\x00\x00");
    bytes.extend([7; PIXELS]);
    bytes.extend(b"tbU\x06labels]");
    bytes.extend(label);
    bytes.extend(b"au.");
    bytes
}

#[test]
fn a_pickle_of_something_else_says_what_is_missing() {
    let (values, labels) = parse_python(&batch_of_one(b"K\x09", "u1", 0x89)).unwrap();
    assert_eq!((values, labels), (vec![7; PIXELS], vec![9]));
    let cut = batch_of_one(b"K\x09", "u1", 0x89);
    // None; {}; labels of text, a negative and a large one; an array of floats; one in Fortran order; one cut short; a
    // call of what is no array; opcodes and numbers that lead nowhere
    for (pickle, expected, found) in [
        (b"\x80\x02N.".to_vec(), "a pickled dictionary", "None"),
        (b"\x80\x02}.".to_vec(), "`data`", "none"),
        (b"\x80\x02}(U\x04dataU\x01aU\x06labels]U\x01xau.".to_vec(), "numbers", "bytes for image 0"),
        (batch_of_one(b"J\xff\xff\xff\xff", "u1", 0x89), "from 0 to 9", "the number -1 for image 0"),
        (batch_of_one(b"K\x0a", "u1", 0x89), "from 0 to 9", "the number 10 for image 0"),
        (batch_of_one(b"N", "u1", 0x89), "from 0 to 9", "None for image 0"),
        (batch_of_one(b"K\x01", "f8", 0x89), "bytes (uint8)", "dtype f8"),
        (batch_of_one(b"K\x01", "u1", 0x88), "bytes (uint8)", "Fortran order"),
        (cut[..cut.len() - 12].to_vec(), "a pickled batch", "the end of the file"),
        (b"\x80\x02}(U\x04datacos\nsystem\nU\x02id\x85Ru.".to_vec(), "bytes (uint8)", "a call of os.system"),
        (b"\x80\x02N2\x86.".to_vec(), "a pickled batch", "the opcode DUP"),
    ] {
        let (wanted, what) = parse_python(&pickle).unwrap_err();
        assert!(wanted.contains(expected) && what.contains(found), "{wanted}, found {what}");
    }
}

/// A pickle of 59 bytes that asks for 2^27 values, and a million lists inside each other, are refused like any other
/// batch.
#[test]
fn hostile_batches_are_errors_that_name_the_file() {
    let doubling = [b"\x80\x02N".to_vec(), b"2\x86".repeat(27), b"...".to_vec()].concat();
    assert_eq!(doubling.len(), 60);
    let deep = [vec![b']'; 1_000_000], vec![b'a'; 999_999], b".".to_vec()].concat();
    for (bytes, found) in [(doubling, "the opcode DUP"), (deep, "found a list")] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("data_batch_1"), bytes).unwrap();
        let message = open_path(folder.path()).err().unwrap().to_string();
        assert!(message.contains("data_batch_1") && message.contains(found), "{message}");
    }
}
