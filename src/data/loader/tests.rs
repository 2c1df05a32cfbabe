#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use super::*;
use crate::data::ImageShape;

/// Images of 2 x 3 pixels and two channels; value 100 i + 10 y + x + c / 10 says where a pixel came from.
struct Counting {
    len: usize,
    labelled: bool,
    /// Reading this image fails.
    bad: Option<usize>,
    /// Reading this image panics.
    panics: Option<usize>,
    delay: Duration,
    reads: AtomicUsize,
}

impl Counting {
    fn new(len: usize) -> Self {
        Self {
            len,
            labelled: true,
            bad: None,
            panics: None,
            delay: Duration::ZERO,
            reads: AtomicUsize::new(0),
        }
    }
}

impl Dataset for Counting {
    fn name(&self) -> &str {
        "counting"
    }

    fn len(&self) -> usize {
        self.len
    }

    fn image_shape(&self) -> ImageShape {
        ImageShape { channels: 2, height: 2, width: 3 }
    }

    fn classes(&self) -> &[String] {
        &[]
    }

    fn read(&self, index: usize, pixels: &mut [f32]) -> Result<Conditions, DataError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        thread::sleep(self.delay);
        if self.panics == Some(index) {
            panic!("image {index} is a trap");
        }
        if self.bad == Some(index) {
            let source = std::io::Error::other("bad sector");
            return Err(DataError::Io { path: format!("{index}.png").into(), source });
        }
        pixels.copy_from_slice(&image(index, false));
        Ok(Conditions::of_class(self.label(index)))
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labelled.then_some(index as u32)
    }
}

/// Image `index` of `Counting`, by its formula.
fn image(index: usize, mirrored: bool) -> Vec<f32> {
    let mut pixels = Vec::new();
    for y in 0..2 {
        for x in 0..3 {
            let x = if mirrored { 2 - x } else { x };
            for channel in 0..2 {
                pixels.push((100 * index + 10 * y + x) as f32 + channel as f32 / 10.0);
            }
        }
    }
    pixels
}

fn options(batch_size: usize) -> LoaderOptions {
    LoaderOptions { batch_size, seed: 7, first_step: 0, random_flip: false, random_shift: 0 }
}

fn take(dataset: Counting, options: LoaderOptions, count: usize) -> Vec<Batch> {
    let mut loader = Loader::new(Arc::new(dataset), options).unwrap();
    (0..count).map(|_| loader.next().unwrap()).collect()
}

#[test]
fn an_epoch_holds_every_image_once_with_its_label() {
    let batches = take(Counting::new(12), options(4), 3);
    let mut labels: Vec<u32> = batches.iter().flat_map(|batch| batch.labels().to_vec()).collect();
    for batch in &batches {
        let expected: Vec<f32> =
            batch.labels().iter().flat_map(|&label| image(label as usize, false)).collect();
        assert_eq!(batch.images, expected);
    }
    labels.sort_unstable();
    assert_eq!(labels, (0..12).collect::<Vec<_>>());
}

#[test]
fn a_batch_may_be_larger_than_the_dataset() {
    let batches = take(Counting::new(3), options(7), 3);
    let labels: Vec<u32> = batches.iter().flat_map(|batch| batch.labels().to_vec()).collect();
    for epoch in labels.chunks_exact(3) {
        let mut epoch = epoch.to_vec();
        epoch.sort_unstable();
        assert_eq!(epoch, [0, 1, 2]);
    }
}

#[test]
fn a_resumed_loader_continues_the_stream() {
    let flipping = LoaderOptions { random_flip: true, random_shift: 2, ..options(5) };
    let whole = take(Counting::new(12), flipping.clone(), 12);
    for first_step in [1, 2, 5, 9] {
        let resumed = take(
            Counting::new(12),
            LoaderOptions { first_step, ..flipping.clone() },
            12 - first_step as usize,
        );
        assert_eq!(resumed, whole[first_step as usize..]);
    }
    let other_seed = take(Counting::new(12), LoaderOptions { seed: 8, ..flipping }, 12);
    assert_ne!(other_seed, whole);
}

#[test]
fn flips_mirror_rows_and_leave_labels_alone() {
    let flipped = take(Counting::new(50), LoaderOptions { random_flip: true, ..options(50) }, 1).remove(0);
    let plain = take(Counting::new(50), options(50), 1).remove(0);
    assert_eq!(flipped.labels(), plain.labels());
    let mut mirrored = 0;
    for (pixels, &label) in flipped.images.chunks_exact(12).zip(flipped.labels()) {
        if pixels == image(label as usize, true) {
            mirrored += 1;
        } else {
            assert_eq!(pixels, image(label as usize, false));
        }
    }
    assert!((10..40).contains(&mirrored), "{mirrored}");
}

