// 2-D convolution over NHWC images with OHWI weights, any kernel of KH x KW, padded with zeros:
//   y[n, oh, ow, o]          = bias[o] + sum over kh, kw, i of x[n, oh s + kh - p, ow s + kw - p, i] weight[o, kh, kw, i]
//   d_x[n, h, w, i]          = sum over kh, kw, o of d_y[n, (h + p - kh) / s, (w + p - kw) / s, o] weight[o, kh, kw, i]
//   d_weight[o, kh, kw, i]   = sum over n, oh, ow of d_y[n, oh, ow, o] x[n, oh s + kh - p, ow s + kw - p, i]
//   d_bias[o]                = sum over n, oh, ow of d_y[n, oh, ow, o]
// with stride s and padding p before the first row or column, each with a number for rows and one for columns. The size
// of y says how much padding follows the last.
//
// All three are matrix products. One factor is never stored (im2col, done by the index): its rows are pixels, and a
// row holds the numbers that the KH x KW taps of the kernel read around the pixel. The functions below say where a
// tap reads; the shared modules hold the algorithms, which multiply tiles and read four channels at a time. The
// gradient of the input is the same product as the forward one, over weights transposed to [I, KH, KW, O] by a pass
// of their own. Plain entry points take one invocation per output element and fit any number of channels.
// See src/ops/product.rs for the variants. On lavapipe (Mesa 25, 2 cores), at 16 x 16 x 16 x 64 with 3 x 3 kernels,
// `_shuffle` is the fastest and the plain entry points are the slowest, in every pass. In backward_input `_shuffle`
// is 2.8 times as fast as `_workgroup_128`, 6.6 times as `_workgroup_32` and 14 times as the plain one. Mesa's
// compiler for AMD, ACO, makes of 100 instructions in forward's inner loop, on RDNA3 (navi31), 69 multiply-adds for
// `_workgroup_128` and `_workgroup_64` (104 and 103 registers), 59 for `_tiled` (88), 37 for `_workgroup_32` (55): so
// a GPU gets the largest tile that still makes enough workgroups.
// Run it: ddpm-gpu kernels bench conv2d --device NAME.

// #import activation
// #import index
// #import products
// #import tile_memory
// #import transpose_weight
// #import product_tiles PASS=forward
// #import product_tiles PASS=backward_input
// #import product_shuffle PASS=forward
// #import product_shuffle PASS=backward_input
// #import product_cooperative PASS=forward
// #import product_cooperative PASS=backward_input
// #import weight_tiles
// #import weight_shuffle

struct Params {
    batch: u32,
    in_height: u32,
    in_width: u32,
    in_channels: u32,
    out_height: u32,
    out_width: u32,
    out_channels: u32,
    kernel_height: u32,
    kernel_width: u32,
    stride_height: u32,
    stride_width: u32,
    pad_top: u32,
    pad_left: u32,
    // Ranges of output pixels, the rows of the product, that the weight gradient is summed in.
    rows_per_split: u32,
    splits: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Activation>;                  // [N, H, W, I]
@group(0) @binding(2) var<storage, read> weight: array<f32>;                    // [O, KH, KW, I]
@group(0) @binding(3) var<storage, read> bias: array<f32>;                      // [O]
@group(0) @binding(4) var<storage, read_write> y: array<Activation>;            // [N, OH, OW, O]
@group(0) @binding(5) var<storage, read> d_y: array<Activation>;                // [N, OH, OW, O]
@group(0) @binding(6) var<storage, read_write> d_x: array<Activation>;          // [N, H, W, I]
@group(0) @binding(7) var<storage, read_write> d_weight: array<f32>;            // [O, KH, KW, I]
@group(0) @binding(8) var<storage, read_write> d_bias: array<f32>;              // [O]
@group(0) @binding(9) var<storage, read_write> partial: array<f32>;             // [splits, O, KH, KW, I]
@group(0) @binding(10) var<storage, read_write> partial_bias: array<f32>;       // [splits, O]
// The same tensors, four channels at a time.
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
@group(0) @binding(21) var<storage, read_write> transposed_weight_vec4: array<vec4<f32>>; // [I, KH, KW, O]

override WORKGROUP: u32 = 64;

// ---- forward: rows are output pixels, columns output channels ----

fn forward_product() -> Product {
    let pixels = params.batch * params.out_height * params.out_width;
    return Product(pixels, params.out_channels, params.kernel_height * params.kernel_width, params.in_channels);
}

// First line of the pixel's image in x; row and column that its first tap reads. Rows above and columns left of the
// image wrap round to huge numbers, and fail the same comparison as those below and right of it.
fn forward_place(pixel: u32) -> vec3<u32> {
    let line = pixel / params.out_width;
    let n = line / params.out_height;
    return vec3(n * params.in_height, (line - n * params.out_height) * params.stride_height - params.pad_top,
                (pixel - line * params.out_width) * params.stride_width - params.pad_left);
}

// The place of the next pixel, without a division.
fn forward_next(place: vec3<u32>) -> vec3<u32> {
    let w = place.z + params.stride_width;
    let line_ends = w == params.out_width * params.stride_width - params.pad_left;
    let h = select(place.y, place.y + params.stride_height, line_ends);
    let image_ends = h == params.out_height * params.stride_height - params.pad_top;
    return vec3(select(place.x, place.x + params.in_height, image_ends), select(h, 0u - params.pad_top, image_ends),
                select(w, 0u - params.pad_left, line_ends));
}

// Row and column of a tap within the kernel.
fn forward_shift(tap: u32) -> vec2<u32> { return vec2(tap / params.kernel_width, tap % params.kernel_width); }

// Pixel of x that a tap reads, and 1 if it lies inside the image.
fn forward_pixel(place: vec3<u32>, shift: vec2<u32>) -> vec2<u32> {
    let h = place.y + shift.x;
    let w = place.z + shift.y;
    let inside = h < params.in_height && w < params.in_width;
    return select(vec2(0u), vec2((place.x + h) * params.in_width + w, 1u), inside);
}

fn forward_tap(place: vec3<u32>, shift: vec2<u32>) -> Tap {
    let pixel = forward_pixel(place, shift);
    return Tap(pixel.x * (params.in_channels / 4u), pixel.y == 1u);
}

fn forward_a(at: u32) -> vec4<f32> { return vec4<f32>(x_vec4[at]); }
fn forward_b(at: u32) -> vec4<f32> { return weight_vec4[at]; }
fn forward_start(quad: u32) -> vec4<f32> { return bias_vec4[quad]; }
fn forward_store(at: u32, value: vec4<f32>) { y_vec4[at] = Activation4(value); }

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    let product = forward_product();
    if index >= product.rows * product.columns { return; }
    let o = index % product.columns;
    let place = forward_place(index / product.columns);
    var sum = bias[o];
    var w = o * product.taps * product.depth;
    for (var kh = 0u; kh < params.kernel_height; kh++) {
        for (var kw = 0u; kw < params.kernel_width; kw++) {
            let pixel = forward_pixel(place, vec2(kh, kw));
            if pixel.y == 1u {
                for (var i = 0u; i < product.depth; i++) {
                    sum += f32(x[pixel.x * product.depth + i]) * weight[w + i];
                }
            }
            w += product.depth;
        }
    }
    y[index] = Activation(sum);
}

