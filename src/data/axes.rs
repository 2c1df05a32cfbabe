//! Which axes of an array of images are which: one rule for datasets and for given images.
//!
//! `[N, H, W]` is grey. Of four axes the channels are the second or the last. Which of the two is decided by the
//! first of these that holds for one of them alone: the channels and the size that are wanted; the wanted channels; 1
//! or 3 channels; 2 or 4; fewer channels than the other. Where none does, they are the last. Only the last two are a
//! guess.

use std::fmt;

/// The order of the axes of an array of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrayOrder {
    /// `[N, C, H, W]`
    ChannelsFirst,
    /// `[N, H, W, C]`
    ChannelsLast,
}

impl ArrayOrder {
    /// Both orders, by the names that users give.
    pub const ALL: [(&'static str, Self); 2] = [("nchw", Self::ChannelsFirst), ("nhwc", Self::ChannelsLast)];

    /// The other order.
    pub fn other(self) -> Self {
        match self {
            Self::ChannelsFirst => Self::ChannelsLast,
            Self::ChannelsLast => Self::ChannelsFirst,
        }
    }
}

impl fmt::Display for ArrayOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ChannelsFirst => "[N, C, H, W]",
            Self::ChannelsLast => "[N, H, W, C]",
        })
    }
}

/// What is known of images beside the shape of their array.
#[derive(Clone, Copy, Default)]
pub(super) struct Wanted {
    /// Channels that a model takes.
    pub(super) channels: Option<usize>,
    /// Height and width that a model takes.
    pub(super) size: Option<[usize; 2]>,
    /// What the user says, or the file.
    pub(super) order: Option<ArrayOrder>,
}

/// The axes of an array of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Axes {
    pub(super) channels: usize,
    /// Height and width.
    pub(super) size: [usize; 2],
    /// The order of the axes; `None` where there is no axis of channels.
    pub(super) order: Option<ArrayOrder>,
    /// Whether the order is a guess.
    pub(super) is_guess: bool,
}

impl Axes {
    /// The axes of an array of this shape; `None` where it is none of images.
    pub(super) fn of(shape: &[usize], wanted: Wanted) -> Option<Self> {
        match *shape {
            [_, h, w] => Some(Self { channels: 1, size: [h, w], order: None, is_guess: false }),
            [_, a, b, c] => Some(Self::of_four([a, b, c], wanted)),
            _ => None,
        }
    }

    fn of_four([a, b, c]: [usize; 3], wanted: Wanted) -> Self {
        let axes = |order| match order {
            ArrayOrder::ChannelsFirst => {
                Self { channels: a, size: [b, c], order: Some(order), is_guess: false }
            }
            ArrayOrder::ChannelsLast => {
                Self { channels: c, size: [a, b], order: Some(order), is_guess: false }
            }
        };
        if let Some(order) = wanted.order {
            return axes(order);
        }
        let [first, last] = [axes(ArrayOrder::ChannelsFirst), axes(ArrayOrder::ChannelsLast)];
        let fits = |axes: &Self| wanted.channels == Some(axes.channels);
        let rules: [&dyn Fn(&Self) -> bool; 4] = [
            &|axes| fits(axes) && wanted.size == Some(axes.size),
            &fits,
            &|axes| [1, 3].contains(&axes.channels),
            &|axes| [2, 4].contains(&axes.channels),
        ];
        let decided = rules.iter().find_map(|rule| match (rule(&first), rule(&last)) {
            (true, false) => Some(first),
            (false, true) => Some(last),
            _ => None,
        });
        decided.unwrap_or(Self { is_guess: true, ..if a < c { first } else { last } })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(shape: [usize; 4], wanted: Wanted) -> (usize, [usize; 2], Option<ArrayOrder>, bool) {
        let Axes { channels, size, order, is_guess } = Axes::of(&shape, wanted).unwrap();
        (channels, size, order, is_guess)
    }

    #[test]
    fn channels_are_where_they_fit() {
        use ArrayOrder::{ChannelsFirst, ChannelsLast};
        let free = Wanted::default();
        let five = Wanted { channels: Some(5), ..free };
        let sized = Wanted { size: Some([16, 32]), ..five };
        for (shape, wanted, expected) in [
            // as images usually are
            ([7, 3, 16, 32], free, (3, [16, 32], Some(ChannelsFirst), false)),
            ([7, 16, 32, 3], free, (3, [16, 32], Some(ChannelsLast), false)),
            ([7, 1, 32, 16], free, (1, [32, 16], Some(ChannelsFirst), false)),
            ([7, 2, 32, 16], free, (2, [32, 16], Some(ChannelsFirst), false)),
            ([7, 32, 16, 4], free, (4, [32, 16], Some(ChannelsLast), false)),
            // what a model takes decides
            ([7, 5, 16, 32], five, (5, [16, 32], Some(ChannelsFirst), false)),
            ([7, 16, 32, 5], five, (5, [16, 32], Some(ChannelsLast), false)),
            ([7, 5, 16, 3], five, (5, [16, 3], Some(ChannelsFirst), false)),
            ([7, 16, 32, 5], sized, (5, [16, 32], Some(ChannelsLast), false)),
            // guesses
            ([7, 5, 16, 32], free, (5, [16, 32], Some(ChannelsFirst), true)),
            ([7, 16, 32, 5], free, (5, [16, 32], Some(ChannelsLast), true)),
            ([7, 3, 16, 3], free, (3, [3, 16], Some(ChannelsLast), true)),
            ([7, 5, 16, 5], five, (5, [5, 16], Some(ChannelsLast), true)),
        ] {
            assert_eq!(of(shape, wanted), expected, "{shape:?}");
        }
        // a size tells both orders of five channels apart
        let exact = Wanted { size: Some([16, 5]), ..five };
        assert_eq!(of([7, 5, 16, 5], exact), (5, [16, 5], Some(ChannelsFirst), false));
        // the user is right
        let said = Wanted { order: Some(ChannelsFirst), ..free };
        assert_eq!(of([7, 16, 32, 5], said), (16, [32, 5], Some(ChannelsFirst), false));
        assert_eq!(Axes::of(&[7, 16, 32], said).unwrap().channels, 1);
        assert_eq!(Axes::of(&[7, 16], free), None);
    }
}
