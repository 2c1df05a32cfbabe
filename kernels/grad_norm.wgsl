// Global gradient norm and clipping (Pascanu et al. 2013), as torch.nn.utils.clip_grad_norm_:
//   total = previous + sum of g^2        norm = sqrt(total)        scale = min(1, max_norm / (norm + 1e-6))
// Where the total is not finite the scale is 0, which AdamW takes for a step to skip, and so it is in all steps after
// that, which `count_skipped` counts: the weights stay as they were when it happened, until the host looks.
// `sum_squares_partial`: a workgroup sums 64 elements an invocation, four at a time, then a tree in workgroup memory.
// `sum_squares`: one workgroup adds the partial sums up in a fixed order. Buffers chain through `previous`.
// Run it: ddpm-gpu kernels bench grad_norm --device NAME.

// #import index
// #import tree_sum TERM=f32

struct Params { length: u32, partials: u32, max_norm: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gradients_vec4: array<vec4<f32>>; // [L], L a multiple of 4
@group(0) @binding(2) var<storage, read> previous: array<f32>;             // [1]
@group(0) @binding(3) var<storage, read_write> partial: array<f32>;        // [partials]
@group(0) @binding(4) var<storage, read_write> total: array<f32>;          // [1]
@group(0) @binding(5) var<storage, read> sum: array<f32>;                  // [1], the last total
@group(0) @binding(6) var<storage, read_write> norm_and_scale: array<f32>; // [2]
@group(0) @binding(7) var<storage, read> skipped: array<f32>;              // [1], the count of earlier steps
@group(0) @binding(8) var<storage, read> clipped: array<f32>;              // [2], norm_and_scale
@group(0) @binding(9) var<storage, read_write> count: array<f32>;          // [1]

const WORKGROUP = 64u;
const QUADS_PER_INVOCATION = 16u;

@compute @workgroup_size(WORKGROUP)
fn sum_squares_partial(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                       @builtin(local_invocation_index) local: u32) {
    let block = flat_workgroup(workgroup, workgroups);
    let quads = params.length / 4u;
    var at = block * WORKGROUP * QUADS_PER_INVOCATION + local;
    var squares = 0.0;
    for (var step = 0u; step < QUADS_PER_INVOCATION; step++) {
        if at < quads {
            squares += dot(gradients_vec4[at], gradients_vec4[at]);
        }
        at += WORKGROUP;
    }
    squares = tree_sum(squares, local);
    if local == 0u && block < params.partials {
        partial[block] = squares;
    }
}

@compute @workgroup_size(WORKGROUP)
fn sum_squares(@builtin(local_invocation_index) local: u32) {
    var squares = 0.0;
    for (var at = local; at < params.partials; at += WORKGROUP) {
        squares += partial[at];
    }
    squares = tree_sum(squares, local);
    if local == 0u {
        total[0] = previous[0] + squares;
    }
}

@compute @workgroup_size(1)
fn clip() {
    let norm = sqrt(sum[0]);
    // By the exponent's bits: WGSL lets a compiler assume that floats are neither infinite nor NaN. Infinity
    // and NaN pass through to the host.
    let is_finite = (bitcast<u32>(sum[0]) & 0x7F800000u) != 0x7F800000u;
    norm_and_scale[0] = select(sum[0], norm, is_finite);
    let is_sound = is_finite && skipped[0] == 0.0;
    norm_and_scale[1] = select(0.0, min(1.0, params.max_norm / (norm + 1e-6)), is_sound);
}

@compute @workgroup_size(1)
fn count_skipped() {
    if clipped[1] == 0.0 { count[0] += 1.0; }
}
