// Dropout (Srivastava et al. 2014), scaled while training so that nothing changes while sampling:
//   y[n, e] = x[n, e] / (1 - p) with probability 1 - p, else 0
// The gradient is the same kernel on d_y: the generator is counter-based (shared/random.wgsl), so the same stream gives
// the same mask again and no mask is stored. One invocation per block of four elements of one sample, which
// is one vec4 in `forward_vec4`, for samples that are multiples of four.
// On lavapipe (Mesa 25, 2 cores) forward is the faster one, at 16 x 32 x 32 x 64; for GPUs forward_vec4 comes first.
// Run it: ddpm-gpu kernels bench dropout --cases --device NAME.

// #import activation
// #import index
// #import logarithm
// #import random

struct Params { samples: u32, elements: u32, blocks: u32, stream: u32, probability: f32, scale: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Activation>;         // [N, E]
@group(0) @binding(2) var<storage, read> key_step_sample: array<u32>;  // [4]
@group(0) @binding(3) var<storage, read_write> y: array<Activation>;   // [N, E]
@group(0) @binding(4) var<storage, read> x_vec4: array<Activation4>;
@group(0) @binding(5) var<storage, read_write> y_vec4: array<Activation4>;

override WORKGROUP: u32 = 64;

// What the elements of a block are multiplied by: 0 or 1 / (1 - p).
fn factors_of(n: u32, block: u32) -> vec4<f32> {
    let key = vec4(key_step_sample[0], key_step_sample[1], key_step_sample[2], key_step_sample[3]);
    let drawn = to_uniform(random_words(key, params.stream, n, block));
    return select(vec4(0.0), vec4(params.scale), drawn >= vec4(params.probability));
}

@compute @workgroup_size(WORKGROUP)
fn forward_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.samples * params.blocks { return; }
    y_vec4[i] = Activation4(vec4<f32>(x_vec4[i]) * factors_of(i / params.blocks, i % params.blocks));
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.samples * params.blocks { return; }
    let n = i / params.blocks;
    let block = i % params.blocks;
    let factors = factors_of(n, block);
    let first = n * params.elements + 4u * block;
    for (var lane = 0u; lane < min(4u, params.elements - 4u * block); lane++) {
        y[first + lane] = Activation(f32(x[first + lane]) * factors[lane]);
    }
}
