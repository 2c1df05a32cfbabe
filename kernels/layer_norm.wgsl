// Layer normalisation (Ba et al. 2016) of each row r over its C channels, the last axis of x:
//   mean[r] = 1/C sum over c of x[r, c]            rstd[r] = 1 / sqrt(1/C sum over c of (x[r, c] - mean[r])^2 + eps)
//   x_hat = (x - mean) rstd
//   y = x_hat                                      forward
//   y = x_hat weight[c] + bias[c]                  forward_affine
//   d_x = rstd (g - mean over c of g - x_hat mean over c of (g x_hat)),   g = d_y              backward
//                                                                         g = d_y weight[c]    backward_affine
//   d_weight[c] = sum over r of d_y x_hat          d_bias[c] = sum over r of d_y               backward_weight
// The first four take one workgroup per row. x is read three times: for the mean, for the centred squares (their sum
// about a rough mean does not cancel where the mean is large), and for the result; a row of a few thousand channels is
// still in the cache. `_vec4`, for channels in fours, reads four channels at a time. Its workgroup of 8 (`_row`) is for
// software adapters, whose vectors have 8 lanes and whose barriers are dear; with 64 it is for GPUs. The weight's
// gradient takes one invocation per (range of rows, channel), so that neighbouring invocations read neighbouring
// channels, and one per channel to add up the ranges in order.
// On lavapipe (2 idle cores), at 2 x 256 x 320, forward_affine_row is 3.2 times as fast as forward_affine_vec4;
// `_row` is the fastest in every pass.
// Run it: ddpm-gpu kernels bench layer_norm --cases --device NAME.

// #import activation
// #import index
// #import tree_sum TERM=vec2<f32>

struct Params { rows: u32, channels: u32, eps: f32, rows_per_split: u32, splits: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Activation>;               // [R, C]
@group(0) @binding(2) var<storage, read> weight: array<f32>;                 // [C]
@group(0) @binding(3) var<storage, read> bias: array<f32>;                   // [C]
@group(0) @binding(4) var<storage, read_write> y: array<Activation>;         // [R, C]
@group(0) @binding(5) var<storage, read_write> mean: array<f32>;             // [R]
@group(0) @binding(6) var<storage, read_write> rstd: array<f32>;             // [R]
@group(0) @binding(7) var<storage, read> saved_mean: array<f32>;             // [R]
@group(0) @binding(8) var<storage, read> saved_rstd: array<f32>;             // [R]
@group(0) @binding(9) var<storage, read> d_y: array<Activation>;             // [R, C]
@group(0) @binding(10) var<storage, read_write> d_x: array<Activation>;      // [R, C]
@group(0) @binding(11) var<storage, read_write> partial: array<f32>;         // [splits, 2, C]: of d_bias, of d_weight
@group(0) @binding(12) var<storage, read_write> d_weight: array<f32>;        // [C]
@group(0) @binding(13) var<storage, read_write> d_bias: array<f32>;          // [C]
// The same tensors, four channels at a time.
@group(0) @binding(14) var<storage, read> x_vec4: array<Activation4>;
@group(0) @binding(15) var<storage, read> weight_vec4: array<vec4<f32>>;
@group(0) @binding(16) var<storage, read> bias_vec4: array<vec4<f32>>;
@group(0) @binding(17) var<storage, read_write> y_vec4: array<Activation4>;
@group(0) @binding(18) var<storage, read> d_y_vec4: array<Activation4>;
@group(0) @binding(19) var<storage, read_write> d_x_vec4: array<Activation4>;

override WORKGROUP: u32 = 64;

// Mean and rstd of a row from its sums about a rough mean, which also find what rounding left out of that.
fn statistics(rough_mean: f32, centred: vec2<f32>) -> vec2<f32> {
    let rest = centred / f32(params.channels);
    return vec2(rough_mean + rest.x, inverseSqrt(max(rest.y - rest.x * rest.x, 0.0) + params.eps));
}

// ---- four channels at a time

fn statistics_vec4(row: u32, local: u32) -> vec2<f32> {
    let quads = params.channels / 4u;
    let end = (row + 1u) * quads;
    var sum = vec4(0.0);
    for (var at = row * quads + local; at < end; at += WORKGROUP) { sum += vec4<f32>(x_vec4[at]); }
    let rough_mean = tree_sum(vec2(dot(sum, vec4(1.0)), 0.0), local).x / f32(params.channels);
    var difference_sum = vec4(0.0);
    var square_sum = vec4(0.0);
    for (var at = row * quads + local; at < end; at += WORKGROUP) {
        let difference = vec4<f32>(x_vec4[at]) - rough_mean;
        difference_sum += difference;
        square_sum += difference * difference;
    }
    let centred = vec2(dot(difference_sum, vec4(1.0)), dot(square_sum, vec4(1.0)));
    return statistics(rough_mean, tree_sum(centred, local));
}

fn store_statistics(row: u32, local: u32, of_row: vec2<f32>) {
    if local == 0u {
        mean[row] = of_row.x;
        rstd[row] = of_row.y;
    }
}

@compute @workgroup_size(WORKGROUP)
fn forward_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let row = flat_workgroup(workgroup, workgroups);
    if row >= params.rows { return; }
    let of_row = statistics_vec4(row, local);
    let quads = params.channels / 4u;
    for (var quad = local; quad < quads; quad += WORKGROUP) {
        let at = row * quads + quad;
        y_vec4[at] = Activation4((vec4<f32>(x_vec4[at]) - of_row.x) * of_row.y);
    }
    store_statistics(row, local, of_row);
}

