// Fully connected layer over rows, and the matrix products of its gradients:
//   y[m, o]        = bias[o] + sum over i of x[m, i] weight[o, i]
//   d_x[m, i]      = sum over o of d_y[m, o] weight[o, i]
//   d_weight[o, i] = sum over m of d_y[m, o] x[m, i]          d_bias[o] = sum over m of d_y[m, o]
// Plain entry points take one invocation per output element and fit any shape. `_tiled` ones keep 4 rows x 8 columns
// (8 x 8 for the weights) in registers, read four features at a time, and want feature counts that are multiples of 8.
// The weight gradient is summed over ranges of rows into `partial`, which `backward_weight_reduce` adds up in order.

// #import index
// #import products

struct Params { rows: u32, in_features: u32, out_features: u32, rows_per_split: u32, splits: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                      // [M, I]
@group(0) @binding(2) var<storage, read> weight: array<f32>;                 // [O, I]
@group(0) @binding(3) var<storage, read> bias: array<f32>;                   // [O]
@group(0) @binding(4) var<storage, read_write> y: array<f32>;                // [M, O]
@group(0) @binding(5) var<storage, read> d_y: array<f32>;                    // [M, O]
@group(0) @binding(6) var<storage, read_write> d_x: array<f32>;              // [M, I]
@group(0) @binding(7) var<storage, read_write> d_weight: array<f32>;         // [O, I]
@group(0) @binding(8) var<storage, read_write> d_bias: array<f32>;           // [O]
@group(0) @binding(9) var<storage, read_write> partial: array<f32>;          // [splits, O, I]
@group(0) @binding(10) var<storage, read_write> partial_bias: array<f32>;    // [splits, O]
// The same tensors, four features at a time.
@group(0) @binding(11) var<storage, read> x_vec4: array<vec4<f32>>;
@group(0) @binding(12) var<storage, read> weight_vec4: array<vec4<f32>>;
@group(0) @binding(13) var<storage, read> bias_vec4: array<vec4<f32>>;
@group(0) @binding(14) var<storage, read_write> y_vec4: array<vec4<f32>>;
@group(0) @binding(15) var<storage, read> d_y_vec4: array<vec4<f32>>;
@group(0) @binding(16) var<storage, read_write> d_x_vec4: array<vec4<f32>>;
@group(0) @binding(17) var<storage, read_write> partial_vec4: array<vec4<f32>>;
@group(0) @binding(18) var<storage, read_write> partial_bias_vec4: array<vec4<f32>>;

override WORKGROUP: u32 = 64;

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    if index >= params.rows * params.out_features { return; }
    let o = index % params.out_features;
    let x_at = index / params.out_features * params.in_features;
    let w_at = o * params.in_features;
    var sum = bias[o];
    for (var i = 0u; i < params.in_features; i++) {
        sum += x[x_at + i] * weight[w_at + i];
    }
    y[index] = sum;
}

@compute @workgroup_size(WORKGROUP)
fn forward_tiled(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    let tiles = params.out_features / 8u;
    let o = index % tiles * 8u;
    let m = index / tiles * 4u;
    if m >= params.rows { return; }
    let steps = params.in_features / 4u;
    // The last tile may hang over the end; its surplus rows repeat the last one and are not written.
    let last = params.rows - 1u;
    let m0 = m * steps;
    let m1 = min(m + 1u, last) * steps;
    let m2 = min(m + 2u, last) * steps;
    let m3 = min(m + 3u, last) * steps;
    var a0 = bias_vec4[o / 4u];
    var b0 = bias_vec4[o / 4u + 1u];
    var a1 = a0; var b1 = b0;
    var a2 = a0; var b2 = b0;
    var a3 = a0; var b3 = b0;
    for (var step = 0u; step < steps; step++) {
        let x0 = x_vec4[m0 + step];
        let x1 = x_vec4[m1 + step];
        let x2 = x_vec4[m2 + step];
        let x3 = x_vec4[m3 + step];
        var at = o * steps + step;
        let w0 = weight_vec4[at]; at += steps;
        let w1 = weight_vec4[at]; at += steps;
        let w2 = weight_vec4[at]; at += steps;
        let w3 = weight_vec4[at]; at += steps;
        a0 += dots(x0, w0, w1, w2, w3);
        a1 += dots(x1, w0, w1, w2, w3);
        a2 += dots(x2, w0, w1, w2, w3);
        a3 += dots(x3, w0, w1, w2, w3);
        let w4 = weight_vec4[at]; at += steps;
        let w5 = weight_vec4[at]; at += steps;
        let w6 = weight_vec4[at]; at += steps;
        let w7 = weight_vec4[at];
        b0 += dots(x0, w4, w5, w6, w7);
        b1 += dots(x1, w4, w5, w6, w7);
        b2 += dots(x2, w4, w5, w6, w7);
        b3 += dots(x3, w4, w5, w6, w7);
    }
    let row = params.out_features / 4u;
    var out = m * row + o / 4u;
    y_vec4[out] = a0; y_vec4[out + 1u] = b0; out += row;
    if m + 1u <= last { y_vec4[out] = a1; y_vec4[out + 1u] = b1; } out += row;
    if m + 2u <= last { y_vec4[out] = a2; y_vec4[out + 1u] = b2; } out += row;
    if m + 3u <= last { y_vec4[out] = a3; y_vec4[out + 1u] = b3; }
}

