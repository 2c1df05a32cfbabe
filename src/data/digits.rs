//! `digits`: 1,797 handwritten digits of 8 x 8 pixels, embedded in the binary.
//!
//! The test set of E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998), CC BY 4.0;
//! see `digits/ATTRIBUTION.md`.

use std::io::Read;

use flate2::read::GzDecoder;

use super::in_memory::InMemory;
use super::picture::{Layout, Picture, Samples};
use super::{
    DataError, Dataset, ImageShape, OpenOptions, Source, require_channels, require_square, require_train,
};

const NAME: &str = "digits";
const FILE: &str = "digits.csv.gz (embedded)";
/// A line of the file is 64 pixels of 0..=16 in rows from the top, then the digit.
const COMPRESSED: &[u8] = include_bytes!("digits/digits.csv.gz");
const SIZE: usize = 8;
/// Also delivered: enlarged with the Catmull-Rom filter, for super-resolution from 8x8.
const ENLARGED_SIZE: usize = 16;
const MAXIMUM: u8 = 16;

pub(super) const SOURCE: Source = Source {
    name: NAME,
    description: "1,797 handwritten digits, grey, 8x8 (or enlarged to 16x16), 10 classes; embedded in the binary",
    attribution: include_str!("digits/ATTRIBUTION.md"),
    open,
};

fn open(options: &OpenOptions) -> Result<Box<dyn Dataset>, DataError> {
    let wanted = require_square(NAME, options.image_size, [SIZE, ENLARGED_SIZE])?;
    require_channels(NAME, options.channels, &[1])?;
    require_train(NAME, options.split, "all the digits are in the training split")?;
    let mut text = String::new();
    GzDecoder::new(COMPRESSED).read_to_string(&mut text).map_err(|error| bad_file(error.to_string()))?;
    let (mut values, labels) = parse(&text)?;
    let (mut size, mut maximum) = (SIZE, MAXIMUM);
    if wanted == ENLARGED_SIZE {
        (size, maximum) = (ENLARGED_SIZE, u8::MAX);
        values = values.chunks(SIZE * SIZE).flat_map(enlarge).collect();
    }
    Ok(Box::new(InMemory {
        name: NAME,
        classes: (0..10).map(|digit| digit.to_string()).collect(),
        stored: ImageShape { channels: 1, height: size, width: size },
        padding: 0,
        maximum,
        values,
        labels,
    }))
}

/// A digit \[8, 8\] of 0..=16 as one \[16, 16\] of 0..=255.
fn enlarge(digit: &[u8]) -> Vec<u8> {
    let grey = |&value: &u8| (f32::from(value) * 255.0 / f32::from(MAXIMUM)).round() as u8;
    let samples = Samples::Eight(digit.iter().map(grey).collect());
    let picture = Picture { width: SIZE, height: SIZE, layout: Layout::Grey, samples, palette: false };
    let mut pixels = vec![0.0; ENLARGED_SIZE * ENLARGED_SIZE];
    picture.write(ImageShape { channels: 1, height: ENLARGED_SIZE, width: ENLARGED_SIZE }, &mut pixels);
    pixels.into_iter().map(|value| ((value + 1.0) * 127.5).round() as u8).collect()
}

/// Returns pixels \[N, 8, 8\] and labels \[N\].
fn parse(text: &str) -> Result<(Vec<u8>, Vec<u8>), DataError> {
    let (mut values, mut labels) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let numbers: Result<Vec<u8>, _> = line.split(',').map(str::parse).collect();
        match numbers.as_deref() {
            Ok([pixels @ .., label @ 0..=9])
                if pixels.len() == SIZE * SIZE && pixels.iter().all(|&value| value <= MAXIMUM) =>
            {
                values.extend_from_slice(pixels);
                labels.push(*label);
            }
            _ => return Err(bad_file(format!("`{line}`"))),
        }
    }
    Ok((values, labels))
}