@compute @workgroup_size(WORKGROUP)
fn forward_affine_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                       @builtin(local_invocation_index) local: u32) {
    let row = flat_workgroup(workgroup, workgroups);
    if row >= params.rows { return; }
    let of_row = statistics_vec4(row, local);
    let quads = params.channels / 4u;
    for (var quad = local; quad < quads; quad += WORKGROUP) {
        let at = row * quads + quad;
        let x_hat = (vec4<f32>(x_vec4[at]) - of_row.x) * of_row.y;
        y_vec4[at] = Activation4(x_hat * weight_vec4[quad] + bias_vec4[quad]);
    }
    store_statistics(row, local, of_row);
}

fn x_hat_vec4(row: u32, at: u32) -> vec4<f32> { return (vec4<f32>(x_vec4[at]) - saved_mean[row]) * saved_rstd[row]; }

fn store_d_x_vec4(row: u32, at: u32, g: vec4<f32>, means: vec2<f32>) {
    d_x_vec4[at] = Activation4(saved_rstd[row] * (g - means.x - x_hat_vec4(row, at) * means.y));
}

@compute @workgroup_size(WORKGROUP)
fn backward_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let row = flat_workgroup(workgroup, workgroups);
    if row >= params.rows { return; }
    let quads = params.channels / 4u;
    var sum = vec2(0.0);
    for (var quad = local; quad < quads; quad += WORKGROUP) {
        let at = row * quads + quad;
        let g = vec4<f32>(d_y_vec4[at]);
        sum += vec2(dot(g, vec4(1.0)), dot(g, x_hat_vec4(row, at)));
    }
    let means = tree_sum(sum, local) / f32(params.channels);
    for (var quad = local; quad < quads; quad += WORKGROUP) {
        let at = row * quads + quad;
        store_d_x_vec4(row, at, vec4<f32>(d_y_vec4[at]), means);
    }
}

@compute @workgroup_size(WORKGROUP)
fn backward_affine_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                        @builtin(local_invocation_index) local: u32) {
    let row = flat_workgroup(workgroup, workgroups);
    if row >= params.rows { return; }
    let quads = params.channels / 4u;
    var sum = vec2(0.0);
    for (var quad = local; quad < quads; quad += WORKGROUP) {
        let at = row * quads + quad;
        let g = vec4<f32>(d_y_vec4[at]) * weight_vec4[quad];
        sum += vec2(dot(g, vec4(1.0)), dot(g, x_hat_vec4(row, at)));
    }
    let means = tree_sum(sum, local) / f32(params.channels);
    for (var quad = local; quad < quads; quad += WORKGROUP) {
        let at = row * quads + quad;
        store_d_x_vec4(row, at, vec4<f32>(d_y_vec4[at]) * weight_vec4[quad], means);
    }
}

// ---- one channel at a time

