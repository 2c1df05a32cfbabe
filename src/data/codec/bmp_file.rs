//! BMP files, with a palette or without.

use std::io::Cursor;

use image::ImageError;
use image::codecs::bmp::BmpDecoder;

use super::{Codec, Damage, by_image, damage};
use crate::data::picture::Picture;

pub(super) const CODEC: Codec =
    Codec { name: "BMP", extensions: &["bmp", "dib"], recognises: |bytes| bytes.starts_with(b"BM"), decode };

const WHOLE: &str = "a whole BMP file";

fn decode(bytes: &[u8]) -> Result<Picture, Damage> {
    let fail = |error: ImageError| damage(WHOLE, by_image::describe(&error));
    // The file's length, where its header says it; some writers leave it 0.
    let length = bytes.get(2..).and_then(<[u8]>::first_chunk).map_or(0, |&length| u32::from_le_bytes(length));
    if bytes.len() < length as usize {
        return Err(damage(WHOLE, format!("{} bytes of {length}", bytes.len())));
    }
    by_image::decode(BmpDecoder::new(Cursor::new(bytes)).map_err(fail)?, bytes.len(), WHOLE)
}
