// Concatenation of two images along the channels (hidden first, then skip), and its gradient:
//   y[r, c]     = a[r, c] for c < A, else b[r, c - A]            forward
//   part[r, c]  = d_y[r, first + c]                              split
// A row r is one pixel of one sample. One invocation per element of y or part; in `_vec4`, for channels in fours, per
// four channels of ROWS rows, so that indices are divided once.
// On lavapipe (2 idle cores) forward_vec4 takes 158 us at 4 x 16 x 8 x (128 + 64), forward 737 us; an empty dispatch 40 us.
// Run it: ddpm-gpu kernels bench concat --cases --device NAME.

// #import activation
// #import index

struct Params { length: u32, channels: u32, first: u32, count: u32 }
@group(0) @binding(0) var<uniform> params: Params;                // channels of y or d_y; A is `count` in forward
@group(0) @binding(1) var<storage, read> a: array<Activation>;           // [R, A]
@group(0) @binding(2) var<storage, read> b: array<Activation>;           // [R, C - A]
@group(0) @binding(3) var<storage, read_write> y: array<Activation>;     // [R, C]
@group(0) @binding(4) var<storage, read> d_y: array<Activation>;         // [R, C]
@group(0) @binding(5) var<storage, read_write> part: array<Activation>;  // [R, count]
// The same tensors, four channels at a time.
@group(0) @binding(6) var<storage, read> a_vec4: array<Activation4>;
@group(0) @binding(7) var<storage, read> b_vec4: array<Activation4>;
@group(0) @binding(8) var<storage, read_write> y_vec4: array<Activation4>;
@group(0) @binding(9) var<storage, read> d_y_vec4: array<Activation4>;
@group(0) @binding(10) var<storage, read_write> part_vec4: array<Activation4>;

override WORKGROUP: u32 = 64;
const ROWS = 16u;  // of an invocation of a _vec4 kernel

@compute @workgroup_size(WORKGROUP)
fn forward_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    let quads = params.channels / 4u;
    let a_quads = params.count / 4u;
    let c = i % quads;
    let first = i / quads * ROWS;
    let end = min(first + ROWS, params.length / params.channels);
    var at = first * quads + c;
    if c < a_quads {
        for (var row = first; row < end; row++) {
            y_vec4[at] = a_vec4[row * a_quads + c];
            at += quads;
        }
    } else {
        for (var row = first; row < end; row++) {
            y_vec4[at] = b_vec4[row * (quads - a_quads) + c - a_quads];
            at += quads;
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn split_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
              @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    let quads = params.count / 4u;
    let c = i % quads;
    let first = i / quads * ROWS;
    let end = min(first + ROWS, params.length / params.count);
    var at = (first * params.channels + params.first) / 4u + c;
    for (var row = first; row < end; row++) {
        part_vec4[row * quads + c] = d_y_vec4[at];
        at += params.channels / 4u;
    }
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    let row = i / params.channels;
    let c = i - row * params.channels;
    if c < params.count {
        y[i] = a[row * params.count + c];
    } else {
        y[i] = b[row * (params.channels - params.count) + c - params.count];
    }
}

@compute @workgroup_size(WORKGROUP)
fn split(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
         @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    let row = i / params.count;
    part[i] = d_y[row * params.channels + params.first + i - row * params.count];
}
