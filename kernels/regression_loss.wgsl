// How far a prediction is from the truth, for each sample, with d = prediction - truth:
//   per_sample[n]       = 1/E sum over e of loss(d[n, e])                            forward
//   d_prediction[n, e]  = d_per_sample[n] / E loss'(d[n, e])                         backward
//   loss(d) = d^2 (kind 0, mean squared error), |d| (kind 1, L1), or Huber's (kind 2): d^2 / 2 within delta of 0, and
//   delta (|d| - delta / 2) beyond. At 0 the slope of |d| is 0.
// The prediction may have more channels than the truth: those after the first C are another's, and get no gradient here.
// The sum takes one workgroup per sample and ends in a tree in workgroup memory, whose order never changes; the gradient
// takes one invocation per element of the prediction.
// Run it: ddpm-gpu kernels bench regression_loss --device NAME.

// #import index
// #import tree_sum TERM=f32

struct Params { samples: u32, elements: u32, channels: u32, predicted_channels: u32, kind: u32, delta: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> prediction: array<f32>;          // [N, H, W, P]
@group(0) @binding(2) var<storage, read> truth: array<f32>;               // [N, H, W, C], C <= P
@group(0) @binding(3) var<storage, read_write> per_sample: array<f32>;    // [N]
@group(0) @binding(4) var<storage, read> d_per_sample: array<f32>;        // [N]
@group(0) @binding(5) var<storage, read_write> d_prediction: array<f32>;  // [N, H, W, P]

override WORKGROUP: u32 = 256;  // a power of two

fn loss(d: f32) -> f32 {
    if params.kind == 0u { return d * d; }
    if params.kind == 1u { return abs(d); }
    if abs(d) <= params.delta { return 0.5 * d * d; }
    return params.delta * (abs(d) - 0.5 * params.delta);
}

fn slope(d: f32) -> f32 {
    if params.kind == 0u { return 2.0 * d; }
    if params.kind == 1u { return sign(d); }
    return clamp(d, -params.delta, params.delta);
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let n = flat_workgroup(workgroup, workgroups);
    if n >= params.samples { return; }
    let end = (n + 1u) * params.elements;
    var sum = 0.0;
    for (var i = n * params.elements + local; i < end; i += WORKGROUP) {
        let predicted = i / params.channels * params.predicted_channels + i % params.channels;
        sum += loss(prediction[predicted] - truth[i]);
    }
    let total = tree_sum(sum, local);
    if local == 0u { per_sample[n] = total / f32(params.elements); }
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let predicted = flat_index(workgroup, workgroups, local, WORKGROUP);
    let pixel = predicted / params.predicted_channels;
    let channel = predicted % params.predicted_channels;
    let i = pixel * params.channels + channel;
    if pixel * params.channels >= params.samples * params.elements { return; }
    if channel >= params.channels {
        d_prediction[predicted] = 0.0;
        return;
    }
    let scale = d_per_sample[i / params.elements] / f32(params.elements);
    d_prediction[predicted] = scale * slope(prediction[predicted] - truth[i]);
}
