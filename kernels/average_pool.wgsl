// The mean of every channel over the pixels of an image (global average pooling):
//   y[n, c]       = 1/P sum over p of x[n, p, c]          forward, one invocation per (n, c)
//   d_x[n, p, c]  = d_y[n, c] / P                         backward, one invocation per (n, p, c)
// Neighbouring invocations read neighbouring channels; the sum's order never changes.

// #import activation
// #import index

struct Params { length: u32, pixels: u32, channels: u32 }
@group(0) @binding(0) var<uniform> params: Params;                      // length of the output
@group(0) @binding(1) var<storage, read> x: array<Activation>;          // [N, P, C]
@group(0) @binding(2) var<storage, read_write> y: array<Activation>;    // [N, C]
@group(0) @binding(3) var<storage, read> d_y: array<Activation>;        // [N, C]
@group(0) @binding(4) var<storage, read_write> d_x: array<Activation>;  // [N, P, C]

override WORKGROUP: u32 = 64;

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    var index = i / params.channels * params.pixels * params.channels + i % params.channels;
    var sum = 0.0;
    for (var p = 0u; p < params.pixels; p++) {
        sum += f32(x[index]);
        index += params.channels;
    }
    y[i] = Activation(sum / f32(params.pixels));
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    let n = i / (params.pixels * params.channels);
    d_x[i] = Activation(f32(d_y[n * params.channels + i % params.channels]) / f32(params.pixels));
}
