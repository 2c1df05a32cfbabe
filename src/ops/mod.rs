//! The operations: two files an op, `kernels/<op>.wgsl` and `src/ops/<op>.rs`.
//!
//! They hold everything about it: shape rule, gradient rule, GPU variants, cost, tolerance, a naive reference,
//! a fast CPU kernel where speed matters, and the cases that tests and benchmarks run. [`ALL`] is the table of ops.

mod case;
mod cpu;
mod product;
mod variant;
mod window;

pub mod adamw;
pub mod add;
pub mod attention;
pub mod average_pool;
pub mod calibration;
pub mod cast;
pub mod concat;
pub mod conv2d;
pub mod cross_entropy;
pub mod dropout;
pub mod dynamic_threshold;
pub mod ema;
pub mod embedding;
pub mod geglu;
pub mod gelu;
pub mod grad_norm;
pub mod group_norm;
pub mod guidance;
pub mod layer_norm;
pub mod linear;
pub mod loss_scale;
pub mod max_pool;
pub mod micro_batch;
pub mod multiply;
pub mod philox;
pub mod q_sample;
pub mod regression_loss;
pub mod reshape;
pub mod reverse_step;
pub mod scale_shift;
pub mod silu;
pub mod step_norms;
pub mod timestep_embedding;
pub mod transpose;
pub mod upsample;
pub mod vlb_loss;
pub mod weighted_mean;

use std::fmt::Debug;

pub use add::add;
pub use attention::{Attention, attention};
pub use average_pool::{average_pool, average_pool_window};
pub use case::{Case, Fill};
pub use cast::cast;
pub use concat::concat;
pub use conv2d::conv2d;
pub use cpu::{Input, Operands, Output};
pub use cross_entropy::cross_entropy;
pub use dropout::dropout;
pub use dynamic_threshold::dynamic_threshold;
pub use embedding::embedding;
pub use geglu::geglu;
pub use gelu::{Gelu, gelu};
pub use group_norm::group_norm;
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use max_pool::max_pool;
pub use multiply::multiply;
pub use q_sample::q_sample;
pub use regression_loss::{Regression, mse_loss, regression_loss};
pub use reshape::reshape;
pub use reverse_step::reverse_step;
pub use scale_shift::scale_shift;
pub use silu::silu;
pub use step_norms::step_norms;
pub use timestep_embedding::timestep_embedding;
pub use transpose::transpose;
pub use upsample::upsample;
pub use variant::{Grid, Pass, Requirements, Variant, Word};
pub use vlb_loss::vlb_loss;
pub use weighted_mean::weighted_mean;
pub use window::Window;

use crate::graph::{DType, Graph, GraphError, TensorType, ValueId};

/// One entry point of an op: a kernel that takes tensors and writes tensors.
///
/// Names of inputs and outputs are the names of the WGSL bindings.
pub trait Op: Debug + Send + Sync {
    /// Op and entry point, such as `conv2d.backward_weight`.
    fn name(&self) -> &'static str;

    /// Names of the inputs, in order.
    fn inputs(&self) -> &'static [&'static str];

    /// Names of the outputs, in order.
    fn outputs(&self) -> &'static [&'static str];

    /// Shape rule: types of the outputs.
    ///
    /// # Errors
    /// What was expected of the operands, as a clause that follows "cannot take ...:".
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String>;

    /// Whether the outputs are values that existed before and are rewritten in place.
    fn updates_in_place(&self) -> bool {
        false
    }

    /// Whether a second call costs next to nothing beside a training step: one pass over memory, hardly any arithmetic.
    ///
    /// The reverse pass then calls the op again rather than keeping its results
    /// ([`recompute_cheap`](crate::graph::recompute_cheap)).
    fn is_cheap(&self) -> bool {
        false
    }

    /// Gradient rule: appends nodes that compute the gradient of each input that needs one.
    ///
    /// # Errors
    /// [`GraphError::NoGradient`] unless the op is differentiable.
    fn gradient(
        &self,
        graph: &mut Graph,
        _call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(GraphError::NoGradient { path: graph.path(), op: self.name() })
    }

    /// The kernels that can do this call on a GPU, the one that runs anywhere last.
    fn variants(&self, types: Types<'_>) -> Vec<Variant>;

    /// Bytes moved and floating point operations of one call, at least.
    fn cost(&self, types: Types<'_>) -> Cost {
        let bytes = types.inputs.iter().chain(types.outputs).map(TensorType::bytes).sum();
        let flops = types.outputs.iter().map(TensorType::len).sum();
        Cost { bytes, flops }
    }

    /// Largest error allowed, relative to the largest magnitude of the output tensor.
    fn tolerance(&self) -> f32 {
        2e-6
    }

    /// The reference: loops that can be checked by eye, accumulating in f64.
    fn reference(&self, operands: Operands<'_>);

    /// What the CPU executor runs.
    fn compute(&self, operands: Operands<'_>) {
        self.reference(operands);
    }
}

/// Types of a call's operands.
#[derive(Clone, Copy, Debug)]
pub struct Types<'a> {
    /// Types of the inputs.
    pub inputs: &'a [TensorType],
    /// Types of the outputs.
    pub outputs: &'a [TensorType],
}

/// What one call costs, at least.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Bytes read and written, each tensor once.
    pub bytes: usize,
    /// Floating point operations; a multiply-add is two.
    pub flops: usize,
}

