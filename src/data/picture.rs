//! A decoded picture of any size, and how it becomes an image of the model's shape.

use image::imageops::{self, FilterType};
use image::metadata::Orientation;
use image::{GenericImageView, ImageBuffer, Luma, Pixel, Rgb};

use super::ImageShape;

/// The most pixels that a picture may have; one that claims more is refused before it is decoded.
pub(super) const MAX_PIXELS: u64 = 1 << 26;
/// The most bytes that its samples may take when it is decoded: `MAX_PIXELS` of colour with alpha, or half as many of
/// 16 bits.
pub(super) const MAX_PICTURE_BYTES: u64 = 1 << 28;
/// Pixels of a part that are converted to floats all at once. Of a larger one each is converted where the filter
/// reads it, which takes longer, and no memory.
const MAX_CONVERTED: usize = 1 << 22;

/// A decoded picture.
#[derive(Debug, PartialEq)]
pub(super) struct Picture {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) layout: Layout,
    /// Whether the file has a palette, which has been looked up.
    pub(super) palette: bool,
    /// \[H, W, C\], with the channels of `layout`.
    pub(super) samples: Samples,
}

/// The channels of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Grey,
    GreyAlpha,
    Rgb,
    Rgba,
    /// So many channels without colour, as those of an array.
    Planes(usize),
}

impl Layout {
    pub(super) fn channels(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::GreyAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba => 4,
            Self::Planes(channels) => channels,
        }
    }
}

impl Layout {
    /// The channels without alpha.
    pub(super) fn colour_channels(self) -> usize {
        match self {
            Self::Grey | Self::GreyAlpha => 1,
            Self::Rgb | Self::Rgba => 3,
            Self::Planes(channels) => channels,
        }
    }
}

/// The values of a picture, as precise as the file has them.
#[derive(Debug, PartialEq)]
pub(super) enum Samples {
    Eight(Vec<u8>),
    Sixteen(Vec<u16>),
    /// Values in [0, 1].
    Float(Vec<f32>),
}

impl Samples {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Eight(values) => values.len(),
            Self::Sixteen(values) => values.len(),
            Self::Float(values) => values.len(),
        }
    }

    /// Value `index` in [0, 1].
    fn value(&self, index: usize) -> f32 {
        match self {
            Self::Eight(values) => f32::from(values[index]) / f32::from(u8::MAX),
            Self::Sixteen(values) => f32::from(values[index]) / f32::from(u16::MAX),
            Self::Float(values) => values[index],
        }
    }
}

impl Picture {
    /// A checksum of size, layout and values.
    pub(super) fn checksum(&self) -> u32 {
        let shape = [self.width as u64, self.height as u64, self.layout.channels() as u64];
        let values = match &self.samples {
            Samples::Eight(values) => values,
            Samples::Sixteen(values) => bytemuck::cast_slice(values),
            Samples::Float(values) => bytemuck::cast_slice(values),
        };
        crc32c::crc32c_append(crc32c::crc32c(bytemuck::cast_slice(&shape)), values)
    }

    /// Layout and depth as the file has them, for people.
    pub(super) fn mode(&self) -> String {
        let layout = match (self.palette, self.layout) {
            (true, Layout::Grey | Layout::Rgb) => "palette",
            (true, Layout::GreyAlpha | Layout::Rgba) => "palette with transparency",
            (false, Layout::Grey) => "grey",
            (false, Layout::GreyAlpha) => "grey with alpha",
            (false, Layout::Rgb) => "colour",
            (false, Layout::Rgba) => "colour with alpha",
            (_, Layout::Planes(channels)) => &format!("{channels} channels"),
        };
        let depth = match self.samples {
            Samples::Eight(_) => "",
            Samples::Sixteen(_) => ", 16 bits",
            Samples::Float(_) => ", floating point",
        };
        format!("{layout}{depth}")
    }

