//! Gaussian error linear unit, in the three forms that networks have.

use super::cpu::{exp, par_chunks, sigmoid, vector_functions};
use super::{Case, Fill, GradientCall, Grid, Op, Operands, Pass, Requirements, Types, Variant, expect_like};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// Which function is called GELU (Hendrycks and Gimpel 2016).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// `x Phi(x)` by the error function: PyTorch's default, diffusers' `gelu`.
    Erf,
    /// `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`: diffusers' `gelu-approximate`.
    Tanh,
    /// `x sigmoid(1.702 x)`: CLIP's `quick_gelu`.
    Quick,
}

/// GELU of every element, for a tensor of any shape.
///
/// # Errors
/// None: any shape will do. The signature is the same for all ops.
pub fn gelu(graph: &mut Graph, x: ValueId, form: Gelu) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward(form), &[x])
}

#[derive(Debug)]
struct Forward(Gelu);

#[derive(Debug)]
struct Backward(Gelu);

/// `2 sqrt(2 / pi)`, `0.044715` and `1.702` of the forms that are a sigmoid of something.
const SQRT_8_OVER_PI: f64 = 1.595_769_121_605_730_8;
const CUBIC: f64 = 0.044_715;
const QUICK: f64 = 1.702;

/// `1 / sqrt(2 pi)`.
const DENSITY_AT_ZERO: f64 = 0.398_942_280_401_432_7;

/// The normal distribution function and its density at `x`; the fit is the one of `kernels/shared/gelu.wgsl`, and
/// `tests/primitives.rs` says how good it is.
#[inline(always)]
fn distribution_and_density(x: f32) -> (f32, f32) {
    let t = x.abs().min(14.0);
    let bell = exp(-0.5 * t * t);
    let u = 1.0 / 0.35_f32.mul_add(t, 1.0);
    let p = (-0.029_679_522_f32).mul_add(u, 0.146_545_83);
    let p = p.mul_add(u, -0.260_961_23);
    let p = p.mul_add(u, 0.165_051);
    let p = p.mul_add(u, -0.027_046_608);
    let p = p.mul_add(u, 0.107_114_59);
    let p = p.mul_add(u, 0.119_444_914);
    let p = p.mul_add(u, 0.139_912_3);
    let p = p.mul_add(u, 0.139_618_71);
    let tail = bell * u * p;
    (if x < 0.0 { tail } else { 1.0 - tail }, DENSITY_AT_ZERO as f32 * bell)
}

/// The erf form and its derivative.
#[inline(always)]
pub(super) fn value_and_slope(x: f32) -> (f32, f32) {
    let (distribution, density) = distribution_and_density(x);
    (x * distribution, x.clamp(-14.0, 14.0).mul_add(density, distribution))
}

/// `x sigmoid(argument)` and its derivative.
#[inline(always)]
fn sigmoid_form(x: f32, argument: f32, argument_slope: f32) -> (f32, f32) {
    let s = sigmoid(argument);
    (x * s, s + x * s * (1.0 - s) * argument_slope)
}

/// The tanh form and its derivative: `(1 + tanh z) / 2` is `sigmoid(2 z)`.
#[inline(always)]
fn tanh_form(x: f32) -> (f32, f32) {
    let (scale, cubic) = (SQRT_8_OVER_PI as f32, CUBIC as f32);
    // Beyond 20 the sigmoid is 0 or 1 in any case.
    let t = x.clamp(-20.0, 20.0);
    sigmoid_form(x, scale * t * (1.0 + cubic * t * t), scale * (1.0 + 3.0 * cubic * t * t))
}

/// The quick form and its derivative.
#[inline(always)]
fn quick_form(x: f32) -> (f32, f32) {
    sigmoid_form(x, QUICK as f32 * x, QUICK as f32)
}

vector_functions! {
    fn forward(form: Gelu, x: &[f32], y: &mut [f32]) {
        let pairs = y.iter_mut().zip(x);
        match form {
            Gelu::Erf => pairs.for_each(|(y, &x)| *y = value_and_slope(x).0),
            Gelu::Tanh => pairs.for_each(|(y, &x)| *y = tanh_form(x).0),
            Gelu::Quick => pairs.for_each(|(y, &x)| *y = quick_form(x).0),
        }
    }

    fn backward(form: Gelu, x: &[f32], d_y: &[f32], d_x: &mut [f32]) {
        let triples = d_x.iter_mut().zip(x).zip(d_y);
        match form {
            Gelu::Erf => triples.for_each(|((d_x, &x), d_y)| *d_x = d_y * value_and_slope(x).1),
            Gelu::Tanh => triples.for_each(|((d_x, &x), d_y)| *d_x = d_y * tanh_form(x).1),
            Gelu::Quick => triples.for_each(|((d_x, &x), d_y)| *d_x = d_y * quick_form(x).1),
        }
    }
}

