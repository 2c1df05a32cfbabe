//! Dynamic thresholding: how far the estimate of x_0 may reach, image by image.

use super::philox::elements_per_sample;
use super::reverse_step::{MAX_SLOTS, StepRow, coefficients_length};
use super::{Case, Fill, Grid, Op, Operands, Types, Variant, expect};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// The `limits` `[N, 2]` of [`reverse_step`](super::reverse_step()): for each image s and 1 / s, where s is the quantile at
/// `ratio` of the absolute values of its estimate of x_0, but at least 1 and at most `max` (Saharia et al. 2022, "Imagen",
/// section 2.3).
///
/// `x` is `[N, H, W, C]`, `output` the network's, and `coefficients` those of the step.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn dynamic_threshold(
    graph: &mut Graph,
    x: ValueId,
    output: ValueId,
    coefficients: ValueId,
    [ratio, max]: [f64; 2],
) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward { ratio, max: max as f32 }, &[output, coefficients, x])
}

#[derive(Debug)]
struct Forward {
    ratio: f64,
    max: f32,
}

impl Forward {
    /// The order statistic below the quantile, counted from 0, and the quantile's share of the way to the next.
    fn rank(&self, elements: usize) -> (usize, f64) {
        let rank = self.ratio * (elements - 1) as f64;
        (rank.floor() as usize, rank.fract())
    }
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "dynamic_threshold.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["output", "coefficients", "x"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["limits"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let (output, coefficients, x) = (inputs[0], inputs[1], inputs[2]);
        expect((0.0..=1.0).contains(&self.ratio), || format!("{} is no quantile", self.ratio))?;
        expect(output.rows() == x.rows(), || "output must have the pixels of x".to_owned())?;
        let fits = coefficients.shape.len() == 2 && coefficients.shape[0] == x.shape[0];
        expect(fits, || "coefficients must be [N, L]".to_owned())?;
        Ok(vec![TensorType::f32([x.shape[0], 2])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let x = &types.inputs[2];
        let elements = elements_per_sample(x);
        let (rank, share) = self.rank(elements);
        let params = vec![
            ("samples", x.shape[0].into()),
            ("elements", elements.into()),
            ("channels", x.channels().into()),
            ("output_channels", types.inputs[0].channels().into()),
            ("coefficients", types.inputs[1].channels().into()),
            ("rank", rank.into()),
            ("share", (share as f32).into()),
            ("max", self.max.into()),
        ];
        vec![Variant::single("forward", Grid::Workgroups(x.shape[0]), params)]
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([output, coefficients, x], [limits]) = operands.split();
        let (elements, channels) = (elements_per_sample(x.ty), x.ty.channels());
        let (rank, share) = self.rank(elements);
        for (n, k) in coefficients.data.chunks(coefficients.ty.channels()).enumerate() {
            let magnitude = |at: usize| {
                let out = output.data[at / channels * output.ty.channels() + at % channels];
                (f64::from(k[0]) * f64::from(x.data[at]) + f64::from(k[1]) * f64::from(out)).abs()
            };
            let mut sorted: Vec<f64> = (n * elements..(n + 1) * elements).map(magnitude).collect();
            sorted.sort_by(f64::total_cmp);
            let (low, high) = (sorted[rank], sorted[(rank + 1).min(elements - 1)]);
            let s = (low + share * (high - low)).clamp(1.0, f64::from(self.max));
            limits.data[2 * n] = s as f32;
            limits.data[2 * n + 1] = (1.0 / s) as f32;
        }
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let mut x = [0.0; 3 + MAX_SLOTS];
    x[0] = 1.0;
    let step = |x_0| StepRow { x_0, sigma: 0.0, log_range: 0.0, x, history: Vec::new() }.to_vec(1);
    let mut cases = Vec::new();
    for (name, shape, outputs, ratio, max) in [
        ("ragged", [3, 5, 3, 3], 1, 0.9, 100.0),
        ("a whole rank, learned variance", [3, 3, 7, 1], 2, 0.95, 100.0),
        ("learned variance", [3, 5, 3, 3], 2, 0.9, 100.0),
        ("all values, capped", [3, 2, 3, 1], 1, 1.0, 2.5),
        ("image", [4, 32, 32, 3], 1, 0.995, 100.0),
    ] {
        let [samples, height, width, channels] = shape;
        // Of the images, one is within the range.
        let factors = [[1.3, -2.8], [0.1, 0.2], [-3.0, 0.5]];
        let row = |n: usize| step(factors[n % 3]);
        let inputs = vec![
            Fill::normal([samples, height, width, outputs * channels]),
            Fill::Floats {
                shape: vec![samples, coefficients_length(1)],
                data: (0..samples).flat_map(row).collect(),
            },
            Fill::normal(shape),
        ];
        cases.push(Case::new(name, Forward { ratio, max }, inputs));
    }
    // Order statistics 12 and 13 of |x_0|: 13 and 14, between which lies the first element of the next sample; a tie; and
    // next to a tie.
    let sorted = (1..=15u8).map(f32::from);
    let tied = [13.5; 2].into_iter().chain((1..=12u8).map(f32::from)).chain([20.0]);
    let beside = [7.0; 12].into_iter().chain([9.0, 11.0, 12.0]);
    let x = Fill::Floats { shape: vec![3, 5, 3, 1], data: sorted.chain(tied).chain(beside).collect() };
    let rows = (0..3).flat_map(|_| step([1.0, 0.0])).collect();
    let rows = Fill::Floats { shape: vec![3, coefficients_length(1)], data: rows };
    cases.push(Case::new(
        "ties",
        Forward { ratio: 0.9, max: 100.0 },
        vec![Fill::normal([3, 5, 3, 1]), rows, x],
    ));
    cases
}
