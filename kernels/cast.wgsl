// Conversion of activations between 32 bits, as images enter and leave the network, and the bits that it stores:
//   y_f16[i] = f16(x[i])        to_f16: rounds; beyond 65504 it becomes infinite
//   y[i]     = f32(x_f16[i])    to_f32: exact
// The gradient of either is the other. And floats to whole numbers, without a gradient:
//   y_u32[i] = the nearest whole number, 0 for what is below
// One invocation per element; tensors of any shape.
// Run it: ddpm-gpu kernels bench cast --cases --device NAME.

// #import index
// #import activation

struct Params { length: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y_f16: array<Activation>;
@group(0) @binding(3) var<storage, read> x_f16: array<Activation>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<storage, read_write> y_u32: array<u32>;

override WORKGROUP: u32 = 64;

@compute @workgroup_size(WORKGROUP)
fn to_f16(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
          @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    y_f16[i] = Activation(x[i]);
}

@compute @workgroup_size(WORKGROUP)
fn to_f32(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
          @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    y[i] = f32(x_f16[i]);
}

@compute @workgroup_size(WORKGROUP)
fn to_u32(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
          @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    // The conversion of a number beyond u32 is the largest or the smallest one.
    y_u32[i] = u32(floor(x[i] + 0.5));
}
