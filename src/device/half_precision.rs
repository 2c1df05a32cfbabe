//! 16-bit floats on the host: the host's side of every value is f32.

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

/// Elements that are converted at a time.
const CHUNK: usize = 16 * 1024;

/// `data` rounded to 16-bit floats, two to a word as a device stores them.
pub(super) fn encode(data: &[f32]) -> Vec<u8> {
    let mut halves = vec![f16::ZERO; data.len().next_multiple_of(2)];
    halves[..data.len()].convert_from_f32_slice(data);
    bytemuck::cast_slice(halves.reinterpret_cast()).to_vec()
}

/// The first `length` of the 16-bit floats in a device's bytes.
pub(super) fn decode(bytes: &[u8], length: usize) -> Vec<f32> {
    let bits: Vec<u16> = bytemuck::pod_collect_to_vec(bytes);
    bits[..length].iter().map(|&bits| f16::from_bits(bits).to_f32()).collect()
}

/// Rounds each element to the nearest 16-bit float, as storing it as one does.
pub(super) fn round(data: &mut [f32]) {
    data.par_chunks_mut(CHUNK).for_each(|chunk| {
        let mut halves = [f16::ZERO; 512];
        for part in chunk.chunks_mut(halves.len()) {
            let halves = &mut halves[..part.len()];
            halves.convert_from_f32_slice(part);
            halves.convert_to_f32_slice(part);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_and_decoded_is_what_was_rounded() {
        let mut data: Vec<f32> = (0..1001).map(|i| (i as f32 - 500.0) * 1.7f32.powi(i % 40 - 20)).collect();
        data.extend([65_519.0, 65_520.0, -1e9, 3e-8, 0.0]);
        let coded = decode(&encode(&data), data.len());
        round(&mut data);
        assert_eq!(coded, data);
        assert_eq!(data[1001..], [65_504.0, f32::INFINITY, f32::NEG_INFINITY, 5.960_464_5e-8, 0.0]);
    }
}
