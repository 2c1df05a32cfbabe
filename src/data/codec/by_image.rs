//! The decoders of the crate `image` share limits, orientation, and the conversion to a picture.

use std::error::Error;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, Limits};

use super::{Damage, check_size, damage};
use crate::data::picture::{Layout, Picture, Samples};

/// What a decoder may set aside in all, where it counts that.
const MAX_ALLOC: u64 = 1 << 29;

/// Decodes with a decoder of `image`, and turns the picture upright if its Exif data say that the camera was held
/// otherwise.
///
/// `whole` is what a good file is, for messages, such as "a whole JPEG file".
pub(super) fn decode(
    mut decoder: impl ImageDecoder,
    file_bytes: usize,
    whole: &str,
) -> Result<Picture, Damage> {
    let fail = |error: ImageError| damage(whole, describe(&error));
    let (width, height) = decoder.dimensions();
    check_size(width, height, decoder.color_type().bytes_per_pixel().into(), file_bytes)?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_ALLOC);
    decoder.set_limits(limits).map_err(fail)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let (width, height) = (width as usize, height as usize);
    let (layout, samples) = match DynamicImage::from_decoder(decoder).map_err(fail)? {
        DynamicImage::ImageLuma8(image) => (Layout::Grey, Samples::Eight(image.into_raw())),
        DynamicImage::ImageLumaA8(image) => (Layout::GreyAlpha, Samples::Eight(image.into_raw())),
        DynamicImage::ImageRgb8(image) => (Layout::Rgb, Samples::Eight(image.into_raw())),
        DynamicImage::ImageRgba8(image) => (Layout::Rgba, Samples::Eight(image.into_raw())),
        DynamicImage::ImageLuma16(image) => (Layout::Grey, Samples::Sixteen(image.into_raw())),
        DynamicImage::ImageLumaA16(image) => (Layout::GreyAlpha, Samples::Sixteen(image.into_raw())),
        DynamicImage::ImageRgb16(image) => (Layout::Rgb, Samples::Sixteen(image.into_raw())),
        DynamicImage::ImageRgba16(image) => (Layout::Rgba, Samples::Sixteen(image.into_raw())),
        // The range of floating-point values is not fixed.
        _ => return Err(damage("8 or 16 bits a channel", "floating point")),
    };
    Ok(Picture { width, height, layout, palette: false, samples }.upright(orientation))
}

/// What is wrong, without the words around it that name the format again.
pub(super) fn describe(error: &ImageError) -> String {
    match error {
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "one that is cut short".to_owned()
        }
        ImageError::Limits(_) => format!("one that takes more than {} MiB to decode", MAX_ALLOC >> 20),
        ImageError::Decoding(error) => error.source().map_or_else(|| error.to_string(), ToString::to_string),
        ImageError::Unsupported(error) => format!("one of a kind that is not read: {error}"),
        other => other.to_string(),
    }
}
