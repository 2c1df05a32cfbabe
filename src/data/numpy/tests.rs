#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;

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

/// Opens a path at 4 x 4 pixels.
fn open_square(path: &Path) -> Box<dyn super::super::Dataset> {
    let options = OpenOptions { image_size: Some([4, 4]), ..OpenOptions::default() };
    super::super::open(path.to_str().unwrap(), &options).unwrap()
}

#[test]
fn every_element_type_and_order_of_channels_gives_the_same_images() {
    for name in [
        "plain.npz",
        "channels-first.npy",
        "floats.npy",
        "signed.npy",
        "sixteen.npy",
        "fortran.npy",
        "integers.npy",
    ] {
        let images = open_square(&golden("arrays").join(name));
        assert_eq!(images.image_shape(), ImageShape { channels: 3, height: 4, width: 4 });
        let own = open_path(&golden("arrays").join(name)).unwrap();
        assert_eq!(own.image_shape(), ImageShape { channels: 3, height: 4, width: 5 });
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
    let images = open_square(&path);
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

/// An `.npy` file of an array in C order.
fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    [b"\x93NUMPY\x01\x00".as_slice(), &(text.len() as u16).to_le_bytes(), text.as_bytes(), data].concat()
}

/// An `.npz` file; members are compressed where `deflate` says so.
fn npz(members: &[(&str, Vec<u8>)], deflate: bool) -> Vec<u8> {
    let mut file = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let method = if deflate { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    for (name, contents) in members {
        file.start_file(format!("{name}.npy"), options).unwrap();
        file.write_all(contents).unwrap();
    }
    file.finish().unwrap().into_inner()
}

/// A file in a folder of its own.
struct Temporary(tempfile::TempDir, PathBuf);

impl Temporary {
    fn new(name: &str, contents: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, contents).unwrap();
        Self(folder, path)
    }

    /// What is said against the file; its name is part of it.
    fn refused(&self) -> String {
        let message = open_path(&self.1).err().unwrap().to_string();
        assert!(message.contains(&self.1.display().to_string()), "{message}");
        assert!(self.0.path().exists());
        message
    }
}

fn floats_le(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A dataset and SOURCE take the same file for the same images.
#[test]
fn one_rule_for_datasets_and_for_given_images() {
    let big = |values: &[f32]| values.iter().flat_map(|value| value.to_be_bytes()).collect::<Vec<u8>>();
    let half = |values: &[f32]| -> Vec<u8> {
        values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect()
    };
    for (descr, data, understood, expected) in [
        (
            "<f4",
            floats_le(&[0.0, 0.2, 1.000_000_1, 0.6]),
            "floats 0 to 1, found 0 to 1.0000001, clamped",
            [0, 51, 255, 153],
        ),
        (
            "<f4",
            floats_le(&[-0.02, 0.2, 1.03, 0.6]),
            "floats 0 to 1, found -0.02 to 1.03, clamped",
            [0, 51, 255, 153],
        ),
        (">f4", big(&[0.0, 0.2, 1.0, 0.6]), "floats 0 to 1, found 0 to 1", [0, 51, 255, 153]),
        (">f4", big(&[-1.0, -0.6, 1.0, 0.2]), "floats -1 to 1, found -1 to 1", [0, 51, 255, 153]),
        ("<f2", half(&[0.0, 51.0, 255.0, 153.0]), "floats 0 to 255, found 0 to 255", [0, 51, 255, 153]),
        ("|u1", vec![0, 51, 255, 153], "whole numbers 0 to 255, found 0 to 255", [0, 51, 255, 153]),
        ("|u1", vec![0, 1, 1, 0], "whole numbers 0 to 1, found 0 to 1", [0, 255, 255, 0]),
        ("|b1", vec![0, 1, 1, 0], "truth values", [0, 255, 255, 0]),
        (
            ">i2",
            vec![0, 0, 0, 51, 0, 255, 0, 153],
            "whole numbers 0 to 255, found 0 to 255",
            [0, 51, 255, 153],
        ),
        (
            ">u2",
            vec![0, 0, 51, 51, 255, 255, 153, 153],
            "whole numbers 0 to 65535, found 0 to 65535",
            [0, 51, 255, 153],
        ),
    ] {
        let file = Temporary::new("images.npy", &npy(descr, "(1, 2, 2)", &data));
        let dataset = open_path(&file.1).unwrap();
        assert_eq!(dataset.understood(), Some(understood));
        assert_eq!(read_bytes(dataset.as_ref())[0].0, expected, "{understood}");
        let given = read_array(&file.1, Some(1), Some([2, 2])).unwrap();
        assert_eq!((given.shape, given.understood.as_str()), ([1, 2, 2, 1], understood));
        let bytes = given.data.iter().map(|value| (127.5 * (value + 1.0)).round() as u8);
        assert_eq!(bytes.collect::<Vec<_>>(), expected, "{understood}");
    }
}

#[test]
fn numbers_that_may_be_two_things_or_none_are_refused() {
    for (descr, data, words) in [
        ("<f4", floats_le(&[0.0, 0.5, 1.3, 0.5]), &["0 to 1.3 of the dtype <f4", "numpy.clip"][..]),
        ("<f4", floats_le(&[-2.1, 0.5, 2.6, 0.5]), &["-2.1 to 2.6", "-1 to 1"]),
        ("<f4", floats_le(&[0.0, 5.0, 16.0, 0.5]), &["0 to 16", "at least 64"]),
        ("<f4", floats_le(&[0.0, 0.5, f32::NAN, 0.5]), &["NaN at index [0, 0, 1, 0]", "finite"]),
        ("<i2", vec![0, 0, 255, 255, 3, 0, 9, 0], &["-1 at index [0, 0, 0, 1]", "0 to 65535"]),
        ("<u2", vec![0, 0, 255, 15, 3, 0, 9, 0], &["0 to 4095 of the dtype <u2", "at least 16384"]),
        ("|O", vec![0; 32], &["Python objects", "numpy.stack"]),
        ("<U1", vec![0; 16], &["text (dtype <U1)"]),
    ] {
        let message = Temporary::new("images.npy", &npy(descr, "(1, 1, 2, 2)", &data)).refused();
        for word in words {
            assert!(message.contains(word), "{word} is not in {message}");
        }
    }
}

/// Also images with no number below 0, and what overshoots, which the rule would take for something else.
#[test]
fn what_this_program_wrote_is_given_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("drawn.npy");
    for values in [[0.1, 0.2, 0.3, 1.0], [-1.7, 0.2, 3.4, 1.0], [0.0, 20.0, 100.0, 255.0]] {
        let values = [values, values.map(|value| 0.5 * value), [0.0; 4]].concat();
        crate::output::write_npy(&path, [1, 3, 2, 2], &values).unwrap();
        let given = read_array(&path, Some(3), Some([2, 2])).unwrap();
        assert_eq!(crate::output::nhwc_to_nchw(&given.data, given.shape), values);
        assert!(given.understood.contains("ddpm-gpu"), "{}", given.understood);
    }
    // in a dataset they are clamped
    let values: Vec<f32> = [0.0, 0.2, 1.7, 1.0].into_iter().cycle().take(25).collect();
    crate::output::write_npy(&path, [1, 1, 5, 5], &values).unwrap();
    assert_eq!(read_bytes(open_path(&path).unwrap().as_ref())[0].0[..4], [128, 153, 255, 255]);
}

#[test]
fn given_images_keep_their_shape() {
    let data: Vec<u8> = (0..48).map(|i| 5 * i).collect();
    let channels_last = Temporary::new("a.npy", &npy("|u1", "(1, 4, 4, 3)", &data));
    let given = read_array(&channels_last.1, Some(3), Some([4, 4])).unwrap();
    assert_eq!((given.shape, given.data[4]), ([1, 4, 4, 3], 2.0 * (20.0 / 255.0) - 1.0));
    let channels_first = Temporary::new("a.npy", &npy("|u1", "(1, 3, 4, 4)", &data));
    let given = read_array(&channels_first.1, Some(3), Some([4, 4])).unwrap();
    assert_eq!((given.shape, given.data[1]), ([1, 4, 4, 3], 2.0 * (80.0 / 255.0) - 1.0));
    for shape in ["(3, 4, 4)", "(1, 3, 4, 4)"] {
        let file = Temporary::new("a.npy", &npy("|u1", shape, &data));
        let message = read_array(&file.1, Some(1), Some([8, 8])).unwrap_err().to_string();
        for word in ["a.npy", "4, 4]", "[N, 1, 8, 8]", "crop or resize"] {
            assert!(message.contains(word), "{message}");
        }
    }
    let narrow = read_array(&golden("arrays").join("signed.npy"), None, None).unwrap();
    assert_eq!(narrow.shape, [3, 4, 5, 3]);
    let dataset = open_path(&channels_first.1).unwrap();
    assert_eq!((dataset.image_shape().channels, dataset.image_shape().width), (3, 4));
    let mask = Temporary::new("mask.npy", &npy("|b1", "(2, 2)", &[0, 1, 1, 0]));
    let given = read_array(&mask.1, Some(1), Some([2, 2])).unwrap();
    assert_eq!((given.shape, given.data), ([1, 2, 2, 1], vec![-1.0, 1.0, 1.0, -1.0]));
}

/// Number `x + 10 y + 50 c + 100 n` at channel c, row y and column x of image n.
fn numbered(n: usize, c: usize, y: usize, x: usize) -> u8 {
    (x + 10 * y + 50 * c + 100 * n) as u8
}

/// Two images of two channels, three rows and four columns; and tall ones of four rows and three columns.
#[test]
fn channels_and_sides_of_rectangles_are_where_they_belong() {
    for (h, w) in [(3, 4), (4, 3)] {
        let values = |order: ArrayOrder| -> Vec<u8> {
            let index = |i: usize| match order {
                ArrayOrder::ChannelsFirst => (i / (2 * h * w), i / (h * w) % 2, i / w % h, i % w),
                ArrayOrder::ChannelsLast => (i / (2 * h * w), i % 2, i / (2 * w) % h, i / 2 % w),
            };
            (0..4 * h * w).map(index).map(|(n, c, y, x)| numbered(n, c, y, x)).collect()
        };
        for (order, shape) in [
            (ArrayOrder::ChannelsFirst, format!("(2, 2, {h}, {w})")),
            (ArrayOrder::ChannelsLast, format!("(2, {h}, {w}, 2)")),
        ] {
            let file = Temporary::new("a.npy", &npy("|u1", &shape, &values(order)));
            let two = OpenOptions { channels: Some(2), ..OpenOptions::default() };
            let dataset = super::super::open(file.1.to_str().unwrap(), &two).unwrap();
            assert_eq!(dataset.image_shape(), ImageShape { channels: 2, height: h, width: w });
            let understood = format!("axes {order}, 2 channels of {w}x{h}");
            assert!(dataset.understood().unwrap().contains(&understood), "{:?}", dataset.understood());
            assert_eq!(dataset.other_order(), None);
            let expected: Vec<u8> =
                (0..2 * h * w).map(|i| numbered(1, i % 2, i / (2 * w), i / 2 % w)).collect();
            assert_eq!(read_bytes(dataset.as_ref())[1].0, expected, "{shape}");
            let given = read_array(&file.1, Some(2), Some([h, w])).unwrap();
            assert_eq!(given.shape, [2, h, w, 2]);
            let bytes = given.data.iter().map(|value| (127.5 * (value + 1.0)).round() as u8);
            assert_eq!(bytes.skip(2 * h * w).collect::<Vec<_>>(), expected, "{shape}");
            // the sides of the model are the other way round
            let swapped = OpenOptions { image_size: Some([w, h]), ..two };
            let message = super::super::open(file.1.to_str().unwrap(), &swapped).err().unwrap().to_string();
            for word in [format!("{w}x{h}, width x height"), format!("{h}x{w}, whose sides are swapped")] {
                assert!(message.contains(&word), "{message}");
            }
            let message = read_array(&file.1, Some(2), Some([w, h])).unwrap_err().to_string();
            assert!(message.contains("swapped"), "{message}");
        }
    }
}

#[test]
fn a_guess_of_the_axes_is_said_and_may_be_changed() {
    let data: Vec<u8> = (0..240).collect();
    let file = Temporary::new("a.npy", &npy("|u1", "(1, 5, 6, 8)", &data));
    let dataset = open_path(&file.1).unwrap();
    assert_eq!(dataset.image_shape(), ImageShape { channels: 5, height: 6, width: 8 });
    assert_eq!(dataset.other_order(), Some(ArrayOrder::ChannelsLast));
    let last = OpenOptions { array_order: Some(ArrayOrder::ChannelsLast), ..OpenOptions::default() };
    let dataset = super::super::open(file.1.to_str().unwrap(), &last).unwrap();
    assert_eq!(dataset.image_shape(), ImageShape { channels: 8, height: 5, width: 6 });
    assert_eq!(
        (dataset.other_order(), read_bytes(dataset.as_ref())[0].0.as_slice()),
        (None, data.as_slice())
    );
    for (channels, expected) in [(5, 5), (8, 8)] {
        let wanted = OpenOptions { channels: Some(channels), ..OpenOptions::default() };
        let dataset = super::super::open(file.1.to_str().unwrap(), &wanted).unwrap();
        assert_eq!((dataset.image_shape().channels, dataset.other_order()), (expected, None));
    }
    let three = OpenOptions { channels: Some(3), ..OpenOptions::default() };
    let message = super::super::open(file.1.to_str().unwrap(), &three).err().unwrap().to_string();
    assert!(message.contains("expected 5, found 3"), "{message}");
    // what this program writes has its channels first
    crate::output::write_npy(&file.1, [1, 8, 6, 5], &[0.5; 240]).unwrap();
    let dataset = open_path(&file.1).unwrap();
    assert_eq!((dataset.image_shape().channels, dataset.other_order()), (8, None));
}

/// What a model of colour gets of four channels stays as it was; a model of four gets them as they are.
#[test]
fn a_fourth_channel_is_alpha_for_a_model_of_colour_only() {
    let pixels = [[255, 0, 0, 0], [10, 20, 30, 255], [0; 4], [0; 4], [0; 4]].concat();
    let file = Temporary::new("a.npy", &npy("|u1", "(1, 5, 1, 4)", &pixels));
    let of = |channels| {
        let options = OpenOptions { channels, ..OpenOptions::default() };
        super::super::open(file.1.to_str().unwrap(), &options).unwrap()
    };
    let colour = of(Some(3));
    assert!(colour.understood().unwrap().contains("alpha, over white"), "{:?}", colour.understood());
    assert_eq!(read_bytes(colour.as_ref())[0].0[..6], [255, 255, 255, 10, 20, 30]);
    for planes in [of(Some(4)), of(None)] {
        assert_eq!(read_bytes(planes.as_ref())[0].0, pixels);
        assert!(!planes.understood().unwrap().contains("alpha"));
    }
}

#[test]
fn labels_that_are_no_classes_get_a_true_sentence() {
    let images = npy("|u1", "(2, 2, 2)", &[0, 9, 9, 0, 200, 1, 2, 3]);
    for (labels, words) in [
        (npy("|i1", "(2,)", &[1, 255]), &["-1 for image 1 in labels.npy", "from 0 to"][..]),
        (npy("<i8", "(2,)", &[[0; 8], [255; 8]].concat()), &["-1 for image 1", "numpy.unique"]),
        (npy("<i4", "(2,)", &[0, 0, 0, 0, 0, 0, 16, 0]), &["1048576 for image 1"]),
        (npy("<U3", "(2,)", &[0; 24]), &["text (dtype <U3)", "numpy.unique"]),
        (npy("|S3", "(2,)", &[0; 6]), &["text (dtype |S3)", "numpy.unique"]),
        (npy("|O", "(2,)", b"\x80\x02]."), &["Python objects, which NumPy pickles", "numpy.unique"]),
        (npy("<f4", "(2,)", &[0; 8]), &["the dtype <f4", "astype"]),
        (npy("|u1", "(2, 3)", &[0; 6]), &["[2, 3]", "numpy.argmax"]),
    ] {
        let file = Temporary::new("a.npz", &npz(&[("images", images.clone()), ("labels", labels)], false));
        let message = file.refused();
        assert!(!message.contains("cut short"), "{message}");
        for word in words {
            assert!(message.contains(word), "{word} is not in {message}");
        }
    }
    assert!(
        Temporary::new("a.npz", b"\x80\x02N.").refused().contains("another format; save it with numpy.savez")
    );
    let labels = npy(">u2", "(2, 1)", &[0, 3, 1, 0]);
    let file = Temporary::new("a.npz", &npz(&[("images", images), ("labels", labels)], true));
    let dataset = open_path(&file.1).unwrap();
    assert_eq!((dataset.label(0), dataset.label(1), dataset.classes().len()), (Some(3), Some(256), 257));
}

/// 280 MB of zeros take 280 kB; a header may say anything.
#[test]
fn arrays_larger_than_their_file_may_hold_are_refused_before_they_are_read() {
    let mut bomb = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    bomb.start_file("images.npy", zip::write::SimpleFileOptions::default()).unwrap();
    bomb.write_all(&npy("|u1", "(268, 1024, 1024)", &[])).unwrap();
    let zeros = vec![0; 1 << 20];
    (0..268).for_each(|_| bomb.write_all(&zeros).unwrap());
    let message = Temporary::new("a.npz", &bomb.finish().unwrap().into_inner()).refused();
    assert!(
        message.contains("at most 268435456 bytes") && message.contains("numpy.savez rather"),
        "{message}"
    );
    for shape in ["(400, 1024, 1024)", "(4294967296, 4294967296, 4294967296)", "(99999999999, 1, 1)"] {
        for (name, bytes) in [
            ("a.npy", npy("|u1", shape, &[0; 100])),
            ("a.npz", npz(&[("images", npy("|u1", shape, &[0; 100]))], true)),
        ] {
            let message = Temporary::new(name, &bytes).refused();
            assert!(message.contains("100 bytes for the shape"), "{message}");
        }
    }
}
