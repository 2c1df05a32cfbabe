//! JPEG files: baseline and progressive, grey, colour and CMYK.

use std::io::Cursor;

use image::ImageError;
use image::codecs::jpeg::JpegDecoder;

use super::{Codec, Damage, by_image, damage};
use crate::data::picture::Picture;

pub(super) const CODEC: Codec = Codec {
    name: "JPEG",
    extensions: &["jpg", "jpeg", "jpe", "jfif"],
    recognises: |bytes| bytes.starts_with(&[0xff, 0xd8, 0xff]),
    decode,
};

const WHOLE: &str = "a whole JPEG file";

fn decode(bytes: &[u8]) -> Result<Picture, Damage> {
    let fail = |error: ImageError| damage(WHOLE, by_image::describe(&error));
    // The decoder paints what is missing in grey; a training set is better off without.
    if !is_whole(bytes) {
        return Err(damage(WHOLE, "one that is cut short"));
    }
    by_image::decode(JpegDecoder::new(Cursor::new(bytes)).map_err(fail)?, bytes.len(), WHOLE)
}

/// Whether the end-of-image marker is reached by walking the segments from the start (ITU-T T.81, annex B).
fn is_whole(bytes: &[u8]) -> bool {
    const END: u8 = 0xd9;
    const START_OF_SCAN: u8 = 0xda;
    let mut rest = &bytes[2..];
    loop {
        // a marker may be preceded by any number of fill bytes
        let Some((0xff, after)) = rest.split_first() else { return false };
        let Some((&marker, after)) = after.split_first() else { return false };
        match marker {
            END => return true,
            0xff => {
                rest = &rest[1..];
                continue;
            }
            // markers that stand alone
            0x01 | 0xd0..=0xd7 => {
                rest = after;
                continue;
            }
            _ => {}
        }
        let Some(&[high, low]) = after.first_chunk() else { return false };
        let Some(next) = after.get(usize::from(u16::from_be_bytes([high, low])).max(2)..) else {
            return false;
        };
        rest = next;
        if marker == START_OF_SCAN {
            // compressed data: a 0xff in it is followed by 0 or is a restart marker
            let end = rest.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xd0..=0xd7));
            let Some(end) = end else { return false };
            rest = &rest[end..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_behind_segments_that_look_like_it() {
        // a comment that holds an end marker, fill bytes, a scan with a stuffed byte and a restart
        let file = [
            &[0xff, 0xd8][..],
            &[0xff, 0xfe, 0, 4, 0xff, 0xd9],
            &[0xff, 0xff, 0xda, 0, 3, 9],
            &[1, 0xff, 0, 2, 0xff, 0xd0, 3],
            &[0xff, 0xd9],
        ]
        .concat();
        assert!(is_whole(&file));
        for length in 2..file.len() {
            assert!(!is_whole(&file[..length]), "{length}");
        }
        assert!(is_whole(&[&file[..], b"trailing"].concat()));
    }
}
