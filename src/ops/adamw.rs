//! Fused multi-tensor AdamW, and Adam, with clipping and weight averaging.

use rayon::prelude::*;

use super::cpu::vectorized;
use super::{Case, Fill, Grid, Op, Operands, Types, Variant, expect, expect_shape};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// What stays the same from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the denominator.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// The weight decay that Adam has instead: this times the weights is added to the gradient, after the clip.
    pub l2_penalty: f32,
}

/// The packed buffers `[L]` that a step rewrites.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// Weights.
    pub weights: ValueId,
    /// First moment.
    pub first_moment: ValueId,
    /// Second moment.
    pub second_moment: ValueId,
    /// Moving average of the weights.
    pub ema: ValueId,
}

impl AdamW {
    /// Contents of the `schedule` input for step `step`, counted from 1.
    ///
    /// `(learning rate, 1 / (1 - beta1^t), 1 / sqrt(1 - beta2^t), EMA decay)`
    pub fn schedule(&self, step: u64, learning_rate: f64, ema_decay: f64) -> [f32; 4] {
        let t = step as f64;
        let correction1 = 1.0 - f64::from(self.beta1).powf(t);
        let correction2 = 1.0 - f64::from(self.beta2).powf(t);
        [
            learning_rate as f32,
            (1.0 / correction1) as f32,
            (1.0 / correction2.sqrt()) as f32,
            ema_decay as f32,
        ]
    }

    /// Appends one optimiser step: packed `gradients` `[L]`, `norm_and_scale` `[2]` of the clip, `schedule` `[4]`.
    ///
    /// A scale of 0 skips the step: nothing changes.
    ///
    /// # Errors
    /// [`GraphError::Shape`] unless all buffers have the same length, a multiple of 4.
    pub fn step(
        self,
        graph: &mut Graph,
        gradients: ValueId,
        norm_and_scale: ValueId,
        schedule: ValueId,
        state: State,
    ) -> Result<(), GraphError> {
        let targets = [state.weights, state.first_moment, state.second_moment, state.ema];
        graph.update(Step(self), &[gradients, norm_and_scale, schedule], &targets)
    }
}

#[derive(Debug)]
struct Step(AdamW);

/// Elements of one task on the CPU.
const CHUNK: usize = 16 * 1024;

impl Op for Step {
    fn name(&self) -> &'static str {
        "adamw.step"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["gradients", "norm_and_scale", "schedule"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["weights", "first_moment", "second_moment", "ema"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let length = inputs[0].len();
        expect(length.is_multiple_of(4), || "the number of gradients must be a multiple of 4".to_owned())?;
        expect_shape("norm_and_scale", inputs[1], &[2])?;
        expect_shape("schedule", inputs[2], &[4])?;
        Ok(vec![inputs[0].clone(); 4])
    }
    fn updates_in_place(&self) -> bool {
        true
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let length = types.inputs[0].len();
        let AdamW { beta1, beta2, eps, weight_decay, l2_penalty } = self.0;
        let params = vec![
            ("length", length.into()),
            ("beta1", beta1.into()),
            ("beta2", beta2.into()),
            ("eps", eps.into()),
            ("weight_decay", weight_decay.into()),
            ("l2_penalty", l2_penalty.into()),
        ];
        vec![Variant::single("step", Grid::Invocations(length / 4), params)]
    }
    fn tolerance(&self) -> f32 {
        3e-6
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([gradients, norm_and_scale, schedule], [w, m, v, ema]) = operands.split();
        let [rate, c1, c2, decay] = std::array::from_fn(|i| f64::from(schedule.data[i]));
        let (b1, b2) = (f64::from(self.0.beta1), f64::from(self.0.beta2));
        if norm_and_scale.data[1] == 0.0 {
            return;
        }
        for i in 0..w.data.len() {
            let clipped = f64::from(gradients.data[i]) * f64::from(norm_and_scale.data[1]);
            let g = clipped + f64::from(self.0.l2_penalty) * f64::from(w.data[i]);
            let first = b1 * f64::from(m.data[i]) + (1.0 - b1) * g;
            let second = b2 * f64::from(v.data[i]) + (1.0 - b2) * g * g;
            let decayed = f64::from(w.data[i]) * (1.0 - rate * f64::from(self.0.weight_decay));
            let weight = decayed - rate * (first * c1) / (second.sqrt() * c2 + f64::from(self.0.eps));
            m.data[i] = first as f32;
            v.data[i] = second as f32;
            w.data[i] = weight as f32;
            ema.data[i] = (decay * f64::from(ema.data[i]) + (1.0 - decay) * weight) as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([gradients, norm_and_scale, schedule], [w, m, v, ema]) = operands.split();
        let [rate, c1, c2, decay] = std::array::from_fn(|i| schedule.data[i]);
        let scale = norm_and_scale.data[1];
        if scale == 0.0 {
            return;
        }
        let AdamW { beta1, beta2, eps, weight_decay, l2_penalty } = self.0;
        let chunks = (w.data.par_chunks_mut(CHUNK))
            .zip(m.data.par_chunks_mut(CHUNK))
            .zip(v.data.par_chunks_mut(CHUNK))
            .zip(ema.data.par_chunks_mut(CHUNK))
            .zip(gradients.data.par_chunks(CHUNK));
        chunks.for_each(|((((w, m), v), ema), gradients)| {
            vectorized(|| {
                for ((((w, m), v), ema), &g) in w.iter_mut().zip(m).zip(v).zip(ema).zip(gradients) {
                    let g = g * scale + l2_penalty * *w;
                    *m = beta1 * *m + (1.0 - beta1) * g;
                    *v = beta2 * *v + (1.0 - beta2) * g * g;
                    *w = *w * (1.0 - rate * weight_decay) - rate * (*m * c1) / (v.sqrt() * c2 + eps);
                    *ema = decay * *ema + (1.0 - decay) * *w;
                }
            });
        });
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let adamw = AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, l2_penalty: 0.0 };
    let clip = [4.0, 0.25];
    [
        ("less than a workgroup", 20, 1, clip, adamw),
        ("an eps that counts", 20, 3, clip, AdamW { eps: 0.1, ..adamw }),
        ("Adam", 20, 3, clip, AdamW { weight_decay: 0.0, l2_penalty: 0.3, ..adamw }),
        ("skipped", 20, 1, [f32::INFINITY, 0.0], adamw),
        ("U-Net S", 701_345 / 4 * 4, 7, clip, adamw),
    ]
    .into_iter()
    .map(|(name, length, step, clip, adamw)| {
        let positive = Fill::Uniform { shape: vec![length], low: 0.01, high: 2.0 };
        let schedule = adamw.schedule(step, 1e-2, 0.9);
        let normal = || Fill::normal([length]);
        let inputs = vec![normal(), Fill::floats(clip), Fill::floats(schedule)];
        let targets = vec![normal(), normal(), positive, normal()];
        Case { targets, ..Case::new(name, Step(adamw), inputs) }
    })
    .collect()
}
