//! Which images a batch holds, as a pure function of the seed and the step.
//!
//! The random words are ChaCha's with 8 rounds (D. J. Bernstein, "ChaCha, a variant of Salsa20", 2008), keyed by
//! the seed and a purpose. Everything above those words is written out here, because the shuffles and ranges of
//! the `rand` crate may change between its versions, and a resumed run must see the same batches.

use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};

use crate::random::Purpose;

/// Stream `stream` of the generator that belongs to a seed and a purpose.
fn generator(seed: u64, purpose: Purpose, stream: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    // Counted from the first purpose of this generator, as keys always were.
    key[8] = (purpose as u8).wrapping_sub(Purpose::ImageOrder as u8);
    let mut generator = ChaCha8Rng::from_seed(key);
    generator.set_stream(stream);
    generator
}

/// The order of the images over all epochs.
///
/// Every epoch is a permutation of the images, and batches walk the epochs one after another, so that no image
/// is dropped and a batch may be larger than the dataset.
#[derive(Debug)]
pub(super) struct Order {
    seed: u64,
    /// The epoch whose permutation is held.
    epoch: u64,
    /// \[number of images\]
    permutation: Vec<usize>,
}

impl Order {
    /// The order of `len` images; `len` is at least 1.
    pub(super) fn new(seed: u64, len: usize) -> Self {
        Self { seed, epoch: 0, permutation: permutation(seed, 0, len) }
    }

    /// The images of the batch at `step`, \[batch_size\].
    pub(super) fn batch(&mut self, step: u64, batch_size: usize) -> Vec<usize> {
        let first = u128::from(step) * batch_size as u128;
        (0..batch_size).map(|element| self.image(first + element as u128)).collect()
    }

    /// The image at a position in the concatenated epochs.
    fn image(&mut self, position: u128) -> usize {
        let len = self.permutation.len();
        let epoch = (position / len as u128) as u64;
        if epoch != self.epoch {
            self.permutation = permutation(self.seed, epoch, len);
            self.epoch = epoch;
        }
        self.permutation[(position % len as u128) as usize]
    }
}

/// A permutation of `0..len`, by the Fisher-Yates shuffle.
fn permutation(seed: u64, epoch: u64, len: usize) -> Vec<usize> {
    let mut generator = generator(seed, Purpose::ImageOrder, epoch);
    let mut permutation: Vec<usize> = (0..len).collect();
    for last in (1..len).rev() {
        // a multiplication instead of a remainder: the bias is below len / 2^64
        let other = (u128::from(generator.next_u64()) * (last as u128 + 1)) >> 64;
        permutation.swap(last, other as usize);
    }
    permutation
}

/// Which elements of the batch at `step` are mirrored, each with probability one half, \[batch_size\].
pub(super) fn flips(seed: u64, step: u64, batch_size: usize) -> Vec<bool> {
    let mut generator = generator(seed, Purpose::ImageFlip, step);
    (0..batch_size).map(|_| generator.next_u32() >> 31 == 1).collect()
}

/// By how many pixels down and to the right the elements of the batch at `step` are shifted: each from -`most` to `most`,
/// all equally likely, \[batch_size\].
pub(super) fn shifts(seed: u64, step: u64, batch_size: usize, most: usize) -> Vec<[isize; 2]> {
    let mut generator = generator(seed, Purpose::ImageShift, step);
    let mut draw = || {
        let drawn = (u128::from(generator.next_u64()) * (2 * most as u128 + 1)) >> 64;
        drawn as isize - most as isize
    };
    (0..batch_size).map(|_| [draw(), draw()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_is_a_permutation_of_its_own() {
        // 4 batches of 5 walk two epochs of 10, then batches of 7 cross the borders of epochs
        for (batch_size, batches) in [(5, 4), (7, 10), (25, 4), (1, 10)] {
            let mut order = Order::new(3, 10);
            let images: Vec<usize> = (0..batches).flat_map(|step| order.batch(step, batch_size)).collect();
            for (epoch, images) in images.chunks_exact(10).enumerate() {
                assert_eq!(images, permutation(3, epoch as u64, 10));
                let mut sorted = images.to_vec();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..10).collect::<Vec<_>>());
            }
        }
        assert_ne!(permutation(3, 0, 10), permutation(3, 1, 10));
        assert_ne!(permutation(3, 0, 10), permutation(4, 0, 10));
    }

    #[test]
    fn a_step_does_not_depend_on_the_steps_before_it() {
        let mut walked = Order::new(9, 11);
        for step in 0..50 {
            assert_eq!(walked.batch(step, 4), Order::new(9, 11).batch(step, 4));
        }
        assert_eq!(Order::new(9, 11).batch(u64::MAX, 4).len(), 4);
    }

    #[test]
    fn the_shuffle_is_fair() {
        // each of the 24 orders of 4 images is as likely as the others: 10,000 epochs, about 417 each
        let mut counts = std::collections::HashMap::new();
        for epoch in 0..10_000 {
            *counts.entry(permutation(1, epoch, 4)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|count| (320..520).contains(count)), "{counts:?}");
    }

    #[test]
    fn flips_are_fair_and_keyed_by_step_and_element() {
        let flipped: usize =
            (0..100).map(|step| flips(5, step, 100).iter().filter(|&&flip| flip).count()).sum();
        assert!((4_700..5_300).contains(&flipped), "{flipped}");
        assert_ne!(flips(5, 0, 64), flips(5, 1, 64));
        assert_ne!(flips(5, 0, 64), flips(6, 0, 64));
        assert_eq!(flips(5, 3, 64)[..10], flips(5, 3, 10));
    }

    #[test]
    fn shifts_are_fair_and_keyed_by_step_and_element() {
        let drawn: Vec<[isize; 2]> = (0..100).flat_map(|step| shifts(5, step, 100, 2)).collect();
        for down in -2..=2 {
            for right in -2..=2 {
                let count = drawn.iter().filter(|&&drawn| drawn == [down, right]).count();
                assert!((320..480).contains(&count), "{down}, {right}: {count}");
            }
        }
        assert_ne!(shifts(5, 0, 64, 2), shifts(5, 1, 64, 2));
        assert_ne!(shifts(5, 0, 64, 2), shifts(6, 0, 64, 2));
        assert_eq!(shifts(5, 3, 64, 2)[..10], shifts(5, 3, 10, 2));
        assert_eq!(shifts(5, 3, 8, 0), [[0, 0]; 8]);
    }

    #[test]
    fn the_order_is_the_same_in_every_version() {
        // computed by a separate ChaCha8 in Python; a change here changes the batches of every resumed run
        assert_eq!(
            permutation(42, 3, 40),
            [
                28, 38, 31, 17, 1, 10, 39, 36, 20, 6, 21, 24, 30, 5, 8, 19, 2, 32, 3, 12, 7, 27, 16, 11, 13,
                35, 25, 0, 23, 29, 9, 15, 22, 37, 14, 4, 34, 33, 26, 18
            ]
        );
        assert_eq!(flips(42, 7, 8), [false, true, false, false, false, true, false, false]);
    }
}
