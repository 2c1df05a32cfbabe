#![allow(clippy::unwrap_used)]

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::data::codec;

/// The bytes of a PNG file; `palette` is (RGB triples, alphas), and for other colour types the alphas are the
/// transparent colour.
pub(in crate::data) fn encode(
    (width, height): (u32, u32),
    colour: ColorType,
    depth: BitDepth,
    palette: (&[u8], &[u8]),
    data: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    if !palette.0.is_empty() {
        encoder.set_palette(palette.0.to_vec());
    }
    if !palette.1.is_empty() {
        encoder.set_trns(palette.1.to_vec());
    }
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(data).unwrap();
    writer.finish().unwrap();
    bytes
}

/// Decodes the bytes, and checks that an error names the file.
fn decode_bytes(bytes: &[u8]) -> Result<Picture, String> {
    codec::decode(bytes, Path::new("picture-under-test.png")).map_err(|error| {
        let message = error.to_string();
        assert!(message.contains("picture-under-test.png"), "{message}");
        message
    })
}

/// Checks the layout and the values of a file of 3 x 2 pixels.
fn check(
    colour: ColorType,
    depth: BitDepth,
    palette: (&[u8], &[u8]),
    data: &[u8],
    expected: (Layout, Samples),
) {
    let picture = decode_bytes(&encode((3, 2), colour, depth, palette, data)).unwrap();
    let (layout, samples) = expected;
    let palette = colour == ColorType::Indexed;
    assert_eq!(picture, Picture { width: 3, height: 2, layout, palette, samples }, "{colour:?} {depth:?}");
}

#[test]
fn grey_of_every_depth() {
    let grey = |depth, data: &[u8], values: &[u8]| {
        let expected = (Layout::Grey, Samples::Eight(values.to_vec()));
        check(ColorType::Grayscale, depth, (&[], &[]), data, expected);
    };
    grey(BitDepth::One, &[0b1010_0000, 0b0110_0000], &[255, 0, 255, 0, 255, 255]);
    grey(BitDepth::Two, &[0b0001_1000, 0b1100_0100], &[0, 85, 170, 255, 0, 85]);
    grey(BitDepth::Four, &[0x0f, 0x80, 0x12, 0x30], &[0, 255, 136, 17, 34, 51]);
    grey(BitDepth::Eight, &[0, 1, 2, 253, 254, 255], &[0, 1, 2, 253, 254, 255]);
}

#[test]
fn alpha_and_colour() {
    let values: Vec<u8> = (0..24).map(|value| value * 10).collect();
    let check_eight = |colour, layout, count| {
        let values = &values[..count];
        check(colour, BitDepth::Eight, (&[], &[]), values, (layout, Samples::Eight(values.to_vec())));
    };
    check_eight(ColorType::GrayscaleAlpha, Layout::GreyAlpha, 12);
    check_eight(ColorType::Rgb, Layout::Rgb, 18);
    check_eight(ColorType::Rgba, Layout::Rgba, 24);
}

#[test]
fn sixteen_bits_keep_their_precision() {
    let layouts = [
        (ColorType::Grayscale, Layout::Grey),
        (ColorType::GrayscaleAlpha, Layout::GreyAlpha),
        (ColorType::Rgb, Layout::Rgb),
        (ColorType::Rgba, Layout::Rgba),
    ];
    for (colour, layout) in layouts {
        let values: Vec<u16> = (0..6 * layout.channels() as u16).map(|value| value * 2731 + 1).collect();
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_be_bytes()).collect();
        check(colour, BitDepth::Sixteen, (&[], &[]), &data, (layout, Samples::Sixteen(values)));
    }
}

#[test]
fn palettes_with_and_without_transparency() {
    let colours = [10, 20, 30, 40, 50, 60, 70, 80, 90];
    let indices = [0, 1, 2, 2, 1, 0];
    let rgb: Vec<u8> = indices.iter().flat_map(|&index| colours[3 * index..][..3].to_vec()).collect();
    let data = indices.map(|index| index as u8);
    let opaque = (Layout::Rgb, Samples::Eight(rgb));
    check(ColorType::Indexed, BitDepth::Eight, (&colours, &[]), &data, opaque);

    // tRNS may be shorter than the palette: the rest is opaque
    let alphas = [0, 128, 255];
    let rgba: Vec<u8> =
        indices.iter().flat_map(|&index| [&colours[3 * index..][..3], &[alphas[index]]].concat()).collect();
    let transparent = || (Layout::Rgba, Samples::Eight(rgba.clone()));
    check(ColorType::Indexed, BitDepth::Eight, (&colours, &alphas[..2]), &data, transparent());
    check(
        ColorType::Indexed,
        BitDepth::Two,
        (&colours, &alphas[..2]),
        &[0b0001_1000, 0b1001_0000],
        transparent(),
    );
}

