//! What a device can do at most: the two ceilings of the roofline (Williams et al. 2009), as kernels.

use super::cpu::{par_chunks, vector_functions};
use super::{Case, Cost, Fill, Grid, Op, Operands, Types, Variant, expect, expect_shape};
use crate::graph::TensorType;

/// `y = x`, whose rate is that of memory.
#[derive(Debug)]
struct Copy;

/// Chains of multiply-adds in registers, whose rate is that of arithmetic.
#[derive(Debug)]
struct MultiplyAdd {
    rounds: u32,
}

/// Chains of one invocation.
const CHAINS: usize = 16;

/// A copy of `elements` floats, a multiple of four.
pub fn copy(elements: usize) -> Case {
    Case::new(format!("{elements} elements"), Copy, vec![Fill::normal([elements])])
}

/// `invocations` times 16 chains of `rounds` multiply-adds.
pub fn multiply_add(invocations: usize, rounds: u32) -> Case {
    // A factor below one lets a chain converge: it neither overflows nor becomes denormal, however long it is.
    let factors = Fill::floats([0.75, 0.5]);
    Case::new(format!("{rounds} rounds"), MultiplyAdd { rounds }, vec![Fill::normal([invocations]), factors])
}

impl Op for Copy {
    fn name(&self) -> &'static str {
        "calibration.copy"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect(inputs[0].len().is_multiple_of(4), || "x must have a multiple of four elements".to_owned())?;
        Ok(vec![inputs[0].clone()])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let length = types.outputs[0].len();
        let params = vec![("length", length.into()), ("rounds", 0u32.into())];
        vec![Variant::single("copy", Grid::Invocations(length / 4), params)]
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        Cost { bytes: 2 * types.outputs[0].bytes(), flops: 0 }
    }
    fn tolerance(&self) -> f32 {
        0.0
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        for (y, x) in y.data.iter_mut().zip(x.data) {
            *y = *x;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        par_chunks(y.data, |first, y| y.copy_from_slice(&x.data[first..first + y.len()]));
    }
}

vector_functions! {
    /// Chains of 8 x 16 elements at once: as many registers as the widest machine has for them.
    fn chains(x: &[f32], a: f32, b: f32, rounds: u32, y: &mut [f32]) {
        for (x, y) in x.chunks(LANES).zip(y.chunks_mut(LANES)) {
            let mut first = [0.0; LANES];
            first[..x.len()].copy_from_slice(x);
            let mut sum = [0.0f32; LANES];
            for group in 0..CHAINS / GROUP {
                let mut z: [[f32; LANES]; GROUP] =
                    std::array::from_fn(|chain| first.map(|x| x + (group * GROUP + chain) as f32));
                for _ in 0..rounds {
                    for z in &mut z {
                        for z in z {
                            *z = z.mul_add(a, b);
                        }
                    }
                }
                for z in z {
                    for (sum, z) in sum.iter_mut().zip(z) {
                        *sum += z;
                    }
                }
            }
            y.copy_from_slice(&sum[..y.len()]);
        }
    }
}

/// Elements of one vector.
const LANES: usize = 16;

/// Chains that the CPU runs at once.
const GROUP: usize = 8;

impl Op for MultiplyAdd {
    fn name(&self) -> &'static str {
        "calibration.multiply_add"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x", "factors"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_shape("factors", inputs[1], &[2])?;
        Ok(vec![inputs[0].clone()])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let length = types.outputs[0].len();
        let params = vec![("length", length.into()), ("rounds", self.rounds.into())];
        vec![Variant::single("multiply_add", Grid::Invocations(length), params)]
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        let length = types.outputs[0].len();
        Cost { bytes: 2 * types.outputs[0].bytes(), flops: 2 * CHAINS * self.rounds as usize * length }
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x, factors], [y]) = operands.split();
        let [a, b] = [0, 1].map(|index| f64::from(factors.data[index]));
        for (y, &x) in y.data.iter_mut().zip(x.data) {
            let chain = |start: f64| (0..self.rounds).fold(start, |z, _| z * a + b);
            *y = (0..CHAINS).map(|index| chain(f64::from(x) + index as f64)).sum::<f64>() as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x, factors], [y]) = operands.split();
        let [a, b] = [factors.data[0], factors.data[1]];
        let rounds = self.rounds;
        par_chunks(y.data, |first, y| chains(&x.data[first..], a, b, rounds, y));
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    vec![copy(1236), multiply_add(333, 5), multiply_add(70, 100)]
}
