// Matrix products in tiles, for the product that an op describes by
//   PASS_product()          its sizes; columns and depth must be multiples of 4
//   PASS_place(row)         data about a row of A that all of its taps use
//   PASS_shift(tap)         the same of a kernel tap
//   PASS_tap(place, shift)  where that row is read under that tap
//   PASS_a(at), PASS_b(at)  four steps of the depth of A, of B; B is [columns, taps, depth], read in units of four
//   PASS_start(quad)        what columns 4 quad .. 4 quad + 3 start from
//   PASS_store(at, value)   writes four columns of C, which is [rows, columns], in units of four
// Tiles that hang over an end repeat the last row or column there, and do not write it. No index reaches past the end
// of a tensor, not even where the number read is thrown away, since drivers differ in what they do then.

fn PASS_write(tile: Tile4x4, row: u32, quad: u32, product: Product) {
    let quads = product.columns / 4u;
    if quad >= quads { return; }
    var at = row * quads + quad;
    if row < product.rows { PASS_store(at, tile.r0); } at += quads;
    if row + 1u < product.rows { PASS_store(at, tile.r1); } at += quads;
    if row + 2u < product.rows { PASS_store(at, tile.r2); } at += quads;
    if row + 3u < product.rows { PASS_store(at, tile.r3); }
}

// Four steps of the depth of a row of A under a tap, or zeros.
fn PASS_row(tap: Tap, step: u32) -> vec4<f32> {
    return select(vec4(0.0), PASS_a(tap.at + step), tap.inside);
}

// The same where `step` may be past the end of the depth: zeros there.
fn PASS_row_or_zeros(tap: Tap, step: u32, steps: u32) -> vec4<f32> {
    return select(vec4(0.0), PASS_a(tap.at + min(step, steps - 1u)), tap.inside && step < steps);
}

// Where `step` of a column of B is that begins at `line`. Beyond the depth it is the last step, which zeros of A make
// count for nothing, but it must be finite.
fn PASS_step_of_b(line: u32, step: u32, steps: u32) -> u32 { return line + min(step, steps - 1u); }

// One invocation makes 4 rows x 8 columns in registers and shares nothing: neighbours find the same rows of A in the
// cache.
@compute @workgroup_size(WORKGROUP)
fn PASS_tiled(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
              @builtin(local_invocation_index) local: u32) {
    let product = PASS_product();
    let column_tiles = (product.columns + 7u) / 8u;
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    let row = index / column_tiles * 4u;
    if row >= product.rows { return; }
    let quad = index % column_tiles * 2u;
    let last_quad = product.columns / 4u - 1u;
    let last = product.rows - 1u;
    let place0 = PASS_place(row);
    let place1 = PASS_place(min(row + 1u, last));
    let place2 = PASS_place(min(row + 2u, last));
    let place3 = PASS_place(min(row + 3u, last));
    let start0 = PASS_start(quad);
    let start1 = PASS_start(min(quad + 1u, last_quad));
    var left = Tile4x4(start0, start0, start0, start0);
    var right = Tile4x4(start1, start1, start1, start1);
    let steps = product.depth / 4u;
    let b_stride = product.taps * steps;
    var b_left = quad * 4u * b_stride;
    var b_right = min(quad + 1u, last_quad) * 4u * b_stride;
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
            var at = b_left;
            let b0 = PASS_b(at); at += b_stride;
            let b1 = PASS_b(at); at += b_stride;
            let b2 = PASS_b(at); at += b_stride;
            let b3 = PASS_b(at);
            left.r0 += dots(a0, b0, b1, b2, b3);
            left.r1 += dots(a1, b0, b1, b2, b3);
            left.r2 += dots(a2, b0, b1, b2, b3);
            left.r3 += dots(a3, b0, b1, b2, b3);
            at = b_right;
            let b4 = PASS_b(at); at += b_stride;
            let b5 = PASS_b(at); at += b_stride;
            let b6 = PASS_b(at); at += b_stride;
            let b7 = PASS_b(at);
            right.r0 += dots(a0, b4, b5, b6, b7);
            right.r1 += dots(a1, b4, b5, b6, b7);
            right.r2 += dots(a2, b4, b5, b6, b7);
            right.r3 += dots(a3, b4, b5, b6, b7);
            b_left++;
            b_right++;
        }
    }
    PASS_write(left, row, quad, product);
    PASS_write(right, row, quad + 1u, product);
}

