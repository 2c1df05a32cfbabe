// The same elements in the same order under another shape, as a copy:
//   y[i] = x[i]
// One invocation per element, or in `_vec4` per four. It costs one pass over memory. A view would cost nothing, but
// then two values of a graph would share a buffer, which the plan's lifetimes, recomputation and the rule that no
// dispatch reads what it writes would all have to know. Networks seldom need it: linear, layer_norm and attention take
// [N, H, W, C] and [N, T, C] alike.
// Run it: ddpm-gpu kernels bench reshape --cases --device NAME.

// #import activation
// #import index

struct Params { length: u32 }
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
    y_vec4[i] = x_vec4[i];
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    y[i] = x[i];
}
