// AdamW (Loshchilov and Hutter 2019), and Adam (Kingma and Ba 2015), over packed parameters, with gradient clipping and
// the exponential moving average of the weights in the same pass:
//   g = scale gradient + l2 w       w = w (1 - lr decay)          AdamW has a decay, Adam an l2, as in PyTorch
//   m = b1 m + (1 - b1) g           v = b2 v + (1 - b2) g^2
//   w = w - lr (m c1) / (sqrt(v) c2 + eps)          c1 = 1 / (1 - b1^t), c2 = 1 / sqrt(1 - b2^t)
//   ema = d ema + (1 - d) w
// One invocation per four elements. A scale of 0 is a step to skip (loss_scale.wgsl): nothing changes. `schedule`
// holds the numbers that change from step to step: (lr, c1, c2, d).
// Run it: ddpm-gpu kernels bench adamw --device NAME.

// #import index

struct Params { length: u32, beta1: f32, beta2: f32, eps: f32, weight_decay: f32, l2_penalty: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gradients_vec4: array<vec4<f32>>;          // [L], L a multiple of 4
@group(0) @binding(2) var<storage, read> norm_and_scale: array<f32>;                // [2]
@group(0) @binding(3) var<storage, read> schedule: array<f32>;                      // [4]
@group(0) @binding(4) var<storage, read_write> weights_vec4: array<vec4<f32>>;      // [L]
@group(0) @binding(5) var<storage, read_write> first_moment_vec4: array<vec4<f32>>; // [L]
@group(0) @binding(6) var<storage, read_write> second_moment_vec4: array<vec4<f32>>;// [L]
@group(0) @binding(7) var<storage, read_write> ema_vec4: array<vec4<f32>>;          // [L]

override WORKGROUP: u32 = 64;

@compute @workgroup_size(WORKGROUP)
fn step(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length / 4u || norm_and_scale[1] == 0.0 { return; }
    let rate = schedule[0];
    let g = gradients_vec4[i] * norm_and_scale[1] + params.l2_penalty * weights_vec4[i];
    let m = params.beta1 * first_moment_vec4[i] + (1.0 - params.beta1) * g;
    let v = params.beta2 * second_moment_vec4[i] + (1.0 - params.beta2) * g * g;
    let decayed = weights_vec4[i] * (1.0 - rate * params.weight_decay);
    let w = decayed - rate * (m * schedule[1]) / (sqrt(v) * schedule[2] + params.eps);
    first_moment_vec4[i] = m;
    second_moment_vec4[i] = v;
    weights_vec4[i] = w;
    ema_vec4[i] = schedule[3] * ema_vec4[i] + (1.0 - schedule[3]) * w;
}
