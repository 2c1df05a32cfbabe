//! A decoded image, in as few bytes as hold it exactly.

use crate::data::ImageShape;

/// An image as it was decoded.
#[derive(Debug, PartialEq)]
pub(super) enum Cached {
    /// Values that are 8 bits of a file, not resized: byte b is 2 b / 255 - 1.
    Bytes(Box<[u8]>),
    /// Any other values.
    Floats(Box<[f32]>),
}

fn from_byte(byte: u8) -> f32 {
    2.0 * (f32::from(byte) / f32::from(u8::MAX)) - 1.0
}

impl Cached {
    /// Keeps an image whose values are in \[-1, 1\].
    pub(super) fn new(pixels: &[f32]) -> Self {
        let byte = |&pixel: &f32| {
            let byte = ((pixel + 1.0) * 127.5).round() as u8;
            (from_byte(byte).to_bits() == pixel.to_bits()).then_some(byte)
        };
        match pixels.iter().map(byte).collect::<Option<Box<[u8]>>>() {
            Some(bytes) => Self::Bytes(bytes),
            None => Self::Floats(pixels.into()),
        }
    }

    pub(super) fn write(&self, pixels: &mut [f32]) {
        match self {
            Self::Bytes(bytes) => {
                for (pixel, &byte) in pixels.iter_mut().zip(bytes) {
                    *pixel = from_byte(byte);
                }
            }
            Self::Floats(values) => pixels.copy_from_slice(values),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Floats(values) => size_of_val::<[f32]>(values),
        }
    }

    /// What an image of a shape takes at most.
    pub(super) fn most_bytes(shape: ImageShape) -> usize {
        shape.elements() * size_of::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_and_every_float_comes_back_to_the_bit() {
        let bytes: Vec<f32> = (0..=255).map(from_byte).collect();
        assert!(matches!(Cached::new(&bytes), Cached::Bytes(_)));
        let near: Vec<f32> = bytes.iter().map(|value| value * 0.999_999_9).collect();
        let other = vec![0.3, -0.0, 0.0, -1.0, 1.0, f32::MIN_POSITIVE];
        for values in [bytes, near, other] {
            let mut found = vec![f32::NAN; values.len()];
            Cached::new(&values).write(&mut found);
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found), bits(&values));
        }
    }
}
