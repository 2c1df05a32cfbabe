// One step of the reverse process, in place, for every sampler that is linear in x_t, the network's output and noise:
//   x_0 = clamp(k0 x_t + k1 output, -k2, k2)
//   x_{t-1} = k3 x_0 + k4 x_t + k5 output + k6 z
// The DDPM posterior (Ho et al. 2020, equations 6 and 7) has k5 = 0; DDIM (Song et al. 2021, equation 12) has k4 = 0.
// `forward` draws z on the device; `forward_injected` reads it. One invocation per block of four elements of a sample.

// #import index
// #import random

struct Params { samples: u32, elements: u32, blocks: u32, stream: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> output: array<f32>;           // [N, E]
@group(0) @binding(2) var<storage, read> coefficients: array<f32>;     // [7]
@group(0) @binding(3) var<storage, read> key_step_sample: array<u32>;  // [4]
@group(0) @binding(4) var<storage, read> noise: array<f32>;            // [N, E]
@group(0) @binding(5) var<storage, read_write> x: array<f32>;          // [N, E], x_t before, x_{t-1} after

override WORKGROUP: u32 = 64;

fn reverse(x_t: f32, out: f32, z: f32) -> f32 {
    let limit = coefficients[2];
    let x_0 = clamp(coefficients[0] * x_t + coefficients[1] * out, -limit, limit);
    return coefficients[3] * x_0 + coefficients[4] * x_t + coefficients[5] * out + coefficients[6] * z;
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.samples * params.blocks { return; }
    let n = i / params.blocks;
    let block = i % params.blocks;
    var z = vec4(0.0);
    if coefficients[6] != 0.0 {
        let key = vec4(key_step_sample[0], key_step_sample[1], key_step_sample[2], key_step_sample[3]);
        z = random_normals(key, params.stream, n, block);
    }
    let first = n * params.elements + 4u * block;
    for (var lane = 0u; lane < min(4u, params.elements - 4u * block); lane++) {
        x[first + lane] = reverse(x[first + lane], output[first + lane], z[lane]);
    }
}

@compute @workgroup_size(WORKGROUP)
fn forward_injected(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.samples * params.elements { return; }
    x[i] = reverse(x[i], output[i], noise[i]);
}
