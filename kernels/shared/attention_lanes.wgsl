// #requires subgroups
// Shared by the passes of attention_lane_passes.wgsl. Heads have 4 channels or multiples of 4; a workgroup is a
// subgroup of 8 lanes, and works on (n, head, 8 own rows, QUADS 32 channels of the result). lanes.wgsl says how the
// lanes share the work.

override QUADS: u32 = 2u;  // of channels of the result that a lane adds up: 1, 2, 4 or 5

// What a workgroup works on. Channels are counted in quads.
struct LaneTask {
    n: u32,
    head: u32,        // n, head
    query_base: u32,  // index of query 0 of this head
    key_base: u32,    // index of key 0 of this head
    row: u32,         // from a token to the next
    own: u32,         // first own row
    channel: u32,     // of the result, of this lane, within the head: the first one
    size: u32,        // quads of a head
    lane: u32,
}

// Quads of a head, and the parts of these and of its own rows. Where shuffles follow, use these and not a LaneTask,
// which depends on the lane: compilers want a proof that all lanes go the same way.
fn head_quads() -> u32 { return params.channels / 4u / params.heads; }
fn lane_chunks() -> u32 { return (head_quads() + LANES * QUADS - 1u) / (LANES * QUADS); }
fn lane_blocks(own_tokens: u32) -> u32 { return (own_tokens + LANES - 1u) / LANES; }
fn is_surplus(flat: u32, own_tokens: u32) -> bool {
    return flat >= params.samples * params.heads * lane_blocks(own_tokens) * lane_chunks();
}
fn lane_own(flat: u32, own_tokens: u32) -> u32 { return flat / lane_chunks() % lane_blocks(own_tokens) * LANES; }

fn lane_task_of(flat: u32, own_tokens: u32, lane: u32) -> LaneTask {
    let row = params.channels / 4u;
    let size = head_quads();
    let head = flat / lane_chunks() / lane_blocks(own_tokens);
    let n = head / params.heads;
    let offset = head % params.heads * size;
    return LaneTask(n, head, n * params.queries * row + offset, n * params.keys * row + offset, row,
                    lane_own(flat, own_tokens), flat % lane_chunks() * LANES * QUADS + lane, size, lane);
}

// Index of a query or a key; those beyond the last one repeat it, and their products are dropped.
fn token_at(task: LaneTask, is_query: bool, token: u32) -> u32 {
    return select(task.key_base, task.query_base, is_query) + min(token, tokens(is_query) - 1u) * task.row;
}

fn q_or_k(is_query: bool, at: u32) -> vec4<f32> {
    if is_query { return vec4<f32>(q_vec4[at]); }
    return vec4<f32>(k_vec4[at]);
}
fn d_y_or_v(is_query: bool, at: u32) -> vec4<f32> {
    if is_query { return vec4<f32>(d_y_vec4[at]); }
    return vec4<f32>(v_vec4[at]);
}

// q . k of the own rows and a block of others.
fn q_k(task: LaneTask, own_is_query: bool, first: u32) -> Products {
    let own = token_at(task, own_is_query, task.own + task.lane);
    let other0 = token_at(task, !own_is_query, first + task.lane);
    let other1 = token_at(task, !own_is_query, first + task.lane + 8u);
    let other2 = token_at(task, !own_is_query, first + task.lane + 16u);
    let other3 = token_at(task, !own_is_query, first + task.lane + 24u);
    var s = Products();
    for (var c = 0u; c < head_quads(); c++) {
        s = add_products(s, q_or_k(own_is_query, own + c),
                         q_or_k(!own_is_query, other0 + c), q_or_k(!own_is_query, other1 + c),
                         q_or_k(!own_is_query, other2 + c), q_or_k(!own_is_query, other3 + c));
    }
    return s;
}

// d_y . v of the same.
fn d_y_v(task: LaneTask, own_is_query: bool, first: u32) -> Products {
    let own = token_at(task, own_is_query, task.own + task.lane);
    let other0 = token_at(task, !own_is_query, first + task.lane);
    let other1 = token_at(task, !own_is_query, first + task.lane + 8u);
    let other2 = token_at(task, !own_is_query, first + task.lane + 16u);
    let other3 = token_at(task, !own_is_query, first + task.lane + 24u);
    var s = Products();
    for (var c = 0u; c < head_quads(); c++) {
        s = add_products(s, d_y_or_v(own_is_query, own + c),
                         d_y_or_v(!own_is_query, other0 + c), d_y_or_v(!own_is_query, other1 + c),
                         d_y_or_v(!own_is_query, other2 + c), d_y_or_v(!own_is_query, other3 + c));
    }
    return s;
}

