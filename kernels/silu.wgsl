// SiLU (Elfwing et al. 2017), also called swish:
//   y = x sigmoid(x)        d_x = d_y sigmoid(x) (1 + x (1 - sigmoid(x)))
// One invocation per element, or in `_vec4` per four; tensors of any shape.
// On lavapipe (Mesa 25, 2 cores) forward_vec4 is 3.7 times as fast as forward at 16 x 32 x 32 x 64.
// Run it: ddpm-gpu kernels bench silu --device NAME.

// #import activation
// #import index
// #import sigmoid

struct Params { length: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Activation>;
@group(0) @binding(2) var<storage, read> d_y: array<Activation>;
@group(0) @binding(3) var<storage, read_write> y: array<Activation>;
@group(0) @binding(4) var<storage, read_write> d_x: array<Activation>;
// The same tensors, four elements at a time.
@group(0) @binding(5) var<storage, read> x_vec4: array<Activation4>;
@group(0) @binding(6) var<storage, read> d_y_vec4: array<Activation4>;
@group(0) @binding(7) var<storage, read_write> y_vec4: array<Activation4>;
@group(0) @binding(8) var<storage, read_write> d_x_vec4: array<Activation4>;

override WORKGROUP: u32 = 64;

fn silu(x: vec4<f32>) -> vec4<f32> { return x * sigmoid(x); }

fn slope(x: vec4<f32>) -> vec4<f32> {
    let s = sigmoid(x);
    return s * (1.0 + x * (1.0 - s));
}

@compute @workgroup_size(WORKGROUP)
fn forward_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length / 4u { return; }
    y_vec4[i] = Activation4(silu(vec4<f32>(x_vec4[i])));
}

@compute @workgroup_size(WORKGROUP)
fn backward_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length / 4u { return; }
    d_x_vec4[i] = Activation4(vec4<f32>(d_y_vec4[i]) * slope(vec4<f32>(x_vec4[i])));
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    y[i] = Activation(silu(vec4(f32(x[i]))).x);
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    d_x[i] = Activation(f32(d_y[i]) * slope(vec4(f32(x[i]))).x);
}
