//! Image files to pictures.
//!
//! A format is one file, which declares a [`Codec`], and one line in [`ALL`]. Names decide which files are images;
//! the first bytes decide which codec reads one, because scraped collections hold many a WebP called `.jpg`.

mod bmp_file;
mod by_image;
mod gif_file;
mod jpeg_file;
mod png_file;
mod pnm_file;
mod tiff_file;
mod webp_file;

use std::io::Read;
use std::panic::catch_unwind;
use std::path::Path;

use super::error::open_regular_file;
use super::picture::{Layout, MAX_PICTURE_BYTES, MAX_PIXELS, Picture};
use super::{DataError, ImageShape, require_channels};

/// Every format of image files.
pub(super) const ALL: &[Codec] = &[
    png_file::CODEC,
    jpeg_file::CODEC,
    webp_file::CODEC,
    gif_file::CODEC,
    bmp_file::CODEC,
    tiff_file::CODEC,
    pnm_file::CODEC,
];

/// A format of image files.
pub(super) struct Codec {
    /// Its name for people.
    pub(super) name: &'static str,
    /// Extensions of file names, in lower case.
    extensions: &'static [&'static str],
    /// Whether a file that starts with these bytes is one.
    recognises: fn(&[u8]) -> bool,
    decode: fn(&[u8]) -> Result<Picture, Damage>,
}

/// What is wrong with the bytes of an image file.
pub(super) struct Damage {
    expected: String,
    found: String,
}

fn damage(expected: impl Into<String>, found: impl Into<String>) -> Damage {
    // it becomes a part of a sentence that ends with its own full stop
    let found = found.into().trim_end().trim_end_matches('.').to_owned();
    Damage { expected: expected.into(), found }
}

/// The longest file that is read, which is a picture of `MAX_PICTURE_BYTES` as it lies in memory, and a little more.
const MAX_FILE_BYTES: u64 = MAX_PICTURE_BYTES + (1 << 20);

/// The names of all formats, for messages.
pub(super) fn names() -> String {
    let names: Vec<&str> = ALL.iter().map(|codec| codec.name).collect();
    names.join(", ")
}

/// Whether a file's extension is that of an image.
pub fn is_image(path: &Path) -> bool {
    let Some(extension) = path.extension() else { return false };
    ALL.iter().flat_map(|codec| codec.extensions).any(|known| extension.eq_ignore_ascii_case(known))
}

/// Reads an image file as one image: its shape, and pixels \[H, W, C\] in \[-1, 1\].
///
/// The middle part of the proportions of `size`, height and width, is cut out and resized to it; without a size, the
/// picture stays as it is. Without `channels`, grey files have 1 and others 3; with 2 and 4, the last one is alpha.
///
/// # Errors
/// As those of a dataset's images.
pub fn read_image(
    path: &Path,
    channels: Option<usize>,
    size: Option<[usize; 2]>,
) -> Result<(ImageShape, Vec<f32>), DataError> {
    let picture = decode_file(path)?;
    let is_grey = matches!(picture.layout, Layout::Grey | Layout::GreyAlpha);
    let channels = channels.unwrap_or(if is_grey { 1 } else { 3 });
    let [height, width] = size.unwrap_or([picture.height, picture.width]);
    let name = path.display().to_string();
    require_channels(&name, Some(channels), &[1, 2, 3, 4])?;
    let shape = ImageShape { channels, height, width }.check(&name)?;
    let mut pixels = vec![0.0; shape.elements()];
    picture.write(shape, &mut pixels);
    Ok((shape, pixels))
}

/// Decodes an image file.
///
/// # Errors
/// When it cannot be read, is of no known format, truncated, damaged, or larger than `MAX_PIXELS` or
/// `MAX_PICTURE_BYTES`.
pub(super) fn decode_file(path: &Path) -> Result<Picture, DataError> {
    let (file, length) = open_regular_file(path)?;
    check_length(length, path)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|source| DataError::Io { path: path.to_owned(), source })?;
    decode(&bytes, path)
}

/// Refuses an image file, or one in a tar file, that is too long to be read.
pub(super) fn check_length(length: u64, path: &Path) -> Result<(), DataError> {
    if length > MAX_FILE_BYTES {
        let expected = format!("an image file of at most {} MiB", MAX_FILE_BYTES >> 20);
        return Err(bad_file(path, damage(expected, format!("{length} bytes"))));
    }
    Ok(())
}

/// Decodes the bytes of an image file, which messages call `path`.
///
/// # Errors
/// As [`decode_file`].
pub(super) fn decode(bytes: &[u8], path: &Path) -> Result<Picture, DataError> {
    let codec = ALL.iter().find(|codec| (codec.recognises)(bytes)).ok_or_else(|| {
        let start: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let found = if start.is_empty() {
            "an empty file".to_owned()
        } else {
            format!("a file that starts with {}", start.join(" "))
        };
        bad_file(path, damage(format!("an image ({})", names()), found))
    })?;
    decode_with(codec, bytes, path)
}

/// Decodes by one codec. The decoders are other people's: if a hostile file makes one panic, that is a bad file.
fn decode_with(codec: &Codec, bytes: &[u8], path: &Path) -> Result<Picture, DataError> {
    let picture = catch_unwind(|| (codec.decode)(bytes))
        .unwrap_or_else(|_| Err(damage("an image", "content that makes the decoder panic")))
        .map_err(|damage| bad_file(path, damage))?;
    let (found, expected) =
        (picture.samples.len(), picture.width * picture.height * picture.layout.channels());
    if found != expected || expected == 0 {
        return Err(bad_file(path, damage(format!("{expected} values"), found.to_string())));
    }
    Ok(picture)
}

/// Refuses a picture that is too large before memory is set aside for it.
fn check_size(width: u32, height: u32, pixel_bytes: u64, file_bytes: usize) -> Result<(), Damage> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels > MAX_PIXELS {
        return Err(damage(format!("at most {MAX_PIXELS} pixels"), claim(width, height, file_bytes)));
    }
    if pixels * pixel_bytes > MAX_PICTURE_BYTES {
        return Err(damage(
            format!("a picture that takes at most {} MiB when it is decoded", MAX_PICTURE_BYTES >> 20),
            format!("{}, each of {pixel_bytes} bytes", claim(width, height, file_bytes)),
        ));
    }
    Ok(())
}

fn claim(width: u32, height: u32, file_bytes: usize) -> String {
    format!("a header that claims {width}x{height} pixels in a file of {file_bytes} bytes")
}

fn bad_file(path: &Path, Damage { expected, found }: Damage) -> DataError {
    DataError::BadImage { path: path.to_owned(), expected, found }
}

#[cfg(test)]
pub(super) mod tests;
