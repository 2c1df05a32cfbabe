// The product of product_tiles.wgsl by subgroups of exactly 8 lanes, without workgroup memory or barriers: the fast way on a
// software adapter, whose vectors are 8 lanes and whose loads cost as much as ten multiply-adds. A workgroup is one
// subgroup and makes 32 rows x 32 columns. Each lane loads four steps of the depth of 4 rows of A and of its own four rows
// of B; each row of A is then handed to all lanes by subgroupShuffle, and multiplied with the lane's own four columns.

@compute @workgroup_size(8)
fn PASS_shuffle(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                @builtin(subgroup_invocation_id) lane: u32) {
    let product = PASS_product();
    let column_tiles = (product.columns + 31u) / 32u;
    let tile = flat_workgroup(workgroup, workgroups);
    let row = tile / column_tiles * 32u;
    if row >= product.rows { return; }
    let last = product.rows - 1u;
    let quads = product.columns / 4u;
    let own_quad = tile % column_tiles * 8u + lane;
    let quad = min(own_quad, quads - 1u);
    let place0 = PASS_place(min(row + lane, last));
    let place1 = PASS_place(min(row + 8u + lane, last));
    let place2 = PASS_place(min(row + 16u + lane, last));
    let place3 = PASS_place(min(row + 24u + lane, last));
    var c0 = PASS_start(quad);
    var c1 = c0; var c2 = c0; var c3 = c0;
    var c4 = c0; var c5 = c0; var c6 = c0; var c7 = c0;
    var c8 = c0; var c9 = c0; var c10 = c0; var c11 = c0;
    var c12 = c0; var c13 = c0; var c14 = c0; var c15 = c0;
    var c16 = c0; var c17 = c0; var c18 = c0; var c19 = c0;
    var c20 = c0; var c21 = c0; var c22 = c0; var c23 = c0;
    var c24 = c0; var c25 = c0; var c26 = c0; var c27 = c0;
    var c28 = c0; var c29 = c0; var c30 = c0; var c31 = c0;
    let steps = product.depth / 4u;
    let b_stride = product.taps * steps;
    var b = quad * 4u * b_stride;
    for (var tap = 0u; tap < product.taps; tap++) {
        let shift = PASS_shift(tap);
        let tap0 = PASS_tap(place0, shift);
        let tap1 = PASS_tap(place1, shift);
        let tap2 = PASS_tap(place2, shift);
        let tap3 = PASS_tap(place3, shift);
        for (var step = 0u; step < steps; step++) {
            let a0 = select(vec4(0.0), PASS_a(tap0.at + step), tap0.inside);
            let a1 = select(vec4(0.0), PASS_a(tap1.at + step), tap1.inside);
            let a2 = select(vec4(0.0), PASS_a(tap2.at + step), tap2.inside);
            let a3 = select(vec4(0.0), PASS_a(tap3.at + step), tap3.inside);
            let b0 = PASS_b(b);
            let b1 = PASS_b(b + b_stride);
            let b2 = PASS_b(b + 2u * b_stride);
            let b3 = PASS_b(b + 3u * b_stride);
            b++;
            c0 += dots(subgroupShuffle(a0, 0u), b0, b1, b2, b3);
            c1 += dots(subgroupShuffle(a0, 1u), b0, b1, b2, b3);
            c2 += dots(subgroupShuffle(a0, 2u), b0, b1, b2, b3);
            c3 += dots(subgroupShuffle(a0, 3u), b0, b1, b2, b3);
            c4 += dots(subgroupShuffle(a0, 4u), b0, b1, b2, b3);
            c5 += dots(subgroupShuffle(a0, 5u), b0, b1, b2, b3);
            c6 += dots(subgroupShuffle(a0, 6u), b0, b1, b2, b3);
            c7 += dots(subgroupShuffle(a0, 7u), b0, b1, b2, b3);
            c8 += dots(subgroupShuffle(a1, 0u), b0, b1, b2, b3);
            c9 += dots(subgroupShuffle(a1, 1u), b0, b1, b2, b3);
            c10 += dots(subgroupShuffle(a1, 2u), b0, b1, b2, b3);
            c11 += dots(subgroupShuffle(a1, 3u), b0, b1, b2, b3);
            c12 += dots(subgroupShuffle(a1, 4u), b0, b1, b2, b3);
            c13 += dots(subgroupShuffle(a1, 5u), b0, b1, b2, b3);
            c14 += dots(subgroupShuffle(a1, 6u), b0, b1, b2, b3);
            c15 += dots(subgroupShuffle(a1, 7u), b0, b1, b2, b3);
            c16 += dots(subgroupShuffle(a2, 0u), b0, b1, b2, b3);
            c17 += dots(subgroupShuffle(a2, 1u), b0, b1, b2, b3);
            c18 += dots(subgroupShuffle(a2, 2u), b0, b1, b2, b3);
            c19 += dots(subgroupShuffle(a2, 3u), b0, b1, b2, b3);
            c20 += dots(subgroupShuffle(a2, 4u), b0, b1, b2, b3);
            c21 += dots(subgroupShuffle(a2, 5u), b0, b1, b2, b3);
            c22 += dots(subgroupShuffle(a2, 6u), b0, b1, b2, b3);
            c23 += dots(subgroupShuffle(a2, 7u), b0, b1, b2, b3);
            c24 += dots(subgroupShuffle(a3, 0u), b0, b1, b2, b3);
            c25 += dots(subgroupShuffle(a3, 1u), b0, b1, b2, b3);
            c26 += dots(subgroupShuffle(a3, 2u), b0, b1, b2, b3);
            c27 += dots(subgroupShuffle(a3, 3u), b0, b1, b2, b3);
            c28 += dots(subgroupShuffle(a3, 4u), b0, b1, b2, b3);
            c29 += dots(subgroupShuffle(a3, 5u), b0, b1, b2, b3);
            c30 += dots(subgroupShuffle(a3, 6u), b0, b1, b2, b3);
            c31 += dots(subgroupShuffle(a3, 7u), b0, b1, b2, b3);
        }
    }
    if own_quad >= quads { return; }
    var at = row * quads + quad;
    PASS_store(at, c0);
    if row + 1u > last { return; } at += quads; PASS_store(at, c1);
    if row + 2u > last { return; } at += quads; PASS_store(at, c2);
    if row + 3u > last { return; } at += quads; PASS_store(at, c3);
    if row + 4u > last { return; } at += quads; PASS_store(at, c4);
    if row + 5u > last { return; } at += quads; PASS_store(at, c5);
    if row + 6u > last { return; } at += quads; PASS_store(at, c6);
    if row + 7u > last { return; } at += quads; PASS_store(at, c7);
    if row + 8u > last { return; } at += quads; PASS_store(at, c8);
    if row + 9u > last { return; } at += quads; PASS_store(at, c9);
    if row + 10u > last { return; } at += quads; PASS_store(at, c10);
    if row + 11u > last { return; } at += quads; PASS_store(at, c11);
    if row + 12u > last { return; } at += quads; PASS_store(at, c12);
    if row + 13u > last { return; } at += quads; PASS_store(at, c13);
    if row + 14u > last { return; } at += quads; PASS_store(at, c14);
    if row + 15u > last { return; } at += quads; PASS_store(at, c15);
    if row + 16u > last { return; } at += quads; PASS_store(at, c16);
    if row + 17u > last { return; } at += quads; PASS_store(at, c17);
    if row + 18u > last { return; } at += quads; PASS_store(at, c18);
    if row + 19u > last { return; } at += quads; PASS_store(at, c19);
    if row + 20u > last { return; } at += quads; PASS_store(at, c20);
    if row + 21u > last { return; } at += quads; PASS_store(at, c21);
    if row + 22u > last { return; } at += quads; PASS_store(at, c22);
    if row + 23u > last { return; } at += quads; PASS_store(at, c23);
    if row + 24u > last { return; } at += quads; PASS_store(at, c24);
    if row + 25u > last { return; } at += quads; PASS_store(at, c25);
    if row + 26u > last { return; } at += quads; PASS_store(at, c26);
    if row + 27u > last { return; } at += quads; PASS_store(at, c27);
    if row + 28u > last { return; } at += quads; PASS_store(at, c28);
    if row + 29u > last { return; } at += quads; PASS_store(at, c29);
    if row + 30u > last { return; } at += quads; PASS_store(at, c30);
    if row + 31u > last { return; } at += quads; PASS_store(at, c31);
}
