// Fully connected layer over rows, and the matrix products of its gradients:
//   y[m, o]        = bias[o] + sum over i of x[m, i] weight[o, i]       forward; forward_unbiased without the bias
//   d_x[m, i]      = sum over o of d_y[m, o] weight[o, i]
//   d_weight[o, i] = sum over m of d_y[m, o] x[m, i]          d_bias[o] = sum over m of d_y[m, o]
// The shared modules hold the algorithms, which multiply tiles and read four features at a time; the functions below
// tell them what to multiply. The gradient of the input is the same product as the forward one, over weights transposed to
// [I, O] by a pass of their own.
// Plain entry points take one invocation per output element and fit any number of features.
// On lavapipe (Mesa 25, 2 cores), at 16 x 8 x 8 x 64 to 64 features, `_shuffle` is the fastest in every pass. In
// backward_input it is 2.4 times as fast as `_workgroup_64`, 4.3 times as `_workgroup_128`, 4.9 times as
// `_workgroup_32` and 13 times as the plain one; in backward_weight `_tiled` comes next, 1.4 times as slow. Mesa's
// compiler for AMD, ACO, makes of 100 instructions in forward's inner loop, on RDNA3 (navi31), 70 multiply-adds for
// `_workgroup_128` and `_workgroup_64` (96 and 95 registers), 60 for `_tiled` (76), 40 for `_workgroup_32` (47).
// Run it: ddpm-gpu kernels bench linear --device NAME.

// #import activation
// #import index
// #import products
// #import tile_memory
// #import transpose_weight
// #import product_tiles PASS=forward
// #import product_tiles PASS=forward_unbiased
// #import product_tiles PASS=backward_input
// #import product_shuffle PASS=forward
// #import product_shuffle PASS=forward_unbiased
// #import product_shuffle PASS=backward_input
// #import product_cooperative PASS=forward
// #import product_cooperative PASS=forward_unbiased
// #import product_cooperative PASS=backward_input
// #import weight_tiles
// #import weight_shuffle

