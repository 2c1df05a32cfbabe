//! WebP files: lossy, lossless, with or without alpha; of an animation the first frame.

use std::io::Cursor;

use image::codecs::webp::WebPDecoder;
use image::{DynamicImage, ImageDecoder, ImageError};

use super::{Codec, Damage, check_pixels, damage};
use crate::data::picture::{Layout, Picture, Samples};

pub(super) const CODEC: Codec = Codec {
    name: "WebP",
    extensions: &["webp"],
    recognises: |bytes| bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP"),
    decode,
};

fn decode(bytes: &[u8]) -> Result<Picture, Damage> {
    let fail = |error: ImageError| damage("a whole WebP file", error.to_string());
    // the length of what follows the first 8 bytes: RIFF
    let length = bytes[4..].first_chunk().map_or(0, |&length| u32::from_le_bytes(length) as usize);
    if bytes.len() - 8 < length {
        let found = format!("{} bytes of {}", bytes.len(), length + 8);
        return Err(damage("a whole WebP file", found));
    }
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(fail)?;
    let (width, height) = decoder.dimensions();
    check_pixels(width, height, bytes.len())?;
    let (layout, values) = match DynamicImage::from_decoder(decoder).map_err(fail)? {
        DynamicImage::ImageRgba8(image) => (Layout::Rgba, image.into_raw()),
        image => (Layout::Rgb, image.into_rgb8().into_raw()),
    };
    let (width, height) = (width as usize, height as usize);
    Ok(Picture { width, height, layout, palette: false, samples: Samples::Eight(values) })
}
