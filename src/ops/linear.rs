//! Fully connected layer over the last axis.

use rayon::prelude::*;

use super::cpu::{Matrix, column_sums, gemm};
use super::product::Product;
use super::{
    Case, Cost, Fill, GradientCall, Input, Op, Operands, Output, Types, Variant, Word, dims, expect,
    expect_shape,
};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// `y = x weight^T + bias` for `x` `[..., I]`, `weight` `[O, I]` and `bias` `[O]`; `y = x weight^T` without a bias.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn linear(
    graph: &mut Graph,
    x: ValueId,
    weight: ValueId,
    bias: impl Into<Option<ValueId>>,
) -> Result<ValueId, GraphError> {
    match bias.into() {
        Some(bias) => graph.apply_one(Forward { bias: true }, &[x, weight, bias]),
        None => graph.apply_one(Forward { bias: false }, &[x, weight]),
    }
}

#[derive(Debug)]
struct Forward {
    bias: bool,
}

#[derive(Debug)]
struct BackwardInput;

#[derive(Debug)]
struct BackwardWeight;

/// Sizes of `[M, I] x [O, I]^T`.
#[derive(Clone, Copy)]
struct Sizes {
    rows: usize,
    inputs: usize,
    outputs: usize,
}

/// Rows of one matrix product of the CPU kernels.
const BLOCK: usize = 256;

impl Sizes {
    fn new(x_or_d_x: &TensorType, outputs: usize) -> Self {
        Self { rows: x_or_d_x.rows(), inputs: x_or_d_x.channels(), outputs }
    }

    /// The matrix product that makes y.
    fn forward_product(&self) -> Product {
        Product { rows: self.rows, columns: self.outputs, taps: 1, depth: self.inputs }
    }

    /// The matrix product that makes d_x.
    fn backward_input_product(&self) -> Product {
        Product { columns: self.inputs, depth: self.outputs, ..self.forward_product() }
    }

    fn params(&self) -> Vec<(&'static str, Word)> {
        let mut params = vec![
            ("rows", self.rows.into()),
            ("in_features", self.inputs.into()),
            ("out_features", self.outputs.into()),
        ];
        params.extend(self.forward_product().split_params());
        params
    }

    fn cost(&self) -> Cost {
        let Self { rows, inputs, outputs } = *self;
        Cost { bytes: 4 * (rows * (inputs + outputs) + inputs * outputs), flops: 2 * rows * inputs * outputs }
    }
}

