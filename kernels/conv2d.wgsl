// 2-D convolution over NHWC images with OHWI weights, square kernel of size k, padded with zeros:
//   y[n, oh, ow, o]          = bias[o] + sum over kh, kw, i of x[n, oh s + kh - p, ow s + kw - p, i] weight[o, kh, kw, i]
//   d_x[n, h, w, i]          = sum over kh, kw, o of d_y[n, (h + p - kh) / s, (w + p - kw) / s, o] weight[o, kh, kw, i]
//   d_weight[o, kh, kw, i]   = sum over n, oh, ow of d_y[n, oh, ow, o] x[n, oh s + kh - p, ow s + kw - p, i]
//   d_bias[o]                = sum over n, oh, ow of d_y[n, oh, ow, o]
// with stride s and padding p before the first row and column; the size of y says how much padding follows the last.
//
// Plain entry points take one invocation per output element and fit any shape. `_tiled` ones keep a tile of outputs in
// registers (4 pixels x 8 channels; 8 x 8 channels for the weights) and read four channels at a time. They want channel
// counts that are multiples of 8; tiles of neighbouring invocations share pixels, so x comes from the cache.
// The weight gradient sums over all pixels of the batch: it is split into ranges of pixels, summed into `partial`, and
// `backward_weight_reduce` adds the ranges up in order, so the result does not depend on scheduling.

// #import index
// #import products

struct Params {
    batch: u32,
    in_height: u32,
    in_width: u32,
    in_channels: u32,
    out_height: u32,
    out_width: u32,
    out_channels: u32,
    kernel: u32,
    stride: u32,
    pad: u32,
    pixels_per_split: u32,
    splits: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                         // [N, H, W, I]
@group(0) @binding(2) var<storage, read> weight: array<f32>;                    // [O, k, k, I]
@group(0) @binding(3) var<storage, read> bias: array<f32>;                      // [O]
@group(0) @binding(4) var<storage, read_write> y: array<f32>;                   // [N, OH, OW, O]
@group(0) @binding(5) var<storage, read> d_y: array<f32>;                       // [N, OH, OW, O]
@group(0) @binding(6) var<storage, read_write> d_x: array<f32>;                 // [N, H, W, I]
@group(0) @binding(7) var<storage, read_write> d_weight: array<f32>;            // [O, k, k, I]
@group(0) @binding(8) var<storage, read_write> d_bias: array<f32>;              // [O]
@group(0) @binding(9) var<storage, read_write> partial: array<f32>;             // [splits, O, k, k, I]
@group(0) @binding(10) var<storage, read_write> partial_bias: array<f32>;       // [splits, O]
// The same tensors, four channels at a time.
@group(0) @binding(11) var<storage, read> x_vec4: array<vec4<f32>>;
@group(0) @binding(12) var<storage, read> weight_vec4: array<vec4<f32>>;
@group(0) @binding(13) var<storage, read> bias_vec4: array<vec4<f32>>;
@group(0) @binding(14) var<storage, read_write> y_vec4: array<vec4<f32>>;
@group(0) @binding(15) var<storage, read> d_y_vec4: array<vec4<f32>>;
@group(0) @binding(16) var<storage, read_write> d_x_vec4: array<vec4<f32>>;
@group(0) @binding(17) var<storage, read_write> partial_vec4: array<vec4<f32>>;
@group(0) @binding(18) var<storage, read_write> partial_bias_vec4: array<vec4<f32>>;

override WORKGROUP: u32 = 64;

// ---- forward ----

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    let pixels = params.batch * params.out_height * params.out_width;
    if index >= pixels * params.out_channels { return; }
    let o = index % params.out_channels;
    let pixel = index / params.out_channels;
    let n = pixel / (params.out_height * params.out_width);
    let top = (pixel / params.out_width) % params.out_height * params.stride;
    let left = pixel % params.out_width * params.stride;
    var sum = bias[o];
    var w = o * params.kernel * params.kernel * params.in_channels;
    for (var kh = 0u; kh < params.kernel; kh++) {
        // Rows above the image wrap round to huge numbers and fail the same comparison as rows below it.
        let h = top + kh - params.pad;
        for (var kw = 0u; kw < params.kernel; kw++) {
            let column = left + kw - params.pad;
            if h < params.in_height && column < params.in_width {
                let at = ((n * params.in_height + h) * params.in_width + column) * params.in_channels;
                for (var i = 0u; i < params.in_channels; i++) {
                    sum += x[at + i] * weight[w + i];
                }
            }
            w += params.in_channels;
        }
    }
    y[index] = sum;
}

// Where pixel `pixel` of the output reads channel 0 of x under kernel tap (kh, kw), in units of four channels;
// `inside` is 0 where that is padding.
struct Tap { at: u32, inside: f32 }

