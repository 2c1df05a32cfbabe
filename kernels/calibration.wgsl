// What a device can do at most, measured by kernels that do nothing else:
//   copy            y = x: 8 bytes of traffic an element, no arithmetic
//   multiply_add    y = the sum of 16 chains of z = z a + b, `rounds` long: 32 operations a round, next to no traffic
// The shares of the roofline (Williams et al. 2009) that `ddpm-gpu kernels bench` prints are shares of these two rates.
// copy: one invocation per four elements. multiply_add: one invocation per element; its chains do not depend on each
// other, so that one can go on while another waits for its result, and they stay in registers.
// Run it: ddpm-gpu kernels bench calibration --cases --device NAME.

// #import index

struct Params { length: u32, rounds: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                    // [L]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;              // [L]
@group(0) @binding(3) var<storage, read> x_vec4: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y_vec4: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> factors: array<f32>;              // a and b, [2]

override WORKGROUP: u32 = 64;

@compute @workgroup_size(WORKGROUP)
fn copy(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length / 4u { return; }
    y_vec4[i] = x_vec4[i];
}

@compute @workgroup_size(WORKGROUP)
fn multiply_add(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    // Both are read from memory, or the compiler would work the chains out.
    let a = vec4<f32>(factors[0]);
    let b = vec4<f32>(factors[1]);
    let first = vec4<f32>(x[i]) + vec4<f32>(0.0, 1.0, 2.0, 3.0);
    var z0 = first;
    var z1 = first + 4.0;
    var z2 = first + 8.0;
    var z3 = first + 12.0;
    for (var round = 0u; round < params.rounds; round++) {
        z0 = fma(z0, a, b);
        z1 = fma(z1, a, b);
        z2 = fma(z2, a, b);
        z3 = fma(z3, a, b);
    }
    y[i] = dot(z0 + z1 + z2 + z3, vec4<f32>(1.0));
}