/// A call to differentiate.
#[derive(Clone, Copy, Debug)]
pub struct GradientCall<'a> {
    /// The call's inputs.
    pub inputs: &'a [ValueId],
    /// The call's outputs.
    pub outputs: &'a [ValueId],
    /// Gradients of the outputs; `None` for an output that the loss does not depend on.
    pub d_outputs: &'a [Option<ValueId>],
    /// Which inputs need a gradient.
    pub needs: &'a [bool],
}

impl Types<'_> {
    /// How the call stores activations: F16 if any operand is F16.
    pub fn activation(&self) -> DType {
        let is_f16 = self.inputs.iter().chain(self.outputs).any(|ty| ty.dtype == DType::F16);
        if is_f16 { DType::F16 } else { DType::F32 }
    }
}

impl GradientCall<'_> {
    /// The gradient of the first output, for ops that have one differentiable output.
    ///
    /// # Errors
    /// [`GraphError::GradientRule`] where the loss depends on another output alone.
    pub fn d_output(&self, graph: &Graph, op: &dyn Op) -> Result<ValueId, GraphError> {
        self.d_outputs[0].ok_or_else(|| GraphError::GradientRule {
            path: graph.path(),
            op: op.name(),
            fault: "was asked for the gradient through an output that has none".to_owned(),
        })
    }
}

/// One op: its WGSL source and its cases.
pub struct OpFile {
    /// The stem of the op's files.
    pub name: &'static str,
    /// Text of `kernels/<name>.wgsl`.
    pub source: &'static str,
    /// Calls that tests check and benchmarks time.
    pub cases: fn() -> Vec<Case>,
}

macro_rules! op_files {
    ($($name:ident),* $(,)?) => {
        &[$(OpFile {
            name: stringify!($name),
            source: include_str!(concat!("../../kernels/", stringify!($name), ".wgsl")),
            cases: $name::cases,
        }),*]
    };
}

/// The table of ops: tests, benchmarks and the command line loop over it.
pub const ALL: &[OpFile] = op_files![
    adamw,
    add,
    attention,
    average_pool,
    calibration,
    cast,
    concat,
    conv2d,
    cross_entropy,
    dropout,
    dynamic_threshold,
    ema,
    embedding,
    geglu,
    gelu,
    grad_norm,
    group_norm,
    guidance,
    layer_norm,
    linear,
    loss_scale,
    max_pool,
    micro_batch,
    multiply,
    philox,
    q_sample,
    regression_loss,
    reshape,
    reverse_step,
    scale_shift,
    silu,
    step_norms,
    timestep_embedding,
    transpose,
    upsample,
    vlb_loss,
    weighted_mean,
];

/// The module that takes the place of `activation` in a call with 16-bit operands.
pub const ACTIVATION_F16: &str = "activation_f16";

impl dyn Op + '_ {
    /// The files that the op is in.
    pub fn file(&self) -> &'static OpFile {
        let name = self.name().split('.').next().unwrap_or_default();
        ALL.iter()
            .find(|op_file| op_file.name == name)
            .unwrap_or_else(|| unreachable!("ops name their file, and the table of files holds all of them"))
    }
}

macro_rules! shared_wgsl {
    ($($name:ident),* $(,)?) => {
        &[$((
            stringify!($name),
            include_str!(concat!("../../kernels/shared/", stringify!($name), ".wgsl")),
        )),*]
    };
}

/// WGSL that ops import by `// #import <name>`.
pub const SHARED_WGSL: &[(&str, &str)] = shared_wgsl![
    activation,
    activation_f16,
    attention_lane_passes,
    attention_lanes,
    attention_tiles,
    gelu,
    index,
    lanes,
    logarithm,
    product_cooperative,
    product_shuffle,
    product_tiles,
    products,
    random,
    sigmoid,
    tile_memory,
    tree_sum,
    transpose_weight,
    weight_shuffle,
    weight_tiles,
    window,
];

/// Checks that `condition` holds, as shape rules do.
fn expect(condition: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(reason()) }
}

/// Checks that a tensor has the wanted shape; of the floats, only activations may be f16, see [`expect_like`].
fn expect_shape(name: &str, ty: &TensorType, shape: &[usize]) -> Result<(), String> {
    expect(ty.shape == shape, || format!("{name} must be {shape:?}"))?;
    expect(ty.dtype != DType::F16, || format!("{name} must be f32, not f16"))
}

/// Checks that an activation has the shape and the element type of another.
fn expect_like(name: &str, ty: &TensorType, like: &TensorType) -> Result<(), String> {
    expect(ty == like, || format!("{name} must be {like}"))
}

/// Checks that a tensor has the wanted shape, and the element type of an activation.
fn expect_shape_like(name: &str, ty: &TensorType, shape: &[usize], like: &TensorType) -> Result<(), String> {
    expect_like(name, ty, &like.with_shape(shape))
}

/// Takes the sizes of an image batch `[N, H, W, C]` apart.
fn expect_nhwc(name: &str, ty: &TensorType) -> Result<[usize; 4], String> {
    ty.shape.as_slice().try_into().map_err(|_| format!("{name} must be [N, H, W, C]"))
}

/// Sizes of a tensor whose shape rule has been checked.
fn dims<const D: usize>(ty: &TensorType) -> [usize; D] {
    std::array::from_fn(|axis| ty.shape.get(axis).copied().unwrap_or(1))
}
