#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::data::picture::{Layout, Samples};

const LEN: usize = 5;

/// Pictures of 3 x 3, of which those of odd index are of 16 bits, so that both kinds are kept.
struct Counted {
    file: PathBuf,
    decoded: Arc<AtomicUsize>,
}

impl Pictures for Counted {
    fn len(&self) -> usize {
        LEN
    }

    fn classes(&self) -> &[String] {
        &[]
    }

    fn label(&self, _: usize) -> Option<u32> {
        None
    }

    fn decode(&self, index: usize) -> Result<Picture, DataError> {
        self.decoded.fetch_add(1, Ordering::Relaxed);
        let samples = if index.is_multiple_of(2) {
            Samples::Eight((0..9).map(|i| (20 * index + i) as u8).collect())
        } else {
            Samples::Sixteen((0..9).map(|i| (9999 * index + i) as u16).collect())
        };
        Ok(Picture { width: 3, height: 3, layout: Layout::Grey, palette: false, samples })
    }

    fn location(&self, index: usize) -> PathBuf {
        self.file.join(index.to_string())
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.file.clone()]
    }
}

/// A dataset file and a cache folder.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("data"), "one").unwrap();
        Self { folder }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn cache_file(&self) -> PathBuf {
        let files: Vec<_> = fs::read_dir(self.cache()).unwrap().collect();
        assert_eq!(files.len(), 1);
        files.into_iter().next().unwrap().unwrap().path()
    }

    /// Reads all images `times` times; the images, and how often one was decoded.
    fn read(&self, budget: usize, cache: bool, times: usize) -> (Vec<Vec<f32>>, usize) {
        let decoded = Arc::new(AtomicUsize::new(0));
        let pictures = Counted { file: self.data(), decoded: decoded.clone() };
        let options = OpenOptions {
            image_size: Some([3, 3]),
            channels: Some(1),
            memory_budget: budget,
            cache_folder: cache.then(|| self.cache()),
            ..OpenOptions::default()
        };
        let dataset = Decoded::new("counted".to_owned(), &self.data(), Box::new(pictures), &options).unwrap();
        let mut images = Vec::new();
        for _ in 0..times {
            images = (0..LEN)
                .map(|index| {
                    let mut pixels = vec![f32::NAN; 9];
                    dataset.read(index, &mut pixels).unwrap();
                    pixels
                })
                .collect();
        }
        (images, decoded.load(Ordering::Relaxed))
    }
}

#[test]
fn images_are_decoded_once_where_there_is_room_for_them() {
    let place = Place::new();
    let (expected, decoded) = place.read(0, false, 3);
    assert_eq!(decoded, 3 * LEN);
    let (images, decoded) = place.read(usize::MAX, true, 3);
    assert_eq!((images, decoded), (expected.clone(), LEN));
    assert!(!place.cache().exists(), "what fits in memory needs no file");
    // 9 bytes for the first and 36 for the second
    let (images, decoded) = place.read(45, false, 3);
    assert_eq!((images, decoded), (expected, 2 + 3 * (LEN - 2)));
}

#[test]
fn what_does_not_fit_goes_to_a_file_that_later_runs_use() {
    let place = Place::new();
    let (expected, _) = place.read(0, false, 1);
    assert_eq!(place.read(0, true, 2), (expected.clone(), LEN));
    assert_eq!(place.read(0, true, 2), (expected.clone(), 0));
    assert_eq!(place.read(50, true, 2), (expected, 0));
}

#[test]
fn a_damaged_file_is_rebuilt_and_not_trusted() {
    let place = Place::new();
    let (expected, _) = place.read(0, true, 1);
    let whole = fs::read(place.cache_file()).unwrap();
    for position in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[position] ^= 0x10;
        fs::write(place.cache_file(), damaged).unwrap();
        assert_eq!(place.read(0, true, 1).0, expected, "byte {position}");
    }
    for length in [0, 20, 40, 41, whole.len() / 2, whole.len() - 1] {
        fs::write(place.cache_file(), &whole[..length]).unwrap();
        let (images, decoded) = place.read(0, true, 1);
        assert_eq!((images, decoded), (expected.clone(), LEN), "{length} bytes");
        assert_eq!(place.read(0, true, 1).1, 0);
    }
    // two slots that have changed places
    let slot = (whole.len() - 40) / LEN;
    let mut swapped = whole.clone();
    swapped[40..40 + slot].copy_from_slice(&whole[40 + 2 * slot..][..slot]);
    fs::write(place.cache_file(), swapped).unwrap();
    assert_eq!(place.read(0, true, 1), (expected, 1));
}

#[test]
fn a_change_of_the_dataset_makes_the_file_anew() {
    let place = Place::new();
    place.read(0, true, 1);
    fs::write(place.data(), "another").unwrap();
    assert_eq!(place.read(0, true, 1).1, LEN);
    place.cache_file();
}

#[cfg(unix)]
#[test]
fn links_of_the_name_of_the_cache_are_not_followed() {
    let place = Place::new();
    let (expected, _) = place.read(0, true, 1);
    let (cache, whole) = (place.cache_file(), fs::read(place.cache_file()).unwrap());
    let victim = place.folder.path().join("victim");
    for link in [
        std::os::unix::fs::symlink as fn(PathBuf, PathBuf) -> std::io::Result<()>,
        fs::hard_link as fn(PathBuf, PathBuf) -> std::io::Result<()>,
    ] {
        fs::write(&victim, "precious").unwrap();
        fs::remove_file(&cache).unwrap();
        link(victim.clone(), cache.clone()).unwrap();
        assert_eq!(place.read(0, true, 2), (expected.clone(), LEN));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(fs::symlink_metadata(&cache).unwrap().is_file() && fs::read(&cache).unwrap() == whole);
    }
    // a link to a whole file of the cache is not trusted either
    fs::rename(&cache, &victim).unwrap();
    std::os::unix::fs::symlink(&victim, &cache).unwrap();
    assert_eq!(place.read(0, true, 1), (expected, LEN));
}

#[test]
fn a_cache_that_cannot_be_made_is_done_without() {
    let place = Place::new();
    let (expected, _) = place.read(0, false, 1);
    fs::write(place.cache(), "a file where the folder should be").unwrap();
    assert_eq!(place.read(0, true, 2), (expected, 2 * LEN));
}
