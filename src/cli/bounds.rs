//! Bounds of numeric flags: a number outside of them is refused by clap, in a sentence that names the flag.

use std::fmt::Display;
use std::ops::{Bound, RangeBounds, RangeInclusive};

use clap::Command;
use ddpm_gpu::image_size::LARGEST_SIDE;
use ddpm_gpu::network::SampleSize;

/// Most of anything that a flag counts; what memory allows is found later.
pub(super) const MOST: usize = 1_000_000_000;

/// Most images that are read, drawn or measured at once.
pub(super) const MOST_IMAGES: usize = 10_000_000;

/// Most steps of a training run; what the host counts with 64 bits.
pub(super) const MOST_STEPS: u64 = MOST as u64;

/// The largest scale of guidance, and of what else multiplies what the network says.
pub(super) const MOST_SCALE: f64 = 1e6;

/// A value parser of whole numbers within a range, such as `count_in(1..=MOST)`.
pub(super) fn count_in(
    range: RangeInclusive<usize>,
) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| {
        let found = text.trim().parse().ok().filter(|count| range.contains(count));
        found.ok_or_else(|| format!("it must be a whole number from {} to {}", range.start(), range.end()))
    }
}

/// A value parser of sizes of images: WIDTHxHEIGHT, or one number for a square.
pub(super) fn parse_image_size(text: &str) -> Result<SampleSize, String> {
    let side = |text: &str| text.trim().parse().ok().filter(|side| (1..=LARGEST_SIDE).contains(side));
    let found = match text.split_once(['x', 'X']) {
        None => side(text).map(SampleSize::Square),
        Some((width, height)) => {
            side(height).zip(side(width)).map(|(height, width)| SampleSize::Rectangle([height, width]))
        }
    };
    found.ok_or_else(|| {
        format!(
            "it must be width x height, such as 64x32 for 32 rows of 64 pixels, or one number for a square; each from \
             1 to {LARGEST_SIDE}"
        )
    })
}

/// As [`count_in`], of 64 bits on any machine.
pub(super) fn count_u64_in(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    move |text| {
        let found = text.trim().parse().ok().filter(|count| range.contains(count));
        found.ok_or_else(|| format!("it must be a whole number from {} to {}", range.start(), range.end()))
    }
}

/// A value parser of finite numbers within a range, such as `finite_in(0.0..=1.0)`, `finite_in(..)` or, without the
/// lower end, `finite_in(above(0.0))`.
pub(super) fn finite_in(
    range: impl RangeBounds<f64> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    move |text| {
        let found = text.trim().parse::<f64>().ok();
        let found = found.filter(|number| number.is_finite() && range.contains(number));
        found.ok_or_else(|| format!("it must be a number{}", in_words(&range)))
    }
}

/// As [`finite_in`], of 32-bit floats.
pub(super) fn finite_f32_in(
    range: impl RangeBounds<f64> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<f32, String> + Clone + Send + Sync + 'static {
    let finite = finite_in(range);
    move |text| {
        let number = finite(text)? as f32;
        // Rounded once, from the digits.
        Ok(text.trim().parse().unwrap_or(number))
    }
}

/// Numbers above one; as the range of [`finite_in`].
pub(super) fn above(least: f64) -> (Bound<f64>, Bound<f64>) {
    (Bound::Excluded(least), Bound::Unbounded)
}

/// Numbers above one, and up to another; as the range of [`finite_in`].
pub(super) fn above_up_to(least: f64, most: f64) -> (Bound<f64>, Bound<f64>) {
    (Bound::Excluded(least), Bound::Included(most))
}

/// ` of at least 0 and at most 1`, or nothing for a range without ends.
fn in_words<T: Display>(range: &impl RangeBounds<T>) -> String {
    let least = match range.start_bound() {
        Bound::Included(least) => Some(format!("of at least {least}")),
        Bound::Excluded(least) => Some(format!("above {least}")),
        Bound::Unbounded => None,
    };
    let most = match range.end_bound() {
        Bound::Included(most) => Some(format!("of at most {most}")),
        Bound::Excluded(most) => Some(format!("below {most}")),
        Bound::Unbounded => None,
    };
    match (least, most) {
        (Some(least), Some(most)) => format!(" {least} and {}", most.trim_start_matches("of ")),
        (Some(end), None) | (None, Some(end)) => format!(" {end}"),
        (None, None) => String::new(),
    }
}

/// The command, whose flags take `-1` for a value rather than for a flag, so that it is their bounds that refuse it.
pub(super) fn take_negative_numbers(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let takes_value = arg.get_action().takes_values() && !arg.is_positional();
        if takes_value { arg.allow_negative_numbers(true) } else { arg }
    });
    command.mut_subcommands(take_negative_numbers)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn counts_stay_within_their_bounds() {
        let parse = count_in(1..=16);
        assert_eq!([parse("1"), parse("16")], [Ok(1), Ok(16)]);
        for wrong in ["0", "17", "-1", "1.5", "18446744073709551616", "", "x"] {
            assert_eq!(parse(wrong).unwrap_err(), "it must be a whole number from 1 to 16", "{wrong}");
        }
    }

    #[test]
    fn sizes_are_width_and_then_height() {
        assert_eq!(parse_image_size("64x32"), Ok(SampleSize::Rectangle([32, 64])));
        assert_eq!(parse_image_size(" 16 X 16 "), Ok(SampleSize::Rectangle([16, 16])));
        assert_eq!(parse_image_size("28"), Ok(SampleSize::Square(28)));
        for wrong in
            ["0", "8193", "-1", "64x", "x32", "64x32x3", "64,32", "[32, 64]", "64*32", "", "4294967296"]
        {
            let message = parse_image_size(wrong).unwrap_err();
            assert!(
                message.contains("width x height") && message.contains("from 1 to 8192"),
                "{wrong}: {message}"
            );
        }
    }

    #[test]
    fn numbers_are_finite_and_stay_within_their_bounds() {
        assert_eq!(finite_in(0.0..=1.0)("1"), Ok(1.0));
        assert_eq!(finite_in(..)("-1e300"), Ok(-1e300));
        for (found, words) in [
            (finite_in(0.0..=1.0)("1.1"), " of at least 0 and at most 1"),
            (finite_in(0.0..=1.0)("NaN"), " of at least 0 and at most 1"),
            (finite_in(above(0.0))("0"), " above 0"),
            (finite_in(above(0.0))("inf"), " above 0"),
            (finite_in(above_up_to(0.0, 1.0))("-1"), " above 0 and at most 1"),
            (finite_in(0.0..1.0)("1"), " of at least 0 and below 1"),
            (finite_in(..)("1e999"), ""),
        ] {
            assert_eq!(found.unwrap_err(), format!("it must be a number{words}"));
        }
    }

    #[test]
    fn a_negative_number_reaches_the_bounds() {
        use clap::Arg;
        let flag = Arg::new("rate").long("rate").value_parser(finite_in(above(0.0)));
        let inner = Command::new("inner").arg(flag);
        let command = take_negative_numbers(Command::new("outer").subcommand(inner));
        let error = command.try_get_matches_from(["outer", "inner", "--rate", "-1"]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("'-1' for '--rate <rate>': it must be a number above 0"), "{text}");
    }
}