#[test]
fn a_transparent_colour_becomes_alpha() {
    let expected = vec![7, 0, 8, 255, 9, 255, 9, 255, 8, 255, 7, 0];
    let data = [7, 8, 9, 9, 8, 7];
    let expected = (Layout::GreyAlpha, Samples::Eight(expected));
    check(ColorType::Grayscale, BitDepth::Eight, (&[], &[0, 7]), &data, expected);
}

/// A small file of noise, which deflate cannot shorten much.
fn small_file() -> Vec<u8> {
    let data: Vec<u8> = (0..8 * 6 * 4).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    encode((8, 6), ColorType::Rgba, BitDepth::Eight, (&[], &[]), &data)
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = small_file();
    assert!(decode_bytes(&bytes).is_ok());
    for length in 0..bytes.len() {
        assert!(decode_bytes(&bytes[..length]).is_err(), "{length} of {}", bytes.len());
    }
}

/// Writes a width and a height into a file's header, and corrects the header's checksum.
fn claim_size(bytes: &mut [u8], width: u32, height: u32) {
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let mut checksum = flate2::Crc::new();
    checksum.update(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.sum().to_be_bytes());
}

#[test]
fn huge_claims_are_refused_before_anything_is_allocated() {
    let mut bytes = small_file();
    for (width, height) in [(i32::MAX as u32, i32::MAX as u32), (1 << 20, 1 << 10), (65_537, 65_537)] {
        claim_size(&mut bytes, width, height);
        assert!(decode_bytes(&bytes).unwrap_err().contains("at most 67108864 pixels"));
    }
    claim_size(&mut bytes, 4096, 4096);
    assert!(decode_bytes(&bytes).unwrap_err().contains("room for"));
    for (width, height) in [(0, 6), (8, 0), (8, 7), (9, 6), (u32::MAX, 1)] {
        claim_size(&mut bytes, width, height);
        assert!(decode_bytes(&bytes).is_err(), "{width}x{height}");
    }
}

#[test]
fn errors_say_what_to_do() {
    let message = decode_bytes(b"RIFF, not a PNG").unwrap_err();
    assert!(message.contains("leave such files out"), "{message}");
}

#[test]
fn a_wrong_checksum_is_named_in_plain_words() {
    let whole = small_file();
    let position = whole.windows(4).position(|bytes| bytes == b"IDAT").unwrap() + 9;
    for (position, chunk) in [(position, "IDAT"), (20, "IHDR")] {
        let mut damaged = whole.clone();
        damaged[position] ^= 1;
        let message = decode_bytes(&damaged).unwrap_err();
        let expected = format!("found a wrong checksum in its chunk {chunk}: the file is damaged; remove");
        assert!(message.contains(&expected), "{message}");
    }
    // chunks that are out of order are named without the decoder's inner structure
    let header = whole[8..33].to_vec();
    let message = decode_bytes(&[&whole[..33], &header, &whole[33..]].concat()).unwrap_err();
    assert!(!message.contains("ChunkType") && !message.contains(".;"), "{message}");
    assert_eq!(plain("Chunk ChunkType { type: PLTE, critical: true } is twice."), "Chunk PLTE is twice.");
}

#[test]
fn what_takes_too_much_memory_is_refused_by_its_header() {
    let data = vec![0; 8 * 6 * 8];
    let mut bytes = encode((8, 6), ColorType::Rgba, BitDepth::Sixteen, (&[], &[]), &data);
    claim_size(&mut bytes, 8192, 8192);
    let message = decode_bytes(&bytes).unwrap_err();
    assert!(message.contains("at most 256 MiB") && message.contains("8192x8192"), "{message}");
}

proptest! {
    #![proptest_config(crate::data::tests::seeded())]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), prefix in 0..60_usize) {
        let file = small_file();
        let _ = decode_bytes(&[&file[..prefix], &bytes].concat());
    }

    #[test]
    fn changed_bytes_never_panic(
        changes in proptest::collection::vec((0..10_000_usize, any::<u8>()), 1..8),
        size in prop::option::of((0_u32..300, 0_u32..300)),
        types in prop::option::of((0_u8..7, 0_u8..17, 0_u8..2)),
    ) {
        let mut file = small_file();
        for (position, value) in changes {
            let position = position % file.len();
            file[position] = value;
        }
        if let Some((colour, depth, interlace)) = types {
            (file[24], file[25], file[28]) = (depth, colour, interlace);
        }
        // a corrected checksum lets the damage through to the decoder
        if let Some((width, height)) = size {
            claim_size(&mut file, width, height);
        }
        let _ = decode_bytes(&file);
    }
}
