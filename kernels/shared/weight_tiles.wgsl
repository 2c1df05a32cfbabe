// Gradients of weight and bias in tiles, given the forward product's sizes, taps and x:
//   d_weight[o, t, i] = sum over rows m of d_y[m, o] x[tap t of m, i]      d_bias[o] = sum over rows m of d_y[m, o]
// Rows are many and weights few, so the sum is split into ranges of rows_per_split rows. Each range adds up its own
// partial gradients; backward_weight_reduce adds the ranges up in order, so the result does not depend on scheduling.
// Besides what product_tiles.wgsl asks for the forward product, the op defines forward_next(place), the place of the
// next row. Channel counts must be multiples of 4, except for backward_weight_reduce.

// Which part of the partial gradients an invocation or workgroup makes: a tile of `size` channels each way under a tap.
struct WeightTile { split: u32, o_quad: u32, tap: u32, i_quad: u32, first: u32, end: u32 }

fn weight_tile(index: u32, size: u32, product: Product) -> WeightTile {
    let i_tiles = (product.depth + size - 1u) / size;
    let o_tiles = (product.columns + size - 1u) / size;
    let tap = index / i_tiles;
    let o = tap / product.taps;
    let split = o / o_tiles;
    let first = split * params.rows_per_split;
    return WeightTile(split, o % o_tiles * (size / 4u), tap % product.taps, index % i_tiles * (size / 4u), first,
                      min(first + params.rows_per_split, product.rows));
}

fn write_weight(tile: Tile4x4, split: u32, o_quad: u32, tap: u32, i_quad: u32, product: Product) {
    let quads = product.depth / 4u;
    if o_quad >= product.columns / 4u || i_quad >= quads { return; }
    let stride = product.taps * quads;
    var at = (split * product.columns + o_quad * 4u) * stride + tap * quads + i_quad;
    partial_vec4[at] = tile.r0; at += stride;
    partial_vec4[at] = tile.r1; at += stride;
    partial_vec4[at] = tile.r2; at += stride;
    partial_vec4[at] = tile.r3;
}

fn write_bias(sum: vec4<f32>, split: u32, o_quad: u32, product: Product) {
    let quads = product.columns / 4u;
    if o_quad < quads { partial_bias_vec4[split * quads + o_quad] = sum; }
}

fn no_weight() -> Tile4x4 { return Tile4x4(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0)); }

// One invocation makes 8 x 8 channels in registers.
@compute @workgroup_size(WORKGROUP)
fn backward_weight_tiled(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                         @builtin(local_invocation_index) local: u32) {
    let product = forward_product();
    let tile = weight_tile(flat_index(workgroup, workgroups, local, WORKGROUP), 8u, product);
    if tile.first >= tile.end { return; }
    let o_quads = product.columns / 4u;
    let d_right = min(tile.o_quad + 1u, o_quads - 1u) - tile.o_quad;
    let x_right = min(tile.i_quad + 1u, product.depth / 4u - 1u);
    var c00 = no_weight();
    var c01 = no_weight();
    var c10 = no_weight();
    var c11 = no_weight();
    var bias0 = vec4(0.0);
    var bias1 = vec4(0.0);
    let shift = forward_shift(tile.tap);
    var place = forward_place(tile.first);
    var d_at = tile.first * o_quads + tile.o_quad;
    for (var m = tile.first; m < tile.end; m++) {
        let at = forward_tap(place, shift);
        let d0 = vec4<f32>(d_y_vec4[d_at]);
        let d1 = vec4<f32>(d_y_vec4[d_at + d_right]);
        let x0 = select(vec4(0.0), forward_a(at.at + tile.i_quad), at.inside);
        let x1 = select(vec4(0.0), forward_a(at.at + x_right), at.inside);
        bias0 += d0;
        bias1 += d1;
        add_outer(&c00, d0, x0);
        add_outer(&c01, d0, x1);
        add_outer(&c10, d1, x0);
        add_outer(&c11, d1, x1);
        d_at += o_quads;
        place = forward_next(place);
    }
    write_weight(c00, tile.split, tile.o_quad, tile.tap, tile.i_quad, product);
    write_weight(c01, tile.split, tile.o_quad, tile.tap, tile.i_quad + 1u, product);
    write_weight(c10, tile.split, tile.o_quad + 1u, tile.tap, tile.i_quad, product);
    write_weight(c11, tile.split, tile.o_quad + 1u, tile.tap, tile.i_quad + 1u, product);
    if tile.tap == 0u && tile.i_quad == 0u {
        write_bias(bias0, tile.split, tile.o_quad, product);
        write_bias(bias1, tile.split, tile.o_quad + 1u, product);
    }
}