// rows_per_split and splits: the ranges of rows that the weight gradient is summed in.
struct Params { rows: u32, in_features: u32, out_features: u32, rows_per_split: u32, splits: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Activation>;               // [M, I]
@group(0) @binding(2) var<storage, read> weight: array<f32>;                 // [O, I]
@group(0) @binding(3) var<storage, read> bias: array<f32>;                   // [O]
@group(0) @binding(4) var<storage, read_write> y: array<Activation>;         // [M, O]
@group(0) @binding(5) var<storage, read> d_y: array<Activation>;             // [M, O]
@group(0) @binding(6) var<storage, read_write> d_x: array<Activation>;       // [M, I]
@group(0) @binding(7) var<storage, read_write> d_weight: array<f32>;         // [O, I]
@group(0) @binding(8) var<storage, read_write> d_bias: array<f32>;           // [O]
@group(0) @binding(9) var<storage, read_write> partial: array<f32>;          // [splits, O, I]
@group(0) @binding(10) var<storage, read_write> partial_bias: array<f32>;    // [splits, O]
// The same tensors, four features at a time.
@group(0) @binding(11) var<storage, read> x_vec4: array<Activation4>;
@group(0) @binding(12) var<storage, read> weight_vec4: array<vec4<f32>>;
@group(0) @binding(13) var<storage, read> bias_vec4: array<vec4<f32>>;
@group(0) @binding(14) var<storage, read_write> y_vec4: array<Activation4>;
@group(0) @binding(15) var<storage, read> d_y_vec4: array<Activation4>;
@group(0) @binding(16) var<storage, read_write> d_x_vec4: array<Activation4>;
@group(0) @binding(17) var<storage, read_write> d_weight_vec4: array<vec4<f32>>;
@group(0) @binding(18) var<storage, read_write> d_bias_vec4: array<vec4<f32>>;
@group(0) @binding(19) var<storage, read_write> partial_vec4: array<vec4<f32>>;
@group(0) @binding(20) var<storage, read_write> partial_bias_vec4: array<vec4<f32>>;
@group(0) @binding(21) var<storage, read_write> transposed_weight_vec4: array<vec4<f32>>; // [I, O]

override WORKGROUP: u32 = 64;

fn forward_product() -> Product { return Product(params.rows, params.out_features, 1u, params.in_features); }
fn forward_place(row: u32) -> vec3<u32> { return vec3(row * (params.in_features / 4u), 0u, 0u); }
fn forward_next(place: vec3<u32>) -> vec3<u32> { return vec3(place.x + params.in_features / 4u, 0u, 0u); }
fn forward_shift(tap: u32) -> vec2<u32> { return vec2(0u); }
fn forward_tap(place: vec3<u32>, shift: vec2<u32>) -> Tap { return Tap(place.x, true); }
fn forward_a(at: u32) -> vec4<f32> { return vec4<f32>(x_vec4[at]); }
fn forward_b(at: u32) -> vec4<f32> { return weight_vec4[at]; }
fn forward_start(quad: u32) -> vec4<f32> { return bias_vec4[quad]; }
fn forward_store(at: u32, value: vec4<f32>) { y_vec4[at] = Activation4(value); }

// The same without a bias: another product, so that its calls need not bind one.
fn forward_unbiased_product() -> Product { return forward_product(); }
fn forward_unbiased_place(row: u32) -> vec3<u32> { return forward_place(row); }
fn forward_unbiased_shift(tap: u32) -> vec2<u32> { return vec2(0u); }
fn forward_unbiased_tap(place: vec3<u32>, shift: vec2<u32>) -> Tap { return Tap(place.x, true); }
fn forward_unbiased_a(at: u32) -> vec4<f32> { return vec4<f32>(x_vec4[at]); }
fn forward_unbiased_b(at: u32) -> vec4<f32> { return weight_vec4[at]; }
fn forward_unbiased_start(quad: u32) -> vec4<f32> { return vec4(0.0); }
fn forward_unbiased_store(at: u32, value: vec4<f32>) { y_vec4[at] = Activation4(value); }

fn backward_input_product() -> Product { return Product(params.rows, params.in_features, 1u, params.out_features); }
fn backward_input_place(row: u32) -> vec3<u32> { return vec3(row * (params.out_features / 4u), 0u, 0u); }
fn backward_input_shift(tap: u32) -> vec2<u32> { return vec2(0u); }
fn backward_input_tap(place: vec3<u32>, shift: vec2<u32>) -> Tap { return Tap(place.x, true); }
fn backward_input_a(at: u32) -> vec4<f32> { return vec4<f32>(d_y_vec4[at]); }
fn backward_input_b(at: u32) -> vec4<f32> { return transposed_weight_vec4[at]; }
fn backward_input_start(quad: u32) -> vec4<f32> { return vec4(0.0); }
fn backward_input_store(at: u32, value: vec4<f32>) { d_x_vec4[at] = Activation4(value); }

// x[m] . weight[o] for output index m O + o.
fn product_at(index: u32) -> f32 {
    let x_at = index / params.out_features * params.in_features;
    let w_at = index % params.out_features * params.in_features;
    var sum = 0.0;
    for (var i = 0u; i < params.in_features; i++) {
        sum += f32(x[x_at + i]) * weight[w_at + i];
    }
    return sum;
}

@compute @workgroup_size(WORKGROUP)
fn forward_unbiased(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    if index >= params.rows * params.out_features { return; }
    y[index] = Activation(product_at(index));
}

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
        sum += f32(x[x_at + i]) * weight[w_at + i];
    }
    y[index] = Activation(sum);
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
        sum += f32(d_y[d_at + o]) * weight[w_at];
        w_at += params.in_features;
    }
    d_x[index] = Activation(sum);
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
    let first = split * params.rows_per_split;
    let end = min(first + params.rows_per_split, params.rows);
    var d_at = first * params.out_features + row % params.out_features;
    var x_at = first * params.in_features + i;
    var sum = 0.0;
    var bias_sum = 0.0;
    for (var m = first; m < end; m++) {
        let d = f32(d_y[d_at]);
        bias_sum += d;
        sum += d * f32(x[x_at]);
        d_at += params.out_features;
        x_at += params.in_features;
    }
    partial[index] = sum;
    if i == 0u {
        partial_bias[row] = bias_sum;
    }
}
