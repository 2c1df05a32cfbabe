// #requires subgroups
// The product of product_tiles.wgsl by subgroups of exactly 8 lanes, without workgroup memory or barriers: the fast way
// on a software adapter, whose vectors are 8 lanes and whose loads cost as much as ten multiply-adds. A workgroup is
// one subgroup, and makes 32 rows x 32 columns. Each lane loads four steps of the depth of 4 rows of A, 8 rows apart,
// and of its own four rows of B; each row of A is then handed to all lanes by subgroupShuffle, and multiplied with the
// lane's own four columns.

// tile += the rows of A that lanes `source` .. `source` + 3 loaded times the lane's own four rows of B, over four steps
fn PASS_add_shuffled(tile: ptr<function, Tile4x4>, a: vec4<f32>, source: u32, b: Tile4x4) {
    (*tile).r0 += dots(subgroupShuffle(a, source), b.r0, b.r1, b.r2, b.r3);
    (*tile).r1 += dots(subgroupShuffle(a, source + 1u), b.r0, b.r1, b.r2, b.r3);
    (*tile).r2 += dots(subgroupShuffle(a, source + 2u), b.r0, b.r1, b.r2, b.r3);
    (*tile).r3 += dots(subgroupShuffle(a, source + 3u), b.r0, b.r1, b.r2, b.r3);
}

@compute @workgroup_size(8)
fn PASS_shuffle(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                @builtin(subgroup_invocation_id) lane: u32) {
    let product = PASS_product();
    let column_tiles = (product.columns + 31u) / 32u;
    let tile = flat_workgroup(workgroup, workgroups);
    let row = tile / column_tiles * 32u;
    if row >= product.rows { return; }
    let last = product.rows - 1u;
    let own_quad = tile % column_tiles * 8u + lane;
    let quad = min(own_quad, product.columns / 4u - 1u);
    let place0 = PASS_place(min(row + lane, last));
    let place1 = PASS_place(min(row + 8u + lane, last));
    let place2 = PASS_place(min(row + 16u + lane, last));
    let place3 = PASS_place(min(row + 24u + lane, last));
    let start = PASS_start(quad);
    // Rows 0 .. 3 of the tile, 4 .. 7, ...; of each row, a lane holds four columns.
    var c0 = Tile4x4(start, start, start, start);
    var c1 = c0;
    var c2 = c0;
    var c3 = c0;
    var c4 = c0;
    var c5 = c0;
    var c6 = c0;
    var c7 = c0;
    let steps = product.depth / 4u;
    let b_stride = product.taps * steps;
    var b_at = quad * 4u * b_stride;
    for (var tap = 0u; tap < product.taps; tap++) {
        let shift = PASS_shift(tap);
        let tap0 = PASS_tap(place0, shift);
        let tap1 = PASS_tap(place1, shift);
        let tap2 = PASS_tap(place2, shift);
        let tap3 = PASS_tap(place3, shift);
        for (var step = 0u; step < steps; step++) {
            let a0 = PASS_row(tap0, step);
            let a1 = PASS_row(tap1, step);
            let a2 = PASS_row(tap2, step);
            let a3 = PASS_row(tap3, step);
            let b = Tile4x4(PASS_b(b_at), PASS_b(b_at + b_stride), PASS_b(b_at + 2u * b_stride),
                            PASS_b(b_at + 3u * b_stride));
            b_at++;
            PASS_add_shuffled(&c0, a0, 0u, b);
            PASS_add_shuffled(&c1, a0, 4u, b);
            PASS_add_shuffled(&c2, a1, 0u, b);
            PASS_add_shuffled(&c3, a1, 4u, b);
            PASS_add_shuffled(&c4, a2, 0u, b);
            PASS_add_shuffled(&c5, a2, 4u, b);
            PASS_add_shuffled(&c6, a3, 0u, b);
            PASS_add_shuffled(&c7, a3, 4u, b);
        }
    }
    PASS_write(c0, row, own_quad, product);
    PASS_write(c1, row + 4u, own_quad, product);
    PASS_write(c2, row + 8u, own_quad, product);
    PASS_write(c3, row + 12u, own_quad, product);
    PASS_write(c4, row + 16u, own_quad, product);
    PASS_write(c5, row + 20u, own_quad, product);
    PASS_write(c6, row + 24u, own_quad, product);
    PASS_write(c7, row + 28u, own_quad, product);
}
