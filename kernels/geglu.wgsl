// GELU-gated linear unit (Shazeer 2020), as in diffusers' feed-forward blocks: x holds hidden channels, then as many
// gates:
//   y[r, f]       = x[r, f] gelu(x[r, F + f])                          forward
//   d_x[r, f]     = d_y[r, f] gelu(x[r, F + f])                        backward
//   d_x[r, F + f] = d_y[r, f] x[r, f] gelu'(x[r, F + f])
// GELU is the erf form, by shared/gelu.wgsl. One invocation per element of y or d_y, or in `_vec4`, for features in
// fours, per four of them. A multiplication after a split would read and write the halves once more.
// On lavapipe (Mesa 25, 2 cores) forward_vec4 is 2.1 times as fast as forward at 2 x 64 x 128.
// Run it: ddpm-gpu kernels bench geglu --cases --device NAME.

// #import activation
// #import gelu
// #import index

struct Params { length: u32, features: u32 }
@group(0) @binding(0) var<uniform> params: Params;                      // elements of y; F
@group(0) @binding(1) var<storage, read> x: array<Activation>;          // [R, 2 F]
@group(0) @binding(2) var<storage, read> d_y: array<Activation>;        // [R, F]
@group(0) @binding(3) var<storage, read_write> y: array<Activation>;    // [R, F]
@group(0) @binding(4) var<storage, read_write> d_x: array<Activation>;  // [R, 2 F]
// The same tensors, four features at a time.
@group(0) @binding(5) var<storage, read> x_vec4: array<Activation4>;
@group(0) @binding(6) var<storage, read> d_y_vec4: array<Activation4>;
@group(0) @binding(7) var<storage, read_write> y_vec4: array<Activation4>;
@group(0) @binding(8) var<storage, read_write> d_x_vec4: array<Activation4>;

override WORKGROUP: u32 = 64;

@compute @workgroup_size(WORKGROUP)
fn forward_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length / 4u { return; }
    let quads = params.features / 4u;
    let at = i + i / quads * quads;
    y_vec4[i] = Activation4(vec4<f32>(x_vec4[at]) * gelu(vec4<f32>(x_vec4[at + quads])));
}

@compute @workgroup_size(WORKGROUP)
fn backward_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length / 4u { return; }
    let quads = params.features / 4u;
    let at = i + i / quads * quads;
    let gate = vec4<f32>(x_vec4[at + quads]);
    let d = vec4<f32>(d_y_vec4[i]);
    d_x_vec4[at] = Activation4(d * gelu(gate));
    d_x_vec4[at + quads] = Activation4(d * vec4<f32>(x_vec4[at]) * gelu_slope(gate));
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    let at = i + i / params.features * params.features;
    y[i] = Activation(f32(x[at]) * gelu(vec4(f32(x[at + params.features]))).x);
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    let at = i + i / params.features * params.features;
    let gate = vec4(f32(x[at + params.features]));
    let d = f32(d_y[i]);
    d_x[at] = Activation(d * gelu(gate).x);
    d_x[at + params.features] = Activation(d * f32(x[at]) * gelu_slope(gate).x);
}
