// Resampling by two with the filter 1 3 3 1 along height and width (Karras et al. 2019, StyleGAN2).
// With w = (1, 3, 3, 1):
//   coarse[h, w] = scale  sum over i, j in 0..4 of w[i] w[j] fine[2h + i - 1, 2w + j - 1]       down, scale 1/64
//   fine[h, w]   = scale  the same products, of the 2 x 2 pixels of coarse that reach it          up, scale 1/16
// What lies beyond the edges says EDGES:
//   0, zero:    zeros (diffusers' downsample_2d and upsample_2d). Each is the transposed of the other, so that the gradient of
//               down is up with down's scale, and the other way round.
//   1, mirror:  the pixels within, mirrored at the outermost one (diffusers' KDownsample2D and KUpsample2D).
//   2, folded:  the transposed of the other one with mirrored edges, which is its gradient.
// Mirroring and folding change no more than a weight or a neighbour next to the edges.
// One invocation per element of the result, or in `_vec4` per four channels: down reads 16 pixels, up 4.
// On lavapipe (Mesa 25, 2 idle cores) down_vec4 takes 487 us at 4 x 32 x 16 x 64, down 1.09 ms; up_vec4 583 us at
// 4 x 16 x 8 x 64, up 1.62 ms.
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
override EDGES: u32 = 0u;

// The fine pixels first..end that coarse pixel i of `size` reads along an axis; pixel f is number f + 1 - 2i of the
// filter.
struct Taps { first: u32, end: u32 }
fn fine_taps(i: u32, size: u32) -> Taps {
    var taps = Taps(select(2u * i - 1u, 0u, i == 0u), min(2u * i + 3u, 2u * size));
    if EDGES == 2u && i == 1u { taps.first = 0u; }
    if EDGES == 2u && i + 2u == size { taps.end = 2u * size; }
    return taps;
}
fn fine_weight(f: u32, i: u32, size: u32) -> f32 {
    let is_inner = f == 2u * i || f == 2u * i + 1u;
    // The pixel beyond the edge is the inner one that is farther from it.
    let is_twice = EDGES == 1u && ((i == 0u && f == 1u) || (i + 1u == size && f + 2u == 2u * size));
    return select(1.0, 3.0, is_inner) + select(0.0, 1.0, is_twice);
}

// The two coarse pixels that fine pixel i reads along an axis: the one that it lies in, and the neighbour on its side,
// which has the weight 1, or 0 where it is none.
struct Pair { near: u32, far: u32, weight: f32, far_weight: f32 }
fn coarse_pair(i: u32, size: u32) -> Pair {
    let near = i / 2u;
    let is_left = i % 2u == 0u;
    var has_far = select(near + 1u < size, near > 0u, is_left);
    var far = select(min(near + 1u, size - 1u), max(near, 1u) - 1u, is_left);
    if EDGES == 1u && !has_far {
        has_far = true;
        far = select(size - 2u, 1u, is_left);
    }
    let is_folded = EDGES == 2u && (i == 1u || i + 2u == 2u * size);
    return Pair(near, far, select(3.0, 4.0, is_folded), select(0.0, 1.0, has_far));
}

@compute @workgroup_size(WORKGROUP)
fn down_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
             @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    let pixel = i / params.channels;
    let row = pixel / params.width % params.height;
    let column = pixel % params.width;
    let rows = fine_taps(row, params.height);
    let columns = fine_taps(column, params.width);
    let image = pixel / params.width / params.height * 2u * params.height;
    var sum = vec4<f32>(0.0);
    for (var a = rows.first; a < rows.end; a++) {
        let line = (image + a) * 2u * params.width;
        let of_row = fine_weight(a, row, params.height);
        for (var b = columns.first; b < columns.end; b++) {
            let at = (line + b) * params.channels + i % params.channels;
            sum += of_row * fine_weight(b, column, params.width) * vec4<f32>(x_vec4[at]);
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
    let row = pixel / params.width % params.height;
    let column = pixel % params.width;
    let rows = fine_taps(row, params.height);
    let columns = fine_taps(column, params.width);
    let image = pixel / params.width / params.height * 2u * params.height;
    var sum = f32(0.0);
    for (var a = rows.first; a < rows.end; a++) {
        let line = (image + a) * 2u * params.width;
        let of_row = fine_weight(a, row, params.height);
        for (var b = columns.first; b < columns.end; b++) {
            let at = (line + b) * params.channels + i % params.channels;
            sum += of_row * fine_weight(b, column, params.width) * f32(x[at]);
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
    let upper = columns.weight * vec4<f32>(x_vec4[(near + columns.near) * params.channels + channel]) +
        columns.far_weight * vec4<f32>(x_vec4[(near + columns.far) * params.channels + channel]);
    let lower = columns.weight * vec4<f32>(x_vec4[(far + columns.near) * params.channels + channel]) +
        columns.far_weight * vec4<f32>(x_vec4[(far + columns.far) * params.channels + channel]);
    y_vec4[i] = Activation4(params.scale * (rows.weight * upper + rows.far_weight * lower));
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
    let upper = columns.weight * f32(x[(near + columns.near) * params.channels + channel]) +
        columns.far_weight * f32(x[(near + columns.far) * params.channels + channel]);
    let lower = columns.weight * f32(x[(far + columns.near) * params.channels + channel]) +
        columns.far_weight * f32(x[(far + columns.far) * params.channels + channel]);
    y[i] = Activation(params.scale * (rows.weight * upper + rows.far_weight * lower));
}
