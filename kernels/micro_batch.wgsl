// Gradient accumulation over the micro-batches of a step. `number` counts them from 0:
//   sum[i]             = gradients[i] + (sum[i], but for the first one)        add
//   whole[number N + n]  = part[n]                                               gather     losses of N images
// The first one overwrites: adding 0 sum[i] would keep the NaN of a step that overflowed.
// `add` takes one invocation per four elements, `gather` one per image.
// Run it: ddpm-gpu kernels bench micro_batch --cases --device NAME.

// #import index

struct Params { length: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gradients_vec4: array<vec4<f32>>;  // [L], L a multiple of 4
@group(0) @binding(2) var<storage, read> number: array<u32>;                // [1]
@group(0) @binding(3) var<storage, read_write> sum_vec4: array<vec4<f32>>;  // [L]
@group(0) @binding(4) var<storage, read> part: array<f32>;                  // [N]
@group(0) @binding(5) var<storage, read_write> whole: array<f32>;           // [micro-batches, N]

override WORKGROUP: u32 = 64;

@compute @workgroup_size(WORKGROUP)
fn add(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
       @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length / 4u { return; }
    if number[0] == 0u {
        sum_vec4[i] = gradients_vec4[i];
    } else {
        sum_vec4[i] += gradients_vec4[i];
    }
}

@compute @workgroup_size(WORKGROUP)
fn gather(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
          @builtin(local_invocation_index) local: u32) {
    let n = flat_index(workgroup, workgroups, local, WORKGROUP);
    if n >= params.length { return; }
    whole[number[0] * params.length + n] = part[n];
}