    /// Writes the picture to `pixels`, \[H, W, C\] in \[-1, 1\], as an image of `shape`.
    ///
    /// The largest part in the middle with the proportions of `shape` is cut out and resized with the Catmull-Rom
    /// (bicubic) filter, widened when it shrinks so that every pixel counts. As one or three channels, transparent
    /// parts are laid over white; colour becomes grey by the luma of ITU-R BT.601, and grey becomes colour by
    /// repetition. As two or four, the last one is alpha, 1 where the picture has none. Planes stay what they are.
    /// Values are taken as stored: colour profiles and gamma are not applied. Pillow does the same on float images
    /// with its BICUBIC filter.
    pub(super) fn write(&self, shape: ImageShape, pixels: &mut [f32]) {
        match (self.layout, shape.channels) {
            (Layout::Planes(_), channels) => {
                for plane in 0..channels {
                    self.resize(shape, &mut pixels[plane..], |x, y| Luma([self.value(x, y, plane)]));
                }
            }
            (_, 1) => self.resize(shape, pixels, |x, y| Luma([luma(self.colour_over_white(x, y))])),
            (_, 3) => self.resize(shape, pixels, |x, y| Rgb(self.colour_over_white(x, y))),
            (_, channels) => {
                let last = channels - 1;
                for plane in 0..last {
                    self.resize(shape, &mut pixels[plane..], |x, y| {
                        let colour = self.colour(x, y);
                        Luma([if last == 1 { luma(colour) } else { colour[plane] }])
                    });
                }
                self.resize(shape, &mut pixels[last..], |x, y| Luma([self.alpha(x, y)]));
            }
        }
    }

    /// Height and width of the largest part that has the proportions of a size.
    fn part([own_height, own_width]: [usize; 2], [height, width]: [usize; 2]) -> [usize; 2] {
        // To the nearest whole number.
        let scaled = |side: usize, by: usize, of: usize| ((side * by + of / 2) / of).max(1);
        if own_width * height > own_height * width {
            [own_height, scaled(own_height, width, height).min(own_width)]
        } else {
            [scaled(own_width, height, width).min(own_height), own_width]
        }
    }

    /// Writes as many channels as `P` has to the beginning of each pixel of `shape`; `at` gives those of a pixel of the
    /// picture, in [0, 1].
    fn resize<P>(&self, shape: ImageShape, pixels: &mut [f32], at: impl Fn(usize, usize) -> P)
    where
        P: Pixel<Subpixel = f32> + 'static,
    {
        let mut write = |index: usize, values: &[f32]| {
            for (pixel, value) in pixels[index * shape.channels..].iter_mut().zip(values) {
                *pixel = 2.0 * value - 1.0;
            }
        };
        // Cropping before resizing keeps the work bounded however long and thin the picture is.
        let [height, width] = Self::part([self.height, self.width], [shape.height, shape.width]);
        let (left, top) = ((self.width - width) / 2, (self.height - height) / 2);
        let part = Part {
            size: [width as u32, height as u32],
            pixel: |x, y| at(left + x as usize, top + y as usize),
        };
        if [shape.height, shape.width] == [height, width] {
            for index in 0..height * width {
                let pixel = (part.pixel)((index % width) as u32, (index / width) as u32);
                write(index, pixel.channels());
            }
            return;
        }
        // The filter overshoots at edges; `resize` clamps to [0, 1].
        let [to_width, to_height] = [shape.width as u32, shape.height as u32];
        let resized = if height * width <= MAX_CONVERTED {
            let converted = ImageBuffer::from_fn(part.size[0], part.size[1], &part.pixel);
            imageops::resize(&converted, to_width, to_height, FilterType::CatmullRom)
        } else {
            imageops::resize(&part, to_width, to_height, FilterType::CatmullRom)
        };
        for (index, pixel) in resized.pixels().enumerate() {
            write(index, pixel.channels());
        }
    }

