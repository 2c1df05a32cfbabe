// Random Fourier features of noise levels (Tancik et al. 2020; Song et al. 2021; diffusers' GaussianFourierProjection):
//   y[n, i], y[n, F + i] = sin(2 pi a), cos(2 pi a),   a = log(t[n]) weight[i]
// One invocation per element. Weights have a standard deviation of 16, so that a reaches hundreds of turns: whole turns
// are dropped before anything else is computed, and what is left becomes a fraction of 2^32. An f32 product of 300 is
// off by 3e-5 turns, so that PyTorch's result and this one differ by about 2e-4 there.
// Run it: ddpm-gpu kernels bench fourier_embedding --cases --device NAME.

// #import index
// #import logarithm
// #import sin_turns

struct Params { length: u32, features: u32 }                      // of y; F
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> timesteps: array<f32>;   // [N]
@group(0) @binding(2) var<storage, read> weight: array<f32>;      // [F]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;     // [N, 2F]

override WORKGROUP: u32 = 64;

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    let column = i % (2u * params.features);
    let is_cos = column >= params.features;
    let angle = natural_log(timesteps[i / (2u * params.features)]) * weight[column % params.features];
    var turns = u32((angle - floor(angle)) * 4294967296.0);
    // cos(a) = sin(a + a quarter turn)
    if is_cos { turns += 0x40000000u; }
    y[i] = sin_turns(turns);
}