fn forward_tap(pixel: u32, kh: u32, kw: u32) -> Tap {
    let n = pixel / (params.out_height * params.out_width);
    let h = (pixel / params.out_width) % params.out_height * params.stride + kh - params.pad;
    let w = pixel % params.out_width * params.stride + kw - params.pad;
    if h < params.in_height && w < params.in_width {
        return Tap(((n * params.in_height + h) * params.in_width + w) * (params.in_channels / 4u), 1.0);
    }
    return Tap(0u, 0.0);
}

@compute @workgroup_size(WORKGROUP)
fn forward_tiled(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    let pixels = params.batch * params.out_height * params.out_width;
    let channel_tiles = params.out_channels / 8u;
    let o = index % channel_tiles * 8u;
    let p0 = index / channel_tiles * 4u;
    if p0 >= pixels { return; }
    // The last tile may hang over the end; its surplus pixels repeat the last one and are not written.
    let p1 = min(p0 + 1u, pixels - 1u);
    let p2 = min(p0 + 2u, pixels - 1u);
    let p3 = min(p0 + 3u, pixels - 1u);
    var a0 = bias_vec4[o / 4u];
    var b0 = bias_vec4[o / 4u + 1u];
    var a1 = a0; var b1 = b0;
    var a2 = a0; var b2 = b0;
    var a3 = a0; var b3 = b0;
    let steps = params.in_channels / 4u;
    let w_stride = params.kernel * params.kernel * steps;
    var w = o * w_stride;
    for (var kh = 0u; kh < params.kernel; kh++) {
        for (var kw = 0u; kw < params.kernel; kw++) {
            let t0 = forward_tap(p0, kh, kw);
            let t1 = forward_tap(p1, kh, kw);
            let t2 = forward_tap(p2, kh, kw);
            let t3 = forward_tap(p3, kh, kw);
            for (var step = 0u; step < steps; step++) {
                let x0 = x_vec4[t0.at + step] * t0.inside;
                let x1 = x_vec4[t1.at + step] * t1.inside;
                let x2 = x_vec4[t2.at + step] * t2.inside;
                let x3 = x_vec4[t3.at + step] * t3.inside;
                var at = w + step;
                let w0 = weight_vec4[at]; at += w_stride;
                let w1 = weight_vec4[at]; at += w_stride;
                let w2 = weight_vec4[at]; at += w_stride;
                let w3 = weight_vec4[at]; at += w_stride;
                a0 += dots(x0, w0, w1, w2, w3);
                a1 += dots(x1, w0, w1, w2, w3);
                a2 += dots(x2, w0, w1, w2, w3);
                a3 += dots(x3, w0, w1, w2, w3);
                let w4 = weight_vec4[at]; at += w_stride;
                let w5 = weight_vec4[at]; at += w_stride;
                let w6 = weight_vec4[at]; at += w_stride;
                let w7 = weight_vec4[at];
                b0 += dots(x0, w4, w5, w6, w7);
                b1 += dots(x1, w4, w5, w6, w7);
                b2 += dots(x2, w4, w5, w6, w7);
                b3 += dots(x3, w4, w5, w6, w7);
            }
            w += steps;
        }
    }
    let row = params.out_channels / 4u;
    var out = p0 * row + o / 4u;
    y_vec4[out] = a0; y_vec4[out + 1u] = b0; out += row;
    if p0 + 1u < pixels { y_vec4[out] = a1; y_vec4[out + 1u] = b1; } out += row;
    if p0 + 2u < pixels { y_vec4[out] = a2; y_vec4[out + 1u] = b2; } out += row;
    if p0 + 3u < pixels { y_vec4[out] = a3; y_vec4[out + 1u] = b3; }
}

// ---- gradient of the input ----

@compute @workgroup_size(WORKGROUP)
fn backward_input(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    let pixels = params.batch * params.in_height * params.in_width;
    if index >= pixels * params.in_channels { return; }
    let i = index % params.in_channels;
    let pixel = index / params.in_channels;
    let n = pixel / (params.in_height * params.in_width);
    let bottom = (pixel / params.in_width) % params.in_height + params.pad;
    let right = pixel % params.in_width + params.pad;
    let w_stride = params.kernel * params.kernel * params.in_channels;
    var sum = 0.0;
    for (var kh = 0u; kh < params.kernel; kh++) {
        let h = (bottom - kh) / params.stride;
        if kh > bottom || h * params.stride != bottom - kh || h >= params.out_height { continue; }
        for (var kw = 0u; kw < params.kernel; kw++) {
            let column = (right - kw) / params.stride;
            if kw > right || column * params.stride != right - kw || column >= params.out_width { continue; }
            let at = ((n * params.out_height + h) * params.out_width + column) * params.out_channels;
            var w = (kh * params.kernel + kw) * params.in_channels + i;
            for (var o = 0u; o < params.out_channels; o++) {
                sum += d_y[at + o] * weight[w];
                w += w_stride;
            }
        }
    }
    d_x[index] = sum;
}

