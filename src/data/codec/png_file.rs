//! PNG files.

use std::io::{Cursor, ErrorKind};

use image::metadata::Orientation;
use png::{BitDepth, ColorType, DecodingError, Limits, Transformations};

use super::{Codec, Damage, check_size, claim, damage};
use crate::data::error::MAX_DEFLATE_RATIO;
use crate::data::picture::{Layout, Picture, Samples};

/// What the decoder may set aside besides the picture itself: a row, a palette, the text it ignores.
const WORKING_BYTES: usize = 1 << 26;

pub(super) const CODEC: Codec = Codec {
    name: "PNG",
    extensions: &["png", "apng"],
    recognises: |bytes| bytes.starts_with(b"\x89PNG"),
    decode,
};

/// Decodes a PNG file of any colour type and bit depth; palettes are looked up, and a transparent colour becomes
/// an alpha channel; where Exif data say that the camera was held otherwise, the picture is rotated upright. One that
/// claims more pixels than its length can hold is refused.
fn decode(bytes: &[u8]) -> Result<Picture, Damage> {
    let fail = |error: DecodingError| damage("a whole PNG file", describe(error, bytes));

    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: WORKING_BYTES });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND);

    let header = decoder.read_header_info().map_err(fail)?;
    let (width, height) = header.size();
    let palette = header.color_type == ColorType::Indexed;
    check_size(width, height, decoded_bytes(header.color_type, header.bit_depth), bytes.len())?;
    if header.raw_bytes() as u64 > (bytes.len() as u64).saturating_mul(MAX_DEFLATE_RATIO) {
        return Err(damage("no more pixels than the file has room for", claim(width, height, bytes.len())));
    }

    let mut reader = decoder.read_info().map_err(fail)?;
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| damage("a picture that fits in memory", claim(width, height, bytes.len())))?;
    let mut samples = match reader.output_color_type() {
        (_, BitDepth::Sixteen) => Samples::Sixteen(vec![0; size / 2]),
        _ => Samples::Eight(vec![0; size]),
    };
    let frame = reader
        .next_frame(match &mut samples {
            Samples::Sixteen(values) => bytemuck::cast_slice_mut(values),
            Samples::Eight(values) => values,
            Samples::Float(_) => &mut [],
        })
        .map_err(fail)?;
    // reads the chunks after the picture, so that a file cut short there is an error too
    reader.finish().map_err(fail)?;
    match &mut samples {
        Samples::Sixteen(values) => {
            values.truncate(frame.buffer_size() / 2);
            values.iter_mut().for_each(|value| *value = u16::from_be(*value));
        }
        Samples::Eight(values) => values.truncate(frame.buffer_size()),
        Samples::Float(_) => {}
    }

    let layout = match frame.color_type {
        ColorType::Grayscale => Layout::Grey,
        ColorType::GrayscaleAlpha => Layout::GreyAlpha,
        ColorType::Rgb => Layout::Rgb,
        ColorType::Rgba => Layout::Rgba,
        ColorType::Indexed => return Err(damage("an expanded palette", "palette indices")),
    };
    let (width, height) = (frame.width as usize, frame.height as usize);
    let exif = reader.info().exif_metadata.as_deref();
    let orientation = exif.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms);
    Ok(Picture { width, height, layout, palette, samples }.upright(orientation))
}

/// Bytes that a pixel may take when it is decoded: with an alpha channel where a transparent colour could make one.
fn decoded_bytes(colour: ColorType, depth: BitDepth) -> u64 {
    let channels = match colour {
        ColorType::Grayscale | ColorType::GrayscaleAlpha => 2,
        ColorType::Rgb | ColorType::Rgba | ColorType::Indexed => 4,
    };
    if depth == BitDepth::Sixteen { 2 * channels } else { channels }
}

/// What is wrong, in words.
fn describe(error: DecodingError, bytes: &[u8]) -> String {
    match error {
        DecodingError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            "one that is cut short".to_owned()
        }
        DecodingError::LimitsExceeded => {
            format!("one that takes more than {} MiB besides its pixels", WORKING_BYTES >> 20)
        }
        DecodingError::Format(error) => match chunk_with_wrong_checksum(bytes) {
            Some(name) => format!("a wrong checksum in its chunk {name}: the file is damaged"),
            None => plain(&error.to_string()),
        },
        other => other.to_string(),
    }
}

/// The name of the first chunk whose checksum is not that of its content (PNG specification, section 5.3).
fn chunk_with_wrong_checksum(bytes: &[u8]) -> Option<String> {
    let mut rest = bytes.get(8..)?;
    loop {
        let (length, after) = rest.split_first_chunk()?;
        let (checked, after) = after.split_at_checked(4 + u32::from_be_bytes(*length) as usize)?;
        let (&checksum, after) = after.split_first_chunk()?;
        let mut found = flate2::Crc::new();
        found.update(checked);
        if found.sum() != u32::from_be_bytes(checksum) {
            return Some(String::from_utf8_lossy(&checked[..4]).escape_debug().to_string());
        }
        rest = after;
    }
}

/// The decoder's text with the names of chunks where it prints their inner structure.
fn plain(text: &str) -> String {
    const START: &str = "ChunkType { type: ";
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, inner)) = rest.split_once(START) {
        let (name, after) = inner.split_once(',').unwrap_or((inner, ""));
        plain += before;
        plain += name;
        rest = after.split_once('}').map_or("", |(_, after)| after);
    }
    plain + rest
}

#[cfg(test)]
pub(super) mod tests;
