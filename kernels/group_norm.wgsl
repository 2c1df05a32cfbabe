// Group normalisation (Wu and He 2018), with SiLU fused behind it on request:
//   x_hat = (x - mean) rstd,   z = weight[c] x_hat + bias[c],   y = z or silu(z)
// with mean and rstd = 1 / sqrt(variance + eps) over the pixels and channels of each (sample, group).
//   forward          one workgroup per (n, group): mean, then centred squares, then y. Three passes over x, because
//                    E[x^2] - E[x]^2 cancels where the mean is large.
//   backward_sums    one workgroup per (n, 16 channels): sums over the pixels of d_z and d_z x_hat
//   backward_input   one workgroup per (n, group):
//                    d_x = rstd (weight d_z - A - x_hat B), A and B the group's means of weight d_z and weight d_z x_hat
//   backward_weight  one invocation per channel: d_bias and d_weight are those sums, added over n
// x_hat is computed again from mean and rstd: it is never stored. Sums end in trees, whose order never changes.

// #import index

struct Params { samples: u32, pixels: u32, channels: u32, groups: u32, silu: u32, eps: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                // [N, P, C]
@group(0) @binding(2) var<storage, read> weight: array<f32>;           // [C]
@group(0) @binding(3) var<storage, read> bias: array<f32>;             // [C]
@group(0) @binding(4) var<storage, read_write> y: array<f32>;          // [N, P, C]
@group(0) @binding(5) var<storage, read_write> mean: array<f32>;       // [N, G]
@group(0) @binding(6) var<storage, read_write> rstd: array<f32>;       // [N, G]
@group(0) @binding(7) var<storage, read> d_y: array<f32>;              // [N, P, C]
@group(0) @binding(8) var<storage, read> saved_mean: array<f32>;       // [N, G]
@group(0) @binding(9) var<storage, read> saved_rstd: array<f32>;       // [N, G]
@group(0) @binding(10) var<storage, read_write> sums: array<f32>;      // [N, 2, C]: of d_z, then of d_z x_hat
@group(0) @binding(11) var<storage, read> saved_sums: array<f32>;      // [N, 2, C]
@group(0) @binding(12) var<storage, read_write> d_x: array<f32>;       // [N, P, C]
@group(0) @binding(13) var<storage, read_write> d_weight: array<f32>;  // [C]
@group(0) @binding(14) var<storage, read_write> d_bias: array<f32>;    // [C]

override WORKGROUP: u32 = 256;  // a power of two, at least CHANNELS
const CHANNELS = 16u;           // of one workgroup of backward_sums

var<workgroup> partial: array<vec2<f32>, WORKGROUP>;

// Adds up one term per invocation.
fn sum_of_workgroup(term: vec2<f32>, local: u32) -> vec2<f32> {
    workgroupBarrier();  // the previous sum has been read
    partial[local] = term;
    for (var stride = WORKGROUP / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if local < stride { partial[local] += partial[local + stride]; }
    }
    workgroupBarrier();
    return partial[0];
}

// The walk of an invocation over its share of a group: element `local`, then every WORKGROUP-th. Index and channel
// advance by addition, because divisions are slow.
struct Walk { index: u32, channel: u32, step: u32, channel_step: u32, wrap: u32 }

fn walk_of(n: u32, group: u32, group_channels: u32, local: u32) -> Walk {
    let channel = local % group_channels;
    let first = n * params.pixels * params.channels + group * group_channels;
    let channel_step = WORKGROUP % group_channels;
    let step = WORKGROUP / group_channels * params.channels + channel_step;
    return Walk(first + local / group_channels * params.channels + channel, channel, step, channel_step,
                params.channels - group_channels);
}

fn advance(walk: ptr<function, Walk>, group_channels: u32) {
    (*walk).index += (*walk).step;
    (*walk).channel += (*walk).channel_step;
    if (*walk).channel >= group_channels {
        (*walk).channel -= group_channels;
        (*walk).index += (*walk).wrap;
    }
}

fn activate(z: f32) -> f32 {
    if params.silu == 0u { return z; }
    return z / (1.0 + exp(-z));
}

// d_z from d_y: SiLU's slope at z.
fn d_activate(d: f32, x_hat: f32, c: u32) -> f32 {
    if params.silu == 0u { return d; }
    let z = x_hat * weight[c] + bias[c];
    let sigmoid = 1.0 / (1.0 + exp(-z));
    return d * sigmoid * (1.0 + z * (1.0 - sigmoid));
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let sample_group = flat_workgroup(workgroup, workgroups);
    if sample_group >= params.samples * params.groups { return; }
    let n = sample_group / params.groups;
    let group = sample_group % params.groups;
    let group_channels = params.channels / params.groups;
    let count = params.pixels * group_channels;
    let start = walk_of(n, group, group_channels, local);

    var sum = 0.0;
    var walk = start;
    for (var i = local; i < count; i += WORKGROUP) {
        sum += x[walk.index];
        advance(&walk, group_channels);
    }
    let rough_mean = sum_of_workgroup(vec2(sum, 0.0), local).x / f32(count);

    // The second pass also finds what rounding left out of the mean.
    var centred = vec2(0.0);
    walk = start;
    for (var i = local; i < count; i += WORKGROUP) {
        let difference = x[walk.index] - rough_mean;
        centred += vec2(difference, difference * difference);
        advance(&walk, group_channels);
    }
    centred = sum_of_workgroup(centred, local) / f32(count);
    let group_mean = rough_mean + centred.x;
    let group_rstd = inverseSqrt(max(centred.y - centred.x * centred.x, 0.0) + params.eps);

    let first_channel = group * group_channels;
    walk = start;
    for (var i = local; i < count; i += WORKGROUP) {
        let c = first_channel + walk.channel;
        y[walk.index] = activate((x[walk.index] - group_mean) * group_rstd * weight[c] + bias[c]);
        advance(&walk, group_channels);
    }
    if local == 0u {
        mean[sample_group] = group_mean;
        rstd[sample_group] = group_rstd;
    }
}

@compute @workgroup_size(WORKGROUP)
fn backward_sums(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let flat = flat_workgroup(workgroup, workgroups);
    let blocks = (params.channels + CHANNELS - 1u) / CHANNELS;
    let n = flat / blocks;
    if n >= params.samples { return; }
    let c = flat % blocks * CHANNELS + local % CHANNELS;
    let row = local / CHANNELS;
    var sum = vec2(0.0);
    if c < params.channels {
        let sample_group = n * params.groups + c / (params.channels / params.groups);
        let group_mean = saved_mean[sample_group];
        let group_rstd = saved_rstd[sample_group];
        var index = (n * params.pixels + row) * params.channels + c;
        for (var p = row; p < params.pixels; p += WORKGROUP / CHANNELS) {
            let x_hat = (x[index] - group_mean) * group_rstd;
            let d_z = d_activate(d_y[index], x_hat, c);
            sum += vec2(d_z, d_z * x_hat);
            index += WORKGROUP / CHANNELS * params.channels;
        }
    }
    partial[local] = sum;
    for (var stride = WORKGROUP / 2u; stride >= CHANNELS; stride /= 2u) {
        workgroupBarrier();
        if local < stride { partial[local] += partial[local + stride]; }
    }
    if row == 0u && c < params.channels {
        sums[2u * n * params.channels + c] = partial[local].x;
        sums[(2u * n + 1u) * params.channels + c] = partial[local].y;
    }
}

@compute @workgroup_size(WORKGROUP)
fn backward_input(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let sample_group = flat_workgroup(workgroup, workgroups);
    if sample_group >= params.samples * params.groups { return; }
    let n = sample_group / params.groups;
    let group = sample_group % params.groups;
    let group_channels = params.channels / params.groups;
    let count = params.pixels * group_channels;
    let first_channel = group * group_channels;

    var sum = vec2(0.0);
    for (var i = local; i < group_channels; i += WORKGROUP) {
        let c = first_channel + i;
        let at = 2u * n * params.channels + c;
        sum += weight[c] * vec2(saved_sums[at], saved_sums[at + params.channels]);
    }
    let means = sum_of_workgroup(sum, local) / f32(count);

    let group_mean = saved_mean[sample_group];
    let group_rstd = saved_rstd[sample_group];
    var walk = walk_of(n, group, group_channels, local);
    for (var i = local; i < count; i += WORKGROUP) {
        let c = first_channel + walk.channel;
        let x_hat = (x[walk.index] - group_mean) * group_rstd;
        let d_z = d_activate(d_y[walk.index], x_hat, c);
        d_x[walk.index] = group_rstd * (weight[c] * d_z - means.x - x_hat * means.y);
        advance(&walk, group_channels);
    }
}

@compute @workgroup_size(WORKGROUP)
fn backward_weight(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let c = flat_index(workgroup, workgroups, local, WORKGROUP);
    if c >= params.channels { return; }
    var sum = vec2(0.0);
    var at = c;
    for (var n = 0u; n < params.samples; n++) {
        sum += vec2(saved_sums[at], saved_sums[at + params.channels]);
        at += 2u * params.channels;
    }
    d_bias[c] = sum.x;
    d_weight[c] = sum.y;
}