// Where input pixel `pixel` was read by kernel tap (kh, kw): channel 0 of d_y, in units of four channels.
fn backward_tap(pixel: u32, kh: u32, kw: u32) -> Tap {
    let n = pixel / (params.in_height * params.in_width);
    let bottom = (pixel / params.in_width) % params.in_height + params.pad;
    let right = pixel % params.in_width + params.pad;
    let h = (bottom - kh) / params.stride;
    let w = (right - kw) / params.stride;
    if kh <= bottom && kw <= right && h * params.stride == bottom - kh && w * params.stride == right - kw
        && h < params.out_height && w < params.out_width {
        return Tap(((n * params.out_height + h) * params.out_width + w) * (params.out_channels / 4u), 1.0);
    }
    return Tap(0u, 0.0);
}

@compute @workgroup_size(WORKGROUP)
fn backward_input_tiled(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    let pixels = params.batch * params.in_height * params.in_width;
    let channel_tiles = params.in_channels / 8u;
    let i = index % channel_tiles * 2u; // in units of four channels
    let p0 = index / channel_tiles * 4u;
    if p0 >= pixels { return; }
    let p1 = min(p0 + 1u, pixels - 1u);
    let p2 = min(p0 + 2u, pixels - 1u);
    let p3 = min(p0 + 3u, pixels - 1u);
    var a0 = vec4(0.0); var b0 = vec4(0.0);
    var a1 = vec4(0.0); var b1 = vec4(0.0);
    var a2 = vec4(0.0); var b2 = vec4(0.0);
    var a3 = vec4(0.0); var b3 = vec4(0.0);
    let steps = params.out_channels / 4u;
    let row = params.in_channels / 4u;
    let w_stride = params.kernel * params.kernel * row;
    for (var kh = 0u; kh < params.kernel; kh++) {
        for (var kw = 0u; kw < params.kernel; kw++) {
            let t0 = backward_tap(p0, kh, kw);
            let t1 = backward_tap(p1, kh, kw);
            let t2 = backward_tap(p2, kh, kw);
            let t3 = backward_tap(p3, kh, kw);
            var w = (kh * params.kernel + kw) * row + i;
            for (var step = 0u; step < steps; step++) {
                let d0 = d_y_vec4[t0.at + step] * t0.inside;
                let d1 = d_y_vec4[t1.at + step] * t1.inside;
                let d2 = d_y_vec4[t2.at + step] * t2.inside;
                let d3 = d_y_vec4[t3.at + step] * t3.inside;
                let w0 = weight_vec4[w]; let v0 = weight_vec4[w + 1u]; w += w_stride;
                let w1 = weight_vec4[w]; let v1 = weight_vec4[w + 1u]; w += w_stride;
                let w2 = weight_vec4[w]; let v2 = weight_vec4[w + 1u]; w += w_stride;
                let w3 = weight_vec4[w]; let v3 = weight_vec4[w + 1u]; w += w_stride;
                a0 += mix4(d0, w0, w1, w2, w3); b0 += mix4(d0, v0, v1, v2, v3);
                a1 += mix4(d1, w0, w1, w2, w3); b1 += mix4(d1, v0, v1, v2, v3);
                a2 += mix4(d2, w0, w1, w2, w3); b2 += mix4(d2, v0, v1, v2, v3);
                a3 += mix4(d3, w0, w1, w2, w3); b3 += mix4(d3, v0, v1, v2, v3);
            }
        }
    }
    var out = p0 * row + i;
    d_x_vec4[out] = a0; d_x_vec4[out + 1u] = b0; out += row;
    if p0 + 1u < pixels { d_x_vec4[out] = a1; d_x_vec4[out + 1u] = b1; } out += row;
    if p0 + 2u < pixels { d_x_vec4[out] = a2; d_x_vec4[out + 1u] = b2; } out += row;
    if p0 + 3u < pixels { d_x_vec4[out] = a3; d_x_vec4[out + 1u] = b3; }
}

// ---- gradients of weight and bias ----

// One invocation per (split, o, kh, kw, i).
@compute @workgroup_size(WORKGROUP)
fn backward_weight(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    let i = index % params.in_channels;
    let kw = index / params.in_channels % params.kernel;
    let kh = index / (params.in_channels * params.kernel) % params.kernel;
    let row = index / (params.in_channels * params.kernel * params.kernel); // split * O + o
    let split = row / params.out_channels;
    if split >= params.splits { return; }
    let o = row % params.out_channels;
    let first = split * params.pixels_per_split;
    let end = min(first + params.pixels_per_split, params.batch * params.out_height * params.out_width);
    var sum = 0.0;
    var bias_sum = 0.0;
    for (var pixel = first; pixel < end; pixel++) {
        let n = pixel / (params.out_height * params.out_width);
        let h = (pixel / params.out_width) % params.out_height * params.stride + kh - params.pad;
        let w = pixel % params.out_width * params.stride + kw - params.pad;
        let d = d_y[pixel * params.out_channels + o];
        bias_sum += d;
        if h < params.in_height && w < params.in_width {
            sum += d * x[((n * params.in_height + h) * params.in_width + w) * params.in_channels + i];
        }
    }
    partial[index] = sum;
    if i == 0u && kh == 0u && kw == 0u {
        partial_bias[row] = bias_sum;
    }
}

