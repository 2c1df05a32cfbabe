// The axes of a tensor in another order:
//   y[i0, i1, i2, i3, i4] = x[i0 stride0 + i1 stride1 + i2 stride2 + i3 stride3 + i4 stride4]
// where i0 .. i4 count through y and a stride is how far apart x has neighbours along that axis of y. The host joins
// axes that stay neighbours and drops those of size 1, so five are enough for most; missing ones have size 1. forward
// takes one invocation per element: it writes neighbours and reads where they come from. forward_vec4, where the last
// axis stays the last, moves four elements at a time: for heads that move before the tokens. forward_tiled, for [B, M,
// N] to [B, N, M], takes a workgroup per 16 x 16 elements, which it reads along N, turns in workgroup memory and writes
// along M: for GPUs, where memory is read in lines of neighbours and forward uses one element of each line. The tile
// has one more column than it needs, so that its columns lie in different banks.
// On lavapipe (Mesa 25, 2 cores) forward_vec4 is 2.2 times as fast as forward at 2 x 64 x 4 x 40, and forward_tiled
// up to 1.2 times as slow as forward at 2 x 16 x 8 x 64.
// Run it: ddpm-gpu kernels bench transpose --cases --device NAME.

// #import activation
// #import index

// Elements of y; sizes of y but the first; strides of x.
struct Params {
    length: u32,
    size1: u32, size2: u32, size3: u32, size4: u32,
    stride0: u32, stride1: u32, stride2: u32, stride3: u32, stride4: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Activation>;
@group(0) @binding(2) var<storage, read_write> y: array<Activation>;
// The same tensors, four elements at a time; then sizes and strides count fours.
@group(0) @binding(3) var<storage, read> x_vec4: array<Activation4>;
@group(0) @binding(4) var<storage, read_write> y_vec4: array<Activation4>;

override WORKGROUP: u32 = 64;
const TILE = 16u;
const PITCH = 17u;

var<workgroup> tile: array<f32, 272>;  // [TILE, PITCH]

// Where element i of y lies in x.
fn source_of(i: u32) -> u32 {
    var rest = i;
    var at = rest % params.size4 * params.stride4;
    rest /= params.size4;
    at += rest % params.size3 * params.stride3;
    rest /= params.size3;
    at += rest % params.size2 * params.stride2;
    rest /= params.size2;
    at += rest % params.size1 * params.stride1;
    return at + rest / params.size1 * params.stride0;
}

@compute @workgroup_size(WORKGROUP)
fn forward_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    y_vec4[i] = x_vec4[source_of(i)];
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    y[i] = x[source_of(i)];
}

// y is [size2, size3, size4] and x is [size2, size4, size3].
@compute @workgroup_size(TILE, TILE)
fn forward_tiled(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let own = vec2(local % TILE, local / TILE);
    let across = (params.size4 + TILE - 1u) / TILE;
    let down = (params.size3 + TILE - 1u) / TILE;
    let flat = flat_workgroup(workgroup, workgroups);
    let batch = flat / across / down;
    if batch >= params.size2 { return; }
    let first = batch * params.size3 * params.size4;
    let row = flat / across % down * TILE;  // of y
    let column = flat % across * TILE;
    if column + own.y < params.size4 && row + own.x < params.size3 {
        tile[own.y * PITCH + own.x] = f32(x[first + (column + own.y) * params.size3 + row + own.x]);
    }
    workgroupBarrier();
    if row + own.y < params.size3 && column + own.x < params.size4 {
        y[first + (row + own.y) * params.size4 + column + own.x] = Activation(tile[own.x * PITCH + own.y]);
    }
}
