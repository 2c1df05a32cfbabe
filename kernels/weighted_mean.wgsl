// The loss of a batch from those of its samples:
//   loss          = 1/N sum over n of weights[n] losses[n]      forward
//   d_losses[n]   = d_loss weights[n] / N                       backward
// The weights are data: a weighting by signal-to-noise ratio, times what makes importance sampling of timesteps
// unbiased. The sum takes one workgroup in all and ends in a tree in workgroup memory, whose order never changes; its
// gradient takes one invocation per sample.
// Run it: ddpm-gpu kernels bench weighted_mean --device NAME.

// #import index
// #import tree_sum TERM=f32

struct Params { samples: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> losses: array<f32>;              // [N]
@group(0) @binding(2) var<storage, read> weights: array<f32>;             // [N]
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;          // [1]
@group(0) @binding(4) var<storage, read> d_loss: array<f32>;              // [1]
@group(0) @binding(5) var<storage, read_write> d_losses: array<f32>;      // [N]

override WORKGROUP: u32 = 256;  // a power of two

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(local_invocation_index) local: u32) {
    var sum = 0.0;
    for (var n = local; n < params.samples; n += WORKGROUP) { sum += weights[n] * losses[n]; }
    let total = tree_sum(sum, local);
    if local == 0u { loss[0] = total / f32(params.samples); }
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let n = flat_index(workgroup, workgroups, local, WORKGROUP);
    if n >= params.samples { return; }
    d_losses[n] = d_loss[0] * weights[n] / f32(params.samples);
}
