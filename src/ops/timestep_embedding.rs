//! Sinusoidal embedding of timesteps.

use super::{Case, Fill, Grid, Op, Operands, Types, Variant, expect};
use crate::graph::{DType, Graph, GraphError, TensorType, ValueId};

/// Sines and cosines of `timesteps` `[N]` at `channels / 2` frequencies each: `[N, channels]`, as diffusers'
/// `get_timestep_embedding` with `max_period` 10000 and `scale` 1.
///
/// # Errors
/// [`GraphError::Shape`] if `timesteps` is not `[N]`, there are more than 2,048 channels, or half of the channels is
/// not more than `freq_shift`.
pub fn timestep_embedding(
    graph: &mut Graph,
    timesteps: ValueId,
    channels: usize,
    flip_sin_to_cos: bool,
    freq_shift: f32,
) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward { channels, flip_sin_to_cos, freq_shift }, &[timesteps])
}

#[derive(Debug)]
struct Forward {
    channels: usize,
    flip_sin_to_cos: bool,
    freq_shift: f32,
}

/// Bits of a frequency's number that the kernel looks at.
const POWERS: [&str; 10] = [
    "power_0", "power_1", "power_2", "power_3", "power_4", "power_5", "power_6", "power_7", "power_8",
    "power_9",
];

/// `value` in `[0, 1)` as a fraction of 2^32.
fn fraction(value: f64) -> u32 {
    // A cast from float saturates.
    (value * 4_294_967_296.0).round() as u32
}

impl Forward {
    fn half(&self) -> usize {
        self.channels / 2
    }

    /// Frequency `i`, in radians per timestep.
    fn frequency(&self, i: f64) -> f64 {
        (-10_000_f64.ln() * i / (self.half() as f64 - f64::from(self.freq_shift))).exp()
    }
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "timestep_embedding.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["timesteps"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let timesteps = inputs[0];
        let fits = timesteps.shape.len() == 1 && timesteps.dtype == DType::F32;
        expect(fits, || "timesteps must be f32 [N]".to_owned())?;
        let limit = 2 << POWERS.len();
        expect(self.channels <= limit, || format!("{} channels are more than {limit}", self.channels))?;
        expect(self.half() as f32 > self.freq_shift, || {
            format!("half of {} channels is not more than freq_shift {}", self.channels, self.freq_shift)
        })?;
        Ok(vec![TensorType::f32([timesteps.len(), self.channels])])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let mut params = vec![
            ("samples", types.inputs[0].len().into()),
            ("channels", self.channels.into()),
            ("half", self.half().into()),
            ("cos_first", self.flip_sin_to_cos.into()),
            ("turns", fraction(1.0 / std::f64::consts::TAU).into()),
        ];
        for (bit, name) in POWERS.into_iter().enumerate() {
            params.push((name, fraction(self.frequency(f64::from(1_u32 << bit))).into()));
        }
        vec![Variant::single("forward", Grid::Invocations(types.outputs[0].len()), params)]
    }
    fn tolerance(&self) -> f32 {
        1e-5
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([timesteps], [y]) = operands.split();
        let half = self.half();
        for (n, &t) in timesteps.data.iter().enumerate() {
            for c in 0..self.channels {
                let angle = f64::from(t) * self.frequency((c % half) as f64);
                let is_cos = (c >= half) != self.flip_sin_to_cos;
                y.data[n * self.channels + c] = match c {
                    c if c >= 2 * half => 0.0,
                    _ if is_cos => angle.cos() as f32,
                    _ => angle.sin() as f32,
                };
            }
        }
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let op = |channels, flip_sin_to_cos, freq_shift| Forward { channels, flip_sin_to_cos, freq_shift };
    let steps = || Fill::floats([0.0, 1.0, 2.0, 499.0, 500.0, 997.0, 999.0, 1000.0]);
    vec![
        Case::new("odd channels", op(9, false, 1.0), vec![steps()]),
        Case::new("cosine first", op(10, true, 0.0), vec![steps()]),
        Case::new("two channels", op(2, true, 0.0), vec![steps()]),
        Case::new(
            "negative and fractional",
            op(32, false, 1.0),
            vec![Fill::floats([-3.0, 0.25, -0.5, 811.625])],
        ),
        Case::new("ddpm-cifar10-32", op(128, false, 1.0), vec![steps()]),
        Case::new("many channels", op(1024, true, 0.0), vec![steps()]),
        Case::new("most channels", op(2048, true, 0.0), vec![steps()]),
    ]
}
