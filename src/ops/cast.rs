//! Conversion of activations between 32-bit and 16-bit floats, and of floats to whole numbers.

use super::cpu::par_chunks;
use super::{Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, expect};
use crate::graph::{DType, Graph, GraphError, TensorType, ValueId};

/// The floats of `x`, of any shape, stored as `dtype`; `x` itself where it is stored so already.
///
/// # Errors
/// [`GraphError::Shape`] for integers.
pub fn cast(graph: &mut Graph, x: ValueId, dtype: DType) -> Result<ValueId, GraphError> {
    match (graph.ty(x).dtype, dtype) {
        (from, to) if from == to => Ok(x),
        (_, DType::F16) => graph.apply_one(ToF16, &[x]),
        (_, DType::F32 | DType::U32) => graph.apply_one(ToF32 { to: dtype }, &[x]),
    }
}

/// The whole numbers nearest to f32 `x`, of any shape, as u32; what is below 0 becomes 0. There is no gradient.
///
/// # Errors
/// [`GraphError::Shape`] for other element types.
pub fn to_whole(graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    graph.apply_one(ToU32, &[x])
}

#[derive(Debug)]
struct ToU32;

#[derive(Debug)]
struct ToF16;

#[derive(Debug)]
struct ToF32 {
    /// F32 in a call that can be made.
    to: DType,
}

fn variants(entry: &'static str, types: Types<'_>) -> Vec<Variant> {
    let length = types.outputs[0].len();
    vec![Variant::single(entry, Grid::Invocations(length), vec![("length", length.into())])]
}

/// The executor rounds whatever is stored as f16, so the CPU kernels of both passes copy.
fn copy(operands: Operands<'_>) {
    let ([x], [y]) = operands.split();
    par_chunks(y.data, |first, y| y.copy_from_slice(&x.data[first..][..y.len()]));
}

impl Op for ToF16 {
    fn name(&self) -> &'static str {
        "cast.to_f16"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y_f16"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect(inputs[0].dtype == DType::F32, || "x must be f32".to_owned())?;
        Ok(vec![TensorType::f16(inputs[0].shape.clone())])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let d_y = call.d_output(graph, self)?;
        Ok(vec![Some(cast(graph, d_y, DType::F32)?)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        variants("to_f16", types)
    }
    fn reference(&self, operands: Operands<'_>) {
        copy(operands);
    }
}

impl Op for ToF32 {
    fn name(&self) -> &'static str {
        "cast.to_f32"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x_f16"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let fits = inputs[0].dtype == DType::F16 && self.to == DType::F32;
        expect(fits, || "floats cannot be cast to integers, nor integers to floats".to_owned())?;
        Ok(vec![TensorType::f32(inputs[0].shape.clone())])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let d_y = call.d_output(graph, self)?;
        Ok(vec![Some(cast(graph, d_y, DType::F16)?)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        variants("to_f32", types)
    }
    fn tolerance(&self) -> f32 {
        0.0
    }
    fn reference(&self, operands: Operands<'_>) {
        copy(operands);
    }
}

impl Op for ToU32 {
    fn name(&self) -> &'static str {
        "cast.to_u32"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y_u32"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect(inputs[0].dtype == DType::F32, || "x must be f32".to_owned())?;
        Ok(vec![TensorType::u32(inputs[0].shape.clone())])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        variants("to_u32", types)
    }
    fn tolerance(&self) -> f32 {
        0.0
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        for (y, x) in y.data.iter_mut().zip(x.data) {
            // A cast from float saturates, and NaN becomes 0.
            *y = f32::from_bits((x + 0.5).floor() as u32);
        }
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let wide = || Fill::Normal { shape: vec![3, 5, 7], mean: 0.0, std: 1000.0 };
    let image = || Fill::normal([4, 16, 8, 64]);
    let half = |fill| Fill::F16(Box::new(fill));
    let back = || ToF32 { to: DType::F32 };
    vec![
        Case::new("ragged", ToF16, vec![wide()]),
        // Loss scaling needs what is beyond the range to become infinite, not the largest number.
        Case::new("beyond the range", ToF16, vec![Fill::floats([65504.0, 7e4, -7e4, 1e30, -1e30, 1.0])]),
        Case::new("image", ToF16, vec![image()]),
        Case::new("ragged", back(), vec![half(wide())]),
        Case::new("image", back(), vec![half(image())]),
        Case::new("timesteps", ToU32, vec![Fill::floats([0.0, 1.0, 998.9999, 999.0, -3.0, 0.49, 7.51])]),
    ]
}
