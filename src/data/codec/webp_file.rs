//! WebP files: lossy, lossless, with or without alpha; of an animation the first frame.

use std::io::Cursor;

use image::ImageError;
use image::codecs::webp::WebPDecoder;

use super::{Codec, Damage, by_image, damage};
use crate::data::picture::Picture;

pub(super) const CODEC: Codec = Codec {
    name: "WebP",
    extensions: &["webp"],
    recognises: |bytes| bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP"),
    decode,
};

const WHOLE: &str = "a whole WebP file";

fn decode(bytes: &[u8]) -> Result<Picture, Damage> {
    let fail = |error: ImageError| damage(WHOLE, by_image::describe(&error));
    // the length of what follows the first 8 bytes: RIFF
    let length = bytes[4..].first_chunk().map_or(0, |&length| u32::from_le_bytes(length) as usize);
    if bytes.len() - 8 < length {
        return Err(damage(WHOLE, format!("{} bytes of {}", bytes.len(), length + 8)));
    }
    by_image::decode(WebPDecoder::new(Cursor::new(bytes)).map_err(fail)?, bytes.len(), WHOLE)
}
