// Resampling by two with the filter 1 3 3 1 along height and width, zeros beyond the edges (Karras et al. 2019, StyleGAN2;
// diffusers' downsample_2d and upsample_2d with kernel (1, 3, 3, 1)). With w = (1, 3, 3, 1):
//   coarse[h, w] = scale  sum over i, j in 0..4 of w[i] w[j] fine[2h + i - 1, 2w + j - 1]       down, scale 1/64
//   fine[h, w]   = scale  the same products, of the 2 x 2 pixels of coarse that reach it          up, scale 1/16
// Each is the transposed of the other, so that the gradient of down is up with down's scale, and the other way round.
// One invocation per element of the result, or in `_vec4` per four channels: down reads 16 pixels, up 4.
// Run it: ddpm-gpu kernels bench fir --cases --device NAME.

// #import activation
// #import index

struct Params { length: u32, height: u32, width: u32, channels: u32, scale: f32 }
@group(0) @binding(0) var<uniform> params: Params;  // length of the result, size of coarse; both in elements
@group(0) @binding(1) var<storage, read> x: array<Activation>;        // down: [N, 2H, 2W, C]; up: [N, H, W, C]
@group(0) @binding(2) var<storage, read_write> y: array<Activation>;  // down: [N, H, W, C]; up: [N, 2H, 2W, C]
// The same tensors, four channels at a time.
@group(0) @binding(3) var<storage, read> x_vec4: array<Activation4>;
@group(0) @binding(4) var<storage, read_write> y_vec4: array<Activation4>;

override WORKGROUP: u32 = 64;

// Weight of a tap.
fn weight(tap: u32) -> f32 { return select(1.0, 3.0, tap == 1u || tap == 2u); }

// The first of the four fine pixels of coarse pixel i, or -1; and how many taps are cut off before it.
struct Taps { start: u32, first: u32, end: u32 }
fn fine_taps(i: u32, size: u32) -> Taps {
    // Pixel 2i + tap - 1 lies within 2 size.
    return Taps(2u * i, select(0u, 1u, i == 0u), select(4u, 3u, i + 1u == size));
}

// The two coarse pixels that reach fine pixel i: the one that it lies in with tap 1 or 2, and a neighbour with tap 3 or 0.
struct Pair { near: u32, far: u32, has_far: bool }
fn coarse_pair(i: u32, size: u32) -> Pair {
    let near = i / 2u;
    let is_left = i % 2u == 0u;
    let has_far = select(near + 1u < size, near > 0u, is_left);
    return Pair(near, select(near + 1u, near - 1u, is_left), has_far);
}

@compute @workgroup_size(WORKGROUP)
fn down_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
             @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    let pixel = i / params.channels;
    let row = pixel / params.width;
    let rows = fine_taps(row % params.height, params.height);
    let columns = fine_taps(pixel % params.width, params.width);
    let image = row / params.height * 2u * params.height;
    var sum = vec4(0.0);
    for (var a = rows.first; a < rows.end; a++) {
        let line = (image + rows.start + a - 1u) * 2u * params.width;
        for (var b = columns.first; b < columns.end; b++) {
            let at = (line + columns.start + b - 1u) * params.channels + i % params.channels;
            sum += weight(a) * weight(b) * vec4<f32>(x_vec4[at]);
        }
    }
    y_vec4[i] = Activation4(params.scale * sum);
}

@compute @workgroup_size(WORKGROUP)
fn down(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    let pixel = i / params.channels;
    let row = pixel / params.width;
    let rows = fine_taps(row % params.height, params.height);
    let columns = fine_taps(pixel % params.width, params.width);
    let image = row / params.height * 2u * params.height;
    var sum = 0.0;
    for (var a = rows.first; a < rows.end; a++) {
        let line = (image + rows.start + a - 1u) * 2u * params.width;
        for (var b = columns.first; b < columns.end; b++) {
            let at = (line + columns.start + b - 1u) * params.channels + i % params.channels;
            sum += weight(a) * weight(b) * f32(x[at]);
        }
    }
    y[i] = Activation(params.scale * sum);
}

@compute @workgroup_size(WORKGROUP)
fn up_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    let pixel = i / params.channels;
    let row = pixel / (2u * params.width);
    let rows = coarse_pair(row % (2u * params.height), params.height);
    let columns = coarse_pair(pixel % (2u * params.width), params.width);
    let image = row / (2u * params.height) * params.height;
    let channel = i % params.channels;
    let near = (image + rows.near) * params.width;
    let far = (image + rows.far) * params.width;
    var sum = 9.0 * vec4<f32>(x_vec4[(near + columns.near) * params.channels + channel]);
    if columns.has_far { sum += 3.0 * vec4<f32>(x_vec4[(near + columns.far) * params.channels + channel]); }
    if rows.has_far { sum += 3.0 * vec4<f32>(x_vec4[(far + columns.near) * params.channels + channel]); }
    if rows.has_far && columns.has_far { sum += vec4<f32>(x_vec4[(far + columns.far) * params.channels + channel]); }
    y_vec4[i] = Activation4(params.scale * sum);
}

@compute @workgroup_size(WORKGROUP)
fn up(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
      @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    let pixel = i / params.channels;
    let row = pixel / (2u * params.width);
    let rows = coarse_pair(row % (2u * params.height), params.height);
    let columns = coarse_pair(pixel % (2u * params.width), params.width);
    let image = row / (2u * params.height) * params.height;
    let channel = i % params.channels;
    let near = (image + rows.near) * params.width;
    let far = (image + rows.far) * params.width;
    var sum = 9.0 * f32(x[(near + columns.near) * params.channels + channel]);
    if columns.has_far { sum += 3.0 * f32(x[(near + columns.far) * params.channels + channel]); }
    if rows.has_far { sum += 3.0 * f32(x[(far + columns.near) * params.channels + channel]); }
    if rows.has_far && columns.has_far { sum += f32(x[(far + columns.far) * params.channels + channel]); }
    y[i] = Activation(params.scale * sum);
}
