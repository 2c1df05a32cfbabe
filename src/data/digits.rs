//! `digits`: 1,797 handwritten digits of 8 x 8 pixels, embedded in the binary.
//!
//! The test set of E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998), CC BY 4.0;
//! see `digits/ATTRIBUTION.md`.

use std::io::Read;

use flate2::read::GzDecoder;

use super::in_memory::InMemory;
use super::{DataError, Dataset, ImageShape, OpenOptions, Source, require, require_train};

const NAME: &str = "digits";
const FILE: &str = "digits.csv.gz (embedded)";
/// A line of the file is 64 pixels of 0..=16 in rows from the top, then the digit.
const COMPRESSED: &[u8] = include_bytes!("digits/digits.csv.gz");
const SIZE: usize = 8;
const MAXIMUM: u8 = 16;

pub(super) const SOURCE: Source = Source {
    name: NAME,
    description: "1,797 handwritten digits, grey, 8x8, 10 classes; embedded in the binary",
    attribution: include_str!("digits/ATTRIBUTION.md"),
    open,
};

fn open(options: &OpenOptions) -> Result<Box<dyn Dataset>, DataError> {
    require(NAME, "image size", options.image_size, &[SIZE], "sample_size")?;
    require(NAME, "channels", options.channels, &[1], "in_channels")?;
    require_train(NAME, options.split, "all the digits are in the training split")?;
    let mut text = String::new();
    GzDecoder::new(COMPRESSED).read_to_string(&mut text).map_err(|error| bad_file(error.to_string()))?;
    let (values, labels) = parse(&text)?;
    Ok(Box::new(InMemory {
        name: NAME,
        classes: (0..10).map(|digit| digit.to_string()).collect(),
        stored: ImageShape { channels: 1, height: SIZE, width: SIZE },
        padding: 0,
        maximum: MAXIMUM,
        values,
        labels,
    }))
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
            let label = digits.read(index, &mut pixels).unwrap().unwrap();
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
        assert_eq!(digits.read(0, &mut pixels).unwrap(), Some(0));
        // 0, 0, 5, 13, 9, 1, 0, 0 in the file
        assert_eq!(pixels[..8], [-1.0, -1.0, -0.375, 0.625, 0.125, -0.875, -1.0, -1.0]);
    }

    #[test]
    fn other_sizes_and_channels_are_refused() {
        let larger = OpenOptions { image_size: Some(32), ..Default::default() };
        let message = open(&larger).err().unwrap().to_string();
        assert!(message.contains("expected 8, found 32") && message.contains("sample_size"), "{message}");
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
