// Group normalisation (Wu and He 2018), with SiLU fused behind it on request:
//   x_hat = (x - mean) rstd,   z = weight[c] x_hat + bias[c],   y = z or silu(z)
// with mean and rstd = 1 / sqrt(variance + eps) over the pixels and channels of each (sample, group). Backwards:
//   sums[n] = sum over the pixels of d_z, and of d_z x_hat                      for every channel
//   d_x     = rstd (weight d_z - A - x_hat B)       A, B: the group's means of weight d_z and of weight d_z x_hat
//   d_bias, d_weight = those sums, added over n                                 backward_weight, an invocation a channel
// The variance is never E[x^2] - E[x]^2, which cancels where the mean is large: forward takes a pass for the mean and one
// for centred squares, forward_vec4 updates both in one pass. x_hat is computed again from mean and rstd: it is never
// stored. Sums end in trees, whose order never changes.
//   forward_vec4, backward_vec4   groups of 4 channels or multiples of 4. One workgroup per sample and as many whole
//       groups as fit 32 channels: 8 lanes side by side read 4 channels each, and the workgroup's rows of 8 share the
//       pixels. One row is best on drivers that run on the CPU: barriers cost them more than arithmetic.
//   forward, backward_input       any groups. One workgroup per (n, group)
//   backward_sums                 before backward_input. One workgroup per (n, 16 channels)
// On lavapipe (Mesa 25, 2 cores), at 16 x 16 x 16 x 96 in 8 groups, the order is the same in both passes: one row of
// lanes (`_row`) is the fastest, then `_vec4`, then the passes for any groups.
// Run it: ddpm-gpu kernels bench group_norm --device NAME.

// #import activation
// #import index
// #import sigmoid
// #import tree_sum TERM=vec2<f32>

struct Params { samples: u32, pixels: u32, channels: u32, groups: u32, eps: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Activation>;          // [N, P, C]
@group(0) @binding(2) var<storage, read> weight: array<f32>;            // [C]
@group(0) @binding(3) var<storage, read> bias: array<f32>;              // [C]
@group(0) @binding(4) var<storage, read_write> y: array<Activation>;    // [N, P, C]
@group(0) @binding(5) var<storage, read_write> mean: array<f32>;        // [N, G]
@group(0) @binding(6) var<storage, read_write> rstd: array<f32>;        // [N, G]
@group(0) @binding(7) var<storage, read> d_y: array<Activation>;        // [N, P, C]
@group(0) @binding(8) var<storage, read> saved_mean: array<f32>;        // [N, G]
@group(0) @binding(9) var<storage, read> saved_rstd: array<f32>;        // [N, G]
@group(0) @binding(10) var<storage, read_write> sums: array<f32>;       // [N, 2, C]: of d_z, then of d_z x_hat
@group(0) @binding(11) var<storage, read> saved_sums: array<f32>;       // [N, 2, C]
@group(0) @binding(12) var<storage, read_write> d_x: array<Activation>; // [N, P, C]
@group(0) @binding(13) var<storage, read_write> d_weight: array<f32>;   // [C]
@group(0) @binding(14) var<storage, read_write> d_bias: array<f32>;     // [C]
// The same tensors, four channels at a time.
@group(0) @binding(15) var<storage, read> x_vec4: array<Activation4>;
@group(0) @binding(16) var<storage, read> weight_vec4: array<vec4<f32>>;
@group(0) @binding(17) var<storage, read> bias_vec4: array<vec4<f32>>;
@group(0) @binding(18) var<storage, read_write> y_vec4: array<Activation4>;
@group(0) @binding(19) var<storage, read> d_y_vec4: array<Activation4>;
@group(0) @binding(20) var<storage, read_write> sums_vec4: array<vec4<f32>>;
@group(0) @binding(21) var<storage, read_write> d_x_vec4: array<Activation4>;

override SILU: bool = false;
override WORKGROUP: u32 = 256;  // a power of two, at least LANES, or CHANNELS in backward_sums
const LANES = 8u;               // quads of channels side by side in the _vec4 kernels
const CHANNELS = 16u;           // of one workgroup of backward_sums

var<workgroup> partial: array<vec2<f32>, WORKGROUP>;

fn activate(z: vec4<f32>) -> vec4<f32> {
    if !SILU { return z; }
    return z * sigmoid(z);
}

// d_z from d_y: SiLU's slope at z.
fn d_activate(d: vec4<f32>, z: vec4<f32>) -> vec4<f32> {
    if !SILU { return d; }
    let s = sigmoid(z);
    return d * s * (1.0 + z * (1.0 - s));
}

// ---- four channels at a time

// What an invocation works on: whole groups of one sample, whose quads of channels the lanes share out.
struct Tile {
    n: u32,
    group_quads: u32,
    first: u32,  // quad of the workgroup
    end: u32,
    lane: u32,
    row: u32,
    start: u32,  // index of quad 0 of this row's first pixel
    stop: u32,   // index behind the sample
    step: u32,   // from a pixel of this row to its next
}

// Quads of a workgroup.
fn tile_span() -> u32 {
    let group_quads = params.channels / 4u / params.groups;
    return max(LANES / group_quads, 1u) * group_quads;
}

// Workgroups of a sample, and the first quad of one and the quad behind its last. Where barriers follow, use these and not
// the Tile, which depends on `local`: compilers want all invocations of a workgroup to go the same way provably.
fn tiles_of_sample() -> u32 { return (params.channels / 4u + tile_span() - 1u) / tile_span(); }
fn tile_first(flat: u32) -> u32 { return flat % tiles_of_sample() * tile_span(); }
fn tile_end(flat: u32) -> u32 { return min(tile_first(flat) + tile_span(), params.channels / 4u); }

fn tile_of(flat: u32, local: u32) -> Tile {
    let quads = params.channels / 4u;
    let n = flat / tiles_of_sample();
    let row = local / LANES;
    return Tile(n, quads / params.groups, tile_first(flat), tile_end(flat), local % LANES, row,
                (n * params.pixels + row) * quads, (n + 1u) * params.pixels * quads, WORKGROUP / LANES * quads);
}

// Adds up over the rows of the workgroup and over the lanes of the own group.
fn sum_of_group(tile: Tile, term: vec2<f32>) -> vec2<f32> {
    let local = tile.row * LANES + tile.lane;
    workgroupBarrier();  // the previous sum has been read
    partial[local] = term;
    for (var stride = WORKGROUP / 2u; stride >= LANES; stride /= 2u) {
        workgroupBarrier();
        if local < stride { partial[local] += partial[local + stride]; }
    }
    workgroupBarrier();
    let first = tile.lane / tile.group_quads * tile.group_quads;
    var sum = vec2(0.0);
    for (var lane = first; lane < min(first + tile.group_quads, LANES); lane++) { sum += partial[lane]; }
    return sum;
}

@compute @workgroup_size(WORKGROUP)
fn forward_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let flat = flat_workgroup(workgroup, workgroups);
    if flat >= params.samples * tiles_of_sample() { return; }
    let tile = tile_of(flat, local);
    let count = f32(4u * tile.group_quads * params.pixels);