// ---- gradient of the input: rows are input pixels, columns input channels ----

fn backward_input_product() -> Product {
    let pixels = params.batch * params.in_height * params.in_width;
    return Product(pixels, params.in_channels, params.kernel_height * params.kernel_width, params.out_channels);
}

// First line of the pixel's image in d_y; stride times the row and column of the output that read the pixel by tap 0.
fn backward_input_place(pixel: u32) -> vec3<u32> {
    let line = pixel / params.in_width;
    let n = line / params.in_height;
    return vec3(n * params.out_height, line - n * params.in_height + params.pad_top,
                pixel - line * params.in_width + params.pad_left);
}

fn backward_input_shift(tap: u32) -> vec2<u32> { return forward_shift(tap); }

// Pixel of d_y that read the input pixel by a tap, and 1 if there is one.
fn backward_input_pixel(place: vec3<u32>, shift: vec2<u32>) -> vec2<u32> {
    let bottom = place.y - shift.x;
    let right = place.z - shift.y;
    // Numbers below 2^20 divide exactly by way of floats, where integer division is slow.
    let h = u32((f32(bottom) + 0.5) / f32(params.stride_height));
    let w = u32((f32(right) + 0.5) / f32(params.stride_width));
    let divides = h * params.stride_height == bottom && w * params.stride_width == right;
    let inside = h < params.out_height && w < params.out_width && divides;
    return select(vec2(0u), vec2((place.x + h) * params.out_width + w, 1u), inside);
}

fn backward_input_tap(place: vec3<u32>, shift: vec2<u32>) -> Tap {
    let pixel = backward_input_pixel(place, shift);
    return Tap(pixel.x * (params.out_channels / 4u), pixel.y == 1u);
}

fn backward_input_a(at: u32) -> vec4<f32> { return vec4<f32>(d_y_vec4[at]); }
fn backward_input_b(at: u32) -> vec4<f32> { return transposed_weight_vec4[at]; }
fn backward_input_start(quad: u32) -> vec4<f32> { return vec4(0.0); }
fn backward_input_store(at: u32, value: vec4<f32>) { d_x_vec4[at] = Activation4(value); }

@compute @workgroup_size(WORKGROUP)
fn backward_input(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    let product = backward_input_product();
    if index >= product.rows * product.columns { return; }
    let i = index % product.columns;
    let place = backward_input_place(index / product.columns);
    let w_stride = product.taps * product.columns;
    var w_tap = i;
    var sum = 0.0;
    for (var kh = 0u; kh < params.kernel_height; kh++) {
        for (var kw = 0u; kw < params.kernel_width; kw++) {
            let pixel = backward_input_pixel(place, vec2(kh, kw));
            if pixel.y == 1u {
                var w = w_tap;
                for (var o = 0u; o < product.depth; o++) {
                    sum += f32(d_y[pixel.x * product.depth + o]) * weight[w];
                    w += w_stride;
                }
            }
            w_tap += product.columns;
        }
    }
    d_x[index] = Activation(sum);
}

// ---- gradients of weight and bias ----

// One invocation per (split, o, kh, kw, i).
@compute @workgroup_size(WORKGROUP)
fn backward_weight(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    let product = forward_product();
    let i = index % product.depth;
    let tap = index / product.depth % product.taps;
    let shift = forward_shift(tap);
    let row = index / (product.depth * product.taps); // split * O + o
    let split = row / product.columns;
    if split >= params.splits { return; }
    let first = split * params.rows_per_split;
    let end = min(first + params.rows_per_split, product.rows);
    var place = forward_place(first);
    var d_at = first * product.columns + row % product.columns;
    var sum = 0.0;
    var bias_sum = 0.0;
    for (var m = first; m < end; m++) {
        let pixel = forward_pixel(place, shift);
        let d = f32(d_y[d_at]);
        bias_sum += d;
        sum += select(0.0, d * f32(x[pixel.x * product.depth + i]), pixel.y == 1u);
        d_at += product.columns;
        place = forward_next(place);
    }
    partial[index] = sum;
    if tap == 0u && i == 0u {
        partial_bias[row] = bias_sum;
    }
}
