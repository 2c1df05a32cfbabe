// Sizes that a sampler chooses its next step by, for each sample:
//   norms[n, 0] = sqrt(mean over e of (value / (absolute + relative max(|x|, |beside|)))^2)
//   norms[n, 1] = sqrt(mean over e of z^2)
// value and beside are linear combinations as in reverse_step.wgsl, and z is the noise that its next call will draw.
// The first is the error of an adaptive Runge-Kutta step in units of its tolerance (Hairer, Norsett and Wanner 1993,
// equation II.4.11); both are the norms of a Langevin step (Song et al. 2021, algorithm 5). One workgroup per sample: each
// invocation sums every 64th block of four elements, then a tree in workgroup memory.
// Run it: ddpm-gpu kernels bench step_norms --cases --device NAME.

// #import index
// #import logarithm
// #import random
// #import tree_sum TERM=vec2<f32>

struct Params {
    samples: u32, elements: u32, blocks: u32, stream: u32,
    slots: u32, channels: u32, output_channels: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> output: array<f32>;           // [N, E], or [N, 2 E] with learned variance
@group(0) @binding(2) var<storage, read> measures: array<f32>;         // [N, 5 + 2 (3 + slots)]
@group(0) @binding(3) var<storage, read> limits: array<f32>;           // [N, 2]
@group(0) @binding(4) var<storage, read> key_step_sample: array<u32>;  // [4]
@group(0) @binding(5) var<storage, read> x: array<f32>;                // [N, E]
@group(0) @binding(6) var<storage, read> history: array<f32>;             // [slots, N, E]
@group(0) @binding(7) var<storage, read_write> norms: array<f32>;      // [N, 2]

const HEADER = 5u;  // factors of x and output in x_0, absolute, relative, whether z is wanted
const WORKGROUP = 64u;

// The combination whose factors begin at `r`, of what element number `at` of the batch has.
fn combination(r: u32, x_0: f32, at: u32, out: f32) -> f32 {
    var value = measures[r] * x_0 + measures[r + 1u] * x[at] + measures[r + 2u] * out;
    for (var slot = 0u; slot < params.slots; slot++) {
        let factor = measures[r + 3u + slot];
        if factor != 0.0 { value += factor * history[slot * params.samples * params.elements + at]; }
    }
    return value;
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let n = flat_workgroup(workgroup, workgroups);
    var sums = vec2(0.0);
    if n < params.samples {
        let k = n * (HEADER + 2u * (3u + params.slots));
        let limit = limits[2u * n];
        let key = vec4(key_step_sample[0], key_step_sample[1], key_step_sample[2], key_step_sample[3]);
        for (var block = local; block < params.blocks; block += WORKGROUP) {
            var z = vec4(0.0);
            if measures[k + 4u] != 0.0 { z = random_normals(key, params.stream, n, block); }
            for (var lane = 0u; lane < min(4u, params.elements - 4u * block); lane++) {
                let at = n * params.elements + 4u * block + lane;
                let pixel = at / params.channels;
                let out = output[pixel * params.output_channels + (at - pixel * params.channels)];
                let x_0 = clamp(measures[k] * x[at] + measures[k + 1u] * out, -limit, limit) * limits[2u * n + 1u];
                let value = combination(k + HEADER, x_0, at, out);
                let beside = combination(k + HEADER + 3u + params.slots, x_0, at, out);
                let error = value / (measures[k + 2u] + measures[k + 3u] * max(abs(x[at]), abs(beside)));
                sums += vec2(error * error, z[lane] * z[lane]);
            }
        }
    }
    let total = tree_sum(sums, local);
    if local == 0u && n < params.samples {
        let norm = sqrt(total / f32(params.elements));
        norms[2u * n] = norm.x;
        norms[2u * n + 1u] = norm.y;
    }
}