// ---- tiles in workgroup memory ----
//
// A workgroup makes TILE x TILE outputs, each invocation 4 x 4 or 8 x 8 of them. For STEP steps of the depth at a time,
// invocations load blocks of 4 rows x 4 steps of A and B and store them transposed, so that four rows of one step are one
// vec4.

// Where one invocation loads its blocks: a row of four of the tiles, and a column of four within STEP.
struct PASS_Loader {
    place0: vec3<u32>, place1: vec3<u32>, place2: vec3<u32>, place3: vec3<u32>,
    b: u32,
    a_line: u32,
    b_line: u32,
    step: u32,
    loads_a: bool,
    loads_b: bool,
}

// Where there are more invocations than blocks, the first ones load A and the last ones B.
fn PASS_loader(product: Product, row: u32, quad: u32, local: u32, invocations: u32) -> PASS_Loader {
    let across = STEP / 4u;
    let blocks = TILE / 4u * across;
    let surplus = max(invocations, blocks) - blocks;
    let a_line = local / across;
    let b_line = (local - surplus) / across;
    let last = product.rows - 1u;
    let first = row + a_line * 4u;
    var loader: PASS_Loader;
    loader.place0 = PASS_place(min(first, last));
    loader.place1 = PASS_place(min(first + 1u, last));
    loader.place2 = PASS_place(min(first + 2u, last));
    loader.place3 = PASS_place(min(first + 3u, last));
    loader.b = min(quad + b_line, product.columns / 4u - 1u) * product.taps * product.depth;
    loader.a_line = a_line;
    loader.b_line = b_line;
    loader.step = local % across;
    loader.loads_a = local < blocks;
    loader.loads_b = local >= surplus;
    return loader;
}

// Fills the tiles with STEP steps of the depth of one tap, zeros after its end.
fn PASS_fill(loader: PASS_Loader, product: Product, tap: u32, shift: vec2<u32>, first: u32) {
    let steps = product.depth / 4u;
    let step = first + loader.step;
    let line = loader.step * 4u * TILE_STRIDE;
    if loader.loads_a {
        let v0 = PASS_row_or_zeros(PASS_tap(loader.place0, shift), step, steps);
        let v1 = PASS_row_or_zeros(PASS_tap(loader.place1, shift), step, steps);
        let v2 = PASS_row_or_zeros(PASS_tap(loader.place2, shift), step, steps);
        let v3 = PASS_row_or_zeros(PASS_tap(loader.place3, shift), step, steps);
        let at = line + loader.a_line;
        a_tile[at] = vec4(v0.x, v1.x, v2.x, v3.x);
        a_tile[at + TILE_STRIDE] = vec4(v0.y, v1.y, v2.y, v3.y);
        a_tile[at + 2u * TILE_STRIDE] = vec4(v0.z, v1.z, v2.z, v3.z);
        a_tile[at + 3u * TILE_STRIDE] = vec4(v0.w, v1.w, v2.w, v3.w);
    }
    if loader.loads_b {
        let b = PASS_step_of_b(loader.b + tap * steps, step, steps);
        let b_stride = product.taps * steps;
        let v0 = PASS_b(b);
        let v1 = PASS_b(b + b_stride);
        let v2 = PASS_b(b + 2u * b_stride);
        let v3 = PASS_b(b + 3u * b_stride);
        let at = line + loader.b_line;
        b_tile[at] = vec4(v0.x, v1.x, v2.x, v3.x);
        b_tile[at + TILE_STRIDE] = vec4(v0.y, v1.y, v2.y, v3.y);
        b_tile[at + 2u * TILE_STRIDE] = vec4(v0.z, v1.z, v2.z, v3.z);
        b_tile[at + 3u * TILE_STRIDE] = vec4(v0.w, v1.w, v2.w, v3.w);
    }
}

