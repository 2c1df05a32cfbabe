// Gradients of weight and bias by subgroups of exactly 8 lanes, for what weight_tiles.wgsl computes, without workgroup
// memory or barriers. A workgroup is one subgroup and makes 32 x 32 channels of one tap of one range of rows. For each row, a lane
// loads four channels of d_y and four of x; each channel of d_y is then handed to all lanes by subgroupShuffle, and
// multiplied with the lane's own four of x.

@compute @workgroup_size(8)
fn backward_weight_shuffle(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                           @builtin(subgroup_invocation_id) lane: u32) {
    let product = forward_product();
    let tile = weight_tile(flat_workgroup(workgroup, workgroups), 32u, product);
    if tile.first >= tile.end { return; }
    let o_quads = product.columns / 4u;
    let x_offset = min(tile.i_quad + lane, product.depth / 4u - 1u);
    // c0 .. c31: rows o of the tile, of which each lane holds four input channels.
    var c0 = vec4(0.0); var c1 = vec4(0.0); var c2 = vec4(0.0); var c3 = vec4(0.0);
    var c4 = vec4(0.0); var c5 = vec4(0.0); var c6 = vec4(0.0); var c7 = vec4(0.0);
    var c8 = vec4(0.0); var c9 = vec4(0.0); var c10 = vec4(0.0); var c11 = vec4(0.0);
    var c12 = vec4(0.0); var c13 = vec4(0.0); var c14 = vec4(0.0); var c15 = vec4(0.0);
    var c16 = vec4(0.0); var c17 = vec4(0.0); var c18 = vec4(0.0); var c19 = vec4(0.0);
    var c20 = vec4(0.0); var c21 = vec4(0.0); var c22 = vec4(0.0); var c23 = vec4(0.0);
    var c24 = vec4(0.0); var c25 = vec4(0.0); var c26 = vec4(0.0); var c27 = vec4(0.0);
    var c28 = vec4(0.0); var c29 = vec4(0.0); var c30 = vec4(0.0); var c31 = vec4(0.0);
    var bias_sum = vec4(0.0);
    let shift = forward_shift(tile.tap);
    var place = forward_place(tile.first);
    var d_at = tile.first * o_quads + min(tile.o_quad + lane, o_quads - 1u);
    for (var m = tile.first; m < tile.end; m++) {
        let at = forward_tap(place, shift);
        let own = vec4<f32>(d_y_vec4[d_at]);
        let x = select(vec4(0.0), forward_a(at.at + x_offset), at.inside);
        bias_sum += own;
        let d0 = subgroupShuffle(own, 0u);
        c0 += d0.x * x; c1 += d0.y * x; c2 += d0.z * x; c3 += d0.w * x;
        let d1 = subgroupShuffle(own, 1u);
        c4 += d1.x * x; c5 += d1.y * x; c6 += d1.z * x; c7 += d1.w * x;
        let d2 = subgroupShuffle(own, 2u);
        c8 += d2.x * x; c9 += d2.y * x; c10 += d2.z * x; c11 += d2.w * x;
        let d3 = subgroupShuffle(own, 3u);
        c12 += d3.x * x; c13 += d3.y * x; c14 += d3.z * x; c15 += d3.w * x;
        let d4 = subgroupShuffle(own, 4u);
        c16 += d4.x * x; c17 += d4.y * x; c18 += d4.z * x; c19 += d4.w * x;
        let d5 = subgroupShuffle(own, 5u);
        c20 += d5.x * x; c21 += d5.y * x; c22 += d5.z * x; c23 += d5.w * x;
        let d6 = subgroupShuffle(own, 6u);
        c24 += d6.x * x; c25 += d6.y * x; c26 += d6.z * x; c27 += d6.w * x;
        let d7 = subgroupShuffle(own, 7u);
        c28 += d7.x * x; c29 += d7.y * x; c30 += d7.z * x; c31 += d7.w * x;
        d_at += o_quads;
        place = forward_next(place);
    }
    let i_quad = tile.i_quad + lane;
    write_weight(Tile4x4(c0, c1, c2, c3), tile.split, tile.o_quad, tile.tap, i_quad, product);
    write_weight(Tile4x4(c4, c5, c6, c7), tile.split, tile.o_quad + 1u, tile.tap, i_quad, product);
    write_weight(Tile4x4(c8, c9, c10, c11), tile.split, tile.o_quad + 2u, tile.tap, i_quad, product);
    write_weight(Tile4x4(c12, c13, c14, c15), tile.split, tile.o_quad + 3u, tile.tap, i_quad, product);
    write_weight(Tile4x4(c16, c17, c18, c19), tile.split, tile.o_quad + 4u, tile.tap, i_quad, product);
    write_weight(Tile4x4(c20, c21, c22, c23), tile.split, tile.o_quad + 5u, tile.tap, i_quad, product);
    write_weight(Tile4x4(c24, c25, c26, c27), tile.split, tile.o_quad + 6u, tile.tap, i_quad, product);
    write_weight(Tile4x4(c28, c29, c30, c31), tile.split, tile.o_quad + 7u, tile.tap, i_quad, product);
    if tile.tap == 0u && tile.i_quad == 0u {
        write_bias(bias_sum, tile.split, tile.o_quad + lane, product);
    }
}
