// One step of the reverse process, in place, for every sampler whose next x is a linear combination of x_t, the
// network's output, the estimate of x_0 that follows from them, values that earlier steps kept, and noise.
//   x_0     = limits[n, 1] clamp(k0 x_t + k1 output, -limits[n, 0], limits[n, 0])
//   value   = r1 x_0 + r2 x_t + r3 output + r4 history_0 + r5 history_1 + ...
//
// with a row r for x and one for each value of the history.
//   x_{t-1} = value of the first row + sigma exp(range v) z
// All rows see the old values. v is the second half of the output's channels, where the network has learned the variance
// (Nichol and Dhariwal 2021, equation 15); elsewhere range is 0.
// `forward` draws z on the device; `forward_injected` reads it. One invocation per block of four elements of a sample.
// Run it: ddpm-gpu kernels bench reverse_step --cases --device NAME.

// #import index
// #import logarithm
// #import random

struct Params {
    samples: u32, elements: u32, blocks: u32, stream: u32,
    slots: u32, channels: u32, output_channels: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> output: array<f32>;           // [N, E], or [N, 2 E] with learned variance
@group(0) @binding(2) var<storage, read> coefficients: array<f32>;     // [N, 5 + (1 + slots) (4 + slots)]
@group(0) @binding(3) var<storage, read> limits: array<f32>;           // [N, 2]
@group(0) @binding(4) var<storage, read> key_step_sample: array<u32>;  // [4]
@group(0) @binding(5) var<storage, read> noise: array<f32>;            // [N, E]
@group(0) @binding(6) var<storage, read_write> x: array<f32>;          // [N, E], x_t before, x_{t-1} after
@group(0) @binding(7) var<storage, read_write> history: array<f32>;       // [slots, N, E]

const MAX_SLOTS = 8u;
const HEADER = 5u;  // k0, k1, sigma, range, and as a sum of powers of two which of the values of the history are read

override WORKGROUP: u32 = 64;

fn row_length() -> u32 {
    return 4u + params.slots;
}

// Where the coefficients of a sample begin.
fn coefficients_of(n: u32) -> u32 {
    return n * (HEADER + (1u + params.slots) * row_length());
}

fn reverse(n: u32, element: u32, z: f32) {
    let k = coefficients_of(n);
    let at = n * params.elements + element;
    let pixel = at / params.channels;
    let of_output = pixel * params.output_channels + (at - pixel * params.channels);
    let x_t = x[at];
    let out = output[of_output];
    let limit = limits[2u * n];
    let x_0 = clamp(coefficients[k] * x_t + coefficients[k + 1u] * out, -limit, limit) * limits[2u * n + 1u];
    var sigma = coefficients[k + 2u];
    if coefficients[k + 3u] != 0.0 {
        sigma *= exp(coefficients[k + 3u] * output[of_output + params.channels]);
    }

    let reads = u32(coefficients[k + 4u]);
    let stride = params.samples * params.elements;
    var old: array<f32, MAX_SLOTS>;
    for (var slot = 0u; slot < params.slots; slot++) {
        old[slot] = 0.0;
        if ((reads >> slot) & 1u) != 0u { old[slot] = history[slot * stride + at]; }
    }
    for (var row = 0u; row <= params.slots; row++) {
        let r = k + HEADER + row * row_length();
        if coefficients[r] == 0.0 { continue; }  // a value of the history that stays as it is
        var value = coefficients[r + 1u] * x_0 + coefficients[r + 2u] * x_t + coefficients[r + 3u] * out;
        for (var slot = 0u; slot < params.slots; slot++) {
            value += coefficients[r + 4u + slot] * old[slot];
        }
        if row == 0u {
            x[at] = value + sigma * z;
        } else {
            history[(row - 1u) * stride + at] = value;
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.samples * params.blocks { return; }
    let n = i / params.blocks;
    let block = i % params.blocks;
    var z = vec4(0.0);
    if coefficients[coefficients_of(n) + 2u] != 0.0 {
        let key = vec4(key_step_sample[0], key_step_sample[1], key_step_sample[2], key_step_sample[3]);
        z = random_normals(key, params.stream, n, block);
    }
    for (var lane = 0u; lane < min(4u, params.elements - 4u * block); lane++) {
        reverse(n, 4u * block + lane, z[lane]);
    }
}

@compute @workgroup_size(WORKGROUP)
fn forward_injected(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.samples * params.elements { return; }
    reverse(i / params.elements, i % params.elements, noise[i]);
}
