//! What the numbers of an array of images stand for: one rule for every reader of arrays.
//!
//! Floats are 0 to 1, -1 to 1 or 0 to 255, and may leave their range by a tenth of it, as resizing makes them; that is
//! clamped. Whole numbers are 0 and 1, 0 to 255 or 0 to 65535. Which of them shows from the least and the largest
//! number of the whole array; what may be two of them, or none, is refused.

use std::fmt;

/// How far floats may leave their range, as a share of its width.
const OVERSHOOT: f32 = 0.1;
/// The largest number of an array that lies above 1 reaches at least this share of the range, unless its type says the
/// range: else it may as well be numbers of fewer bits.
const LEAST_SHARE: f32 = 0.25;

/// Which numbers are black and white.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    /// 0 and 1
    Unit,
    /// -1 and 1
    Signed,
    /// 0 and 255
    Bytes,
    /// 0 and 65535
    Words,
}

impl Scale {
    fn limits(self) -> [f32; 2] {
        match self {
            Self::Unit => [0.0, 1.0],
            Self::Signed => [-1.0, 1.0],
            Self::Bytes => [0.0, 255.0],
            Self::Words => [0.0, 65535.0],
        }
    }

    /// Whether floats of this scale may span from `least` to `largest`.
    fn spans(self, least: f32, largest: f32) -> bool {
        let [black, white] = self.limits();
        let margin = OVERSHOOT * (white - black);
        (black - margin..).contains(&least) && (..=white + margin).contains(&largest)
    }
}

/// The type of an array's elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Elements {
    Bool,
    /// uint8
    Byte,
    /// Wider or signed integers.
    Integer,
    Float,
    /// Floats as this program writes them, in the range of the network.
    OwnFloat,
}

/// What an array's numbers stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ValueRange {
    pub(super) scale: Scale,
    elements: Elements,
    least: f32,
    largest: f32,
}

/// Why an array's numbers cannot be images.
#[derive(Debug)]
pub(super) struct Unclear {
    pub(super) expected: &'static str,
    pub(super) found: String,
    pub(super) advice: &'static str,
}

impl ValueRange {
    /// Decides by the type of the elements and by the least and the largest of all.
    pub(super) fn of(elements: Elements, least: f32, largest: f32) -> Result<Self, Unclear> {
        let reaches = |scale: Scale| largest >= LEAST_SHARE * scale.limits()[1];
        let scale = match elements {
            Elements::Bool => Some(Scale::Unit),
            Elements::OwnFloat => Some(Scale::Signed),
            Elements::Byte => Some(if largest == 1.0 { Scale::Unit } else { Scale::Bytes }),
            Elements::Integer => match largest {
                _ if least < 0.0 => None,
                ..=1.0 => Some(Scale::Unit),
                ..=255.0 => reaches(Scale::Bytes).then_some(Scale::Bytes),
                _ => reaches(Scale::Words).then_some(Scale::Words),
            },
            Elements::Float if Scale::Unit.spans(least, largest) => Some(Scale::Unit),
            Elements::Float if Scale::Signed.spans(least, largest) => {
                (least <= -LEAST_SHARE).then_some(Scale::Signed)
            }
            Elements::Float => {
                (Scale::Bytes.spans(least, largest) && reaches(Scale::Bytes)).then_some(Scale::Bytes)
            }
        };
        match scale {
            Some(scale) => Ok(Self { scale, elements, least, largest }),
            None if elements == Elements::Integer => Err(Unclear {
                expected: "whole numbers 0 and 1, 0 to 255 (the largest at least 64) or 0 to 65535 (the largest at \
                           least 16384)",
                found: format!("{least} to {largest}"),
                advice: "scale them to 0..255 and convert them with x.astype(\"uint8\")",
            }),
            None => Err(Unclear {
                expected: "floats 0 to 1, -1 to 1 or 0 to 255, with a tenth of overshoot at most (the least of -1 to 1 \
                           at most -0.25, the largest of 0 to 255 at least 64)",
                found: format!("{least} to {largest}"),
                advice: "bring the images to one of these ranges; numpy.clip cuts off what overshoots",
            }),
        }
    }

    /// A value in \[0, 1\].
    pub(super) fn to_unit(self, value: f32) -> f32 {
        let [black, white] = self.scale.limits();
        ((value - black) / (white - black)).clamp(0.0, 1.0)
    }

    /// A value in \[-1, 1\]. Values that this program wrote are not changed, and may lie outside.
    pub(super) fn to_signed(self, value: f32) -> f32 {
        match (self.elements, self.scale) {
            (Elements::OwnFloat, _) => value,
            (_, Scale::Signed) => value.clamp(-1.0, 1.0),
            _ => 2.0 * self.to_unit(value) - 1.0,
        }
    }
}

