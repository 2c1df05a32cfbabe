#![allow(clippy::unwrap_used, clippy::panic)]

pub(in crate::data) use super::png_file::tests::encode;
use std::fs;

use super::*;
use crate::data::picture::Samples;
use crate::golden::Golden;

#[test]
fn a_decoder_that_panics_is_a_bad_file() {
    let codec = Codec { decode: |_| panic!("a trap"), ..jpeg_file::CODEC };
    let message = decode_with(&codec, b"any", Path::new("trap.jpg")).unwrap_err().to_string();
    assert!(message.contains("trap.jpg") && message.contains("panic"), "{message}");
}

/// A picture that Pillow wrote.
fn golden(name: &str) -> Vec<u8> {
    let folders = ["images", "formats"].map(|folder| crate::data::tests::golden(folder).join(name));
    fs::read(folders.iter().find(|path| path.exists()).unwrap()).unwrap()
}

#[test]
fn pictures_are_those_that_pillow_reads() {
    check_with_pillow("images", 18);
}

#[test]
fn further_formats_and_rotated_pictures_are_those_that_pillow_reads() {
    check_with_pillow("formats", 23);
}

/// Compares all pictures of a folder with what Pillow reads in each.
fn check_with_pillow(folder: &str, count: usize) {
    let expected = Golden::read(&format!("data/{folder}/expected"));
    let folder = crate::data::tests::golden(folder);
    assert_eq!(expected.names().count(), count);
    for name in expected.names() {
        let picture = decode_file(&folder.join(name)).unwrap();
        let shape = [picture.height, picture.width, picture.layout.channels()];
        assert_eq!(shape, expected.shape(name), "{name}");
        let wanted: Vec<i32> = expected.numbers(name).iter().map(|&value| value as i32).collect();
        let found: Vec<i32> = match picture.samples {
            Samples::Eight(values) => values.into_iter().map(i32::from).collect(),
            Samples::Sixteen(values) => values.into_iter().map(i32::from).collect(),
            Samples::Float(_) => panic!("{name} is no floating point"),
        };
        let differences: Vec<i32> = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).collect();
        let largest = differences.iter().copied().max().unwrap();
        // Decoders of lossy formats may round otherwise; colour that was stored at half size, and CMYK, add to that.
        let allowed = match name {
            "subsampled.jpg" | "cmyk.jpg" => 6,
            "lossy.webp" => 3,
            name if name.contains(".j") => 2,
            _ => 0,
        };
        assert!(largest <= allowed, "{name}: {largest} of {allowed}");
    }
}

#[test]
fn colour_modes_have_names() {
    let mode = |name: &str| decode(&golden(name), Path::new(name)).unwrap().mode();
    for (name, expected) in [
        ("grey.png", "grey"),
        ("grey-16.png", "grey, 16 bits"),
        ("grey-alpha.png", "grey with alpha"),
        ("palette.png", "palette"),
        ("palette-alpha.png", "palette with transparency"),
        ("cmyk.jpg", "colour"),
        ("alpha.webp", "colour with alpha"),
        ("palette.gif", "palette"),
        ("grey-16.tif", "grey, 16 bits"),
    ] {
        assert_eq!(mode(name), expected, "{name}");
    }
}

#[test]
fn every_truncation_of_every_format_is_an_error() {
    for name in [
        "plain.jpg",
        "progressive.jpeg",
        "cmyk.jpg",
        "rotated.jpg",
        "lossy.webp",
        "alpha.webp",
        "palette.png",
        "rotated-6.png",
        "palette.gif",
        "animated.gif",
        "rgb.bmp",
        "palette.dib",
        "rgb.tiff",
        "deflate.tif",
        "rgb.ppm",
        "one-bit.pbm",
    ] {
        let bytes = golden(name);
        for length in 0..bytes.len() {
            let error = decode(&bytes[..length], Path::new(name)).err();
            let message = error.unwrap_or_else(|| panic!("{name}: {length} of {}", bytes.len())).to_string();
            assert!(message.contains(name) && !message.contains(".;"), "{message}");
        }
    }
}

#[test]
fn a_picture_that_takes_too_much_memory_is_refused_by_its_header() {
    // 8192 x 8192 pixels of 16 bits and 3 or 4 channels, in the headers of three formats
    let tiff = |entries: &[(u16, u16, u32)]| {
        let mut bytes = b"II*\0\x08\0\0\0".to_vec();
        bytes.extend((entries.len() as u16).to_le_bytes());
        for (tag, kind, value) in entries {
            bytes.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
            bytes.extend([1_u32.to_le_bytes(), value.to_le_bytes()].concat());
        }
        bytes.extend([0; 4]);
        bytes
    };
    let grey_tiff = [(256, 3, 60_000), (257, 3, 60_000), (258, 3, 16), (262, 3, 1), (273, 4, 8), (279, 4, 8)];
    for (name, bytes, expected) in [
        ("a.ppm", b"P6 8192 8192 65535 ".to_vec(), "at most 256 MiB"),
        (
            "b.pam",
            b"P7\nWIDTH 8192\nHEIGHT 8192\nDEPTH 4\nMAXVAL 65535\nTUPLTYPE RGB_ALPHA\nENDHDR\n".to_vec(),
            "at most 256 MiB",
        ),
        ("c.tif", tiff(&grey_tiff), "at most 67108864 pixels"),
        ("d.ppm", b"P6 20000 20000 255 ".to_vec(), "at most 67108864 pixels"),
    ] {
        let message = decode(&bytes, Path::new(name)).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_file_that_is_too_long_is_refused_unread() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.png");
    fs::File::create(&path).unwrap().set_len(300 << 20).unwrap();
    let message = decode_file(&path).unwrap_err().to_string();
    assert!(message.contains("at most 257 MiB"), "{message}");
}

proptest::proptest! {
    #![proptest_config(crate::data::tests::seeded())]

    #[test]
    fn changed_bytes_never_end_the_program(
        changes in proptest::collection::vec((0..10_000_usize, proptest::prelude::any::<u8>()), 1..8),
        name in proptest::sample::select(vec![
            "plain.jpg", "progressive.jpeg", "lossy.webp", "lossless.webp", "rotated.webp", "rotated-6.png", "palette.gif",
            "animated.gif", "rgb.bmp", "palette.dib", "rgb.tiff", "deflate.tif", "grey-16.tif", "rgb.ppm", "one-bit.pbm",
        ]),
    ) {
        let mut bytes = golden(name);
        for (position, value) in changes {
            let position = position % bytes.len();
            bytes[position] = value;
        }
        let _ = decode(&bytes, Path::new(name));
    }
}
