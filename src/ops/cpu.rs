//! What the CPU kernels share: operands, parallel loops and matrix products.

mod product;
pub(super) mod tile;

use rayon::prelude::*;

pub(super) use product::{Block, copy, copy_block, copy_transposed, product, transposed_product};

use crate::graph::TensorType;

/// A tensor to read.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Shape and element type.
    pub ty: &'a TensorType,
    /// Elements; integers by their bits.
    pub data: &'a [f32],
}

impl<'a> Input<'a> {
    /// The elements of an integer tensor.
    pub fn u32(&self) -> &'a [u32] {
        bytemuck::cast_slice(self.data)
    }
}

/// A tensor to write, or to rewrite in place.
#[derive(Debug)]
pub struct Output<'a> {
    /// Shape and element type.
    pub ty: &'a TensorType,
    /// Elements; integers by their bits.
    pub data: &'a mut [f32],
}

/// The operands of one call on the CPU.
#[derive(Debug)]
pub struct Operands<'a> {
    /// Inputs in the op's order.
    pub inputs: Vec<Input<'a>>,
    /// Outputs in the op's order.
    pub outputs: Vec<Output<'a>>,
}

impl<'a> Operands<'a> {
    /// The operands by name: `let ([x, weight], [y]) = operands.split();`
    pub(super) fn split<const I: usize, const O: usize>(self) -> ([Input<'a>; I], [Output<'a>; O]) {
        match (self.inputs.try_into(), self.outputs.try_into()) {
            (Ok(inputs), Ok(outputs)) => (inputs, outputs),
            // The graph checks the number of operands against the op's names when a node is made.
            _ => unreachable!("an op split its operands by another number than it declares"),
        }
    }

    /// The outputs by name, for an op whose number of inputs depends on its settings.
    pub(super) fn split_outputs<const O: usize>(self) -> [Output<'a>; O] {
        self.outputs
            .try_into()
            .unwrap_or_else(|_| unreachable!("an op split its outputs by another number than it declares"))
    }
}

/// Elements per task of an element-wise loop: large enough to hide the cost of a task.
const CHUNK: usize = 16 * 1024;

/// Runs `body` compiled for the widest vector instructions that this machine has.
///
/// What `body` calls is compiled so only where it is inlined, so not across rayon.
#[inline(always)]
pub(super) fn vectorized<T>(body: impl FnOnce() -> T) -> T {
    pulp::Arch::new().dispatch(body)
}

/// Declares functions that are compiled for the widest vector instructions that the machine has. All that they call
/// must be inlined. Other functions, closures above all, are compiled for the oldest machine.
macro_rules! vector_functions {
    ($($(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $ty:ty),* $(,)?) $body:block)*) => {$(
        $(#[$attribute])*
        $visibility fn $name($($argument: $ty),*) {
            struct Call<T>(T);
            impl pulp::WithSimd for Call<($($ty,)*)> {
                type Output = ();
                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _: S) {
                    let Call(($($argument,)*)) = self;
                    $body
                }
            }
            pulp::Arch::new().dispatch(Call(($($argument,)*)));
        }
    )*};
}
pub(super) use vector_functions;

/// Runs `body(first_index, chunk)` over chunks of `output` in parallel.
pub(super) fn par_chunks(output: &mut [f32], body: impl Fn(usize, &mut [f32]) + Sync) {
    let chunks = output.par_chunks_mut(CHUNK).enumerate();
    chunks.for_each(|(index, chunk)| vectorized(|| body(index * CHUNK, chunk)));
}

/// Runs `body(first_row, rows)` over blocks of whole rows of `output` in parallel.
pub(super) fn par_rows(output: &mut [f32], row: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = (CHUNK / row.max(1)).max(1);
    if output.len() <= rows * row {
        // Nothing to share: a task would cost more than it does.
        vectorized(|| body(0, output));
        return;
    }
    let chunks = output.par_chunks_mut(rows * row).enumerate();
    chunks.for_each(|(index, chunk)| vectorized(|| body(index * rows, chunk)));
}

