// Dynamic thresholding (Saharia et al. 2022, "Imagen", section 2.3): how far the estimate of x_0 may reach in each image,
//   x_0          = k0 x_t + k1 output                                 with k of reverse_step.wgsl
//   s            = quantile of |x_0| over the image, at least 1 and at most `max`
//   limits[n]    = (s, 1 / s)
// so that reverse_step.wgsl clamps x_0 to [-s, s] and divides by s. The quantile lies on the straight line between the
// order statistics number `rank` and `rank` + 1, counted from 0, as torch.quantile has it. One workgroup per sample: floats
// above zero are in the order of their bits, so bisecting 31 bits by counting finds an order statistic exactly.
// Run it: ddpm-gpu kernels bench dynamic_threshold --cases --device NAME.

// #import index

struct Params {
    samples: u32, elements: u32, channels: u32, output_channels: u32, coefficients: u32,
    rank: u32, share: f32, max: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> output: array<f32>;        // [N, E], or [N, 2 E] with learned variance
@group(0) @binding(2) var<storage, read> coefficients: array<f32>;  // [N, L]
@group(0) @binding(3) var<storage, read> x: array<f32>;             // [N, E]
@group(0) @binding(4) var<storage, read_write> limits: array<f32>;  // [N, 2]

const WORKGROUP = 64u;
const ALL = 0x7fffffffu;
var<workgroup> tree: array<u32, WORKGROUP>;

// The bits of |x_0|.
fn magnitude(n: u32, element: u32) -> u32 {
    let at = n * params.elements + element;
    let pixel = at / params.channels;
    let out = output[pixel * params.output_channels + (at - pixel * params.channels)];
    let k = n * params.coefficients;
    return bitcast<u32>(coefficients[k] * x[at] + coefficients[k + 1u] * out) & ALL;
}

// How many elements are at most `bits`.
fn count(n: u32, local: u32, bits: u32) -> u32 {
    var own = 0u;
    for (var element = local; element < params.elements; element += WORKGROUP) {
        own += u32(magnitude(n, element) <= bits);
    }
    tree[local] = own;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        if local < half { tree[local] += tree[local + half]; }
        workgroupBarrier();
    }
    let total = workgroupUniformLoad(&tree[0]);
    return total;
}

// The smallest element above `bits`.
fn next(n: u32, local: u32, bits: u32) -> u32 {
    var own = ALL;
    for (var element = local; element < params.elements; element += WORKGROUP) {
        let m = magnitude(n, element);
        if m > bits { own = min(own, m); }
    }
    tree[local] = own;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        if local < half { tree[local] = min(tree[local], tree[local + half]); }
        workgroupBarrier();
    }
    let least = workgroupUniformLoad(&tree[0]);
    return least;
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    // Surplus workgroups do the last sample's work again, so that all pass the same barriers.
    let group = flat_workgroup(workgroup, workgroups);
    let n = min(group, params.samples - 1u);
    // Bits that more than `rank` elements do not exceed, from the highest bit down.
    var below = 0u;
    for (var bit = 1u << 30u; bit > 0u; bit >>= 1u) {
        if count(n, local, below + bit - 1u) <= params.rank { below += bit; }
    }
    var above = below;
    if count(n, local, below) <= params.rank + 1u { above = next(n, local, below); }
    let low = bitcast<f32>(below);
    var s = low;
    if params.share > 0.0 { s += params.share * (bitcast<f32>(above) - low); }
    s = clamp(s, 1.0, params.max);
    if local == 0u && group < params.samples {
        limits[2u * n] = s;
        limits[2u * n + 1u] = 1.0 / s;
    }
}
