//! What random numbers are for: each purpose has streams of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

macro_rules! purposes {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// What random numbers are for. With the same seed, step and sample, two purposes never draw the same numbers.
        ///
        /// A purpose's number lies in bits 0 to 7 and in bit 31 of a stream's word; the index of a node lies in between.
        /// Numbers never change: they decide the bytes of images and of runs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Purpose {
            $($(#[$doc])* $name = $word,)*
        }

        impl Purpose {
            /// Every purpose.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

purposes! {
    /// x_T of sampling, step 0.
    InitialNoise = 0x00,
    /// The noise of sampling's updates, step n for the n-th of them.
    ReverseStep = 0x01,
    /// Dequantisation of images for the likelihood by the ODE.
    Dequantisation = 0x02,
    /// The probes of the likelihood's trace.
    Probe = 0x03,
    /// The noise of the variational bound, step t for timestep t.
    Bound = 0x04,
    /// The timesteps of a training step.
    Timesteps = 0x05,
    /// The noise of a training step's images: `q_sample`.
    QSample = 0x06,
    /// The mask of dropout.
    Dropout = 0x07,
    /// Normals by themselves: `standard_normals`.
    StandardNormals = 0x08,
    /// Numbers that nobody looks at: inputs of checks and measurements.
    Arbitrary = 0x09,
    /// The order of the training images, by the generator of `data::order`.
    ImageOrder = 0x10,
    /// Which training images are mirrored, by the generator of `data::order`.
    ImageFlip = 0x11,
    /// How far training images are shifted, by the generator of `data::order`.
    ImageShift = 0x12,
    /// Initial weights, sample n for the n-th parameter.
    InitialWeights = 0x8000_0000,
    /// Which images are trained on as of no class.
    LabelDropout = 0x8000_0001,
    /// The noise levels of the smaller images that super-resolution is trained on.
    NoiseAugmentation = 0x8000_0002,
    /// The noise that is added to given images: image-to-image, `noise`, low-resolution images.
    ForwardNoise = 0x8000_0003,
    /// The noise of the known pixels of inpainting, step n for the n-th move.
    KnownPixels = 0x8000_0004,
    /// The noise of inpainting's moves back, step n for the n-th move.
    StepBack = 0x8000_0005,
}

/// A stream of the generator: a word of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(u32);

/// Bits of a node's index.
const INDEX_BITS: u32 = 23;

impl Purpose {
    /// The stream of the `index`-th node with this purpose in a graph, counted from 0. After 2^23 nodes they repeat.
    pub const fn node(self, index: u32) -> StreamId {
        StreamId(self as u32 | (index & ((1 << INDEX_BITS) - 1)) << 8)
    }
}

impl From<Purpose> for StreamId {
    /// The stream of what is no node of a graph, or of the only node with this purpose.
    fn from(purpose: Purpose) -> Self {
        purpose.node(0)
    }
}

impl StreamId {
    /// The word of the generator's counter.
    pub const fn word(self) -> u32 {
        self.0
    }

    /// A stream by its word: of first-come numbers, and for tests.
    pub(crate) const fn of_word(word: u32) -> Self {
        Self(word)
    }
}

/// Which numbers a training run's streams have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Numbering {
    /// Those of their purposes.
    #[default]
    ByPurpose,
    /// As in runs that were begun before there were purposes: a graph's nodes count from 1 as they come, and timesteps
    /// have stream 0. Training draws some of the numbers that sampling draws.
    FirstCome,
}

impl Numbering {
    /// The stream of what is no node of a graph.
    pub fn stream(self, purpose: Purpose) -> StreamId {
        match (self, purpose) {
            (Self::FirstCome, Purpose::Timesteps) => StreamId(0),
            // The other purposes of the host always had numbers of their own.
            _ => purpose.into(),
        }
    }

    /// For serde: what a checkpoint that does not say was written with.
    pub(crate) fn of_older_checkpoints() -> Self {
        Self::FirstCome
    }
}

/// Gives each random node of a graph a stream.
#[derive(Clone, Debug, Default)]
pub struct StreamIds {
    numbering: Numbering,
    /// How many nodes of each purpose there are.
    given: BTreeMap<Purpose, u32>,
}

impl StreamIds {
    /// No stream is given yet.
    pub fn new(numbering: Numbering) -> Self {
        Self { numbering, given: BTreeMap::new() }
    }

    /// The stream of the next node with this purpose.
    pub fn next(&mut self, purpose: Purpose) -> StreamId {
        let all: u32 = self.given.values().sum();
        let of_purpose = self.given.entry(purpose).or_default();
        let index = *of_purpose;
        *of_purpose += 1;
        match self.numbering {
            Numbering::ByPurpose => purpose.node(index),
            Numbering::FirstCome => StreamId(all + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::Stream;
    use super::*;

    /// Philox is a bijection of its counter, so that streams with different words have no block in common; their numbers
    /// are compared too.
    #[test]
    fn no_two_purposes_or_indices_draw_the_same_numbers() {
        let largest = (1 << INDEX_BITS) - 1;
        let indices = (0..300).chain([1 << 15, 1 << 16, 1 << 22, largest - 1, largest]);
        let ids = Purpose::ALL
            .iter()
            .flat_map(|&purpose| indices.clone().map(move |index| ((purpose, index), purpose.node(index))));
        let (mut by_word, mut by_numbers) = (HashMap::new(), HashMap::new());
        for (name, stream) in ids {
            if let Some(other) = by_word.insert(stream.word(), name) {
                unreachable!("{name:?} and {other:?} are the same stream");
            }
            let words = Stream { seed: 0, step: 1, stream, sample: 0 }.words(0);
            if let Some(other) = by_numbers.insert(words, name) {
                unreachable!("{name:?} and {other:?} draw the same numbers");
            }
        }
        assert_eq!(by_word.len(), Purpose::ALL.len() * 305);
    }

    /// For every purpose and index: the two parts of a word have no bit in common, and together all bits.
    #[test]
    fn a_word_has_bits_for_the_purpose_and_bits_for_the_index() {
        let of_index = Purpose::InitialNoise.node(u32::MAX).word();
        assert_eq!(of_index, 0x7FFF_FF00);
        for &purpose in Purpose::ALL {
            assert_eq!(purpose as u32 & of_index, 0, "{purpose:?}");
        }
    }

    /// x_T and the noise of samplers' updates decide the bytes of every image that was ever drawn, those below them of
    /// pictures that were painted or noised, of initial weights and of estimates.
    #[test]
    fn what_sampling_draws_keeps_its_numbers() {
        for (purpose, word) in [
            (Purpose::InitialNoise, 0),
            (Purpose::ReverseStep, 1),
            (Purpose::Dequantisation, 2),
            (Purpose::Probe, 3),
            (Purpose::InitialWeights, 0x8000_0000),
            (Purpose::LabelDropout, 0x8000_0001),
            (Purpose::NoiseAugmentation, 0x8000_0002),
            (Purpose::ForwardNoise, 0x8000_0003),
            (Purpose::KnownPixels, 0x8000_0004),
            (Purpose::StepBack, 0x8000_0005),
        ] {
            for numbering in [Numbering::ByPurpose, Numbering::FirstCome] {
                assert_eq!(numbering.stream(purpose).word(), word, "{purpose:?}");
            }
        }
    }

    #[test]
    fn nodes_of_a_purpose_count_in_the_order_of_their_appearance() {
        use Purpose::{Dropout, QSample, Timesteps};
        let give = |numbering| {
            let mut ids = StreamIds::new(numbering);
            [QSample, Dropout, Dropout, QSample, Dropout].map(|purpose| ids.next(purpose))
        };
        let expected = [QSample.node(0), Dropout.node(0), Dropout.node(1), QSample.node(1), Dropout.node(2)];
        assert_eq!(give(Numbering::ByPurpose), expected);
        assert_eq!(give(Numbering::FirstCome).map(StreamId::word), [1, 2, 3, 4, 5]);
        assert_eq!(Numbering::FirstCome.stream(Timesteps).word(), 0);
        assert_ne!(Numbering::ByPurpose.stream(Timesteps).word(), 0);
    }
}
