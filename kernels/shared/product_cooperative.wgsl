// #requires cooperative_matrix
// The product of product_tiles.wgsl by the matrix units of a GPU, through wgpu's cooperative matrices of 8 x 8 f32: a
// subgroup holds a matrix together, and coopMultiplyAdd multiplies two of them. A workgroup is four subgroups of 32
// lanes, and makes 32 rows x 32 columns, each subgroup 16 x 16 of them as four matrices. For eight steps of the depth
// at a time the lanes lay out 32 rows of A and 32 columns of B in workgroup memory, each with its steps side by side,
// so that A is read as rows (coopLoadT) and B as columns (coopLoad). Steps over the end of the depth are zeros of A.

var<workgroup> PASS_a_rows: array<f32, 256>;    // [32 rows, 8 steps]
var<workgroup> PASS_b_columns: array<f32, 256>; // [32 columns, 8 steps]
var<workgroup> PASS_c_rows: array<f32, 1024>;   // [32 rows, 32 columns]

@compute @workgroup_size(128)
fn PASS_cooperative(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32, @builtin(subgroup_id) subgroup: u32) {
    let product = PASS_product();
    let column_tiles = (product.columns + 31u) / 32u;
    let tile = flat_workgroup(workgroup, workgroups);
    // A surplus workgroup must not return: matrices want every invocation. Its rows are over the end, and are not written.
    let row = tile / column_tiles * 32u;
    let column = tile % column_tiles * 32u;
    // What the invocation loads: four steps of one row of A, and of one column of B, if it is one of the first 64.
    let line = local / 2u % 32u;
    let half = local % 2u;
    let loads = local < 64u;
    let line_at = line * 8u + half * 4u;
    let place = PASS_place(min(row + line, product.rows - 1u));
    let steps = product.depth / 4u;
    let b_line = min(column + line, product.columns - 1u) * product.taps * steps;
    // What its subgroup makes.
    let own_row = subgroup / 2u * 16u;
    let own_column = subgroup % 2u * 16u;
    var c00 = coop_mat8x8<f32, C>();
    var c01 = coop_mat8x8<f32, C>();
    var c10 = coop_mat8x8<f32, C>();
    var c11 = coop_mat8x8<f32, C>();
    for (var tap = 0u; tap < product.taps; tap++) {
        let a_tap = PASS_tap(place, PASS_shift(tap));
        for (var first = 0u; first < steps; first += 2u) {
            let step = first + half;
            if loads {
                let a = PASS_row_or_zeros(a_tap, step, steps);
                let b = PASS_b(PASS_step_of_b(b_line + tap * steps, step, steps));
                PASS_a_rows[line_at] = a.x;
                PASS_a_rows[line_at + 1u] = a.y;
                PASS_a_rows[line_at + 2u] = a.z;
                PASS_a_rows[line_at + 3u] = a.w;
                PASS_b_columns[line_at] = b.x;
                PASS_b_columns[line_at + 1u] = b.y;
                PASS_b_columns[line_at + 2u] = b.z;
                PASS_b_columns[line_at + 3u] = b.w;
            }
            workgroupBarrier();
            let a0 = coopLoadT<coop_mat8x8<f32, A>>(&PASS_a_rows[own_row * 8u], 8u);
            let a1 = coopLoadT<coop_mat8x8<f32, A>>(&PASS_a_rows[own_row * 8u + 64u], 8u);
            let b0 = coopLoad<coop_mat8x8<f32, B>>(&PASS_b_columns[own_column * 8u], 8u);
            let b1 = coopLoad<coop_mat8x8<f32, B>>(&PASS_b_columns[own_column * 8u + 64u], 8u);
            c00 = coopMultiplyAdd(a0, b0, c00);
            c01 = coopMultiplyAdd(a0, b1, c01);
            c10 = coopMultiplyAdd(a1, b0, c10);
            c11 = coopMultiplyAdd(a1, b1, c11);
            workgroupBarrier();
        }
    }
    let own = own_row * 32u + own_column;
    coopStoreT(c00, &PASS_c_rows[own], 32u);
    coopStoreT(c01, &PASS_c_rows[own + 8u], 32u);
    coopStoreT(c10, &PASS_c_rows[own + 256u], 32u);
    coopStoreT(c11, &PASS_c_rows[own + 264u], 32u);
    workgroupBarrier();
    // Each invocation writes two of the 256 units of four columns.
    let quads = product.columns / 4u;
    for (var unit = local; unit < 256u; unit += 128u) {
        let c_row = row + unit / 8u;
        let quad = column / 4u + unit % 8u;
        if c_row < product.rows && quad < quads {
            let at = unit * 4u;
            let sums = vec4(PASS_c_rows[at], PASS_c_rows[at + 1u], PASS_c_rows[at + 2u], PASS_c_rows[at + 3u]);
            PASS_store(c_row * quads + quad, PASS_start(quad) + sums);
        }
    }
}
