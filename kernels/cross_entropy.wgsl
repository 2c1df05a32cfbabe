// Cross-entropy of a classifier's logits, by way of the logarithm of softmax:
//   per_sample[n]   = log(sum over k of exp(logits[n, k])) - logits[n, labels[n]]                  forward
//   d_logits[n, k]  = d_per_sample[n] (exp(logits[n, k]) / sum of exp  -  [k = labels[n]])         backward
// The largest logit is taken out of every exponent first, so that none overflows. One workgroup per sample; maximum
// and sum end in trees in workgroup memory, whose order never changes. The host refuses labels beyond the classes;
// should one arrive here all the same, it means the last class.
// Run it: ddpm-gpu kernels bench cross_entropy --cases --device NAME.

// #import index
// #import logarithm
// #import tree_sum TERM=f32

struct Params { samples: u32, classes: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;            // [N, K]
@group(0) @binding(2) var<storage, read> labels: array<u32>;            // [N]
@group(0) @binding(3) var<storage, read_write> per_sample: array<f32>;  // [N]
@group(0) @binding(4) var<storage, read> d_per_sample: array<f32>;      // [N]
@group(0) @binding(5) var<storage, read_write> d_logits: array<f32>;    // [N, K]

override WORKGROUP: u32 = 64;  // a power of two

var<workgroup> partial: array<f32, WORKGROUP>;

// The largest logit of sample n, in all invocations.
fn largest_logit(n: u32, local: u32) -> f32 {
    var largest = logits[n * params.classes];
    for (var k = local; k < params.classes; k += WORKGROUP) { largest = max(largest, logits[n * params.classes + k]); }
    partial[local] = largest;
    for (var stride = WORKGROUP / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if local < stride { partial[local] = max(partial[local], partial[local + stride]); }
    }
    workgroupBarrier();
    let result = partial[0];
    workgroupBarrier();
    return result;
}

// The sum of exp(logits - largest) of sample n, in all invocations.
fn sum_of_exp(n: u32, largest: f32, local: u32) -> f32 {
    var sum = 0.0;
    for (var k = local; k < params.classes; k += WORKGROUP) { sum += exp(logits[n * params.classes + k] - largest); }
    return tree_sum(sum, local);
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let n = flat_workgroup(workgroup, workgroups);
    if n >= params.samples { return; }
    let largest = largest_logit(n, local);
    let sum = sum_of_exp(n, largest, local);
    let label = min(labels[n], params.classes - 1u);
    if local == 0u { per_sample[n] = natural_log(sum) + (largest - logits[n * params.classes + label]); }
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let n = flat_workgroup(workgroup, workgroups);
    if n >= params.samples { return; }
    let largest = largest_logit(n, local);
    let sum = sum_of_exp(n, largest, local);
    let label = min(labels[n], params.classes - 1u);
    for (var k = local; k < params.classes; k += WORKGROUP) {
        let i = n * params.classes + k;
        let softmax = exp(logits[i] - largest) / sum;
        d_logits[i] = d_per_sample[n] * (softmax - select(0.0, 1.0, k == label));
    }
}
