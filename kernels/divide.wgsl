// Division of every sample by its own number:
//   y[n, ...] = x[n, ...] / divisor[n]
// The gradient with respect to x is the same of d_y. One invocation per element.
// Run it: ddpm-gpu kernels bench divide --cases --device NAME.

// #import activation
// #import index

struct Params { length: u32, elements: u32 }                         // elements of a sample
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Activation>;        // [N, ...]
@group(0) @binding(2) var<storage, read> divisor: array<f32>;         // [N]
@group(0) @binding(3) var<storage, read_write> y: array<Activation>;  // [N, ...]

override WORKGROUP: u32 = 64;

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    y[i] = Activation(f32(x[i]) / divisor[i / params.elements]);
}