#[test]
fn a_shift_moves_pixels_and_repeats_the_edge() {
    // [2, 3, 2]; value 10 y + x + c / 10
    let shape = ImageShape { channels: 2, height: 2, width: 3 };
    let shifted = |by| {
        let mut pixels = image(0, false);
        shift(&mut pixels, shape, by);
        assert!(pixels.chunks_exact(2).all(|pixel| pixel[1] == pixel[0] + 0.1));
        pixels.chunks_exact(2).map(|pixel| pixel[0]).collect::<Vec<_>>()
    };
    assert_eq!(shifted([0, 1]), [0.0, 0.0, 1.0, 10.0, 10.0, 11.0]);
    assert_eq!(shifted([0, -2]), [2.0, 2.0, 2.0, 12.0, 12.0, 12.0]);
    assert_eq!(shifted([-1, 0]), [10.0, 11.0, 12.0, 10.0, 11.0, 12.0]);
    assert_eq!(shifted([1, -1]), [1.0, 2.0, 2.0, 1.0, 2.0, 2.0]);
    assert_eq!(shifted([-5, 5]), [10.0; 6]);
}

#[test]
fn shifted_batches_hold_all_shifts_and_leave_labels_alone() {
    let shifting = LoaderOptions { random_shift: 1, ..options(200) };
    let shifted = take(Counting::new(50), shifting, 1).remove(0);
    assert_eq!(shifted.labels(), take(Counting::new(50), options(200), 1)[0].labels());
    let mut counts = [0; 9];
    for (pixels, &label) in shifted.images.chunks_exact(12).zip(shifted.labels()) {
        let all = (-1..=1).flat_map(|down| (-1..=1).map(move |right| [down, right]));
        let is_it = |by: [isize; 2]| {
            let mut expected = image(label as usize, false);
            shift(&mut expected, ImageShape { channels: 2, height: 2, width: 3 }, by);
            pixels == expected
        };
        counts[all.into_iter().position(is_it).unwrap()] += 1;
    }
    assert!(counts.iter().all(|count| (8..40).contains(count)), "{counts:?}");
}

#[test]
fn unlabelled_images_give_no_labels() {
    let batches = take(Counting { labelled: false, ..Counting::new(4) }, options(4), 1);
    assert!(batches[0].conditions.is_empty());
    assert_eq!(batches[0].images.len(), 48);
}

#[test]
fn a_bad_image_is_an_error_and_stops_the_loader() {
    let mut loader =
        Loader::new(Arc::new(Counting { bad: Some(5), ..Counting::new(6) }), options(6)).unwrap();
    assert!(loader.next().unwrap_err().to_string().contains("5.png"));
    assert!(matches!(loader.next(), Err(DataError::Stopped { .. })));
    assert!(matches!(loader.next(), Err(DataError::Stopped { .. })));
}

#[test]
fn a_panic_is_an_error() {
    let dataset = Counting { panics: Some(2), ..Counting::new(6) };
    let mut loader = Loader::new(Arc::new(dataset), options(6)).unwrap();
    let error = loader.next().unwrap_err();
    assert!(matches!(error, DataError::Panicked { step: 0, .. }), "{error}");
    assert!(error.to_string().contains("image 2 is a trap"), "{error}");
}

#[test]
fn impossible_options_are_errors() {
    for (len, batch_size) in [(0, 4), (4, 0), (4, usize::MAX), (4, usize::MAX / 48)] {
        assert!(Loader::new(Arc::new(Counting::new(len)), options(batch_size)).is_err());
    }
}

#[test]
fn reads_ahead_a_bounded_number_of_batches_and_stops_when_dropped() {
    let dataset = Arc::new(Counting::new(8));
    let loader = Loader::new(dataset.clone(), options(8)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while dataset.reads.load(Ordering::Relaxed) < 24 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(50));
    // two batches wait in the channel and a third waits to enter it
    assert_eq!(dataset.reads.load(Ordering::Relaxed), 24);
    drop(loader);
    assert_eq!(Arc::strong_count(&dataset), 1);
}

#[test]
fn dropping_does_not_wait_for_the_rest_of_a_slow_batch() {
    // a whole batch would sleep for over three minutes on each of 16 cores
    let dataset = Counting { delay: Duration::from_millis(50), ..Counting::new(64_000) };
    let loader = Loader::new(Arc::new(dataset), options(64_000)).unwrap();
    thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    drop(loader);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