    // Mean of the values so far, and sum of their squared distances from it (Welford 1962), in four streams.
    var own_mean = vec4(0.0);
    var squares = vec4(0.0);
    var own_count = 0.0;
    for (var quad = tile.first + tile.lane; quad < tile.end; quad += LANES) {
        for (var at = tile.start + quad; at < tile.stop; at += tile.step) {
            own_count += 1.0;
            let value = vec4<f32>(x_vec4[at]);
            let difference = value - own_mean;
            own_mean += difference / own_count;
            squares += difference * (value - own_mean);
        }
    }
    // Streams of all lanes and rows together (Chan et al. 1979).
    let group_mean = sum_of_group(tile, vec2(own_count * dot(own_mean, vec4(1.0)), 0.0)).x / count;
    let apart = own_mean - group_mean;
    squares += own_count * apart * apart;
    let variance = sum_of_group(tile, vec2(dot(squares, vec4(1.0)), 0.0)).x / count;
    let group_rstd = inverseSqrt(variance + params.eps);

    for (var quad = tile.first + tile.lane; quad < tile.end; quad += LANES) {
        let scale = weight_vec4[quad] * group_rstd;
        let shift = bias_vec4[quad];
        for (var at = tile.start + quad; at < tile.stop; at += tile.step) {
            y_vec4[at] = Activation4(activate((vec4<f32>(x_vec4[at]) - group_mean) * scale + shift));
        }
    }
    let own = tile.first + tile.lane;
    if tile.row == 0u && own < tile.end && tile.lane % tile.group_quads == 0u {
        let group = tile.n * params.groups + own / tile.group_quads;
        mean[group] = group_mean;
        rstd[group] = group_rstd;
    }
}

var<workgroup> partial_d_z: array<vec4<f32>, WORKGROUP>;
var<workgroup> partial_d_z_x_hat: array<vec4<f32>, WORKGROUP>;

// Adds up over the rows of the workgroup, for row 0 to store.
fn store_sums(tile: Tile, quad: u32, d_z: vec4<f32>, d_z_x_hat: vec4<f32>) {
    let local = tile.row * LANES + tile.lane;
    if WORKGROUP > LANES {
        partial_d_z[local] = d_z;
        partial_d_z_x_hat[local] = d_z_x_hat;
    }
    for (var stride = WORKGROUP / 2u; stride >= LANES; stride /= 2u) {
        workgroupBarrier();
        if local < stride {
            partial_d_z[local] += partial_d_z[local + stride];
            partial_d_z_x_hat[local] += partial_d_z_x_hat[local + stride];
        }
    }
    if tile.row > 0u || quad >= tile.end { return; }
    let at = tile.n * params.channels / 2u + quad;
    if WORKGROUP > LANES {
        sums_vec4[at] = partial_d_z[local];
        sums_vec4[at + params.channels / 4u] = partial_d_z_x_hat[local];
    } else {
        sums_vec4[at] = d_z;
        sums_vec4[at + params.channels / 4u] = d_z_x_hat;
    }
}

