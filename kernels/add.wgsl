// Addition, with an optional broadcast of one row per sample:
//   y[n, p, c] = a[n, p, c] + b[n, p, c]          forward
//   y[n, p, c] = a[n, p, c] + row[n, c]           forward_broadcast     (time embedding over an image)
//   d_row[n, c] = sum over p of d_y[n, p, c]      backward_broadcast
// `_vec4`, for channels in fours: forward takes four vec4 an invocation, WORKGROUP apart; forward_broadcast takes four
// channels of ROWS pixels, so that row is read and indices are divided once. The plain ones take one element an invocation.
// The sum takes one invocation per (n, c), so that neighbouring invocations read neighbouring channels.
// On lavapipe (2 idle cores) forward_broadcast_vec4 takes 92 us at 4 x 16 x 8 x 64, forward_broadcast 312 us; forward_vec4
// 235 us at 16 x 16 x 16 x 32, forward 846 us; an empty dispatch 38 us. The plain ones divide once for each element.
// Run it: ddpm-gpu kernels bench add --cases --device NAME.

// #import activation
// #import index

struct Params { length: u32, pixels: u32, channels: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<Activation>;        // [N, P, C]
@group(0) @binding(2) var<storage, read> b: array<Activation>;        // [N, P, C]
@group(0) @binding(3) var<storage, read_write> y: array<Activation>;  // [N, P, C]
@group(0) @binding(4) var<storage, read> d_y: array<Activation>;      // [N, P, C]
@group(0) @binding(5) var<storage, read_write> d_row: array<f32>;     // [N, C]
@group(0) @binding(6) var<storage, read> row: array<f32>;             // [N, C]
// The same tensors, four channels at a time.
@group(0) @binding(7) var<storage, read> a_vec4: array<Activation4>;
@group(0) @binding(8) var<storage, read> b_vec4: array<Activation4>;
@group(0) @binding(9) var<storage, read_write> y_vec4: array<Activation4>;
@group(0) @binding(10) var<storage, read> row_vec4: array<vec4<f32>>;

override WORKGROUP: u32 = 64;
const ROWS = 16u;  // pixels of an invocation of forward_broadcast_vec4

@compute @workgroup_size(WORKGROUP)
fn forward_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let first = flat_workgroup(workgroup, workgroups) * WORKGROUP * 4u + local;
    let end = min(first + WORKGROUP * 4u, params.length / 4u);
    for (var i = first; i < end; i += WORKGROUP) {
        y_vec4[i] = Activation4(vec4<f32>(a_vec4[i]) + vec4<f32>(b_vec4[i]));
    }
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    y[i] = Activation(f32(a[i]) + f32(b[i]));
}

@compute @workgroup_size(WORKGROUP)
fn forward_broadcast_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                          @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    let quads = params.channels / 4u;
    let quad = i % quads;
    let blocks = (params.pixels + ROWS - 1u) / ROWS;
    let n = i / quads / blocks;
    if n >= params.length / (params.pixels * params.channels) { return; }
    let first = i / quads % blocks * ROWS;
    let end = min(first + ROWS, params.pixels);
    let added = row_vec4[n * quads + quad];
    var at = (n * params.pixels + first) * quads + quad;
    for (var p = first; p < end; p++) {
        y_vec4[at] = Activation4(vec4<f32>(a_vec4[at]) + added);
        at += quads;
    }
}

@compute @workgroup_size(WORKGROUP)
fn forward_broadcast(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                     @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    let n = i / (params.pixels * params.channels);
    y[i] = Activation(f32(a[i]) + row[n * params.channels + i % params.channels]);
}

@compute @workgroup_size(WORKGROUP)
fn backward_broadcast(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                      @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    let n = i / params.channels;
    var index = n * params.pixels * params.channels + i % params.channels;
    var sum = 0.0;
    for (var p = 0u; p < params.pixels; p++) {
        sum += f32(d_y[index]);
        index += params.channels;
    }
    d_row[i] = sum;
}
