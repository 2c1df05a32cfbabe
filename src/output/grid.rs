//! Many images in one picture.

use std::io;
use std::path::Path;

use super::atomic::write_atomically;
use super::{OutputError, unfit};

/// How images are laid out; the default suits images of any size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridOptions {
    /// Images in a row; if `None`, about as many as rows, or as make a square of strips.
    pub columns: Option<usize>,
    /// Pixels a side for each pixel of an image; if `None`, as many as make an image at least 48 pixels long.
    pub scale: Option<usize>,
    /// Pixels between images; between strips it is three times as many.
    pub gap: usize,
}

impl Default for GridOptions {
    fn default() -> Self {
        Self { columns: None, scale: None, gap: 2 }
    }
}

/// A picture of 8 bits a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// 1 for grey, 3 for red, green and blue.
    pub channels: usize,
    /// `[height, width, channels]`.
    pub pixels: Vec<u8>,
}

/// Images whose longer side has fewer pixels are drawn larger, by a whole number.
const MIN_TILE: usize = 48;
/// Grey of the gaps and of empty cells, the colour that an x of 0 has: it stands out from black and from white.
const GAP: u8 = 128;
/// More pixels a side, or bytes in all, are taken for a mistake.
const MAX_SIDE: usize = 1 << 16;
const MAX_BYTES: usize = 1 << 30;

/// What is seen of an image of so many channels, for people, where that is not the image itself.
pub fn describe_strips(channels: usize) -> Option<String> {
    (!is_colour(channels)).then(|| format!("each image is a strip of its {channels} channels in grey"))
}

/// Images in a row of a grid, of which `images` belong together: all of them, or of strips a part, so that what belongs
/// together has rows of its own.
pub fn columns_for(images: usize, channels: usize) -> usize {
    let most = if is_colour(channels) { images } else { images.div_ceil(channels.max(1)) };
    (1..=most).rev().find(|columns| images.is_multiple_of(*columns)).unwrap_or(1)
}

/// Whether an image of so many channels is seen as it is: grey, or red, green and blue.
fn is_colour(channels: usize) -> bool {
    [1, 3].contains(&channels)
}

/// Lays out images `[N, H, W, C]` with values in \[-1, 1\], row by row.
///
/// Of one channel they are grey, of three colour. Of any other number an image becomes a strip: its channels in grey,
/// side by side, the first on the left. Values outside are clamped, and NaN is black.
///
/// # Errors
/// [`OutputError::Unfit`] if there is no image, if the data is not of that shape, or if the picture would be
/// larger than 65,536 pixels a side or 1 GiB.
pub fn tile(images: &[f32], shape: [usize; 4], options: &GridOptions) -> Result<Grid, OutputError> {
    let [n, h, w, values] = shape;
    let elements = shape.iter().try_fold(1, |product: usize, &size| product.checked_mul(size));
    if elements != Some(images.len()) || images.is_empty() {
        let found = format!("{} numbers for the shape {shape:?}", images.len());
        return Err(unfit("images of at least one pixel", found));
    }

    // An image is so many planes side by side, each of so many values a pixel.
    let (planes, channels) = if is_colour(values) { (1, values) } else { (values, 1) };
    let root = |n: usize| n.isqrt() + usize::from(n.isqrt().pow(2) < n);
    let square = || if planes == 1 { root(n) } else { root((n * h).div_ceil(planes * w)) };
    let columns = options.columns.unwrap_or_else(square).clamp(1, n);
    let rows = n.div_ceil(columns);
    let gap = options.gap.saturating_mul(if planes == 1 { 1 } else { 3 });
    let scale = options.scale.unwrap_or_else(|| MIN_TILE.div_ceil(h.max(w))).max(1);
    // In u128, and saturating, so that no factor that was asked for overflows before it is refused.
    let side = |count: usize, size: u128, gap: usize| {
        let (count, gap) = (count as u128, gap as u128);
        count.saturating_mul(size).saturating_add((count - 1).saturating_mul(gap))
    };
    let of_plane = [h, w].map(|side| side as u128 * scale as u128);
    let strip = side(planes, of_plane[1], options.gap);
    let (width, height) = (side(columns, strip, gap), side(rows, of_plane[0], gap));
    let fits = |side: u128| side <= MAX_SIDE as u128;
    if !fits(width) || !fits(height) || width * height * channels as u128 > MAX_BYTES as u128 {
        return Err(unfit(
            "a picture of at most 65536 pixels a side and 1 GiB (take fewer images, or another number of columns)",
            format!("{width} x {height} pixels"),
        ));
    }
    let (width, height, strip) = (width as usize, height as usize, strip as usize);

    let mut pixels = vec![GAP; width * height * channels];
    for (i, image) in images.chunks(h * w * values).enumerate() {
        let top = (i / columns) * (h * scale + gap);
        for plane in 0..planes {
            let left = (i % columns) * (strip + gap) + plane * (w * scale + options.gap);
            for y in 0..h * scale {
                let source = &image[y / scale * w * values..][..w * values];
                let target = &mut pixels[((top + y) * width + left) * channels..][..w * scale * channels];
                for (x, pixel) in target.chunks_mut(channels).enumerate() {
                    for (byte, &value) in pixel.iter_mut().zip(&source[x / scale * values + plane..]) {
                        *byte = to_byte(value);
                    }
                }
            }
        }
    }
    Ok(Grid { width, height, channels, pixels })
}

