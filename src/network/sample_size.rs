//! The size of images, as config.json has it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::image_size::in_words;

/// Height and width of the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a whole number, or [height, width]")]
pub enum SampleSize {
    /// Square images.
    Square(usize),
    /// Height, then width.
    Rectangle([usize; 2]),
}

impl SampleSize {
    /// The size as files have it: one number for square images.
    pub fn of([height, width]: [usize; 2]) -> Self {
        if height == width { Self::Square(height) } else { Self::Rectangle([height, width]) }
    }

    /// Height and width.
    pub fn sides(self) -> [usize; 2] {
        match self {
            Self::Square(size) => [size, size],
            Self::Rectangle(size) => size,
        }
    }
}

/// As people write it: one number, or width x height.
impl fmt::Display for SampleSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Square(size) => write!(f, "{size}"),
            Self::Rectangle(size) => f.write_str(&in_words(size)),
        }
    }
}