@compute @workgroup_size(WORKGROUP)
fn backward_input(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    if index >= params.rows * params.in_features { return; }
    let d_at = index / params.in_features * params.out_features;
    var w_at = index % params.in_features;
    var sum = 0.0;
    for (var o = 0u; o < params.out_features; o++) {
        sum += d_y[d_at + o] * weight[w_at];
        w_at += params.in_features;
    }
    d_x[index] = sum;
}

@compute @workgroup_size(WORKGROUP)
fn backward_input_tiled(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    let tiles = params.in_features / 8u;
    let i = index % tiles * 2u; // in units of four features
    let m = index / tiles * 4u;
    if m >= params.rows { return; }
    let steps = params.out_features / 4u;
    let last = params.rows - 1u;
    let m0 = m * steps;
    let m1 = min(m + 1u, last) * steps;
    let m2 = min(m + 2u, last) * steps;
    let m3 = min(m + 3u, last) * steps;
    var a0 = vec4(0.0); var b0 = vec4(0.0);
    var a1 = vec4(0.0); var b1 = vec4(0.0);
    var a2 = vec4(0.0); var b2 = vec4(0.0);
    var a3 = vec4(0.0); var b3 = vec4(0.0);
    let row = params.in_features / 4u;
    var w = i;
    for (var step = 0u; step < steps; step++) {
        let d0 = d_y_vec4[m0 + step];
        let d1 = d_y_vec4[m1 + step];
        let d2 = d_y_vec4[m2 + step];
        let d3 = d_y_vec4[m3 + step];
        let w0 = weight_vec4[w]; let v0 = weight_vec4[w + 1u]; w += row;
        let w1 = weight_vec4[w]; let v1 = weight_vec4[w + 1u]; w += row;
        let w2 = weight_vec4[w]; let v2 = weight_vec4[w + 1u]; w += row;
        let w3 = weight_vec4[w]; let v3 = weight_vec4[w + 1u]; w += row;
        a0 += mix4(d0, w0, w1, w2, w3); b0 += mix4(d0, v0, v1, v2, v3);
        a1 += mix4(d1, w0, w1, w2, w3); b1 += mix4(d1, v0, v1, v2, v3);
        a2 += mix4(d2, w0, w1, w2, w3); b2 += mix4(d2, v0, v1, v2, v3);
        a3 += mix4(d3, w0, w1, w2, w3); b3 += mix4(d3, v0, v1, v2, v3);
    }
    var out = m * row + i;
    d_x_vec4[out] = a0; d_x_vec4[out + 1u] = b0; out += row;
    if m + 1u <= last { d_x_vec4[out] = a1; d_x_vec4[out + 1u] = b1; } out += row;
    if m + 2u <= last { d_x_vec4[out] = a2; d_x_vec4[out + 1u] = b2; } out += row;
    if m + 3u <= last { d_x_vec4[out] = a3; d_x_vec4[out + 1u] = b3; }
}