/// \[-1, 1\] to 0..=255, as diffusers' pipelines do; the cast clamps, and turns NaN into 0.
fn to_byte(value: f32) -> u8 {
    ((value / 2.0 + 0.5) * 255.0).round() as u8
}

impl Grid {
    /// Writes a PNG file.
    ///
    /// # Errors
    /// [`OutputError::Write`] or [`OutputError::NoFile`], if the file cannot be written.
    pub fn write_png(&self, path: &Path) -> Result<(), OutputError> {
        write_atomically(path, |file| {
            let mut writer = self.encoder(file).write_header()?;
            writer.write_image_data(&self.pixels)?;
            writer.finish().map_err(io::Error::from)
        })
    }

    /// The bytes of a PNG file.
    ///
    /// # Errors
    /// When the encoder refuses, which it does not for a grid that [`tile`] made.
    pub fn to_png(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut writer = self.encoder(&mut bytes).write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(bytes)
    }

    /// A PNG encoder for pictures of this size.
    pub(super) fn encoder<W: io::Write>(&self, file: W) -> png::Encoder<'static, W> {
        // Sides are at most MAX_SIDE.
        let mut encoder = png::Encoder::new(file, self.width as u32, self.height as u32);
        encoder.set_color(if self.channels == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb });
        encoder.set_depth(png::BitDepth::Eight);
        encoder
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::File;
    use std::io::BufReader;

    use super::*;

    fn decode(path: &Path) -> Grid {
        let mut reader = png::Decoder::new(BufReader::new(File::open(path).unwrap())).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        let channels = info.color_type.samples();
        Grid { width: info.width as usize, height: info.height as usize, channels, pixels }
    }

    #[test]
    fn bytes_are_those_of_diffusers() {
        for (value, byte) in [(-1.0, 0), (1.0, 255), (0.0, 128), (-7.0, 0), (7.0, 255), (0.5, 191)] {
            assert_eq!(to_byte(value), byte, "{value}");
        }
        assert_eq!(to_byte(f32::NAN), 0);
        assert_eq!(to_byte(f32::INFINITY), 255);
    }

    #[test]
    fn places_every_pixel() {
        // Five colour images of 2 x 3 pixels in 3 columns: the last cell stays empty.
        let shape = [5, 2, 3, 3];
        let images: Vec<f32> = (0..90).map(|i| i as f32 / 45.0 - 1.0).collect();
        let options = GridOptions { columns: Some(3), scale: Some(2), gap: 1 };
        let grid = tile(&images, shape, &options).unwrap();
        assert_eq!((grid.width, grid.height, grid.channels), (3 * 6 + 2, 2 * 4 + 1, 3));
        let at = |x: usize, y: usize| &grid.pixels[(y * grid.width + x) * 3..][..3];
        for n in 0..5 {
            for y in 0..4 {
                for x in 0..6 {
                    let first = ((n * 2 + y / 2) * 3 + x / 2) * 3;
                    let expected: Vec<u8> = images[first..first + 3].iter().map(|&v| to_byte(v)).collect();
                    assert_eq!(at(n % 3 * 7 + x, n / 3 * 5 + y), expected, "image {n} at {x}, {y}");
                }
            }
        }
        assert_eq!(at(6, 0), [GAP; 3]);
        assert_eq!(at(0, 4), [GAP; 3]);
        assert_eq!(at(19, 8), [GAP; 3]);
    }

    #[test]
    fn sizes_itself() {
        for (shape, size) in [
            ([10, 8, 8, 1], (4 * 48 + 6, 3 * 48 + 4)),
            ([9, 32, 32, 3], (3 * 64 + 4, 3 * 64 + 4)),
            ([1, 64, 48, 3], (48, 64)),
            ([2, 28, 28, 1], (2 * 56 + 2, 56)),
        ] {
            let grid = tile(&vec![0.0; shape.iter().product()], shape, &GridOptions::default()).unwrap();
            assert_eq!((grid.width, grid.height), size, "{shape:?}");
        }
    }

    /// Three images of 2 x 3 pixels and five channels, in two columns.
    #[test]
    fn other_channels_are_strips_of_grey() {
        let shape = [3, 2, 3, 5];
        let images: Vec<f32> = (0..90).map(|i| i as f32 / 45.0 - 1.0).collect();
        let options = GridOptions { columns: Some(2), scale: Some(2), gap: 1 };
        let grid = tile(&images, shape, &options).unwrap();
        // A strip is five times 6 pixels and four gaps of 1; gaps of 3 lie between strips.
        assert_eq!((grid.width, grid.height, grid.channels), (2 * 34 + 3, 2 * 4 + 3, 1));
        let mut seen = vec![false; grid.pixels.len()];
        for n in 0..3 {
            for (channel, y, x) in
                (0..5).flat_map(|c| (0..4).flat_map(move |y| (0..6).map(move |x| (c, y, x))))
            {
                let at = (n / 2 * 7 + y) * grid.width + n % 2 * 37 + channel * 7 + x;
                let value = images[((n * 2 + y / 2) * 3 + x / 2) * 5 + channel];
                assert_eq!(grid.pixels[at], to_byte(value), "image {n}, channel {channel} at {x}, {y}");
                seen[at] = true;
            }
        }
        assert!(grid.pixels.iter().zip(seen).all(|(&pixel, seen)| seen || pixel == GAP));
        assert_eq!(describe_strips(5).unwrap(), "each image is a strip of its 5 channels in grey");
        assert_eq!([1, 3].map(describe_strips), [None, None]);
        assert_eq!([1, 2, 3, 4, 5, 8, 100].map(|channels| columns_for(8, channels)), [8, 4, 8, 2, 2, 1, 1]);
        assert_eq!([columns_for(9, 4), columns_for(7, 2), columns_for(0, 2)], [3, 1, 1]);
        // About a square: 12 strips of 96 x 16 pixels and gaps.
        let grid = tile(&vec![0.0; 12 * 16 * 32 * 2], [12, 16, 32, 2], &GridOptions::default()).unwrap();
        assert_eq!((grid.width, grid.height), (2 * 130 + 6, 6 * 32 + 5 * 6));
    }

    #[test]
    fn png_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        for channels in [1, 3] {
            let images: Vec<f32> = (0..4 * 64 * channels).map(|i| (i as f32 * 0.37).sin()).collect();
            let grid = tile(&images, [4, 8, 8, channels], &GridOptions::default()).unwrap();
            let path = folder.path().join(format!("{channels}.png"));
            grid.write_png(&path).unwrap();
            assert_eq!(decode(&path), grid);
        }
    }

    #[test]
    fn refuses_what_makes_no_picture() {
        let refused = |len: usize, shape, options: GridOptions| {
            tile(&vec![0.0; len], shape, &options).unwrap_err().to_string()
        };
        let options = GridOptions::default();
        assert!(refused(0, [1, 2, 2, 0], options).contains("at least one pixel"));
        assert!(refused(0, [0, 2, 2, 3], options).contains("at least one pixel"));
        assert!(refused(11, [1, 2, 2, 3], options).contains("11 numbers"));
        assert!(refused(1, [usize::MAX, usize::MAX, 1, 1], options).contains("1 numbers"));
        let huge = GridOptions { scale: Some(usize::MAX), gap: usize::MAX, ..options };
        assert!(refused(12, [1, 2, 2, 3], huge).contains("fewer images"));
        // 0 columns and 0 pixels are taken as 1.
        let none = GridOptions { columns: Some(0), scale: Some(0), gap: 0 };
        assert_eq!(tile(&[0.0; 8], [2, 2, 2, 1], &none).unwrap().height, 4);
    }
}
