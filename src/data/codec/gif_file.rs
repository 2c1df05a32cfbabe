//! GIF files; of an animation the first frame.

use std::io::Cursor;

use image::ImageError;
use image::codecs::gif::GifDecoder;

use super::{Codec, Damage, by_image, damage};
use crate::data::picture::{Layout, Picture, Samples};

pub(super) const CODEC: Codec =
    Codec { name: "GIF", extensions: &["gif"], recognises: |bytes| bytes.starts_with(b"GIF8"), decode };

const WHOLE: &str = "a whole GIF file";
/// The byte that ends a file.
const TRAILER: u8 = 0x3b;

fn decode(bytes: &[u8]) -> Result<Picture, Damage> {
    let fail = |error: ImageError| damage(WHOLE, by_image::describe(&error));
    // The decoder fills what is missing of a frame with the background.
    if !is_whole(bytes) {
        return Err(damage(WHOLE, "one that is cut short"));
    }
    let picture = by_image::decode(GifDecoder::new(Cursor::new(bytes)).map_err(fail)?, bytes.len(), WHOLE)?;
    Ok(Picture { palette: true, ..without_opaque_alpha(picture) })
}

/// The decoder always gives an alpha channel; one that is opaque everywhere is dropped.
fn without_opaque_alpha(picture: Picture) -> Picture {
    match &picture.samples {
        Samples::Eight(values) if picture.layout == Layout::Rgba => {
            let pixels = values.as_chunks::<4>().0;
            if pixels.iter().any(|pixel| pixel[3] != u8::MAX) {
                return picture;
            }
            let colours = pixels.iter().flat_map(|&[red, green, blue, _]| [red, green, blue]).collect();
            Picture { layout: Layout::Rgb, samples: Samples::Eight(colours), ..picture }
        }
        _ => picture,
    }
}

/// Whether the trailer is reached by walking the blocks from the start (GIF89a specification, appendix A).
fn is_whole(bytes: &[u8]) -> bool {
    walk(bytes).is_some()
}

fn walk(bytes: &[u8]) -> Option<()> {
    // a table of colours has 2 to 256 entries of 3 bytes, where its flag is set
    let table = |flags: u8| if flags & 0x80 != 0 { 3 << ((flags & 7) + 1) } else { 0 };
    let mut at = 13 + table(*bytes.get(10)?);
    loop {
        match *bytes.get(at)? {
            TRAILER => return Some(()),
            // an extension: its label
            0x21 => at += 2,
            // an image: its place and size, flags, colours, and the size of the first codes
            0x2c => at += 11 + table(*bytes.get(at + 9)?),
            _ => return None,
        }
        // blocks of data, of which the last is empty
        loop {
            let length = usize::from(*bytes.get(at)?);
            at += 1 + length;
            if length == 0 {
                break;
            }
        }
    }
}