fn bad_file(found: String) -> DataError {
    DataError::BadFile {
        path: FILE.into(),
        expected: "lines of 64 pixels from 0 to 16 and a digit".to_owned(),
        found,
        advice: "this binary is damaged: install it again".to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::Split;
    use super::*;
    use crate::conditions::Conditions;

    #[test]
    fn holds_the_digits_that_scikit_learn_loads() {
        let digits = open(&OpenOptions::default()).unwrap();
        assert_eq!(digits.len(), 1797);
        assert_eq!(digits.image_shape(), ImageShape { channels: 1, height: 8, width: 8 });
        assert_eq!(digits.classes().len(), 10);
        assert_eq!(digits.classes()[7], "7");

        let mut counts = [0; 10];
        let mut pixel_sum = 0.0;
        let mut pixels = [0.0; 64];
        for index in 0..digits.len() {
            let label = digits.read(index, &mut pixels).unwrap().class_labels().unwrap()[0];
            counts[label as usize] += 1;
            for &pixel in &pixels {
                assert!((-1.0..=1.0).contains(&pixel));
                pixel_sum += f64::from((pixel + 1.0) * 8.0);
            }
        }
        // numpy: np.bincount(load_digits().target), load_digits().data.sum()
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        assert_eq!(pixel_sum, 561_718.0);
    }

    #[test]
    fn first_row_of_the_first_digit() {
        let digits = open(&OpenOptions::default()).unwrap();
        let mut pixels = [0.0; 64];
        assert_eq!(digits.read(0, &mut pixels).unwrap(), Conditions::of_class(Some(0)));
        // 0, 0, 5, 13, 9, 1, 0, 0 in the file
        assert_eq!(pixels[..8], [-1.0, -1.0, -0.375, 0.625, 0.125, -0.875, -1.0, -1.0]);
    }

    /// Enlarged digits are still those digits: the mean of each block of four pixels is near the pixel it came from.
    #[test]
    fn digits_of_16_pixels_are_those_of_8() {
        let larger = OpenOptions { image_size: Some([16, 16]), ..Default::default() };
        let (small, large) = (open(&OpenOptions::default()).unwrap(), open(&larger).unwrap());
        assert_eq!(large.image_shape(), ImageShape { channels: 1, height: 16, width: 16 });
        let (mut pixels, mut enlarged) = ([0.0; 64], [0.0; 256]);
        let mut error = 0.0;
        for index in 0..100 {
            assert_eq!(small.read(index, &mut pixels).unwrap(), large.read(index, &mut enlarged).unwrap());
            for (i, pixel) in pixels.iter().enumerate() {
                let at = |row: usize, column: usize| enlarged[(i / 8 * 2 + row) * 16 + i % 8 * 2 + column];
                error += ((at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1)) / 4.0 - pixel).abs() / 6400.0;
            }
        }
        assert!(error < 0.1, "{error}");
    }

    #[test]
    fn other_sizes_and_channels_are_refused() {
        let larger = OpenOptions { image_size: Some([32, 32]), ..Default::default() };
        let message = open(&larger).err().unwrap().to_string();
        assert!(
            message.contains("expected 8x8 or 16x16, found 32x32") && message.contains("sample_size"),
            "{message}"
        );
        let colour = OpenOptions { channels: Some(3), ..Default::default() };
        let message = open(&colour).err().unwrap().to_string();
        assert!(message.contains("expected 1, found 3"), "{message}");
        let test = OpenOptions { split: Split::Test, ..Default::default() };
        assert!(open(&test).is_err());
    }

    #[test]
    fn damaged_lines_are_errors() {
        assert!(parse("").unwrap().1.is_empty());
        let zeros = "0,".repeat(64);
        assert!(parse(&format!("{zeros}9")).is_ok());
        for line in [format!("{zeros}10"), format!("{zeros}0,0"), "17,".repeat(64) + "0", "\n".into()] {
            assert!(parse(&line).is_err(), "{line}");
        }
    }
}