// Which of four own rows, from `own` on, and another row exist and see one another.
fn lanes_see(own_is_query: bool, own: u32, other: u32) -> vec4<bool> {
    let rows = own + vec4(0u, 1u, 2u, 3u);
    let exists = vec4(other < tokens(!own_is_query));
    if !CAUSAL { return exists; }
    if own_is_query { return exists & (rows >= vec4(other)); }
    return exists & (vec4(other) >= rows);
}

// Factors of rows that do not see one another become `value`.
fn hidden(task: LaneTask, own_is_query: bool, first: u32, s: Products, value: f32) -> Products {
    let other = first + task.lane;
    let x = vec4(value);
    let a = task.own;
    let b = task.own + 4u;
    let a0 = select(x, s.a0, lanes_see(own_is_query, a, other));
    let b0 = select(x, s.b0, lanes_see(own_is_query, b, other));
    let a1 = select(x, s.a1, lanes_see(own_is_query, a, other + 8u));
    let b1 = select(x, s.b1, lanes_see(own_is_query, b, other + 8u));
    let a2 = select(x, s.a2, lanes_see(own_is_query, a, other + 16u));
    let b2 = select(x, s.b2, lanes_see(own_is_query, b, other + 16u));
    let a3 = select(x, s.a3, lanes_see(own_is_query, a, other + 24u));
    let b3 = select(x, s.b3, lanes_see(own_is_query, b, other + 24u));
    return Products(a0, b0, a1, b1, a2, b2, a3, b3);
}

// The channels of own rows that a lane adds up: its quads 0 to QUADS - 1.
struct Sums { c0: Rows, c1: Rows, c2: Rows, c3: Rows, c4: Rows }

// Adds the quads of one other row times the factors of the own rows.
fn add_other(s: Sums, a: vec4<f32>, b: vec4<f32>, o0: vec4<f32>, o1: vec4<f32>, o2: vec4<f32>, o3: vec4<f32>,
             o4: vec4<f32>) -> Sums {
    var sums = s;
    sums.c0 = add_rows(s.c0, a, b, o0);
    if QUADS > 1u { sums.c1 = add_rows(s.c1, a, b, o1); }
    if QUADS > 2u {
        sums.c2 = add_rows(s.c2, a, b, o2);
        sums.c3 = add_rows(s.c3, a, b, o3);
    }
    if QUADS > 4u { sums.c4 = add_rows(s.c4, a, b, o4); }
    return sums;
}

// Indices of a lane's quads of a row; those beyond the head repeat its last one, and are not stored.
struct Quads { at: vec4<u32>, fifth: u32 }

fn quads_of(task: LaneTask, is_query: bool, token: u32) -> Quads {
    let row = token_at(task, is_query, token);
    return Quads(row + min(task.channel + vec4(0u, 8u, 16u, 24u), vec4(task.size - 1u)),
                 row + min(task.channel + 32u, task.size - 1u));
}

