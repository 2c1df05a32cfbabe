// Mean squared error, first of each sample, then of the batch:
//   per_sample[n]       = 1/E sum over e of (prediction[n, e] - truth[n, e])^2      forward
//   loss                = 1/N sum over n of per_sample[n]                            mean
//   d_per_sample[n]     = d_loss / N                                                 mean_backward
//   d_prediction[n, e]  = d_per_sample[n] 2/E (prediction[n, e] - truth[n, e])      backward
// The sums take one workgroup per sample (forward) or in all (mean), and end in a tree in workgroup memory, whose
// order never changes; the others take one invocation per element.

// #import index

struct Params { samples: u32, elements: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> prediction: array<f32>;          // [N, E]
@group(0) @binding(2) var<storage, read> truth: array<f32>;               // [N, E]
@group(0) @binding(3) var<storage, read_write> per_sample: array<f32>;    // [N]
@group(0) @binding(4) var<storage, read> losses: array<f32>;              // [N]
@group(0) @binding(5) var<storage, read_write> loss: array<f32>;          // [1]
@group(0) @binding(6) var<storage, read> d_loss: array<f32>;              // [1]
@group(0) @binding(7) var<storage, read_write> d_losses: array<f32>;      // [N]
@group(0) @binding(8) var<storage, read> d_per_sample: array<f32>;        // [N]
@group(0) @binding(9) var<storage, read_write> d_prediction: array<f32>;  // [N, E]

override WORKGROUP: u32 = 256;  // a power of two

var<workgroup> partial: array<f32, WORKGROUP>;

// The sum of one term per invocation, in the first invocation.
fn sum_of_workgroup(term: f32, local: u32) -> f32 {
    partial[local] = term;
    for (var stride = WORKGROUP / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if local < stride { partial[local] += partial[local + stride]; }
    }
    return partial[local];
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let n = flat_workgroup(workgroup, workgroups);
    if n >= params.samples { return; }
    let end = (n + 1u) * params.elements;
    var sum = 0.0;
    for (var i = n * params.elements + local; i < end; i += WORKGROUP) {
        let difference = prediction[i] - truth[i];
        sum += difference * difference;
    }
    let total = sum_of_workgroup(sum, local);
    if local == 0u { per_sample[n] = total / f32(params.elements); }
}

@compute @workgroup_size(WORKGROUP)
fn mean(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
    if flat_workgroup(workgroup, workgroups) > 0u { return; }
    var sum = 0.0;
    for (var n = local; n < params.samples; n += WORKGROUP) { sum += losses[n]; }
    let total = sum_of_workgroup(sum, local);
    if local == 0u { loss[0] = total / f32(params.samples); }
}

@compute @workgroup_size(WORKGROUP)
fn mean_backward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let n = flat_index(workgroup, workgroups, local, WORKGROUP);
    if n >= params.samples { return; }
    d_losses[n] = d_loss[0] / f32(params.samples);
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.samples * params.elements { return; }
    let scale = d_per_sample[i / params.elements] * (2.0 / f32(params.elements));
    d_prediction[i] = scale * (prediction[i] - truth[i]);
}
