// Concatenation of two images along the channels (hidden first, then skip), and its gradient:
//   y[r, c]     = a[r, c] for c < A, else b[r, c - A]            forward, one invocation per element of y
//   part[r, c]  = d_y[r, first + c]                              split, one invocation per element of part
// A row r is one pixel of one sample.

// #import index

struct Params { length: u32, channels: u32, first: u32, count: u32 }
@group(0) @binding(0) var<uniform> params: Params;                // channels of y or d_y; A is `count` in forward
@group(0) @binding(1) var<storage, read> a: array<f32>;           // [R, A]
@group(0) @binding(2) var<storage, read> b: array<f32>;           // [R, C - A]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;     // [R, C]
@group(0) @binding(4) var<storage, read> d_y: array<f32>;         // [R, C]
@group(0) @binding(5) var<storage, read_write> part: array<f32>;  // [R, count]

override WORKGROUP: u32 = 64;

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