// Add the rows of a block of v, of d_y, and of q or k.
fn add_v_row(s: Sums, a: vec4<f32>, b: vec4<f32>, quads: Quads) -> Sums {
    return add_other(s, a, b, vec4<f32>(v_vec4[quads.at.x]), vec4<f32>(v_vec4[quads.at.y]),
                     vec4<f32>(v_vec4[quads.at.z]), vec4<f32>(v_vec4[quads.at.w]), vec4<f32>(v_vec4[quads.fifth]));
}
fn add_v(s: Sums, f: Products, task: LaneTask, first: u32) -> Sums {
    var r = s;
    for (var j = 0u; j < LANES; j++) {
        let key = first + j;
        r = add_v_row(r, subgroupShuffle(f.a0, j), subgroupShuffle(f.b0, j), quads_of(task, false, key));
        r = add_v_row(r, subgroupShuffle(f.a1, j), subgroupShuffle(f.b1, j), quads_of(task, false, key + 8u));
        r = add_v_row(r, subgroupShuffle(f.a2, j), subgroupShuffle(f.b2, j), quads_of(task, false, key + 16u));
        r = add_v_row(r, subgroupShuffle(f.a3, j), subgroupShuffle(f.b3, j), quads_of(task, false, key + 24u));
    }
    return r;
}
fn add_d_y_row(s: Sums, a: vec4<f32>, b: vec4<f32>, quads: Quads) -> Sums {
    return add_other(s, a, b, vec4<f32>(d_y_vec4[quads.at.x]), vec4<f32>(d_y_vec4[quads.at.y]),
                     vec4<f32>(d_y_vec4[quads.at.z]), vec4<f32>(d_y_vec4[quads.at.w]),
                     vec4<f32>(d_y_vec4[quads.fifth]));
}
fn add_d_y(s: Sums, f: Products, task: LaneTask, first: u32) -> Sums {
    var r = s;
    for (var j = 0u; j < LANES; j++) {
        let query = first + j;
        r = add_d_y_row(r, subgroupShuffle(f.a0, j), subgroupShuffle(f.b0, j), quads_of(task, true, query));
        r = add_d_y_row(r, subgroupShuffle(f.a1, j), subgroupShuffle(f.b1, j), quads_of(task, true, query + 8u));
        r = add_d_y_row(r, subgroupShuffle(f.a2, j), subgroupShuffle(f.b2, j), quads_of(task, true, query + 16u));
        r = add_d_y_row(r, subgroupShuffle(f.a3, j), subgroupShuffle(f.b3, j), quads_of(task, true, query + 24u));
    }
    return r;
}
fn add_q_or_k_row(s: Sums, a: vec4<f32>, b: vec4<f32>, is_query: bool, quads: Quads) -> Sums {
    return add_other(s, a, b, q_or_k(is_query, quads.at.x), q_or_k(is_query, quads.at.y), q_or_k(is_query, quads.at.z),
                     q_or_k(is_query, quads.at.w), q_or_k(is_query, quads.fifth));
}
fn add_q_or_k(s: Sums, f: Products, task: LaneTask, is_query: bool, first: u32) -> Sums {
    var r = s;
    for (var j = 0u; j < LANES; j++) {
        let quads0 = quads_of(task, is_query, first + j);
        let quads1 = quads_of(task, is_query, first + j + 8u);
        let quads2 = quads_of(task, is_query, first + j + 16u);
        let quads3 = quads_of(task, is_query, first + j + 24u);
        r = add_q_or_k_row(r, subgroupShuffle(f.a0, j), subgroupShuffle(f.b0, j), is_query, quads0);
        r = add_q_or_k_row(r, subgroupShuffle(f.a1, j), subgroupShuffle(f.b1, j), is_query, quads1);
        r = add_q_or_k_row(r, subgroupShuffle(f.a2, j), subgroupShuffle(f.b2, j), is_query, quads2);
        r = add_q_or_k_row(r, subgroupShuffle(f.a3, j), subgroupShuffle(f.b3, j), is_query, quads3);
    }
    return r;
}

// ds of a block from q . k (s) and d_y . v (t).
fn ds_of(p: Products, t: Products, dot0a: vec4<f32>, dot0b: vec4<f32>, dot1a: vec4<f32>, dot1b: vec4<f32>,
         dot2a: vec4<f32>, dot2b: vec4<f32>, dot3a: vec4<f32>, dot3b: vec4<f32>) -> Products {
    return Products(p.a0 * (t.a0 - dot0a), p.b0 * (t.b0 - dot0b), p.a1 * (t.a1 - dot1a), p.b1 * (t.b1 - dot1b),
                    p.a2 * (t.a2 - dot2a), p.b2 * (t.b2 - dot2b), p.a3 * (t.a3 - dot3a), p.b3 * (t.b3 - dot3b));
}

// p from q . k, what the mask adds to its key, and the logarithm of its query's sum.
fn p_of(score: vec4<f32>, added: vec4<f32>, log_sum: vec4<f32>) -> vec4<f32> {
    return exp(min(params.scale * score + added - log_sum, vec4(0.0)));
}