    /// The picture as it was seen, where the camera was held as `orientation` says.
    pub(super) fn upright(self, orientation: Orientation) -> Self {
        if orientation == Orientation::NoTransforms {
            return self;
        }
        let channels = self.layout.channels();
        let (last_x, last_y) = (self.width.saturating_sub(1), self.height.saturating_sub(1));
        // where the pixel at (x, y) of the result was
        let (swaps, from): (bool, &dyn Fn(usize, usize) -> (usize, usize)) = match orientation {
            Orientation::NoTransforms => (false, &|x, y| (x, y)),
            Orientation::FlipHorizontal => (false, &|x, y| (last_x - x, y)),
            Orientation::Rotate180 => (false, &|x, y| (last_x - x, last_y - y)),
            Orientation::FlipVertical => (false, &|x, y| (x, last_y - y)),
            Orientation::Rotate90FlipH => (true, &|x, y| (y, x)),
            Orientation::Rotate90 => (true, &|x, y| (y, last_y - x)),
            Orientation::Rotate270FlipH => (true, &|x, y| (last_x - y, last_y - x)),
            Orientation::Rotate270 => (true, &|x, y| (last_x - y, x)),
        };
        let (width, height) = if swaps { (self.height, self.width) } else { (self.width, self.height) };
        let firsts = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| {
            let (x, y) = from(x, y);
            (y * self.width + x) * channels
        });
        let samples = match &self.samples {
            Samples::Eight(values) => Samples::Eight(gather(values, firsts, channels)),
            Samples::Sixteen(values) => Samples::Sixteen(gather(values, firsts, channels)),
            Samples::Float(values) => Samples::Float(gather(values, firsts, channels)),
        };
        Self { width, height, samples, ..self }
    }

    /// A channel of a pixel, in [0, 1].
    fn value(&self, x: usize, y: usize, channel: usize) -> f32 {
        self.samples.value((y * self.width + x) * self.layout.channels() + channel)
    }

    /// Red, green and blue in [0, 1] as they are stored; of planes, the first.
    fn colour(&self, x: usize, y: usize) -> [f32; 3] {
        match self.layout {
            Layout::Grey | Layout::GreyAlpha | Layout::Planes(_) => [self.value(x, y, 0); 3],
            Layout::Rgb | Layout::Rgba => [0, 1, 2].map(|channel| self.value(x, y, channel)),
        }
    }

    /// Alpha in [0, 1], 1 where the picture has none.
    fn alpha(&self, x: usize, y: usize) -> f32 {
        match self.layout {
            Layout::GreyAlpha => self.value(x, y, 1),
            Layout::Rgba => self.value(x, y, 3),
            Layout::Grey | Layout::Rgb | Layout::Planes(_) => 1.0,
        }
    }

    /// Red, green and blue in [0, 1] with the alpha channel applied.
    fn colour_over_white(&self, x: usize, y: usize) -> [f32; 3] {
        let alpha = self.alpha(x, y);
        // at alpha 1 this is the colour's own bits
        self.colour(x, y).map(|colour| colour * alpha + (1.0 - alpha))
    }
}

/// A part of a picture, whose pixels are converted where they are read.
struct Part<F> {
    /// Width and height.
    size: [u32; 2],
    pixel: F,
}

impl<P: Pixel, F: Fn(u32, u32) -> P> GenericImageView for Part<F> {
    type Pixel = P;

    fn dimensions(&self) -> (u32, u32) {
        self.size.into()
    }

    fn get_pixel(&self, x: u32, y: u32) -> P {
        (self.pixel)(x, y)
    }
}

/// Pixels of `channels` values that start at `firsts`.
fn gather<T: Copy>(values: &[T], firsts: impl Iterator<Item = usize>, channels: usize) -> Vec<T> {
    firsts.flat_map(|first| &values[first..first + channels]).copied().collect()
}

