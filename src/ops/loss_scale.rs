//! Dynamic loss scaling: the clip that takes the scale out of the gradients, and the scale's own rule.

use serde::{Deserialize, Serialize};

use super::{Case, Fill, Grid, Op, Operands, Types, Variant, Word, expect_shape};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// Where loss scaling stands; a tensor `[3]` on the device.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// The gradient of the loss with respect to itself; a power of two.
    pub scale: f32,
    /// Steps in a row without overflow, since the scale changed.
    pub finite_steps: f32,
    /// Steps in all that were skipped, because a gradient overflowed.
    pub skipped_steps: f32,
}

impl Default for LossScale {
    /// The scale that PyTorch's GradScaler starts with.
    fn default() -> Self {
        Self { scale: 65_536.0, finite_steps: 0.0, skipped_steps: 0.0 }
    }
}

impl LossScale {
    /// As the tensor holds it.
    pub fn to_array(self) -> [f32; 3] {
        [self.scale, self.finite_steps, self.skipped_steps]
    }

    /// From the tensor's elements.
    pub fn from_array([scale, finite_steps, skipped_steps]: [f32; 3]) -> Self {
        Self { scale, finite_steps, skipped_steps }
    }
}

/// Steps without overflow after which the scale doubles.
const GROWTH_INTERVAL: u32 = 2000;

/// The norm of the gradients `[2]`, and the factor that unscales them and keeps their norm within `max_norm`: 0 where one
/// of them overflowed, which [`super::adamw`] takes for a step to skip.
///
/// `sum` `[1]` is the sum of squares of the gradients as they are, `scaler` `[3]` a [`LossScale`].
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn clip(graph: &mut Graph, sum: ValueId, scaler: ValueId, max_norm: f32) -> Result<ValueId, GraphError> {
    graph.apply_one(Clip { max_norm }, &[sum, scaler])
}

/// Halves the scale in `scaler` `[3]` if `norm_and_scale` `[2]` of [`clip`] says that the step is skipped, and doubles it
/// after 2000 others in a row.
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn update(graph: &mut Graph, norm_and_scale: ValueId, scaler: ValueId) -> Result<(), GraphError> {
    graph.update(Update, &[norm_and_scale], &[scaler])
}

#[derive(Debug)]
struct Clip {
    max_norm: f32,
}

#[derive(Debug)]
struct Update;

fn params(max_norm: f32) -> Vec<(&'static str, Word)> {
    vec![("max_norm", max_norm.into()), ("growth_interval", GROWTH_INTERVAL.into())]
}

impl Op for Clip {
    fn name(&self) -> &'static str {
        "loss_scale.clip"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["sum", "scaler"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["norm_and_scale"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_shape("sum", inputs[0], &[1])?;
        expect_shape("scaler", inputs[1], &[3])?;
        Ok(vec![TensorType::f32([2])])
    }
    fn variants(&self, _types: Types<'_>) -> Vec<Variant> {
        vec![Variant::single("clip", Grid::Workgroups(1), params(self.max_norm))]
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([sum, scaler], [norm_and_scale]) = operands.split();
        let (sum, scale) = (f64::from(sum.data[0]), f64::from(scaler.data[0]));
        let norm = sum.sqrt() / scale;
        norm_and_scale.data[0] = norm as f32;
        norm_and_scale.data[1] = match sum.is_finite() {
            true => ((f64::from(self.max_norm) / (norm + 1e-6)).min(1.0) / scale) as f32,
            false => 0.0,
        };
    }
}

impl Op for Update {
    fn name(&self) -> &'static str {
        "loss_scale.update"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["clipped"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["state"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_shape("clipped", inputs[0], &[2])?;
        Ok(vec![TensorType::f32([3])])
    }
    fn updates_in_place(&self) -> bool {
        true
    }
    fn variants(&self, _types: Types<'_>) -> Vec<Variant> {
        vec![Variant::single("update", Grid::Workgroups(1), params(0.0))]
    }
    fn tolerance(&self) -> f32 {
        0.0
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([clipped], [state]) = operands.split();
        let mut next = LossScale::from_array([state.data[0], state.data[1], state.data[2]]);
        if clipped.data[1] == 0.0 {
            next = LossScale {
                scale: next.scale / 2.0,
                finite_steps: 0.0,
                skipped_steps: next.skipped_steps + 1.0,
            };
        } else if next.finite_steps + 1.0 >= GROWTH_INTERVAL as f32 {
            next = LossScale { scale: (2.0 * next.scale).min(1e38), finite_steps: 0.0, ..next };
        } else {
            next.finite_steps += 1.0;
        }
        state.data.copy_from_slice(&next.to_array());
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let clip = |name: &str, sum| {
        let inputs = vec![Fill::floats([sum]), Fill::floats([8.0, 3.0, 1.0])];
        Case::new(name, Clip { max_norm: 1.0 }, inputs)
    };
    let update = |name: &str, clipped: [f32; 2], state: [f32; 3]| Case {
        targets: vec![Fill::floats(state)],
        ..Case::new(name, Update, vec![Fill::floats(clipped)])
    };
    vec![
        clip("clipped", 30.0 * 64.0),
        clip("within the norm", 0.2),
        clip("no gradient", 0.0),
        clip("overflow", f32::INFINITY),
        clip("no number", f32::NAN),
        clip("almost an overflow", f32::MAX),
        update("a step like others", [0.5, 0.125], [1024.0, 7.0, 3.0]),
        update("the last step before growth", [0.5, 0.125], [1024.0, 1999.0, 3.0]),
        update("overflow", [f32::INFINITY, 0.0], [1024.0, 7.0, 3.0]),
    ]
}