/// `exp(x)` to 2 ulp, by arithmetic that vectorises, for [`vector_functions!`] functions; saturates at 1e-38 below -87.3 and at 2e38 above 88.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.3, 88.0);
    // Adding 1.5 * 2^23 rounds to the nearest integer n, and leaves it in the low bits.
    let shifted = x.mul_add(std::f32::consts::LOG2_E, 12_582_912.0);
    let n = shifted - 12_582_912.0;
    // exp(x) = 2^n exp(r) with r = x - n ln 2, ln 2 in two parts so that the first product is exact.
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    let p = 1.987_569_2e-4_f32;
    let p = p.mul_add(r, 1.398_2e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    p.mul_add(r * r, r + 1.0) * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3F80_0000))
}

/// `1 / (1 + exp(-x))`, and 0 where [`exp`] saturates, so that its product with x vanishes however large x is.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    let value = 1.0 / (1.0 + exp(-x));
    if x < -88.0 { 0.0 } else { value }
}

/// A matrix in memory: `data[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major `rows x columns` matrix whose rows start `row_stride` elements apart.
    pub(super) fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// A dense row-major matrix.
    pub(super) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// The transpose, without moving anything.
    pub(super) fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    fn last_index(&self) -> usize {
        (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride
    }
}

/// `c = alpha a b + beta c` on one thread; `c` is row-major with rows `c_stride` elements apart.
#[allow(unsafe_code)]
pub(super) fn gemm(alpha: f32, a: Matrix<'_>, b: Matrix<'_>, beta: f32, c: &mut [f32], c_stride: usize) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    if m == 0 || n == 0 {
        return;
    }
    assert!(k > 0 && b.rows == k, "inner sizes {k} and {}", b.rows);
    assert!(a.last_index() < a.data.len() && b.last_index() < b.data.len(), "a factor is too short");
    assert!((m - 1) * c_stride + n <= c.len() && n <= c_stride, "the product is too short");
    // The kernels write columns: so they make the transposed product of the transposed factors.
    //
    // SAFETY: the assertions above keep every element that the strides reach inside its slice, and `c` is borrowed
    // mutably, so nothing else aliases it.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            n,
            m,
            k,
            c.as_mut_ptr(),
            c_stride as isize,
            1,
            beta != 0.0,
            b.data.as_ptr(),
            b.row_stride as isize,
            b.column_stride as isize,
            a.data.as_ptr(),
            a.row_stride as isize,
            a.column_stride as isize,
            beta,
            alpha,
            false,
            false,
            false,
            gemm_common::Parallelism::None,
        );
    }
}

thread_local! {
    static SCRATCH: std::cell::RefCell<Vec<f32>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Runs `body` with `length` floats of this thread's scratch memory, whose contents are left over from earlier use.
pub(super) fn with_scratch<T>(length: usize, body: impl FnOnce(&mut [f32]) -> T) -> T {
    // Taken out while it is used: a task that rayon runs inside `body` gets other memory.
    let mut scratch = SCRATCH.take();
    // From the first whole cache line on, so that vectors do not straddle two.
    let line = 64 / size_of::<f32>();
    if scratch.len() < length + line {
        scratch.resize(length + line, 0.0);
    }
    let first = scratch.as_ptr().align_offset(64).min(line);
    let result = body(&mut scratch[first..first + length]);
    SCRATCH.set(scratch);
    result
}

/// `sums[c] = sum over rows of data[row, c]`, in an order that does not depend on the number of threads.
pub(super) fn column_sums(data: &[f32], sums: &mut [f32]) {
    let columns = sums.len();
    let mut partial = vec![0.0; columns * data.len().div_ceil(1024 * columns)];
    let blocks = partial.par_chunks_mut(columns).zip(data.par_chunks(1024 * columns));
    blocks.for_each(|(sums, rows)| add_rows(rows, sums));
    sums.fill(0.0);
    add_rows(&partial, sums);
}

vector_functions! {
    /// Adds the rows of a matrix to `sums`.
    fn add_rows(rows: &[f32], sums: &mut [f32]) {
        for row in rows.chunks_exact(sums.len()) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_right_to_2_ulp() {
        for step in -873_000..880_000 {
            let x = step as f32 / 10_000.0;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) / expected - 1.0).abs();
            assert!(error < 2.0 * f64::from(f32::EPSILON), "exp({x}) is off by {error:.1e}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1.3e-38 && exp(f32::INFINITY) > 1e38 && exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
    }
}
