// A further exponential moving average of the weights; AdamW keeps the first (adamw.wgsl):
//   ema = d ema + (1 - d) w
// One invocation per four elements. A scale of 0 is a step that AdamW skipped: nothing changes here either.
// Run it: ddpm-gpu kernels bench ema --cases --device NAME.

// #import index

struct Params { length: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights_vec4: array<vec4<f32>>;    // [L], L a multiple of 4
@group(0) @binding(2) var<storage, read> norm_and_scale: array<f32>;        // [2]
@group(0) @binding(3) var<storage, read> decay: array<f32>;                 // [1]
@group(0) @binding(4) var<storage, read_write> ema_vec4: array<vec4<f32>>;  // [L]

override WORKGROUP: u32 = 64;

@compute @workgroup_size(WORKGROUP)
fn step(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length / 4u || norm_and_scale[1] == 0.0 { return; }
    ema_vec4[i] = decay[0] * ema_vec4[i] + (1.0 - decay[0]) * weights_vec4[i];
}