impl fmt::Display for ValueRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [black, white] = self.scale.limits();
        let elements = match self.elements {
            Elements::Bool => return write!(f, "truth values"),
            Elements::Byte | Elements::Integer => "whole numbers",
            Elements::Float => "floats",
            Elements::OwnFloat => "floats as ddpm-gpu writes them,",
        };
        write!(f, "{elements} {black} to {white}, found {} to {}", self.least, self.largest)?;
        let overshoots = self.least < black || self.largest > white;
        if overshoots && self.elements == Elements::Float { write!(f, ", clamped") } else { Ok(()) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_known_by_their_range_with_a_little_overshoot() {
        for (least, largest, scale) in [
            (0.0, 1.0, Some(Scale::Unit)),
            (0.0, 1.000_000_1, Some(Scale::Unit)),
            (-0.04, 1.03, Some(Scale::Unit)),
            (0.0, 0.0, Some(Scale::Unit)),
            (0.5, 0.5, Some(Scale::Unit)),
            (-1.0, 1.0, Some(Scale::Signed)),
            (-1.000_000_1, 0.3, Some(Scale::Signed)),
            (-1.06, 1.06, Some(Scale::Signed)),
            (-0.5, 0.9, Some(Scale::Signed)),
            (0.0, 255.0, Some(Scale::Bytes)),
            (-7.0, 263.0, Some(Scale::Bytes)),
            (0.0, 100.0, Some(Scale::Bytes)),
            // between two ranges, or of none
            (0.0, 1.2, None),
            (-0.15, 1.0, None),
            (-1.0, 1.3, None),
            (-2.1, 2.6, None),
            (0.0, 16.0, None),
            (-1.0, 255.0, Some(Scale::Bytes)),
            (-100.0, 255.0, None),
            (0.0, 300.0, None),
            (0.0, 65535.0, None),
        ] {
            let found = ValueRange::of(Elements::Float, least, largest);
            assert_eq!(found.as_ref().ok().map(|range| range.scale), scale, "{least} to {largest}");
            if let Err(unclear) = found {
                assert!(unclear.found.contains(&largest.to_string()), "{}", unclear.found);
            }
        }
    }

    #[test]
    fn integers_are_known_by_their_type_or_by_their_largest() {
        for (elements, least, largest, scale) in [
            (Elements::Bool, 0.0, 1.0, Some(Scale::Unit)),
            (Elements::Byte, 0.0, 1.0, Some(Scale::Unit)),
            (Elements::Byte, 0.0, 0.0, Some(Scale::Bytes)),
            (Elements::Byte, 0.0, 2.0, Some(Scale::Bytes)),
            (Elements::Byte, 3.0, 255.0, Some(Scale::Bytes)),
            (Elements::Integer, 0.0, 1.0, Some(Scale::Unit)),
            (Elements::Integer, 0.0, 16.0, None),
            (Elements::Integer, 0.0, 203.0, Some(Scale::Bytes)),
            (Elements::Integer, 0.0, 4095.0, None),
            (Elements::Integer, 0.0, 52_171.0, Some(Scale::Words)),
            (Elements::Integer, -1.0, 255.0, None),
        ] {
            let found = ValueRange::of(elements, least, largest).ok().map(|range| range.scale);
            assert_eq!(found, scale, "{elements:?} {least} to {largest}");
        }
    }

    #[test]
    fn values_are_clamped_unless_this_program_wrote_them() {
        let range = |elements, least, largest| ValueRange::of(elements, least, largest).unwrap();
        let unit = range(Elements::Float, -0.05, 1.03);
        assert_eq!([-0.05, 0.25, 1.03].map(|value| unit.to_unit(value)), [0.0, 0.25, 1.0]);
        assert_eq!([-0.05, 0.25, 1.03].map(|value| unit.to_signed(value)), [-1.0, -0.5, 1.0]);
        let signed = range(Elements::Float, -1.1, 1.0);
        assert_eq!([-1.1, 0.3, 1.0].map(|value| signed.to_signed(value)), [-1.0, 0.3, 1.0]);
        assert_eq!([-1.1, 0.5, 1.0].map(|value| signed.to_unit(value)), [0.0, 0.75, 1.0]);
        let own = range(Elements::OwnFloat, 0.2, 1.7);
        assert_eq!([0.2, 1.7].map(|value| own.to_signed(value)), [0.2, 1.7]);
        assert_eq!([0.2, 1.7].map(|value| own.to_unit(value)), [0.6, 1.0]);
        let bytes = range(Elements::Float, 0.0, 255.0);
        assert_eq!([0.0, 51.0, 255.0].map(|value| bytes.to_unit(value)), [0.0, 0.2, 1.0]);
    }

    #[test]
    fn what_was_understood_is_said() {
        let said = |elements, least, largest| ValueRange::of(elements, least, largest).unwrap().to_string();
        assert_eq!(said(Elements::Float, 0.0, 1.03), "floats 0 to 1, found 0 to 1.03, clamped");
        assert_eq!(said(Elements::Float, -0.9, 1.0), "floats -1 to 1, found -0.9 to 1");
        assert_eq!(said(Elements::Byte, 0.0, 1.0), "whole numbers 0 to 1, found 0 to 1");
        assert_eq!(
            said(Elements::OwnFloat, -1.2, 1.0),
            "floats as ddpm-gpu writes them, -1 to 1, found -1.2 to 1"
        );
    }
}
