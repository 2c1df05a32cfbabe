//! The table of ops.

use super::{Case, Op};

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
            cases: super::$name::cases,
        }),*]
    };
}

/// The table of ops: tests, benchmarks and the command line loop over it.
pub const ALL: &[OpFile] = op_files![
    adamw,
    add,
    affine,
    attention,
    average_pool,
    calibration,
    cast,
    concat,
    conv2d,
    cross_entropy,
    divide,
    dropout,
    dynamic_threshold,
    ema,
    embedding,
    fir,
    fourier_embedding,
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
    mish,
    multiply,
    philox,
    q_sample,
    regression_loss,
    relu,
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

impl dyn Op + '_ {
    /// The files that the op is in.
    pub fn file(&self) -> &'static OpFile {
        let name = self.name().split('.').next().unwrap_or_default();
        ALL.iter()
            .find(|op_file| op_file.name == name)
            .unwrap_or_else(|| unreachable!("ops name their file, and the table of files holds all of them"))
    }
}
