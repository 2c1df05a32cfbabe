//! The generator: Philox 4x32-10.

use super::StreamId;

/// The numbers of one sample in one step: element `e` comes from block `e / 4`, lane `e % 4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Key.
    pub seed: u64,
    /// Training or denoising step.
    pub step: u32,
    /// What the numbers are for.
    pub stream: StreamId,
    /// Number of the sample within the run.
    pub sample: u32,
}

impl Stream {
    /// The stream of sample `n` of a batch, from the buffer that kernels read: `(seed low, seed high, step, first)`.
    pub(crate) fn of_sample(key_step_sample: &[u32], stream: StreamId, n: usize) -> Self {
        let seed = u64::from(key_step_sample[0]) | u64::from(key_step_sample[1]) << 32;
        let sample = key_step_sample[3].wrapping_add(n as u32);
        Self { seed, step: key_step_sample[2], stream, sample }
    }

    /// The buffer that kernels read, for a batch whose first sample is this one.
    pub fn key_step_sample(&self) -> [u32; 4] {
        [self.seed as u32, (self.seed >> 32) as u32, self.step, self.sample]
    }

    /// Four random words: Philox 4x32-10 (Salmon et al. 2011, section 3.3).
    pub fn words(&self, block: u32) -> [u32; 4] {
        let mut counter = [block, self.step, self.stream.word(), self.sample];
        let mut key = [self.seed as u32, (self.seed >> 32) as u32];
        for _ in 0..10 {
            let p0 = u64::from(counter[0]) * 0xD251_1F53;
            let p1 = u64::from(counter[2]) * 0xCD9E_8D57;
            counter = [
                (p1 >> 32) as u32 ^ counter[1] ^ key[0],
                p1 as u32,
                (p0 >> 32) as u32 ^ counter[3] ^ key[1],
                p0 as u32,
            ];
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        counter
    }

    /// Four numbers uniform in (0, 1), exact in f32.
    pub fn uniforms(&self, block: u32) -> [f32; 4] {
        self.words(block).map(|word| ((word >> 9) as f32 + 0.5) / 8_388_608.0)
    }

    /// The uniform number of one element.
    pub fn uniform(&self, element: u32) -> f32 {
        self.uniforms(element / 4)[element as usize % 4]
    }

    /// Four standard normals by the Box-Muller transform.
    pub fn normals(&self, block: u32) -> [f32; 4] {
        let [u0, u1, u2, u3] = self.uniforms(block);
        let pair = |u: f32, v: f32| {
            let radius = (-2.0 * f64::from(u).ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * (f64::from(v) - 0.5)).sin_cos();
            ((radius * cos) as f32, (radius * sin) as f32)
        };
        let ((a, b), (c, d)) = (pair(u0, u1), pair(u2, u3));
        [a, b, c, d]
    }
}

/// Fills `row` with the normals of one sample.
pub(crate) fn fill_normals(stream: Stream, row: &mut [f32]) {
    for (block, chunk) in row.chunks_mut(4).enumerate() {
        chunk.copy_from_slice(&stream.normals(block as u32)[..chunk.len()]);
    }
}

/// The first `length` standard normals of a stream.
pub fn normals(stream: Stream, length: usize) -> Vec<f32> {
    let mut row = vec![0.0; length];
    fill_normals(stream, &mut row);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Random123 (kat_vectors, philox4x32 10).
    #[test]
    fn philox_gives_the_published_words() {
        let stream =
            |seed, step, word, sample| Stream { seed, step, stream: StreamId::of_word(word), sample };
        assert_eq!(stream(0, 0, 0, 0).words(0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            stream(u64::MAX, u32::MAX, u32::MAX, u32::MAX).words(u32::MAX),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            stream(0x299f_31d0_a409_3822, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344).words(0x243f_6a88),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn normals_have_the_moments_and_tails_of_the_normal_distribution() {
        let length = 1 << 20;
        let z = normals(Stream { seed: 3, step: 1, stream: StreamId::of_word(2), sample: 0 }, length);
        let mean_of =
            |f: &dyn Fn(f64) -> f64| z.iter().map(|&z| f(f64::from(z))).sum::<f64>() / length as f64;
        // Bounds of five standard errors: Var[z^2] = 2, Var[z^3] = 15, Var[z^4] = 96.
        let bound = |variance: f64| 5.0 * (variance / length as f64).sqrt();
        assert!(mean_of(&|z| z).abs() < bound(1.0));
        assert!((mean_of(&|z| z * z) - 1.0).abs() < bound(2.0));
        assert!(mean_of(&|z| z * z * z).abs() < bound(15.0));
        assert!((mean_of(&|z| z.powi(4)) - 3.0).abs() < bound(96.0));
        let beyond_two = mean_of(&|z| if z.abs() > 2.0 { 1.0 } else { 0.0 });
        assert!((beyond_two - 0.045_500_26).abs() < bound(0.0455));
        // Neighbouring elements, which share a Box-Muller pair, and neighbouring blocks are uncorrelated.
        for lag in [1, 2, 3, 4] {
            let correlation =
                z.windows(lag + 1).map(|w| f64::from(w[0] * w[lag])).sum::<f64>() / length as f64;
            assert!(correlation.abs() < bound(1.0), "lag {lag}: {correlation}");
        }
    }
}
