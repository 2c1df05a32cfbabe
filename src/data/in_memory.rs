//! Datasets small enough to hold in memory, one byte a value.

use super::{DataError, Dataset, ImageShape, Original, require_read};
use crate::conditions::Conditions;

/// Images of one shape, held as bytes and scaled when they are read.
#[derive(Debug)]
pub(super) struct InMemory {
    pub(super) name: &'static str,
    pub(super) classes: Vec<String>,
    /// The shape as stored, before padding.
    pub(super) stored: ImageShape,
    /// Background pixels added on each of the four sides.
    pub(super) padding: usize,
    /// The value that becomes 1; 0 becomes -1.
    pub(super) maximum: u8,
    /// \[N, H, W, C\], as stored.
    pub(super) values: Vec<u8>,
    /// \[N\]
    pub(super) labels: Vec<u8>,
}

impl Dataset for InMemory {
    fn name(&self) -> &str {
        self.name
    }

    fn len(&self) -> usize {
        self.labels.len()
    }

    fn image_shape(&self) -> ImageShape {
        ImageShape {
            channels: self.stored.channels,
            height: self.stored.height + 2 * self.padding,
            width: self.stored.width + 2 * self.padding,
        }
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn read(&self, index: usize, pixels: &mut [f32]) -> Result<Conditions, DataError> {
        require_read(self, index, pixels)?;
        let elements = self.stored.elements();
        let values = &self.values[index * elements..][..elements];

        pixels.fill(-1.0);
        let row = self.stored.width * self.stored.channels;
        let padded_row = self.image_shape().width * self.stored.channels;
        let left = self.padding * self.stored.channels;
        let rows = pixels.chunks_exact_mut(padded_row).skip(self.padding);
        for (to, from) in rows.zip(values.chunks_exact(row)) {
            for (to, &from) in to[left..][..row].iter_mut().zip(from) {
                *to = 2.0 * f32::from(from) / f32::from(self.maximum) - 1.0;
            }
        }
        Ok(Conditions::of_class(self.label(index)))
    }

    fn label(&self, index: usize) -> Option<u32> {
        Some(u32::from(self.labels[index]))
    }

    fn original(&self, _index: usize) -> Result<Original, DataError> {
        let ImageShape { height, width, .. } = self.stored;
        Ok(Original { width, height, mode: self.stored.mode() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn padding_surrounds_an_image_that_is_not_square() {
        // two images of 1 x 2 pixels and two channels
        let stored = ImageShape { channels: 2, height: 1, width: 2 };
        let values = vec![9, 9, 9, 9, 0, 1, 2, 4];
        let images = InMemory {
            name: "tiny",
            classes: vec!["a".into(), "b".into()],
            stored,
            padding: 1,
            maximum: 4,
            values,
            labels: vec![0, 1],
        };
        assert_eq!(images.image_shape(), ImageShape { channels: 2, height: 3, width: 4 });
        let mut pixels = vec![f32::NAN; 24];
        assert_eq!(images.read(1, &mut pixels).unwrap(), Conditions::of_class(Some(1)));
        let background = [-1.0; 8];
        let middle = [-1.0, -1.0, -1.0, -0.5, 0.0, 1.0, -1.0, -1.0];
        assert_eq!(pixels, [background, middle, background].concat());
    }

    #[test]
    fn wrong_arguments_are_errors() {
        let digits = crate::data::open("digits", &Default::default()).unwrap();
        assert!(digits.read(1797, &mut [0.0; 64]).is_err());
        assert!(digits.read(0, &mut [0.0; 63]).is_err());
        assert!(digits.read(0, &mut [0.0; 65]).is_err());
    }
}
