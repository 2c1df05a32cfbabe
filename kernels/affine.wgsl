// A number times x, plus a number:
//   y[i] = scale x[i] + offset
// The gradient is the same with an offset of 0. One invocation per element, or in `_vec4` per four; tensors of any
// shape.
// On lavapipe (Mesa 25, 2 idle cores) forward_vec4 takes 117 us at 2 x 16 x 8 x 64, forward 174 us.
// Run it: ddpm-gpu kernels bench affine --cases --device NAME.

// #import activation
// #import index

struct Params { length: u32, scale: f32, offset: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Activation>;
@group(0) @binding(2) var<storage, read_write> y: array<Activation>;
// The same tensors, four elements at a time.
@group(0) @binding(3) var<storage, read> x_vec4: array<Activation4>;
@group(0) @binding(4) var<storage, read_write> y_vec4: array<Activation4>;

override WORKGROUP: u32 = 64;

@compute @workgroup_size(WORKGROUP)
fn forward_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length / 4u { return; }
    y_vec4[i] = Activation4(params.scale * vec4<f32>(x_vec4[i]) + params.offset);
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    y[i] = Activation(params.scale * f32(x[i]) + params.offset);
}
