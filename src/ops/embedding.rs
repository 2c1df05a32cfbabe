//! Rows of a table, chosen by labels.

use super::cpu::par_rows;
use super::{Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, Word, expect, expect_shape};
use crate::graph::{DType, Graph, GraphError, TensorType, ValueId};

/// Row `labels[n]` of `table` for each sample: `[K, C]` and u32 `[N]` give `[N, C]`.
///
/// The host checks that labels are less than K; a kernel takes a larger one for the last row.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn embedding(graph: &mut Graph, table: ValueId, labels: ValueId) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward, &[table, labels])
}

#[derive(Debug)]
struct Forward;

#[derive(Debug)]
struct Backward {
    rows: usize,
}

fn expect_labels(ty: &TensorType) -> Result<usize, String> {
    expect(ty.shape.len() == 1 && ty.dtype == DType::U32, || "labels must be u32 [N]".to_owned())?;
    Ok(ty.len())
}

fn params(samples: usize, table: &TensorType) -> Vec<(&'static str, Word)> {
    let [rows, channels] = super::dims(table);
    vec![("samples", samples.into()), ("channels", channels.into()), ("rows", rows.into())]
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "embedding.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["table", "labels"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let table = inputs[0];
        expect(table.shape.len() == 2 && !table.is_empty(), || "table must be [K, C]".to_owned())?;
        Ok(vec![TensorType::f32([expect_labels(inputs[1])?, table.shape[1]])])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        if call.needs[1] {
            return Err(GraphError::NoGradient { path: graph.path(), op: self.name() });
        }
        let d_y = call.d_output(graph, self)?;
        let rows = graph.ty(call.inputs[0]).shape[0];
        Ok(vec![Some(graph.apply_one(Backward { rows }, &[call.inputs[1], d_y])?), None])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let params = params(types.inputs[1].len(), &types.inputs[0]);
        vec![Variant::single("forward", Grid::Invocations(types.outputs[0].len()), params)]
    }
    fn tolerance(&self) -> f32 {
        0.0
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([table, labels], [y]) = operands.split();
        let [rows, c] = super::dims(table.ty);
        for (n, &label) in labels.u32().iter().enumerate() {
            let row = (label as usize).min(rows - 1);
            for c_i in 0..c {
                y.data[n * c + c_i] = table.data[row * c + c_i];
            }
        }
    }
}

impl Op for Backward {
    fn name(&self) -> &'static str {
        "embedding.backward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["labels", "d_y"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_table"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let samples = expect_labels(inputs[0])?;
        let channels = inputs[1].channels();
        expect_shape("d_y", inputs[1], &[samples, channels])?;
        Ok(vec![TensorType::f32([self.rows, channels])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let d_table = &types.outputs[0];
        let params = params(types.inputs[0].len(), d_table);
        vec![Variant::single("backward", Grid::Invocations(d_table.len()), params)]
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([labels, d_y], [d_table]) = operands.split();
        let [rows, c] = super::dims(d_table.ty);
        for row in 0..rows {
            for c_i in 0..c {
                let mut sum = 0.0;
                for (n, &label) in labels.u32().iter().enumerate() {
                    if (label as usize).min(rows - 1) == row {
                        sum += f64::from(d_y.data[n * c + c_i]);
                    }
                }
                d_table.data[row * c + c_i] = sum as f32;
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([labels, d_y], [d_table]) = operands.split();
        let [k, c] = super::dims(d_table.ty);
        par_rows(d_table.data, c, |first, rows| {
            rows.fill(0.0);
            for (&label, d_y) in labels.u32().iter().zip(d_y.data.chunks_exact(c)) {
                let row = (label as usize).min(k - 1).checked_sub(first);
                if let Some(sums) = row.and_then(|row| rows.get_mut(row * c..(row + 1) * c)) {
                    for (sum, d_y) in sums.iter_mut().zip(d_y) {
                        *sum += d_y;
                    }
                }
            }
        });
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let many = || Fill::integers((0..128).map(|n| n * n % 10).collect::<Vec<u32>>());
    let odd = || Fill::integers([2, 0, 2, 4, 2]);
    // Out of range: never reached through the host, and yet a kernel must not read beyond the table.
    let bad = || Fill::integers([5, u32::MAX, 1]);
    vec![
        Case::new("repeated labels", Forward, vec![Fill::normal([5, 7]), odd()]),
        Case::new("labels out of range", Forward, vec![Fill::normal([5, 7]), bad()]),
        Case::new("ten classes", Forward, vec![Fill::normal([10, 512]), many()]),
        Case::new("repeated labels", Backward { rows: 5 }, vec![odd(), Fill::normal([5, 7])]),
        Case::new("labels out of range", Backward { rows: 5 }, vec![bad(), Fill::normal([3, 7])]),
        Case::new("ten classes", Backward { rows: 10 }, vec![many(), Fill::normal([128, 512])]),
    ]
}
