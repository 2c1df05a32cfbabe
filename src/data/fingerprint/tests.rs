#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use super::*;
use crate::data::{OpenOptions, open};

/// A folder of pictures by their names, each of one grey.
fn folder(pictures: &[(&str, u8)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    pictures.iter().for_each(|(name, grey)| write(folder.path(), name, *grey));
    folder
}

fn write(folder: &Path, name: &str, grey: u8) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let grid = crate::output::Grid { width: 4, height: 4, channels: 1, pixels: vec![grey; 16] };
    grid.write_png(&path).unwrap();
}

fn dataset(folder: &Path, skip_bad_images: bool) -> Box<dyn Dataset> {
    let options = OpenOptions {
        channels: Some(1),
        image_size: Some([4, 4]),
        skip_bad_images,
        ..OpenOptions::default()
    };
    open(folder.to_str().unwrap(), &options).unwrap()
}

fn fingerprint(folder: &Path) -> Fingerprint {
    Fingerprint::of(dataset(folder, false).as_ref()).unwrap()
}

/// How the images of a folder differ from those that a fingerprint is of.
fn difference(then: &Fingerprint, folder: &Path) -> Option<String> {
    let dataset = dataset(folder, false);
    then.difference(&Fingerprint::of(dataset.as_ref()).unwrap(), dataset.as_ref()).unwrap()
}

const PICTURES: [(&str, u8); 4] = [("cat/a.png", 1), ("cat/b.png", 2), ("dog/c.png", 3), ("dog/d.png", 4)];

#[test]
fn another_path_is_the_same_data_and_another_pixel_or_name_is_not() {
    let one = folder(&PICTURES);
    let then = fingerprint(one.path());
    let moved = folder(&PICTURES);
    assert!(then.name != fingerprint(moved.path()).name);
    assert_eq!(difference(&then, moved.path()), None);
    let renamed = PICTURES.map(|(name, grey)| (name.replace("dog", "dot"), grey));
    let renamed = renamed.each_ref().map(|(name, grey)| (name.as_str(), *grey));
    assert!(difference(&then, folder(&renamed).path()).unwrap().contains("names of the classes"));
}

#[test]
fn every_image_counts_and_the_first_that_differs_is_named() {
    // more than the sixteen that earlier versions read
    let names: Vec<String> = (0..40).map(|i| format!("{i:02}.png")).collect();
    let pictures: Vec<(&str, u8)> = (0..).zip(&names).map(|(grey, name)| (name.as_str(), grey)).collect();
    let folder = folder(&pictures);
    let then = fingerprint(folder.path());
    for (grey, name) in (0..).zip(&names) {
        write(folder.path(), name, 200);
        assert!(difference(&then, folder.path()).unwrap().contains(name), "{name}");
        write(folder.path(), name, grey);
    }
    assert_eq!(difference(&then, folder.path()), None);
    fs::remove_file(folder.path().join("39.png")).unwrap();
    assert!(difference(&then, folder.path()).unwrap().contains("the last 1 of 40"));
    write(folder.path(), "39.png", 39);
    write(folder.path(), "40.png", 40);
    assert!(difference(&then, folder.path()).unwrap().contains("1 are new, the first"));
    fs::remove_file(folder.path().join("40.png")).unwrap();
    fs::remove_file(folder.path().join("17.png")).unwrap();
    assert!(difference(&then, folder.path()).unwrap().contains("18.png"));
}

#[test]
fn an_image_that_could_not_be_read_may_be_removed_or_left_out() {
    let folder = folder(&PICTURES);
    let bad = folder.path().join("cat/b.png");
    fs::write(&bad, "no picture").unwrap();
    let mut then = fingerprint(folder.path());
    let skipping = dataset(folder.path(), true);
    let skipped = Fingerprint::of(skipping.as_ref()).unwrap();
    assert_eq!(skipped.images, 3);
    assert_eq!(then.difference(&skipped, skipping.as_ref()).unwrap(), None);
    let text = serde_json::to_string(&skipped).unwrap();
    assert_eq!(serde_json::from_str::<Fingerprint>(&text).unwrap(), skipped);

    fs::remove_file(&bad).unwrap();
    assert!(difference(&then, folder.path()).unwrap().contains("number 2 of 3"));
    then.mark_bad(dataset(folder.path(), false).as_ref(), 1);
    assert_eq!(difference(&then, folder.path()), None);
    assert_eq!(difference(&skipped, folder.path()), None);
    write(folder.path(), "cat/b.png", 5);
    assert_eq!(difference(&then, folder.path()), None, "repaired");
    fs::remove_file(&bad).unwrap();
    fs::remove_file(folder.path().join("cat/a.png")).unwrap();
    write(folder.path(), "cat/z.png", 9);
    assert!(difference(&then, folder.path()).unwrap().contains("z.png"));
}

#[test]
fn checkpoints_of_earlier_versions_are_compared_with_what_they_know() {
    let folder = folder(&[("a.png", 7), ("b.png", 8)]);
    // what the version before wrote of this folder: the checksum is that of its code
    let old = |checksum: u32| -> Fingerprint {
        let text = format!(r#"{{"name": "x", "images": 2, "classes": 0, "checksum": {checksum}}}"#);
        serde_json::from_str(&text).unwrap()
    };
    let mut expected = Vec::new();
    expected.extend([0xff; 8]);
    for grey in [7, 8] {
        let value = 2.0 * (f32::from(grey as u8) / 255.0) - 1.0;
        expected.extend(value.to_le_bytes().repeat(16));
    }
    assert_eq!(difference(&old(crc32c::crc32c(&expected)), folder.path()), None);
    assert!(difference(&old(1), folder.path()).is_some());
}

#[test]
fn long_files_are_known_by_their_length_and_three_parts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long");
    let checksum = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let file = PositionedFile::new(fs::File::open(&path).unwrap(), path.clone());
        checksum_at(&file, 0, bytes.len() as u64).unwrap()
    };
    let whole: Vec<u8> = (0..200_000_u32).map(|i| (i / 7) as u8).collect();
    let then = checksum(&whole);
    for position in [0, 100_000, 199_999] {
        let mut changed = whole.clone();
        changed[position] ^= 1;
        assert_ne!(checksum(&changed), then, "{position}");
    }
    assert_ne!(checksum(&whole[..199_999]), then);
    let mut short = whole[..60_000].to_vec();
    let then = checksum(&short);
    short[20_000] ^= 1;
    assert_ne!(checksum(&short), then);
}
