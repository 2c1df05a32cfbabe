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

/// A folder of the files that tools/oracle/datasets.py wrote.
pub(super) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data").join(name)
}

/// Opens a path, at the size and channels of its own.
pub(super) fn open_path(path: &Path) -> Result<Box<dyn Dataset>, DataError> {
    open(path.to_str().unwrap(), &OpenOptions::default())
}

/// All images of a dataset as bytes, with their labels.
pub(super) fn read_bytes(dataset: &dyn Dataset) -> Vec<(Vec<u8>, Option<u32>)> {
    let mut pixels = vec![f32::NAN; dataset.image_shape().elements()];
    (0..dataset.len())
        .map(|index| {
            let label = dataset.label(index);
            assert_eq!(dataset.read(index, &mut pixels).unwrap(), Conditions::of_class(label));
            (pixels.iter().map(|pixel| ((pixel + 1.0) * 127.5).round() as u8).collect(), label)
        })
        .collect()
}
