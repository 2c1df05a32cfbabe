//! A hash that is the same in every release, which the standard library's hashers do not promise.

/// FNV-1a (G. Fowler, L. C. Noll and K.-P. Vo, 1991), 64 bits.
pub(crate) fn fnv1a(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
