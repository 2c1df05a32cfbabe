//! Netpbm files: PBM, PGM, PPM and PAM, as text and as bytes.

use std::io::Cursor;

use image::ImageError;
use image::codecs::pnm::PnmDecoder;

use super::{Codec, Damage, by_image, damage};
use crate::data::picture::Picture;

pub(super) const CODEC: Codec = Codec {
    name: "Netpbm",
    extensions: &["ppm", "pgm", "pbm", "pnm", "pam"],
    recognises: |bytes| matches!(bytes, [b'P', b'1'..=b'7', space, ..] if space.is_ascii_whitespace() || *space == b'#'),
    decode,
};

const WHOLE: &str = "a whole Netpbm file";

fn decode(bytes: &[u8]) -> Result<Picture, Damage> {
    let fail = |error: ImageError| damage(WHOLE, by_image::describe(&error));
    by_image::decode(PnmDecoder::new(Cursor::new(bytes)).map_err(fail)?, bytes.len(), WHOLE)
}
