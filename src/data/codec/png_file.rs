//! PNG files.

use std::io::Cursor;

use png::{BitDepth, ColorType, DecodingError, Limits, Transformations};

use super::{Codec, Damage, check_pixels, claim, damage};
use crate::data::error::MAX_DEFLATE_RATIO;
use crate::data::picture::{Layout, Picture, Samples};

/// What the decoder may set aside besides the picture itself: a row, a palette, the text it ignores.
const WORKING_BYTES: usize = 1 << 26;

pub(super) const CODEC: Codec =
    Codec { name: "PNG", extensions: &["png"], recognises: |bytes| bytes.starts_with(b"\x89PNG"), decode };

/// Decodes a PNG file of any colour type and bit depth; palettes are looked up, and a transparent colour becomes
/// an alpha channel. One that claims more pixels than its length can hold is refused.
fn decode(bytes: &[u8]) -> Result<Picture, Damage> {
    let fail = |error: DecodingError| damage("a whole PNG file", error.to_string());

    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: WORKING_BYTES });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND);

    let header = decoder.read_header_info().map_err(fail)?;
    let (width, height) = header.size();
    let palette = header.color_type == ColorType::Indexed;
    check_pixels(width, height, bytes.len())?;
    if header.raw_bytes() as u64 > (bytes.len() as u64).saturating_mul(MAX_DEFLATE_RATIO) {
        return Err(damage("no more pixels than the file has room for", claim(width, height, bytes.len())));
    }

    let mut reader = decoder.read_info().map_err(fail)?;
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| damage("a picture that fits in memory", claim(width, height, bytes.len())))?;
    let mut values = vec![0; size];
    let frame = reader.next_frame(&mut values).map_err(fail)?;
    // reads the chunks after the picture, so that a file cut short there is an error too
    reader.finish().map_err(fail)?;
    values.truncate(frame.buffer_size());

    let layout = match frame.color_type {
        ColorType::Grayscale => Layout::Grey,
        ColorType::GrayscaleAlpha => Layout::GreyAlpha,
        ColorType::Rgb => Layout::Rgb,
        ColorType::Rgba => Layout::Rgba,
        ColorType::Indexed => return Err(damage("an expanded palette", "palette indices")),
    };
    let samples = match frame.bit_depth {
        BitDepth::Sixteen => {
            Samples::Sixteen(values.as_chunks().0.iter().map(|&pair| u16::from_be_bytes(pair)).collect())
        }
        _ => Samples::Eight(values),
    };
    Ok(Picture { width: frame.width as usize, height: frame.height as usize, layout, palette, samples })
}

#[cfg(test)]
pub(super) mod tests;