@compute @workgroup_size(WORKGROUP)
fn backward_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let flat = flat_workgroup(workgroup, workgroups);
    if flat >= params.samples * tiles_of_sample() { return; }
    let tile = tile_of(flat, local);
    // Lanes without a group of their own look at the last one.
    let group = tile.n * params.groups + min(tile.first + tile.lane, tile.end - 1u) / tile.group_quads;
    let group_mean = saved_mean[group];
    let group_rstd = saved_rstd[group];

    var group_sums = vec2(0.0);
    let end = tile_end(flat);
    for (var first = tile_first(flat); first < end; first += LANES) {
        let quad = first + tile.lane;
        var d_z = vec4(0.0);
        var d_z_x_hat = vec4(0.0);
        if quad < tile.end {
            let scale = weight_vec4[quad];
            let shift = bias_vec4[quad];
            for (var at = tile.start + quad; at < tile.stop; at += tile.step) {
                let x_hat = (vec4<f32>(x_vec4[at]) - group_mean) * group_rstd;
                let d = d_activate(vec4<f32>(d_y_vec4[at]), x_hat * scale + shift);
                d_z += d;
                d_z_x_hat += d * x_hat;
            }
            group_sums += vec2(dot(scale, d_z), dot(scale, d_z_x_hat));
        }
        store_sums(tile, quad, d_z, d_z_x_hat);
        workgroupBarrier();  // before the next turn overwrites what row 0 stores
    }
    let means = sum_of_group(tile, group_sums) / f32(4u * tile.group_quads * params.pixels);

    for (var quad = tile.first + tile.lane; quad < tile.end; quad += LANES) {
        let scale = weight_vec4[quad];
        let shift = bias_vec4[quad];
        for (var at = tile.start + quad; at < tile.stop; at += tile.step) {
            let x_hat = (vec4<f32>(x_vec4[at]) - group_mean) * group_rstd;
            let d = d_activate(vec4<f32>(d_y_vec4[at]), x_hat * scale + shift);
            d_x_vec4[at] = Activation4(group_rstd * (scale * d - means.x - x_hat * means.y));
        }
    }
}

// ---- one channel at a time

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

fn d_activate_channel(d: f32, x_hat: f32, c: u32) -> f32 {
    return d_activate(vec4(d), vec4(x_hat * weight[c] + bias[c])).x;
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
        sum += f32(x[walk.index]);
        advance(&walk, group_channels);
    }
    let rough_mean = tree_sum(vec2(sum, 0.0), local).x / f32(count);

    // The second pass also finds what rounding left out of the mean.
    var centred = vec2(0.0);
    walk = start;
    for (var i = local; i < count; i += WORKGROUP) {
        let difference = f32(x[walk.index]) - rough_mean;
        centred += vec2(difference, difference * difference);
        advance(&walk, group_channels);
    }
    centred = tree_sum(centred, local) / f32(count);
    let group_mean = rough_mean + centred.x;
    let group_rstd = inverseSqrt(max(centred.y - centred.x * centred.x, 0.0) + params.eps);

    let first_channel = group * group_channels;
    walk = start;
    for (var i = local; i < count; i += WORKGROUP) {
        let c = first_channel + walk.channel;
        let z = (f32(x[walk.index]) - group_mean) * group_rstd * weight[c] + bias[c];
        y[walk.index] = Activation(activate(vec4(z)).x);
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
            let x_hat = (f32(x[index]) - group_mean) * group_rstd;
            let d_z = d_activate_channel(f32(d_y[index]), x_hat, c);
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
        sum += weight[c] * vec2(sums[at], sums[at + params.channels]);
    }
    let means = tree_sum(sum, local) / f32(count);

    let group_mean = saved_mean[sample_group];
    let group_rstd = saved_rstd[sample_group];
    var walk = walk_of(n, group, group_channels, local);
    for (var i = local; i < count; i += WORKGROUP) {
        let c = first_channel + walk.channel;
        let x_hat = (f32(x[walk.index]) - group_mean) * group_rstd;
        let d_z = d_activate_channel(f32(d_y[walk.index]), x_hat, c);
        d_x[walk.index] = Activation(group_rstd * (weight[c] * d_z - means.x - x_hat * means.y));
        advance(&walk, group_channels);
    }
}

@compute @workgroup_size(64)
fn backward_weight(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let c = flat_index(workgroup, workgroups, local, 64u);
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
