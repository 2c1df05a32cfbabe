// Addition, with an optional broadcast of one row per sample:
//   y[n, p, c] = a[n, p, c] + b[n, p, c]          forward
//   y[n, p, c] = a[n, p, c] + row[n, c]           forward_broadcast     (time embedding over an image)
//   d_b[n, c]  = sum over p of d_y[n, p, c]       backward_broadcast
// The forward passes take one invocation per element; the sum takes one invocation per (n, c), so that neighbouring
// invocations read neighbouring channels.

// #import index

struct Params { length: u32, pixels: u32, channels: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;          // [N, P, C]
@group(0) @binding(2) var<storage, read> b: array<f32>;          // [N, P, C]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;    // [N, P, C]
@group(0) @binding(4) var<storage, read> d_y: array<f32>;        // [N, P, C]
@group(0) @binding(5) var<storage, read_write> d_b: array<f32>;  // [N, C]
@group(0) @binding(6) var<storage, read> row: array<f32>;        // [N, C]

override WORKGROUP: u32 = 64;

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    y[i] = a[i] + b[i];
}

@compute @workgroup_size(WORKGROUP)
fn forward_broadcast(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                     @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    let n = i / (params.pixels * params.channels);
    y[i] = a[i] + row[n * params.channels + i % params.channels];
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
        sum += d_y[index];
        index += params.channels;
    }
    d_b[i] = sum;
}
