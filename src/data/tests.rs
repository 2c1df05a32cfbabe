#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn an_unknown_name_lists_the_known_ones() {
    let message = open("no-such-dataset", &OpenOptions::default()).err().unwrap().to_string();
    for source in ALL {
        assert!(message.contains(source.name), "{message}");
    }
}

#[test]
fn names_are_unique_and_datasets_answer_to_them() {
    for (position, source) in ALL.iter().enumerate() {
        assert!(ALL[..position].iter().all(|other| other.name != source.name));
        assert!(!source.attribution.is_empty());
    }
    assert_eq!(open("digits", &OpenOptions::default()).unwrap().name(), "digits");
}

/// Property tests with a fixed seed, so that every run tests the same cases, and no file of past failures.
pub(super) fn seeded() -> proptest::test_runner::Config {
    proptest::test_runner::Config {
        rng_seed: proptest::test_runner::RngSeed::Fixed(0x1d5),
        failure_persistence: None,
        ..Default::default()
    }
}
