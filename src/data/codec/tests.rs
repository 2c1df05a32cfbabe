#![allow(clippy::unwrap_used, clippy::panic)]

pub(in crate::data) use super::png_file::tests::encode;
use super::*;
use crate::data::picture::Samples;

#[test]
fn a_decoder_that_panics_is_a_bad_file() {
    let codec = Codec { decode: |_| panic!("a trap"), ..jpeg_file::CODEC };
    let message = decode_with(&codec, b"any", Path::new("trap.jpg")).unwrap_err().to_string();
    assert!(message.contains("trap.jpg") && message.contains("panic"), "{message}");
}

/// The folder of pictures that Pillow wrote, and what it reads in each.
fn golden() -> (std::path::PathBuf, Vec<u8>) {
    let folder = crate::data::tests::golden("images");
    let expected = fs::read(folder.join("expected.safetensors")).unwrap();
    (folder, expected)
}

#[test]
fn pictures_are_those_that_pillow_reads() {
    let (folder, expected) = golden();
    let expected = safetensors::SafeTensors::deserialize(&expected).unwrap();
    assert_eq!(expected.len(), 18);
    for (name, tensor) in expected.iter() {
        let picture = decode_file(&folder.join(name)).unwrap();
        let shape = [picture.height, picture.width, picture.layout.channels()];
        assert_eq!(shape, tensor.shape(), "{name}");
        let (found, wanted): (Vec<i32>, Vec<i32>) = match picture.samples {
            Samples::Eight(values) => (
                values.into_iter().map(i32::from).collect(),
                tensor.data().iter().map(|&value| i32::from(value)).collect(),
            ),
            Samples::Sixteen(values) => (
                values.into_iter().map(i32::from).collect(),
                tensor.data().as_chunks().0.iter().map(|&pair| i32::from(u16::from_le_bytes(pair))).collect(),
            ),
            Samples::Float(_) => panic!("{name} is no floating point"),
        };
        let differences: Vec<i32> = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).collect();
        let largest = differences.iter().copied().max().unwrap();
        // Decoders of lossy formats may round otherwise; colour that was stored at half size, and CMYK, add to that.
        let allowed = match name {
            "subsampled.jpg" | "cmyk.jpg" => 6,
            "lossy.webp" => 3,
            name if name.ends_with(".jpg") || name.ends_with(".jpeg") => 2,
            _ => 0,
        };
        assert!(largest <= allowed, "{name}: {largest} of {allowed}");
    }
}

#[test]
fn colour_modes_have_names() {
    let (folder, _) = golden();
    let mode = |name: &str| decode_file(&folder.join(name)).unwrap().mode();
    for (name, expected) in [
        ("grey.png", "grey"),
        ("grey-16.png", "grey, 16 bits"),
        ("grey-alpha.png", "grey with alpha"),
        ("palette.png", "palette"),
        ("palette-alpha.png", "palette with transparency"),
        ("cmyk.jpg", "colour"),
        ("alpha.webp", "colour with alpha"),
    ] {
        assert_eq!(mode(name), expected, "{name}");
    }
}

#[test]
fn every_truncation_of_every_format_is_an_error() {
    let (folder, _) = golden();
    for name in
        ["plain.jpg", "progressive.jpeg", "cmyk.jpg", "turned.jpg", "lossy.webp", "alpha.webp", "palette.png"]
    {
        let bytes = fs::read(folder.join(name)).unwrap();
        for length in 0..bytes.len() {
            let message = decode(&bytes[..length], Path::new(name)).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
    }
}

proptest::proptest! {
    #![proptest_config(crate::data::tests::seeded())]

    #[test]
    fn changed_bytes_never_end_the_program(
        changes in proptest::collection::vec((0..10_000_usize, proptest::prelude::any::<u8>()), 1..8),
        name in proptest::sample::select(vec!["plain.jpg", "progressive.jpeg", "lossy.webp", "lossless.webp"]),
    ) {
        let (folder, _) = golden();
        let mut bytes = fs::read(folder.join(name)).unwrap();
        for (position, value) in changes {
            let position = position % bytes.len();
            bytes[position] = value;
        }
        let _ = decode(&bytes, Path::new(name));
    }
}
