//! WGSL that several ops share.

/// The module that takes the place of `activation` in a call with 16-bit operands.
pub const ACTIVATION_F16: &str = "activation_f16";

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
    sin_turns,
    tile_memory,
    tree_sum,
    transpose_weight,
    weight_shuffle,
    weight_tiles,
    window,
];