/// Brightness by ITU-R BT.601; a grey keeps its exact value.
fn luma([red, green, blue]: [f32; 3]) -> f32 {
    if red == green && green == blue { red } else { 0.299 * red + 0.587 * green + 0.114 * blue }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn write(picture: &Picture, channels: usize, size: usize) -> Vec<f32> {
        let mut pixels = vec![f32::NAN; size * size * channels];
        picture.write(ImageShape { channels, height: size, width: size }, &mut pixels);
        pixels
    }

    fn grey(width: usize, height: usize, values: Vec<u8>) -> Picture {
        Picture { width, height, layout: Layout::Grey, palette: false, samples: Samples::Eight(values) }
    }

    #[test]
    fn the_right_size_is_copied_exactly() {
        let picture = grey(2, 2, vec![0, 51, 204, 255]);
        assert_eq!(write(&picture, 1, 2), [-1.0, 2.0 * 0.2 - 1.0, 2.0 * 0.8 - 1.0, 1.0]);
    }

    #[test]
    fn grey_repeats_and_colour_becomes_luma() {
        assert_eq!(write(&grey(1, 1, vec![51]), 3, 1), [2.0 * 0.2 - 1.0; 3]);
        let red = Picture {
            layout: Layout::Rgb,
            samples: Samples::Eight(vec![255, 0, 0]),
            ..grey(1, 1, Vec::new())
        };
        assert_eq!(write(&red, 3, 1), [1.0, -1.0, -1.0]);
        assert_eq!(write(&red, 1, 1), [2.0 * 0.299 - 1.0]);
    }

    #[test]
    fn transparent_parts_are_white() {
        let values = vec![0, 0, 0, 0, 255, 0, 0, 51];
        let picture =
            Picture { layout: Layout::Rgba, samples: Samples::Eight(values), ..grey(2, 1, Vec::new()) };
        assert_eq!(picture.colour_over_white(0, 0), [1.0; 3]);
        let [red, green, blue] = picture.colour_over_white(1, 0);
        assert_eq!((red, green, blue), (1.0, 0.8, 0.8));
    }

    #[test]
    fn long_pictures_keep_their_middle() {
        // columns 0 | 85 170 | 255
        let wide = grey(4, 2, [0, 85, 170, 255].repeat(2));
        let third = |value: f32| 2.0 * value / 3.0 - 1.0;
        for (found, expected) in write(&wide, 1, 2).iter().zip([1.0, 2.0, 1.0, 2.0].map(third)) {
            assert!((found - expected).abs() < 1e-6);
        }
        let tall = grey(2, 4, [0, 0, 85, 85, 170, 170, 255, 255].to_vec());
        for (found, expected) in write(&tall, 1, 2).iter().zip([1.0, 1.0, 2.0, 2.0].map(third)) {
            assert!((found - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn rectangles_are_cut_out_of_the_middle_with_their_proportions() {
        for (own, wanted, expected) in [
            ([16, 32], [16, 32], [16, 32]),
            ([16, 64], [8, 16], [16, 32]),
            ([64, 16], [8, 16], [8, 16]),
            ([64, 16], [16, 8], [32, 16]),
            ([3, 4], [3, 1], [3, 1]),
            ([1, 1 << 20], [8, 8], [1, 1]),
            ([1, 1 << 20], [1, 8192], [1, 8192]),
            ([100, 100], [1, 8192], [1, 100]),
        ] {
            assert_eq!(Picture::part(own, wanted), expected, "{own:?} for {wanted:?}");
        }
        // rows 0 to 3 of columns 10 to 50; the middle two columns are a rectangle of 2 x 4
        let values = (0..4).flat_map(|y| (1..=5).map(move |x| (10 * x + y) as u8)).collect();
        let picture = grey(5, 4, values);
        let mut found = [f32::NAN; 8];
        picture.write(ImageShape { channels: 1, height: 4, width: 2 }, &mut found);
        let expected =
            [20, 30, 21, 31, 22, 32, 23, 33].map(|value: u8| 2.0 * (f32::from(value) / 255.0) - 1.0);
        assert_eq!(found, expected);
        // rows 1 and 2 are one of 5 x 2
        let mut found = [f32::NAN; 10];
        picture.write(ImageShape { channels: 1, height: 2, width: 5 }, &mut found);
        assert_eq!([found[0], found[9]], [11, 52].map(|value: u8| 2.0 * (f32::from(value) / 255.0) - 1.0));
    }

    #[test]
    fn planes_stay_what_they_are_and_are_resized_one_by_one() {
        let channels = 5;
        let values: Vec<u8> = (0..4 * 6 * channels).map(|i| (i * 2) as u8).collect();
        let planes = Picture {
            layout: Layout::Planes(channels),
            samples: Samples::Eight(values.clone()),
            ..grey(6, 4, Vec::new())
        };
        let shape = ImageShape { channels, height: 4, width: 6 };
        let mut found = vec![f32::NAN; shape.elements()];
        planes.write(shape, &mut found);
        let signed = |&value: &u8| 2.0 * (f32::from(value) / 255.0) - 1.0;
        assert_eq!(found, values.iter().map(signed).collect::<Vec<_>>());
        let small = ImageShape { channels, height: 2, width: 3 };
        let mut found = vec![f32::NAN; small.elements()];
        planes.write(small, &mut found);
        for channel in 0..channels {
            let plane = grey(6, 4, values.iter().skip(channel).step_by(channels).copied().collect());
            let mut expected = [f32::NAN; 6];
            plane.write(ImageShape { channels: 1, ..small }, &mut expected);
            let of_channel: Vec<f32> = found.iter().skip(channel).step_by(channels).copied().collect();
            assert_eq!(of_channel, expected, "channel {channel}");
        }
    }

    #[test]
    fn two_and_four_channels_have_alpha() {
        let rgba = Picture {
            layout: Layout::Rgba,
            samples: Samples::Eight(vec![255, 0, 0, 51]),
            ..grey(1, 1, Vec::new())
        };
        assert_eq!(write(&rgba, 4, 1), [1.0, -1.0, -1.0, 2.0 * 0.2 - 1.0]);
        assert_eq!(write(&rgba, 2, 1), [2.0 * 0.299 - 1.0, 2.0 * 0.2 - 1.0]);
        let dark = 2.0 * 0.2 - 1.0;
        assert_eq!(write(&grey(1, 1, vec![51]), 4, 1), [dark, dark, dark, 1.0]);
        assert_eq!(write(&grey(1, 1, vec![51]), 2, 1), [dark, 1.0]);
    }

    #[test]
    fn shrinking_averages_and_growing_stays_in_range() {
        // a checkerboard of 32 x 32 becomes grey, not black or white
        let checkerboard = grey(32, 32, (0..1024).map(|i| ((i + i / 32) % 2 * 255) as u8).collect());
        for value in write(&checkerboard, 1, 4) {
            assert!(value.abs() < 0.1, "{value}");
        }
        for value in write(&checkerboard, 3, 64) {
            assert!((-1.0..=1.0).contains(&value), "{value}");
        }
    }

    #[test]
    fn pictures_are_rotated_as_the_image_crate_rotates_them() {
        let (width, height) = (3, 2);
        for orientation in (1..=8).filter_map(Orientation::from_exif) {
            let values: Vec<u16> = (0..12).collect();
            let mut expected = image::DynamicImage::ImageLumaA16(
                ImageBuffer::from_raw(width, height, values.clone()).unwrap(),
            );
            expected.apply_orientation(orientation);
            let picture = Picture {
                width: width as usize,
                height: height as usize,
                layout: Layout::GreyAlpha,
                palette: false,
                samples: Samples::Sixteen(values),
            };
            let rotated = picture.upright(orientation);
            assert_eq!(
                [rotated.width, rotated.height],
                [expected.width(), expected.height()].map(|n| n as usize)
            );
            assert_eq!(
                rotated.samples,
                Samples::Sixteen(expected.into_luma_alpha16().into_raw()),
                "{orientation:?}"
            );
        }
    }

    #[test]
    fn a_large_picture_is_resized_as_a_small_one_is() {
        // the largest that is converted at once, and the same where each pixel is converted when it is read
        let side = 1 << 11;
        let value = |x: usize, y: usize| ((x * 7 + y * 13) % 251) as u8;
        let picture = grey(side, side, (0..side * side).map(|i| value(i % side, i / side)).collect());
        let whole = Part {
            size: [side as u32; 2],
            pixel: |x, y| Luma([f32::from(value(x as usize, y as usize)) / 255.0]),
        };
        let expected = imageops::resize(&whole, 8, 8, FilterType::CatmullRom);
        let expected: Vec<f32> = expected.as_raw().iter().map(|value| 2.0 * value - 1.0).collect();
        assert_eq!(write(&picture, 1, 8), expected);
    }

    #[test]
    fn a_thin_picture_needs_no_more_memory_than_its_middle() {
        let thin = grey(1 << 20, 1, vec![255; 1 << 20]);
        assert_eq!(write(&thin, 1, 8), [1.0; 64]);
    }
}
