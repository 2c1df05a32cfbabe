// #requires subgroups
// Gradients of weight and bias of weight_tiles.wgsl by subgroups of exactly 8 lanes, without workgroup memory or
// barriers: the fast way on a software adapter (see product_shuffle.wgsl). A workgroup is one subgroup, and makes
// 32 x 32 channels of one tap of one range of rows. It takes four rows at a time, so that sums are read and written
// once for four products. Of each row, a lane loads four channels of d_y and four of x; each channel of d_y is then
// handed to all lanes by subgroupShuffle, and multiplied with the lane's own four of x.

// tile += the channels of d_y that lane `source` loaded times this lane's of x, summed over four rows
fn add_shuffled(tile: ptr<function, Tile4x4>, d: Tile4x4, source: u32, x: Tile4x4) {
    let d0 = subgroupShuffle(d.r0, source);
    let d1 = subgroupShuffle(d.r1, source);
    let d2 = subgroupShuffle(d.r2, source);
    let d3 = subgroupShuffle(d.r3, source);
    (*tile).r0 += d0.x * x.r0 + d1.x * x.r1 + d2.x * x.r2 + d3.x * x.r3;
    (*tile).r1 += d0.y * x.r0 + d1.y * x.r1 + d2.y * x.r2 + d3.y * x.r3;
    (*tile).r2 += d0.z * x.r0 + d1.z * x.r1 + d2.z * x.r2 + d3.z * x.r3;
    (*tile).r3 += d0.w * x.r0 + d1.w * x.r1 + d2.w * x.r2 + d3.w * x.r3;
}

@compute @workgroup_size(8)
fn backward_weight_shuffle(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                           @builtin(subgroup_invocation_id) lane: u32) {
    let product = forward_product();
    let tile = weight_tile(flat_workgroup(workgroup, workgroups), 32u, product);
    if tile.first >= tile.end { return; }
    let o_quads = product.columns / 4u;
    let x_offset = min(tile.i_quad + lane, product.depth / 4u - 1u);
    // Output channels 0 .. 3 of the tile, 4 .. 7, ...; for each, a lane holds four input channels.
    var c0 = no_weight();
    var c1 = no_weight();
    var c2 = no_weight();
    var c3 = no_weight();
    var c4 = no_weight();
    var c5 = no_weight();
    var c6 = no_weight();
    var c7 = no_weight();
    var bias_sum = vec4(0.0);
    let shift = forward_shift(tile.tap);
    var place = forward_place(tile.first);
    var d_at = tile.first * o_quads + min(tile.o_quad + lane, o_quads - 1u);
    for (var m = tile.first; m < tile.end; m += 4u) {
        // Rows after the end of the range count as zeros of d_y; what is read there is row m again.
        let counts1 = m + 1u < tile.end;
        let counts2 = m + 2u < tile.end;
        let counts3 = m + 3u < tile.end;
        var d: Tile4x4;
        d.r0 = vec4<f32>(d_y_vec4[d_at]);
        d.r1 = select(vec4(0.0), vec4<f32>(d_y_vec4[select(d_at, d_at + o_quads, counts1)]), counts1);
        d.r2 = select(vec4(0.0), vec4<f32>(d_y_vec4[select(d_at, d_at + 2u * o_quads, counts2)]), counts2);
        d.r3 = select(vec4(0.0), vec4<f32>(d_y_vec4[select(d_at, d_at + 3u * o_quads, counts3)]), counts3);
        d_at += 4u * o_quads;
        bias_sum += d.r0 + d.r1 + d.r2 + d.r3;
        let tap0 = forward_tap(place, shift); place = forward_next(place);
        let tap1 = forward_tap(place, shift); place = forward_next(place);
        let tap2 = forward_tap(place, shift); place = forward_next(place);
        let tap3 = forward_tap(place, shift); place = forward_next(place);
        var x: Tile4x4;
        x.r0 = select(vec4(0.0), forward_a(tap0.at + x_offset), tap0.inside);
        x.r1 = select(vec4(0.0), forward_a(select(tap0.at, tap1.at, counts1) + x_offset), tap1.inside && counts1);
        x.r2 = select(vec4(0.0), forward_a(select(tap0.at, tap2.at, counts2) + x_offset), tap2.inside && counts2);
        x.r3 = select(vec4(0.0), forward_a(select(tap0.at, tap3.at, counts3) + x_offset), tap3.inside && counts3);
        add_shuffled(&c0, d, 0u, x);
        add_shuffled(&c1, d, 1u, x);
        add_shuffled(&c2, d, 2u, x);
        add_shuffled(&c3, d, 3u, x);
        add_shuffled(&c4, d, 4u, x);
        add_shuffled(&c5, d, 5u, x);
        add_shuffled(&c6, d, 6u, x);
        add_shuffled(&c7, d, 7u, x);
    }
    let i_quad = tile.i_quad + lane;
    write_weight(c0, tile.split, tile.o_quad, tile.tap, i_quad, product);
    write_weight(c1, tile.split, tile.o_quad + 1u, tile.tap, i_quad, product);
    write_weight(c2, tile.split, tile.o_quad + 2u, tile.tap, i_quad, product);
    write_weight(c3, tile.split, tile.o_quad + 3u, tile.tap, i_quad, product);
    write_weight(c4, tile.split, tile.o_quad + 4u, tile.tap, i_quad, product);
    write_weight(c5, tile.split, tile.o_quad + 5u, tile.tap, i_quad, product);
    write_weight(c6, tile.split, tile.o_quad + 6u, tile.tap, i_quad, product);
    write_weight(c7, tile.split, tile.o_quad + 7u, tile.tap, i_quad, product);
    if tile.tap == 0u && tile.i_quad == 0u {
        write_bias(bias_sum, tile.split, tile.o_quad + lane, product);
    }
}