@compute @workgroup_size(TILE / 4, TILE / 4)
fn PASS_workgroup_4x4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                      @builtin(local_invocation_index) local: u32, @builtin(local_invocation_id) own: vec3<u32>) {
    let product = PASS_product();
    let column_tiles = (product.columns + TILE - 1u) / TILE;
    let tile = flat_workgroup(workgroup, workgroups);
    let row = tile / column_tiles * TILE;
    if row >= product.rows { return; }
    let quad = tile % column_tiles * (TILE / 4u);
    let loader = PASS_loader(product, row, quad, local, TILE / 4u * (TILE / 4u));
    let start = PASS_start(min(quad + own.x, product.columns / 4u - 1u));
    var c = Tile4x4(start, start, start, start);
    for (var tap = 0u; tap < product.taps; tap++) {
        let shift = PASS_shift(tap);
        for (var step = 0u; step < product.depth / 4u; step += STEP / 4u) {
            PASS_fill(loader, product, tap, shift, step);
            workgroupBarrier();
            for (var k = 0u; k < STEP * TILE_STRIDE; k += TILE_STRIDE) {
                add_outer(&c, a_tile[k + own.y], b_tile[k + own.x]);
            }
            workgroupBarrier();
        }
    }
    PASS_write(c, row + own.y * 4u, quad + own.x, product);
}

// The 8 x 8 outputs of an invocation are four tiles of 4 x 4, half a tile apart, so that neighbouring invocations read
// neighbouring vec4s.
@compute @workgroup_size(TILE / 8, TILE / 8)
fn PASS_workgroup_8x8(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                      @builtin(local_invocation_index) local: u32, @builtin(local_invocation_id) own: vec3<u32>) {
    let product = PASS_product();
    let column_tiles = (product.columns + TILE - 1u) / TILE;
    let tile = flat_workgroup(workgroup, workgroups);
    let row = tile / column_tiles * TILE;
    if row >= product.rows { return; }
    let quad = tile % column_tiles * (TILE / 4u);
    let half = TILE / 8u;
    let loader = PASS_loader(product, row, quad, local, half * half);
    let last_quad = product.columns / 4u - 1u;
    let left = PASS_start(min(quad + own.x, last_quad));
    let right = PASS_start(min(quad + own.x + half, last_quad));
    var c00 = Tile4x4(left, left, left, left);
    var c01 = Tile4x4(right, right, right, right);
    var c10 = c00;
    var c11 = c01;
    for (var tap = 0u; tap < product.taps; tap++) {
        let shift = PASS_shift(tap);
        for (var step = 0u; step < product.depth / 4u; step += STEP / 4u) {
            PASS_fill(loader, product, tap, shift, step);
            workgroupBarrier();
            for (var k = 0u; k < STEP * TILE_STRIDE; k += TILE_STRIDE) {
                let a0 = a_tile[k + own.y];
                let a1 = a_tile[k + own.y + half];
                let b0 = b_tile[k + own.x];
                let b1 = b_tile[k + own.x + half];
                add_outer(&c00, a0, b0);
                add_outer(&c01, a0, b1);
                add_outer(&c10, a1, b0);
                add_outer(&c11, a1, b1);
            }
            workgroupBarrier();
        }
    }
    PASS_write(c00, row + own.y * 4u, quad + own.x, product);
    PASS_write(c01, row + own.y * 4u, quad + own.x + half, product);
    PASS_write(c10, row + (own.y + half) * 4u, quad + own.x, product);
    PASS_write(c11, row + (own.y + half) * 4u, quad + own.x + half, product);
}
