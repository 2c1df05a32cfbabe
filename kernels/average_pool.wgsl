// The mean of every channel over the pixels of an image (global average pooling),
//   y[n, c]       = 1/P sum over p of x[n, p, c]          forward, one invocation per (n, c)
//   d_x[n, p, c]  = d_y[n, c] / P                         backward, one invocation per (n, p, c)
// and over the pixels of windows that slide over the image, with sizes of its own for each axis:
//   y[n, oh, ow, c] = 1/A sum over kh, kw of x[n, oh s + kh - p, ow s + kw - p, c]     forward_window
//   d_x[n, h, w, c] = sum over the windows that read pixel (h, w) of d_y[n, oh, ow, c] / A         backward_window
// The sum is over taps (kh, kw) inside the image; A is the window's area where padding counts (as zeros), and the
// number of taps inside the image where it does not. backward_window gathers: a pixel asks every window that reads it.
// Neighbouring invocations read neighbouring channels, four at a time in `_vec4`; the sum's order never changes.
// On lavapipe (Mesa 25, 2 cores) `_vec4` is the faster one in both passes over windows, at 2 x 17 x 17 x 64.
// Run it: ddpm-gpu kernels bench average_pool --cases --device NAME.

// #import activation
// #import index
// #import window

// length of the output; pixels of an image for the global mean, and the rest for windows
struct Params {
    length: u32,
    pixels: u32,
    channels: u32,
    height: u32, width: u32,
    out_height: u32, out_width: u32,
    kernel_height: u32, kernel_width: u32,
    stride_height: u32, stride_width: u32,
    pad_height: u32, pad_width: u32,
    counts_padding: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Activation>;          // [N, P, C]
@group(0) @binding(2) var<storage, read_write> y: array<Activation>;    // [N, C], or [N, OH, OW, C]
@group(0) @binding(3) var<storage, read> d_y: array<Activation>;        // [N, C], or [N, OH, OW, C]
@group(0) @binding(4) var<storage, read_write> d_x: array<Activation>;  // [N, P, C]
// The same tensors, four channels at a time.
@group(0) @binding(5) var<storage, read> x_vec4: array<Activation4>;
@group(0) @binding(6) var<storage, read_write> y_vec4: array<Activation4>;
@group(0) @binding(7) var<storage, read> d_y_vec4: array<Activation4>;
@group(0) @binding(8) var<storage, read_write> d_x_vec4: array<Activation4>;

override WORKGROUP: u32 = 64;

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    var index = i / params.channels * params.pixels * params.channels + i % params.channels;
    var sum = 0.0;
    for (var p = 0u; p < params.pixels; p++) {
        sum += f32(x[index]);
        index += params.channels;
    }
    y[i] = Activation(sum / f32(params.pixels));
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    let n = i / (params.pixels * params.channels);
    d_x[i] = Activation(f32(d_y[n * params.channels + i % params.channels]) / f32(params.pixels));
}

// ---- windows

// Taps of a window along one axis that lie inside an image of that size, for output o.
fn taps_inside(o: u32, stride: u32, pad: u32, kernel: u32, size: u32) -> u32 {
    let first = max(o * stride, pad);
    return min(o * stride + kernel, size + pad) - first;
}

// One over A of an output pixel.
fn share(oh: u32, ow: u32) -> f32 {
    if params.counts_padding == 1u { return 1.0 / f32(params.kernel_height * params.kernel_width); }
    let rows = taps_inside(oh, params.stride_height, params.pad_height, params.kernel_height, params.height);
    let columns = taps_inside(ow, params.stride_width, params.pad_width, params.kernel_width, params.width);
    return 1.0 / f32(rows * columns);
}

@compute @workgroup_size(WORKGROUP)
fn forward_window_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                       @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length / 4u { return; }
    let quads = params.channels / 4u;
    let line = i / quads / params.out_width;
    let n = line / params.out_height;
    let oh = line - n * params.out_height;
    let ow = i / quads - line * params.out_width;
    var sum = vec4(0.0);
    for (var kh = 0u; kh < params.kernel_height; kh++) {
        for (var kw = 0u; kw < params.kernel_width; kw++) {
            let source = window_pixel(n, oh, ow, kh, kw);
            if source.y == 1u { sum += vec4<f32>(x_vec4[source.x * quads + i % quads]); }
        }
    }
    y_vec4[i] = Activation4(sum * share(oh, ow));
}

@compute @workgroup_size(WORKGROUP)
fn backward_window_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                        @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length / 4u { return; }
    let quads = params.channels / 4u;
    let line = i / quads / params.width;
    let n = line / params.height;
    var sum = vec4(0.0);
    for (var kh = 0u; kh < params.kernel_height; kh++) {
        for (var kw = 0u; kw < params.kernel_width; kw++) {
            let reader = window_reader(n, line - n * params.height, i / quads - line * params.width, kh, kw);
            if reader.y == 1u {
                let of_window = share(reader.x / params.out_width % params.out_height, reader.x % params.out_width);
                sum += vec4<f32>(d_y_vec4[reader.x * quads + i % quads]) * of_window;
            }
        }
    }
    d_x_vec4[i] = Activation4(sum);
}

@compute @workgroup_size(WORKGROUP)
fn forward_window(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    let line = i / params.channels / params.out_width;
    let n = line / params.out_height;
    let oh = line - n * params.out_height;
    let ow = i / params.channels - line * params.out_width;
    var sum = 0.0;
    for (var kh = 0u; kh < params.kernel_height; kh++) {
        for (var kw = 0u; kw < params.kernel_width; kw++) {
            let source = window_pixel(n, oh, ow, kh, kw);
            if source.y == 1u { sum += f32(x[source.x * params.channels + i % params.channels]); }
        }
    }
    y[i] = Activation(sum * share(oh, ow));
}

@compute @workgroup_size(WORKGROUP)
fn backward_window(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    let pixel = i / params.channels;
    let line = pixel / params.width;
    let n = line / params.height;
    var sum = 0.0;
    for (var kh = 0u; kh < params.kernel_height; kh++) {
        for (var kw = 0u; kw < params.kernel_width; kw++) {
            let reader = window_reader(n, line - n * params.height, pixel - line * params.width, kh, kw);
            if reader.y == 1u {
                let of_window = share(reader.x / params.out_width % params.out_height, reader.x % params.out_width);
                sum += f32(d_y[reader.x * params.channels + i % params.channels]) * of_window;
            }
        }
    }
    d_x[i] = Activation(sum);
}