impl Gelu {
    /// The function and its derivative in f64, as in their definitions.
    pub(super) fn reference(self, x: f64) -> (f64, f64) {
        match self {
            Self::Erf => {
                let distribution = 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
                let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
                (x * distribution, distribution + x * density)
            }
            Self::Tanh => {
                let scale = (2.0 / std::f64::consts::PI).sqrt();
                let tanh = (scale * (x + 0.044715 * x.powi(3))).tanh();
                let slope = (1.0 - tanh * tanh) * scale * (1.0 + 3.0 * 0.044715 * x * x);
                (0.5 * x * (1.0 + tanh), 0.5 * (1.0 + tanh) + 0.5 * x * slope)
            }
            Self::Quick => {
                let sigmoid = 1.0 / (1.0 + (-1.702 * x).exp());
                (x * sigmoid, sigmoid + 1.702 * x * sigmoid * (1.0 - sigmoid))
            }
        }
    }

    /// The kernel that takes four elements at a time, where `length` is a multiple of four, and the other.
    fn variants(self, [vec4, plain]: [&'static str; 2], length: usize) -> Vec<Variant> {
        let variant = |entry, count| Variant {
            name: entry,
            requires: Requirements::default(),
            scratch: Vec::new(),
            passes: vec![Pass {
                overrides: vec![("FORM", f64::from(self as u8))],
                ..Pass::new(entry, Grid::Invocations(count), vec![("length", length.into())])
            }],
        };
        let vec4 = length.is_multiple_of(4).then(|| variant(vec4, length / 4));
        vec4.into_iter().chain([variant(plain, length)]).collect()
    }
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "gelu.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        Ok(vec![inputs[0].clone()])
    }
    fn is_cheap(&self) -> bool {
        true
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let d_y = call.d_output(graph, self)?;
        Ok(vec![Some(graph.apply_one(Backward(self.0), &[call.inputs[0], d_y])?)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        self.0.variants(["forward_vec4", "forward"], types.outputs[0].len())
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        for (y, &x) in y.data.iter_mut().zip(x.data) {
            *y = self.0.reference(x.into()).0 as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        par_chunks(y.data, |first, y| forward(self.0, &x.data[first..], y));
    }
}

impl Op for Backward {
    fn name(&self) -> &'static str {
        "gelu.backward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x", "d_y"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_x"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        expect_like("d_y", inputs[1], inputs[0])?;
        Ok(vec![inputs[0].clone()])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        self.0.variants(["backward_vec4", "backward"], types.outputs[0].len())
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x, d_y], [d_x]) = operands.split();
        for ((d_x, &x), &d_y) in d_x.data.iter_mut().zip(x.data).zip(d_y.data) {
            *d_x = (f64::from(d_y) * self.0.reference(x.into()).1) as f32;
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x, d_y], [d_x]) = operands.split();
        par_chunks(d_x.data, |first, d_x| backward(self.0, &x.data[first..], &d_y.data[first..], d_x));
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for form in [Gelu::Erf, Gelu::Tanh, Gelu::Quick] {
        let tails: Vec<f32> = (-120..=120).map(|step| step as f32 / 12.0).collect();
        for (name, x) in [
            ("ragged", Fill::normal([3, 5, 7])),
            ("both tails", Fill::floats(tails)),
            ("left tail", Fill::Uniform { shape: vec![67], low: -9.0, high: -2.0 }),
            ("wide range", Fill::Normal { shape: vec![5, 3, 7], mean: 0.0, std: 1e4 }),
            ("ragged in fours", Fill::normal([3, 5, 7, 4])),
            ("image", Fill::normal([2, 16, 8, 64])),
        ] {
            let name = format!("{name}, {form:?}").to_lowercase();
            let d_y = Fill::normal(x.ty().shape);
            cases.push(Case::new(&name, Forward(form), vec![x.clone()]));
            cases.push(Case::new(&name, Backward(form), vec![x, d_y]));
        }
    }
    cases
}