// One invocation per (split, o / 8, kh, kw, i / 8).
@compute @workgroup_size(WORKGROUP)
fn backward_weight_tiled(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                         @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    let i_tiles = params.in_channels / 8u;
    let o_tiles = params.out_channels / 8u;
    let i = index % i_tiles * 2u; // in units of four channels
    let tap = index / i_tiles % (params.kernel * params.kernel);
    let row = index / (i_tiles * params.kernel * params.kernel); // split * o_tiles + o / 8
    let split = row / o_tiles;
    if split >= params.splits { return; }
    let o = row % o_tiles * 2u; // in units of four channels
    let kh = tap / params.kernel;
    let kw = tap % params.kernel;
    let first = split * params.pixels_per_split;
    let end = min(first + params.pixels_per_split, params.batch * params.out_height * params.out_width);
    let d_row = params.out_channels / 4u;
    // s and t hold rows o .. o + 7 of the tile: s the first four input channels, t the next four.
    var s0 = vec4(0.0); var s1 = vec4(0.0); var s2 = vec4(0.0); var s3 = vec4(0.0);
    var s4 = vec4(0.0); var s5 = vec4(0.0); var s6 = vec4(0.0); var s7 = vec4(0.0);
    var t0 = vec4(0.0); var t1 = vec4(0.0); var t2 = vec4(0.0); var t3 = vec4(0.0);
    var t4 = vec4(0.0); var t5 = vec4(0.0); var t6 = vec4(0.0); var t7 = vec4(0.0);
    var bias_a = vec4(0.0);
    var bias_b = vec4(0.0);
    for (var pixel = first; pixel < end; pixel++) {
        let at = forward_tap(pixel, kh, kw);
        let d = d_y_vec4[pixel * d_row + o];
        let e = d_y_vec4[pixel * d_row + o + 1u];
        bias_a += d;
        bias_b += e;
        let u = x_vec4[at.at + i] * at.inside;
        let v = x_vec4[at.at + i + 1u] * at.inside;
        s0 += d.x * u; t0 += d.x * v;
        s1 += d.y * u; t1 += d.y * v;
        s2 += d.z * u; t2 += d.z * v;
        s3 += d.w * u; t3 += d.w * v;
        s4 += e.x * u; t4 += e.x * v;
        s5 += e.y * u; t5 += e.y * v;
        s6 += e.z * u; t6 += e.z * v;
        s7 += e.w * u; t7 += e.w * v;
    }
    let x_row = params.in_channels / 4u;
    let stride = params.kernel * params.kernel * x_row;
    var out = (row * 8u * params.kernel * params.kernel + tap) * x_row + i;
    partial_vec4[out] = s0; partial_vec4[out + 1u] = t0; out += stride;
    partial_vec4[out] = s1; partial_vec4[out + 1u] = t1; out += stride;
    partial_vec4[out] = s2; partial_vec4[out + 1u] = t2; out += stride;
    partial_vec4[out] = s3; partial_vec4[out + 1u] = t3; out += stride;
    partial_vec4[out] = s4; partial_vec4[out + 1u] = t4; out += stride;
    partial_vec4[out] = s5; partial_vec4[out + 1u] = t5; out += stride;
    partial_vec4[out] = s6; partial_vec4[out + 1u] = t6; out += stride;
    partial_vec4[out] = s7; partial_vec4[out + 1u] = t7;
    if tap == 0u && i == 0u {
        partial_bias_vec4[row * 2u] = bias_a;
        partial_bias_vec4[row * 2u + 1u] = bias_b;
    }
}

// One invocation per element of d_weight, then one per element of d_bias.
@compute @workgroup_size(WORKGROUP)
fn backward_weight_reduce(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                          @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    let weights = params.out_channels * params.kernel * params.kernel * params.in_channels;
    if index >= weights + params.out_channels { return; }
    var sum = 0.0;
    if index < weights {
        for (var split = 0u; split < params.splits; split++) {
            sum += partial[split * weights + index];
        }
        d_weight[index] = sum;
    } else {
        let o = index - weights;
        for (var split = 0u; split < params.splits; split++) {
            sum += partial_bias[split * params.out_channels + o];
        }
        d_bias[o] = sum;
    }
}