impl Forward {
    /// x, weight, bias if there is one, and y.
    fn split<'a>(&self, operands: Operands<'a>) -> (Input<'a>, Input<'a>, Option<Input<'a>>, Output<'a>) {
        if self.bias {
            let ([x, weight, bias], [y]) = operands.split();
            (x, weight, Some(bias), y)
        } else {
            let ([x, weight], [y]) = operands.split();
            (x, weight, None, y)
        }
    }
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        if self.bias { "linear.forward" } else { "linear.forward_unbiased" }
    }
    fn inputs(&self) -> &'static [&'static str] {
        if self.bias { &["x", "weight", "bias"] } else { &["x", "weight"] }
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let outputs = inputs[1].shape.first().copied().unwrap_or(0);
        expect_shape("weight", inputs[1], &[outputs, inputs[0].channels()])?;
        if self.bias {
            expect_shape("bias", inputs[2], &[outputs])?;
        }
        let mut shape = inputs[0].shape.clone();
        shape.pop();
        shape.push(outputs);
        Ok(vec![inputs[0].with_shape(shape)])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let d_y = call.d_output(graph, self)?;
        let (x, weight) = (call.inputs[0], call.inputs[1]);
        let (mut d_x, mut d_weight, mut d_bias) = (None, None, None);
        if call.needs[1..].contains(&true) {
            // The sum that would be a bias's gradient comes along for next to nothing.
            let grads = graph.apply(BackwardWeight, &[x, d_y])?;
            (d_weight, d_bias) = (Some(grads[0]), Some(grads[1]));
        }
        if call.needs[0] {
            d_x = Some(graph.apply_one(BackwardInput, &[d_y, weight])?);
        }
        let mut gradients = vec![d_x, d_weight, d_bias];
        gradients.truncate(call.inputs.len());
        Ok(gradients)
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let sizes = Sizes::new(&types.inputs[0], types.outputs[0].channels());
        match self.bias {
            true => sizes.forward_product().forward(&sizes.params()),
            false => sizes.forward_product().forward_unbiased(&sizes.params()),
        }
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        Sizes::new(&types.inputs[0], types.outputs[0].channels()).cost()
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let (x, weight, bias, y) = self.split(operands);
        let Sizes { rows, inputs, outputs } = Sizes::new(x.ty, y.ty.channels());
        for m in 0..rows {
            for o in 0..outputs {
                let product: f64 = (0..inputs)
                    .map(|i| f64::from(x.data[m * inputs + i]) * f64::from(weight.data[o * inputs + i]))
                    .sum();
                let bias = bias.map_or(0.0, |bias| f64::from(bias.data[o]));
                y.data[m * outputs + o] = (product + bias) as f32;
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let (x, weight, bias, y) = self.split(operands);
        let Sizes { inputs, outputs, .. } = Sizes::new(x.ty, y.ty.channels());
        let weight = Matrix::new(weight.data, outputs, inputs).t();
        y.data.par_chunks_mut(BLOCK * outputs).enumerate().for_each(|(block, y)| {
            let x = Matrix::new(&x.data[block * BLOCK * inputs..], y.len() / outputs, inputs);
            match bias {
                Some(bias) => {
                    y.chunks_exact_mut(outputs).for_each(|row| row.copy_from_slice(bias.data));
                    gemm(1.0, x, weight, 1.0, y, outputs);
                }
                None => gemm(1.0, x, weight, 0.0, y, outputs),
            }
        });
    }
}

impl Op for BackwardInput {
    fn name(&self) -> &'static str {
        "linear.backward_input"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["d_y", "weight"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_x"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [_, features] = dims(inputs[1]);
        expect_shape("weight", inputs[1], &[inputs[0].channels(), features])?;
        let mut shape = inputs[0].shape.clone();
        shape.pop();
        shape.push(features);
        Ok(vec![inputs[0].with_shape(shape)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let sizes = Sizes::new(&types.outputs[0], types.inputs[0].channels());
        sizes.backward_input_product().backward_input(&sizes.params())
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        Sizes::new(&types.outputs[0], types.inputs[0].channels()).cost()
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([d_y, weight], [d_x]) = operands.split();
        let Sizes { rows, inputs, outputs } = Sizes::new(d_x.ty, d_y.ty.channels());
        for m in 0..rows {
            for i in 0..inputs {
                let sum: f64 = (0..outputs)
                    .map(|o| f64::from(d_y.data[m * outputs + o]) * f64::from(weight.data[o * inputs + i]))
                    .sum();
                d_x.data[m * inputs + i] = sum as f32;
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([d_y, weight], [d_x]) = operands.split();
        let Sizes { inputs, outputs, .. } = Sizes::new(d_x.ty, d_y.ty.channels());
        let weight = Matrix::new(weight.data, outputs, inputs);
        d_x.data.par_chunks_mut(BLOCK * inputs).enumerate().for_each(|(block, d_x)| {
            let d_y = Matrix::new(&d_y.data[block * BLOCK * outputs..], d_x.len() / inputs, outputs);
            gemm(1.0, d_y, weight, 0.0, d_x, inputs);
        });
    }
}

impl Op for BackwardWeight {
    fn name(&self) -> &'static str {
        "linear.backward_weight"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x", "d_y"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_weight", "d_bias"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let fits = inputs[0].rows() == inputs[1].rows() && inputs[0].dtype == inputs[1].dtype;
        expect(fits, || "x and d_y must have as many rows, and the same element type".to_owned())?;
        let outputs = inputs[1].channels();
        Ok(vec![TensorType::f32([outputs, inputs[0].channels()]), TensorType::f32([outputs])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let sizes = Sizes::new(&types.inputs[0], types.inputs[1].channels());
        sizes.forward_product().backward_weight(&sizes.params())
    }
    fn cost(&self, types: Types<'_>) -> Cost {
        Sizes::new(&types.inputs[0], types.inputs[1].channels()).cost()
    }
    fn tolerance(&self) -> f32 {
        2e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x, d_y], [d_weight, d_bias]) = operands.split();
        let Sizes { rows, inputs, outputs } = Sizes::new(x.ty, d_y.ty.channels());
        for o in 0..outputs {
            for i in 0..inputs {
                let sum: f64 = (0..rows)
                    .map(|m| f64::from(d_y.data[m * outputs + o]) * f64::from(x.data[m * inputs + i]))
                    .sum();
                d_weight.data[o * inputs + i] = sum as f32;
            }
            d_bias.data[o] = (0..rows).map(|m| f64::from(d_y.data[m * outputs + o])).sum::<f64>() as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x, d_y], [d_weight, d_bias]) = operands.split();
        let Sizes { rows, inputs, outputs } = Sizes::new(x.ty, d_y.ty.channels());
        // Output features are independent: the order of summation is the same for any number of threads.
        let block = outputs.div_ceil(4).max(16);
        d_weight.data.par_chunks_mut(block * inputs).enumerate().for_each(|(index, d_weight)| {
            let d_y = &d_y.data[index * block..];
            let d_y = Matrix::strided(d_y, rows, d_weight.len() / inputs, outputs).t();
            gemm(1.0, d_y, Matrix::new(x.data, rows, inputs), 0.0, d_weight, inputs);
        });
        column_sums(d_y.data, d_bias.data);
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, rows, inputs, outputs) in [
        ("ragged", vec![3, 5], 7, 9),
        ("tiles, rows not a multiple of 4", vec![2, 3, 5], 24, 16),
        ("one row", vec![1], 128, 512),
        ("time embedding", vec![16], 128, 512),
        ("attention projection", vec![4, 16, 16], 64, 64),
        ("more rows than one split", vec![3, 31, 33], 8, 8),
        ("fours, several tiles each way", vec![69], 132, 140),
    ] {
        let shape = |features: usize| [rows.as_slice(), &[features]].concat();
        let weight = || Fill::Normal { shape: vec![outputs, inputs], mean: 0.0, std: 0.1 };
        let (x, d_y) = (Fill::normal(shape(inputs)), Fill::normal(shape(outputs)));
        let biased = vec![x.clone(), weight(), Fill::normal([outputs])];
        cases.push(Case::new(name, Forward { bias: false }, biased[..2].to_vec()));
        cases.push(Case::new(name, Forward { bias: true }, biased));
        cases.push(Case::new(name, BackwardInput, vec![d_y.clone(), weight()]));
        cases.push(Case::new(name, BackwardWeight, vec![x, d_y]));
    }
    cases
}
