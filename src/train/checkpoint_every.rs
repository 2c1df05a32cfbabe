//! `--checkpoint-every`: steps or time.

use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

/// How much may be lost when a run is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointEvery {
    /// A checkpoint at each multiple of so many steps, at least 1.
    Steps(u64),
    /// A checkpoint after the step at which so much time has passed since the last.
    Time(Duration),
}

impl CheckpointEvery {
    /// Whether a checkpoint is due after `step` steps, when the last one is `since` old.
    pub fn is_due(self, step: u64, since: Duration) -> bool {
        match self {
            Self::Steps(steps) => step.is_multiple_of(steps),
            Self::Time(time) => since >= time,
        }
    }
}

impl FromStr for CheckpointEvery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let parsed = if is_number {
            text.parse().ok().filter(|&steps| steps > 0).map(Self::Steps)
        } else {
            humantime::parse_duration(text).ok().filter(|time| !time.is_zero()).map(Self::Time)
        };
        parsed.ok_or_else(|| "give steps, such as 500, or a time, such as 90s, 10m or 2h".to_owned())
    }
}

impl Display for CheckpointEvery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "{steps}"),
            Self::Time(time) => write!(f, "{}", humantime::format_duration(*time)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_times_are_told_apart() {
        let parse = |text: &str| text.parse::<CheckpointEvery>();
        assert_eq!(parse("500").unwrap(), CheckpointEvery::Steps(500));
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7200), ("1h 30m", 5400)] {
            let every = parse(text).unwrap();
            assert_eq!(every, CheckpointEvery::Time(Duration::from_secs(seconds)));
            assert_eq!(parse(&every.to_string()), Ok(every));
        }
        for text in ["", "0", "0m", "-5", "5.5", "10 parsecs", "99999999999999999999"] {
            assert!(parse(text).unwrap_err().contains("90s, 10m or 2h"), "{text}");
        }
    }

    #[test]
    fn a_checkpoint_is_due_at_multiples_or_when_time_has_passed() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let due = |every: CheckpointEvery| {
            [(9, 1), (10, 5), (20, 4)].map(|(step, m)| every.is_due(step, minutes(m)))
        };
        assert_eq!(due(CheckpointEvery::Steps(10)), [false, true, true]);
        assert_eq!(due(CheckpointEvery::Time(minutes(5))), [false, true, false]);
    }
}
