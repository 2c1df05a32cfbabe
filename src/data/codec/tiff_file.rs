//! TIFF files: grey, colour and CMYK of 8 or 16 bits; of several pages the first.

use std::io::Cursor;

use image::ImageError;
use image::codecs::tiff::TiffDecoder;

use super::{Codec, Damage, by_image, damage};
use crate::data::picture::Picture;

pub(super) const CODEC: Codec = Codec {
    name: "TIFF",
    extensions: &["tif", "tiff"],
    recognises: |bytes| bytes.starts_with(b"II*\0") || bytes.starts_with(b"MM\0*"),
    decode,
};

const WHOLE: &str = "a whole TIFF file";

fn decode(bytes: &[u8]) -> Result<Picture, Damage> {
    let fail = |error: ImageError| damage(WHOLE, by_image::describe(&error));
    by_image::decode(TiffDecoder::new(Cursor::new(bytes)).map_err(fail)?, bytes.len(), WHOLE)
}
