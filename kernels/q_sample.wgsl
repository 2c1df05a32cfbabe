// The forward process of diffusion (Ho et al. 2020, equation 4), fused: draws the noise, mixes it with the image, and
// keeps the network's target:
//   x_t    = k[n, 0] x_start + k[n, 1] eps       k[n, 0] = sqrt(abar_t), k[n, 1] = sqrt(1 - abar_t)
//   target = k[n, 2] x_start + k[n, 3] eps       (0, 1) to predict eps, (1, 0) to predict x_start, and so on
// One invocation per block of four elements of one sample, as shared/random.wgsl draws them.
// Run it: ddpm-gpu kernels bench q_sample --device NAME.

// #import index
// #import logarithm
// #import random

struct Params { samples: u32, elements: u32, blocks: u32, stream: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x_start: array<f32>;          // [N, E]
@group(0) @binding(2) var<storage, read> coefficients: array<f32>;     // [N, 4]
@group(0) @binding(3) var<storage, read> key_step_sample: array<u32>;  // [4]
@group(0) @binding(4) var<storage, read_write> x_t: array<f32>;        // [N, E]
@group(0) @binding(5) var<storage, read_write> prediction_target: array<f32>; // [N, E]

override WORKGROUP: u32 = 64;

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.samples * params.blocks { return; }
    let n = i / params.blocks;
    let block = i % params.blocks;
    let key = vec4(key_step_sample[0], key_step_sample[1], key_step_sample[2], key_step_sample[3]);
    let eps = random_normals(key, params.stream, n, block);
    let k = vec4(coefficients[4u * n], coefficients[4u * n + 1u], coefficients[4u * n + 2u], coefficients[4u * n + 3u]);
    let first = n * params.elements + 4u * block;
    for (var lane = 0u; lane < min(4u, params.elements - 4u * block); lane++) {
        let x = x_start[first + lane];
        x_t[first + lane] = k.x * x + k.y * eps[lane];
        prediction_target[first + lane] = k.z * x + k.w * eps[lane];
    }
}
