//! PNG files to pictures.

use std::io::BufReader;
use std::path::Path;

use png::{BitDepth, ColorType, DecodingError, Limits, Transformations};

use super::error::{MAX_DEFLATE_RATIO, open_regular_file};
use super::picture::{Layout, MAX_PIXELS, Picture, Samples};
use super::{DataError, ImageShape};

/// What the decoder may set aside besides the picture itself: a row, a palette, the text it ignores.
const WORKING_BYTES: usize = 1 << 26;

/// Reads a PNG file as one image: its shape, and pixels \[H, W, C\] in \[-1, 1\].
///
/// The centre square is cut out and resized to `size`; without that, it stays as large as it is. Without `channels`, grey
/// files have 1 and others 3.
///
/// # Errors
/// As those of a dataset's images.
pub fn read_image(
    path: &Path,
    channels: Option<usize>,
    size: Option<usize>,
) -> Result<(ImageShape, Vec<f32>), DataError> {
    let picture = decode(path)?;
    let is_grey = matches!(picture.layout, Layout::Grey | Layout::GreyAlpha);
    let channels = channels.unwrap_or(if is_grey { 1 } else { 3 });
    let size = size.unwrap_or(picture.width.min(picture.height));
    let shape = ImageShape { channels, height: size, width: size };
    let mut pixels = vec![0.0; shape.elements()];
    picture.write(shape, &mut pixels);
    Ok((shape, pixels))
}

/// Decodes a PNG file of any colour type and bit depth; palettes are looked up, and a transparent colour becomes
/// an alpha channel.
///
/// # Errors
/// When the file is truncated, damaged, no PNG, or claims more pixels than `MAX_PIXELS` or than its length can
/// hold.
pub(super) fn decode(path: &Path) -> Result<Picture, DataError> {
    let (file, file_length) = open_regular_file(path)?;
    let fail = |error: DecodingError| match error {
        DecodingError::IoError(source) if source.kind() != std::io::ErrorKind::UnexpectedEof => {
            DataError::Io { path: path.to_owned(), source }
        }
        error => bad_file(path, "a whole PNG file".to_owned(), error.to_string()),
    };

    let mut decoder = png::Decoder::new_with_limits(BufReader::new(file), Limits { bytes: WORKING_BYTES });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND);

    let header = decoder.read_header_info().map_err(fail)?;
    let (width, height) = header.size();
    let found = || format!("a header that claims {width}x{height} pixels in a file of {file_length} bytes");
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(bad_file(path, format!("at most {MAX_PIXELS} pixels"), found()));
    }
    if header.raw_bytes() as u64 > file_length.saturating_mul(MAX_DEFLATE_RATIO) {
        return Err(bad_file(path, "no more pixels than the file has room for".to_owned(), found()));
    }

    let mut reader = decoder.read_info().map_err(fail)?;
    let Some(size) = reader.output_buffer_size() else {
        return Err(bad_file(path, "a picture that fits in memory".to_owned(), found()));
    };
    let mut bytes = vec![0; size];
    let frame = reader.next_frame(&mut bytes).map_err(fail)?;
    // reads the chunks after the picture, so that a file cut short there is an error too
    reader.finish().map_err(fail)?;
    bytes.truncate(frame.buffer_size());

    let layout = match frame.color_type {
        ColorType::Grayscale => Layout::Grey,
        ColorType::GrayscaleAlpha => Layout::GreyAlpha,
        ColorType::Rgb => Layout::Rgb,
        ColorType::Rgba => Layout::Rgba,
        ColorType::Indexed => {
            return Err(bad_file(path, "an expanded palette".to_owned(), "palette indices".to_owned()));
        }
    };
    let samples = match frame.bit_depth {
        BitDepth::Sixteen => {
            Samples::Sixteen(bytes.as_chunks().0.iter().map(|&pair| u16::from_be_bytes(pair)).collect())
        }
        _ => Samples::Eight(bytes),
    };
    let (width, height) = (frame.width as usize, frame.height as usize);
    let found = match &samples {
        Samples::Eight(values) => values.len(),
        Samples::Sixteen(values) => values.len(),
    };
    let expected = width * height * layout.channels();
    if found != expected || expected == 0 {
        return Err(bad_file(path, format!("{expected} values"), found.to_string()));
    }
    Ok(Picture { width, height, layout, samples })
}

fn bad_file(path: &Path, expected: String, found: String) -> DataError {
    DataError::BadFile {
        path: path.to_owned(),
        expected,
        found,
        advice: "remove or repair the file, or pass --skip-bad-images to leave such files out".to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests;