fn statistics_of(row: u32, local: u32) -> vec2<f32> {
    let end = (row + 1u) * params.channels;
    var sum = 0.0;
    for (var at = row * params.channels + local; at < end; at += WORKGROUP) { sum += f32(x[at]); }
    let rough_mean = tree_sum(vec2(sum, 0.0), local).x / f32(params.channels);
    var centred = vec2(0.0);
    for (var at = row * params.channels + local; at < end; at += WORKGROUP) {
        let difference = f32(x[at]) - rough_mean;
        centred += vec2(difference, difference * difference);
    }
    return statistics(rough_mean, tree_sum(centred, local));
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let row = flat_workgroup(workgroup, workgroups);
    if row >= params.rows { return; }
    let of_row = statistics_of(row, local);
    for (var c = local; c < params.channels; c += WORKGROUP) {
        let at = row * params.channels + c;
        y[at] = Activation((f32(x[at]) - of_row.x) * of_row.y);
    }
    store_statistics(row, local, of_row);
}

@compute @workgroup_size(WORKGROUP)
fn forward_affine(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let row = flat_workgroup(workgroup, workgroups);
    if row >= params.rows { return; }
    let of_row = statistics_of(row, local);
    for (var c = local; c < params.channels; c += WORKGROUP) {
        let at = row * params.channels + c;
        y[at] = Activation((f32(x[at]) - of_row.x) * of_row.y * weight[c] + bias[c]);
    }
    store_statistics(row, local, of_row);
}

fn x_hat(row: u32, at: u32) -> f32 { return (f32(x[at]) - saved_mean[row]) * saved_rstd[row]; }

fn store_d_x(row: u32, at: u32, g: f32, means: vec2<f32>) {
    d_x[at] = Activation(saved_rstd[row] * (g - means.x - x_hat(row, at) * means.y));
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let row = flat_workgroup(workgroup, workgroups);
    if row >= params.rows { return; }
    var sum = vec2(0.0);
    for (var c = local; c < params.channels; c += WORKGROUP) {
        let at = row * params.channels + c;
        sum += f32(d_y[at]) * vec2(1.0, x_hat(row, at));
    }
    let means = tree_sum(sum, local) / f32(params.channels);
    for (var c = local; c < params.channels; c += WORKGROUP) {
        let at = row * params.channels + c;
        store_d_x(row, at, f32(d_y[at]), means);
    }
}

@compute @workgroup_size(WORKGROUP)
fn backward_affine(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let row = flat_workgroup(workgroup, workgroups);
    if row >= params.rows { return; }
    var sum = vec2(0.0);
    for (var c = local; c < params.channels; c += WORKGROUP) {
        let at = row * params.channels + c;
        sum += f32(d_y[at]) * weight[c] * vec2(1.0, x_hat(row, at));
    }
    let means = tree_sum(sum, local) / f32(params.channels);
    for (var c = local; c < params.channels; c += WORKGROUP) {
        let at = row * params.channels + c;
        store_d_x(row, at, f32(d_y[at]) * weight[c], means);
    }
}

// ---- weight and bias

@compute @workgroup_size(WORKGROUP)
fn backward_weight(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    let split = index / params.channels;
    if split >= params.splits { return; }
    let c = index % params.channels;
    let first = split * params.rows_per_split;
    let end = min(first + params.rows_per_split, params.rows);
    var sum = vec2(0.0);
    for (var row = first; row < end; row++) {
        let at = row * params.channels + c;
        sum += f32(d_y[at]) * vec2(1.0, x_hat(row, at));
    }
    partial[2u * split * params.channels + c] = sum.x;
    partial[(2u * split + 1u) * params.channels + c] = sum.y;
}

@compute @workgroup_size(WORKGROUP)
fn backward_weight_reduce(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                          @builtin(local_invocation_index) local: u32) {
    let c = flat_index(workgroup, workgroups, local, WORKGROUP);
    if c >= params.channels { return; }
    var sum = vec2(0.0);
    for (var split = 0u; split < params.splits; split++) {
        let at = 2u * split * params.channels + c;
        sum += vec2(partial[at], partial[at + params.channels]);
    }
    d_bias[c] = sum.x;
    d_weight[c] = sum.y;
}
