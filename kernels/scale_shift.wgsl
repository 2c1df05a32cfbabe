// Scale and shift of every channel by one row per sample: the time embedding where a model's
// resnet_time_scale_shift is "scale_shift" (Nichol and Dhariwal 2021, "adaptive group normalisation"):
//   y[n, p, c]         = x[n, p, c] (1 + scale[n, c]) + shift[n, c]       forward
//   d_x[n, p, c]       = d_y[n, p, c] (1 + scale[n, c])                   backward_input
//   d_scale[n, c]      = sum over p of d_y[n, p, c] x[n, p, c]            backward_scale_shift
//   d_shift[n, c]      = sum over p of d_y[n, p, c]
// Scale and shift are the halves of one tensor, scale first. The first two take one invocation per element, or
// in `_vec4`, for channels in fours, per four channels of ROWS pixels, so that scales are read and indices are divided
// once. The sums take one invocation per (n, c), so that neighbouring invocations read neighbouring channels.
// On lavapipe (2 idle cores) forward_vec4 takes 93 us at 4 x 16 x 8 x 64, forward 339 us; an empty dispatch takes 50 us.
// Run it: ddpm-gpu kernels bench scale_shift --cases --device NAME.

// #import activation
// #import index

struct Params { length: u32, pixels: u32, channels: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Activation>;             // [N, P, C]
@group(0) @binding(2) var<storage, read> scale_shift: array<f32>;          // [N, 2C]
@group(0) @binding(3) var<storage, read_write> y: array<Activation>;       // [N, P, C]
@group(0) @binding(4) var<storage, read> d_y: array<Activation>;           // [N, P, C]
@group(0) @binding(5) var<storage, read_write> d_x: array<Activation>;     // [N, P, C]
@group(0) @binding(6) var<storage, read_write> d_scale_shift: array<f32>;  // [N, 2C]
// The same tensors, four channels at a time.
@group(0) @binding(7) var<storage, read> x_vec4: array<Activation4>;
@group(0) @binding(8) var<storage, read> scale_shift_vec4: array<vec4<f32>>;
@group(0) @binding(9) var<storage, read_write> y_vec4: array<Activation4>;
@group(0) @binding(10) var<storage, read> d_y_vec4: array<Activation4>;
@group(0) @binding(11) var<storage, read_write> d_x_vec4: array<Activation4>;

override WORKGROUP: u32 = 64;
const ROWS = 16u;  // pixels of an invocation of a _vec4 kernel

// The walk of an invocation of a _vec4 kernel down ROWS pixels; `end` is no more than `at` for a surplus one.
struct Column { at: u32, end: u32, step: u32, scale: u32 }

fn column_of(i: u32) -> Column {
    let quads = params.channels / 4u;
    let quad = i % quads;
    let blocks = (params.pixels + ROWS - 1u) / ROWS;
    let n = i / quads / blocks;
    if n >= params.length / (params.pixels * params.channels) { return Column(); }
    let first = i / quads % blocks * ROWS;
    let start = n * params.pixels * quads;
    return Column(start + first * quads + quad, start + min(first + ROWS, params.pixels) * quads, quads,
                  2u * n * quads + quad);
}

@compute @workgroup_size(WORKGROUP)
fn forward_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let column = column_of(flat_index(workgroup, workgroups, local, WORKGROUP));
    let scale = 1.0 + scale_shift_vec4[column.scale];
    let shift = scale_shift_vec4[column.scale + params.channels / 4u];
    for (var at = column.at; at < column.end; at += column.step) {
        y_vec4[at] = Activation4(vec4<f32>(x_vec4[at]) * scale + shift);
    }
}

@compute @workgroup_size(WORKGROUP)
fn backward_input_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                       @builtin(local_invocation_index) local: u32) {
    let column = column_of(flat_index(workgroup, workgroups, local, WORKGROUP));
    let scale = 1.0 + scale_shift_vec4[column.scale];
    for (var at = column.at; at < column.end; at += column.step) {
        d_x_vec4[at] = Activation4(vec4<f32>(d_y_vec4[at]) * scale);
    }
}

// Where element i finds its scale; its shift lies `channels` further on.
fn scale_index(i: u32) -> u32 {
    let n = i / (params.pixels * params.channels);
    return 2u * n * params.channels + i % params.channels;
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    let s = scale_index(i);
    y[i] = Activation(f32(x[i]) * (1.0 + scale_shift[s]) + scale_shift[s + params.channels]);
}

@compute @workgroup_size(WORKGROUP)
fn backward_input(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    d_x[i] = Activation(f32(d_y[i]) * (1.0 + scale_shift[scale_index(i)]));
}

@compute @workgroup_size(WORKGROUP)
fn backward_scale_shift(@builtin(workgroup_id) workgroup: vec3<u32>,
                        @builtin(num_workgroups) workgroups: vec3<u32>,
                        @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    let n = i / params.channels;
    let c = i % params.channels;
    var index = n * params.pixels * params.channels + c;
    var d_scale = 0.0;
    var d_shift = 0.0;
    for (var p = 0u; p < params.pixels; p++) {
        d_scale += f32(d_y[index]) * f32(x[index]);
        d_shift += f32(d_y[index]);
        index += params.channels;
    }
    d_scale_shift[2u * n * params.channels + c] = d_scale;
    d_scale_shift[(2u * n + 1u) * params.channels + c] = d_shift;
}
