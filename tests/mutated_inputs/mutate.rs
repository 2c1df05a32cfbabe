//! Damage of the kinds that files meet: cut short, bits flipped, sizes replaced by extreme ones, pieces lost or twice.

use rand::rngs::ChaCha8Rng;
use rand::{Rng, RngExt};

/// Numbers that readers multiply, add to and allocate by.
const EXTREME: [u64; 12] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 32,
    i64::MAX as u64,
    u64::MAX,
];

/// What stands in place of a number in a text.
const EXTREME_TEXT: [&str; 16] = [
    "0",
    "-1",
    "1",
    "3",
    "100000000",
    "4294967296",
    "18446744073709551615",
    "1e30",
    "1e999",
    "-Infinity",
    "NaN",
    "null",
    "[]",
    "{}",
    "\"x\"",
    "true",
];

/// One to three changes of `bytes`.
pub(crate) fn mutate(bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(1..=3) {
        if bytes.is_empty() {
            bytes.extend((0..rng.random_range(1..64)).map(|_| rng.next_u32() as u8));
            continue;
        }
        match rng.random_range(0..8) {
            0 => bytes.truncate(place(bytes, rng)),
            1 => {
                let at = place(bytes, rng);
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
            2 => {
                let at = place(bytes, rng);
                bytes[at] = rng.next_u32() as u8;
            }
            3 => overwrite_with_extreme_number(bytes, rng),
            4 => {
                let piece = piece(bytes, rng);
                bytes.drain(piece);
            }
            5 => {
                let copy = bytes[piece(bytes, rng)].to_vec();
                let at = place(bytes, rng);
                bytes.splice(at..at, copy);
            }
            6 => {
                let noise: Vec<u8> = (0..rng.random_range(1..16)).map(|_| rng.next_u32() as u8).collect();
                let at = place(bytes, rng);
                bytes.splice(at..at, noise);
            }
            _ => replace_a_number_in_text(bytes, rng),
        }
    }
}

/// A place in the file; half of the time in its first 256 bytes, where headers are.
fn place(bytes: &[u8], rng: &mut ChaCha8Rng) -> usize {
    let end = if rng.random_bool(0.5) { bytes.len().min(256) } else { bytes.len() };
    rng.random_range(0..end)
}

fn piece(bytes: &[u8], rng: &mut ChaCha8Rng) -> std::ops::Range<usize> {
    let start = place(bytes, rng);
    let length = rng.random_range(1..=64.min(bytes.len() - start));
    start..start + length
}

fn overwrite_with_extreme_number(bytes: &mut [u8], rng: &mut ChaCha8Rng) {
    let number = EXTREME[rng.random_range(0..EXTREME.len())];
    let width = [1, 2, 4, 8][rng.random_range(0..4)];
    let at = place(bytes, rng);
    let little = number.to_le_bytes();
    let mut number: Vec<u8> = little[..width].to_vec();
    if rng.random_bool(0.5) {
        number.reverse();
    }
    for (byte, new) in bytes[at..].iter_mut().zip(number) {
        *byte = new;
    }
}

/// Replaces a run of digits: a size in JSON, in the header of a .npy file, in a tar header.
fn replace_a_number_in_text(bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
    let is_start = |&at: &usize| bytes[at].is_ascii_digit() && (at == 0 || !bytes[at - 1].is_ascii_digit());
    let starts: Vec<usize> = (0..bytes.len()).filter(is_start).collect();
    if starts.is_empty() {
        return;
    }
    let start = starts[rng.random_range(0..starts.len())];
    let digits = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let text = EXTREME_TEXT[rng.random_range(0..EXTREME_TEXT.len())];
    bytes.splice(start..start + digits, text.bytes());
}