// One invocation per (split, o, i).
@compute @workgroup_size(WORKGROUP)
fn backward_weight(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    let i = index % params.in_features;
    let row = index / params.in_features; // split * O + o
    let split = row / params.out_features;
    if split >= params.splits { return; }
    let o = row % params.out_features;
    let first = split * params.rows_per_split;
    let end = min(first + params.rows_per_split, params.rows);
    var sum = 0.0;
    var bias_sum = 0.0;
    for (var m = first; m < end; m++) {
        let d = d_y[m * params.out_features + o];
        bias_sum += d;
        sum += d * x[m * params.in_features + i];
    }
    partial[index] = sum;
    if i == 0u {
        partial_bias[row] = bias_sum;
    }
}

// One invocation per (split, o / 8, i / 8).
@compute @workgroup_size(WORKGROUP)
fn backward_weight_tiled(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                         @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    let i_tiles = params.in_features / 8u;
    let o_tiles = params.out_features / 8u;
    let i = index % i_tiles * 2u; // in units of four features
    let row = index / i_tiles; // split * o_tiles + o / 8
    let split = row / o_tiles;
    if split >= params.splits { return; }
    let d_row = params.out_features / 4u;
    let x_row = params.in_features / 4u;
    let first = split * params.rows_per_split;
    let end = min(first + params.rows_per_split, params.rows);
    var d_at = first * d_row + row % o_tiles * 2u;
    var x_at = first * x_row + i;
    // s and t hold rows o .. o + 7 of the tile: s the first four input features, t the next four.
    var s0 = vec4(0.0); var s1 = vec4(0.0); var s2 = vec4(0.0); var s3 = vec4(0.0);
    var s4 = vec4(0.0); var s5 = vec4(0.0); var s6 = vec4(0.0); var s7 = vec4(0.0);
    var t0 = vec4(0.0); var t1 = vec4(0.0); var t2 = vec4(0.0); var t3 = vec4(0.0);
    var t4 = vec4(0.0); var t5 = vec4(0.0); var t6 = vec4(0.0); var t7 = vec4(0.0);
    var bias_a = vec4(0.0);
    var bias_b = vec4(0.0);
    for (var m = first; m < end; m++) {
        let d = d_y_vec4[d_at];
        let e = d_y_vec4[d_at + 1u];
        bias_a += d;
        bias_b += e;
        let u = x_vec4[x_at];
        let v = x_vec4[x_at + 1u];
        s0 += d.x * u; t0 += d.x * v;
        s1 += d.y * u; t1 += d.y * v;
        s2 += d.z * u; t2 += d.z * v;
        s3 += d.w * u; t3 += d.w * v;
        s4 += e.x * u; t4 += e.x * v;
        s5 += e.y * u; t5 += e.y * v;
        s6 += e.z * u; t6 += e.z * v;
        s7 += e.w * u; t7 += e.w * v;
        d_at += d_row;
        x_at += x_row;
    }
    var out = row * 8u * x_row + i;
    partial_vec4[out] = s0; partial_vec4[out + 1u] = t0; out += x_row;
    partial_vec4[out] = s1; partial_vec4[out + 1u] = t1; out += x_row;
    partial_vec4[out] = s2; partial_vec4[out + 1u] = t2; out += x_row;
    partial_vec4[out] = s3; partial_vec4[out + 1u] = t3; out += x_row;
    partial_vec4[out] = s4; partial_vec4[out + 1u] = t4; out += x_row;
    partial_vec4[out] = s5; partial_vec4[out + 1u] = t5; out += x_row;
    partial_vec4[out] = s6; partial_vec4[out + 1u] = t6; out += x_row;
    partial_vec4[out] = s7; partial_vec4[out + 1u] = t7;
    if i == 0u {
        partial_bias_vec4[row * 2u] = bias_a;
        partial_bias_vec4[row * 2u + 1u] = bias_b;
    }
}

// One invocation per element of d_weight, then one per element of d_bias.
@compute @workgroup_size(WORKGROUP)
fn backward_weight_reduce(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                          @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    let weights = params.out_features * params.in_features;
    if index >= weights + params.out_features { return; }
    var sum = 0.0;
    if index < weights {
        for (var split = 0u; split < params.splits; split++) {
            sum += partial[split * weights + index];
        }
        d_weight[index] = sum;
    } else {
        let o = index - weights;
        for (var split = 0u; split < params.splits; split++) {
            sum += partial_bias[split * params.out_features + o];
        }
        d_bias[o] = sum;
    }
}