// Fills the tiles in workgroup memory with STEP rows of d_y and of x: zeros of d_y after the end of the range.
fn fill_weight_tiles(tile: WeightTile, shift: vec2<u32>, product: Product, row: u32, local: u32, invocations: u32) {
    let across = TILE / 4u;
    let o_quads = product.columns / 4u;
    for (var item = local; item < STEP * across; item += invocations) {
        let step = item / across;
        let quad = item % across;
        let m = min(row + step, tile.end - 1u);
        let d = vec4<f32>(d_y_vec4[m * o_quads + min(tile.o_quad + quad, o_quads - 1u)]);
        let at = forward_tap(forward_place(m), shift);
        let x = forward_a(at.at + min(tile.i_quad + quad, product.depth / 4u - 1u));
        a_tile[step * TILE_STRIDE + quad] = select(vec4(0.0), d, row + step < tile.end);
        b_tile[step * TILE_STRIDE + quad] = select(vec4(0.0), x, at.inside);
    }
}

@compute @workgroup_size(TILE / 4, TILE / 4)
fn backward_weight_workgroup_4x4(
    @builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32, @builtin(local_invocation_id) own: vec3<u32>) {
    let product = forward_product();
    let tile = weight_tile(flat_workgroup(workgroup, workgroups), TILE, product);
    if tile.first >= tile.end { return; }
    var c = no_weight();
    var bias = vec4(0.0);
    let shift = forward_shift(tile.tap);
    for (var row = tile.first; row < tile.end; row += STEP) {
        fill_weight_tiles(tile, shift, product, row, local, TILE / 4u * (TILE / 4u));
        workgroupBarrier();
        for (var k = 0u; k < STEP * TILE_STRIDE; k += TILE_STRIDE) {
            let d = a_tile[k + own.y];
            bias += d;
            add_outer(&c, d, b_tile[k + own.x]);
        }
        workgroupBarrier();
    }
    write_weight(c, tile.split, tile.o_quad + own.y, tile.tap, tile.i_quad + own.x, product);
    if own.x == 0u && tile.tap == 0u && tile.i_quad == 0u {
        write_bias(bias, tile.split, tile.o_quad + own.y, product);
    }
}

@compute @workgroup_size(TILE / 8, TILE / 8)
fn backward_weight_workgroup_8x8(
    @builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32, @builtin(local_invocation_id) own: vec3<u32>) {
    let product = forward_product();
    let tile = weight_tile(flat_workgroup(workgroup, workgroups), TILE, product);
    if tile.first >= tile.end { return; }
    let half = TILE / 8u;
    var c00 = no_weight();
    var c01 = no_weight();
    var c10 = no_weight();
    var c11 = no_weight();
    var bias0 = vec4(0.0);
    var bias1 = vec4(0.0);
    let shift = forward_shift(tile.tap);
    for (var row = tile.first; row < tile.end; row += STEP) {
        fill_weight_tiles(tile, shift, product, row, local, half * half);
        workgroupBarrier();
        for (var k = 0u; k < STEP * TILE_STRIDE; k += TILE_STRIDE) {
            let d0 = a_tile[k + own.y];
            let d1 = a_tile[k + own.y + half];
            let x0 = b_tile[k + own.x];
            let x1 = b_tile[k + own.x + half];
            bias0 += d0;
            bias1 += d1;
            add_outer(&c00, d0, x0);
            add_outer(&c01, d0, x1);
            add_outer(&c10, d1, x0);
            add_outer(&c11, d1, x1);
        }
        workgroupBarrier();
    }
    let o_quad = tile.o_quad + own.y;
    let i_quad = tile.i_quad + own.x;
    write_weight(c00, tile.split, o_quad, tile.tap, i_quad, product);
    write_weight(c01, tile.split, o_quad, tile.tap, i_quad + half, product);
    write_weight(c10, tile.split, o_quad + half, tile.tap, i_quad, product);
    write_weight(c11, tile.split, o_quad + half, tile.tap, i_quad + half, product);
    if own.x == 0u && tile.tap == 0u && tile.i_quad == 0u {
        write_bias(bias0, tile.split, o_quad, product);
        write_bias(bias1, tile.split, o_quad + half, product);
    }
}

// One invocation per four elements of d_weight, then one per four of d_bias.
@compute @workgroup_size(WORKGROUP)
fn backward_weight_reduce_vec4(
    @builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    let product = forward_product();
    let biases = product.columns / 4u;
    let weights = product.columns * product.taps * (product.depth / 4u);
    var sum = vec4(0.0);
    if index < weights {
        for (var split = 0u; split < params.splits; split++) {
            sum += partial_vec4[split * weights + index];
        }
        d_weight_vec4[index] = sum;
    } else if index < weights + biases {
        for (var split = 0u; split < params.splits; split++) {
            sum += partial_bias_vec4[split * biases + index - weights];
        }
        d_bias_vec4[index - weights] = sum;
    }
}

// One invocation per element of d_weight, then one per element of d_bias: for any number of channels.
@compute @workgroup_size(WORKGROUP)
fn backward_weight_reduce(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                          @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    let product = forward_product();
    let weights = product.columns * product.taps * product.depth;
    var sum = 0.0;
    if index < weights {
        for (var split = 0u; split < params.splits; split++) {
            sum += partial[split * weights + index];
        }
        d_weight[index] = sum;
    } else if index < weights + product.columns {
        for (var split = 0u; split < params.splits; split++) {
            sum += partial_bias[split * product.columns + index - weights];
        }
        d_bias[index - weights] = sum;
    }
}
