//! The inside of matrix products: a tile of a few rows by two vectors of columns, whose sums stay in registers.

use pulp::Simd;

/// Terms that are summed before the next block of the factors: with them a panel of 32 columns has 16 KiB, and fits the
/// first cache beside a tile of the left factor.
pub(in crate::ops) const DEPTH: usize = 128;

/// `c = a b`, or `c += a b` to `ADD` it, for `M` rows of `c` and two vectors of its columns, from `column` on.
///
/// `b` is a panel: two vectors per term. A row of `a` is `DEPTH` long, or, if `a` is `TRANSPOSED`, `M`.
/// Loops have constant bounds, so that the sums stay in registers.
#[inline(always)]
pub(in crate::ops) fn multiply_tile<S: Simd, const M: usize, const TRANSPOSED: bool, const ADD: bool>(
    simd: S,
    a: &[f32],
    b: &[S::f32s],
    c: &mut [&mut [f32]; M],
    column: usize,
) {
    let width = 2 * S::F32_LANES;
    let mut sums = [[simd.splat_f32s(0.0); 2]; M];
    if ADD {
        for m in 0..M {
            let (vectors, _) = S::as_simd_f32s(&c[m][column..column + width]);
            sums[m] = [vectors[0], vectors[1]];
        }
    }
    if TRANSPOSED {
        let (a, _) = a.as_chunks::<M>();
        for (a, b) in a.iter().zip(b.chunks_exact(2)) {
            add_term(simd, |m| a[m], [b[0], b[1]], &mut sums);
        }
    } else if let Some(a) = a.as_chunks::<DEPTH>().0.first_chunk::<M>() {
        for (k, b) in b.chunks_exact(2).take(DEPTH).enumerate() {
            add_term(simd, |m| a[m][k], [b[0], b[1]], &mut sums);
        }
    }
    for m in 0..M {
        let (vectors, _) = S::as_mut_simd_f32s(&mut c[m][column..column + width]);
        vectors[0] = sums[m][0];
        vectors[1] = sums[m][1];
    }
}

/// The rows of a dense tile.
#[inline(always)]
pub(in crate::ops) fn tile_rows<const M: usize>(tile: &mut [f32], width: usize) -> [&mut [f32]; M] {
    let mut rows = tile.chunks_exact_mut(width);
    std::array::from_fn(|_| rows.next().unwrap_or_default())
}

/// Adds one term to the sums of a tile.
#[inline(always)]
fn add_term<S: Simd, const M: usize>(
    simd: S,
    a: impl Fn(usize) -> f32,
    b: [S::f32s; 2],
    sums: &mut [[S::f32s; 2]; M],
) {
    for (m, sums) in sums.iter_mut().enumerate() {
        let a = simd.splat_f32s(a(m));
        sums[0] = simd.mul_add_f32s(a, b[0], sums[0]);
        sums[1] = simd.mul_add_f32s(a, b[1], sums[1]);
    }
}
