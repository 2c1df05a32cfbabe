// #requires subgroups
// The passes of attention.wgsl for heads of 4 channels or multiples of 4, by the 8 lanes of a subgroup, which is a workgroup:
// one per (n, head, 8 own rows, QUADS 32 channels of the result). lanes.wgsl says how the lanes share the work.

override QUADS: u32 = 2u;  // of channels of the result that a lane adds up: 1, 2 or 4

// What a workgroup works on. Channels are counted in quads.
struct LaneTask {
    head: u32,     // n, head
    base: u32,     // index of token 0 of this head
    row: u32,      // from a token to the next
    own: u32,      // first own row
    channel: u32,  // of the result, of this lane, within the head: the first one
    size: u32,     // quads of a head
    last: u32,     // token
    lane: u32,
}

// Quads of a head, and the parts of these and of its rows. Where shuffles follow, use these and not a LaneTask, which
// depends on the lane: compilers want all lanes to go the same way provably.
fn head_quads() -> u32 { return params.channels / 4u / params.heads; }
fn lane_chunks() -> u32 { return (head_quads() + LANES * QUADS - 1u) / (LANES * QUADS); }
fn lane_blocks() -> u32 { return (params.tokens + LANES - 1u) / LANES; }
fn is_surplus(flat: u32) -> bool { return flat >= params.samples * params.heads * lane_blocks() * lane_chunks(); }

fn lane_task_of(flat: u32, lane: u32) -> LaneTask {
    let row = params.channels / 4u;
    let size = head_quads();
    let chunks = lane_chunks();
    let blocks = lane_blocks();
    let head = flat / chunks / blocks;
    let base = head / params.heads * params.tokens * row + head % params.heads * size;
    return LaneTask(head, base, row, flat / chunks % blocks * LANES, flat % chunks * LANES * QUADS + lane, size,
                    params.tokens - 1u, lane);
}

// Index of a token; those beyond the last one repeat it, and their products are dropped.
fn token_at(task: LaneTask, token: u32) -> u32 { return task.base + min(token, task.last) * task.row; }

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
    let own = token_at(task, task.own + task.lane);
    let other0 = token_at(task, first + task.lane);
    let other1 = token_at(task, first + task.lane + 8u);
    let other2 = token_at(task, first + task.lane + 16u);
    let other3 = token_at(task, first + task.lane + 24u);
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
    let own = token_at(task, task.own + task.lane);
    let other0 = token_at(task, first + task.lane);
    let other1 = token_at(task, first + task.lane + 8u);
    let other2 = token_at(task, first + task.lane + 16u);
    let other3 = token_at(task, first + task.lane + 24u);
    var s = Products();
    for (var c = 0u; c < head_quads(); c++) {
        s = add_products(s, d_y_or_v(own_is_query, own + c),
                         d_y_or_v(!own_is_query, other0 + c), d_y_or_v(!own_is_query, other1 + c),
                         d_y_or_v(!own_is_query, other2 + c), d_y_or_v(!own_is_query, other3 + c));
    }
    return s;
}

// Factors of rows beyond the last token become `value`.
fn masked(task: LaneTask, first: u32, s: Products, value: f32) -> Products {
    let token = first + task.lane;
    let x = vec4(value);
    let m0 = token <= task.last;
    let m1 = token + 8u <= task.last;
    let m2 = token + 16u <= task.last;
    let m3 = token + 24u <= task.last;
    return Products(select(x, s.a0, m0), select(x, s.b0, m0), select(x, s.a1, m1), select(x, s.b1, m1),
                    select(x, s.a2, m2), select(x, s.b2, m2), select(x, s.a3, m3), select(x, s.b3, m3));
}

// The channels of own rows that a lane adds up: its quads 0 to QUADS - 1.
struct Sums { c0: Rows, c1: Rows, c2: Rows, c3: Rows }

// Adds four quads of one other row times the factors of the own rows.
fn add_other(s: Sums, a: vec4<f32>, b: vec4<f32>, o0: vec4<f32>, o1: vec4<f32>, o2: vec4<f32>, o3: vec4<f32>) -> Sums {
    var sums = s;
    sums.c0 = add_rows(s.c0, a, b, o0);
    if QUADS > 1u { sums.c1 = add_rows(s.c1, a, b, o1); }
    if QUADS > 2u {
        sums.c2 = add_rows(s.c2, a, b, o2);
        sums.c3 = add_rows(s.c3, a, b, o3);
    }
    return sums;
}

// Indices of a lane's quads within a head; those beyond the head repeat its last one, and are not stored.
fn quads_of(task: LaneTask) -> vec4<u32> {
    return min(task.channel + vec4(0u, 8u, 16u, 24u), vec4(task.size - 1u));
}

// Add the rows of a block of v, of d_y, and of q or k.
fn add_v_row(s: Sums, a: vec4<f32>, b: vec4<f32>, at: vec4<u32>) -> Sums {
    return add_other(s, a, b, vec4<f32>(v_vec4[at.x]), vec4<f32>(v_vec4[at.y]), vec4<f32>(v_vec4[at.z]),
                     vec4<f32>(v_vec4[at.w]));
}
fn add_v(s: Sums, f: Products, task: LaneTask, first: u32) -> Sums {
    var r = s;
    let quads = quads_of(task);
    for (var j = 0u; j < LANES; j++) {
        let other = first + j;
        r = add_v_row(r, subgroupShuffle(f.a0, j), subgroupShuffle(f.b0, j), token_at(task, other) + quads);
        r = add_v_row(r, subgroupShuffle(f.a1, j), subgroupShuffle(f.b1, j), token_at(task, other + 8u) + quads);
        r = add_v_row(r, subgroupShuffle(f.a2, j), subgroupShuffle(f.b2, j), token_at(task, other + 16u) + quads);
        r = add_v_row(r, subgroupShuffle(f.a3, j), subgroupShuffle(f.b3, j), token_at(task, other + 24u) + quads);
    }
    return r;
}
fn add_d_y_row(s: Sums, a: vec4<f32>, b: vec4<f32>, at: vec4<u32>) -> Sums {
    return add_other(s, a, b, vec4<f32>(d_y_vec4[at.x]), vec4<f32>(d_y_vec4[at.y]), vec4<f32>(d_y_vec4[at.z]),
                     vec4<f32>(d_y_vec4[at.w]));
}
fn add_d_y(s: Sums, f: Products, task: LaneTask, first: u32) -> Sums {
    var r = s;
    let quads = quads_of(task);
    for (var j = 0u; j < LANES; j++) {
        let other = first + j;
        r = add_d_y_row(r, subgroupShuffle(f.a0, j), subgroupShuffle(f.b0, j), token_at(task, other) + quads);
        r = add_d_y_row(r, subgroupShuffle(f.a1, j), subgroupShuffle(f.b1, j), token_at(task, other + 8u) + quads);
        r = add_d_y_row(r, subgroupShuffle(f.a2, j), subgroupShuffle(f.b2, j), token_at(task, other + 16u) + quads);
        r = add_d_y_row(r, subgroupShuffle(f.a3, j), subgroupShuffle(f.b3, j), token_at(task, other + 24u) + quads);
    }
    return r;
}
fn add_q_or_k_row(s: Sums, a: vec4<f32>, b: vec4<f32>, is_query: bool, at: vec4<u32>) -> Sums {
    return add_other(s, a, b, q_or_k(is_query, at.x), q_or_k(is_query, at.y), q_or_k(is_query, at.z),
                     q_or_k(is_query, at.w));
}
fn add_q_or_k(s: Sums, f: Products, task: LaneTask, is_query: bool, first: u32) -> Sums {
    var r = s;
    let quads = quads_of(task);
    for (var j = 0u; j < LANES; j++) {
        let at0 = token_at(task, first + j) + quads;
        let at1 = token_at(task, first + j + 8u) + quads;
        let at2 = token_at(task, first + j + 16u) + quads;
        let at3 = token_at(task, first + j + 24u) + quads;
        r = add_q_or_k_row(r, subgroupShuffle(f.a0, j), subgroupShuffle(f.b0, j), is_query, at0);
        r = add_q_or_k_row(r, subgroupShuffle(f.a1, j), subgroupShuffle(f.b1, j), is_query, at1);
        r = add_q_or_k_row(r, subgroupShuffle(f.a2, j), subgroupShuffle(f.b2, j), is_query, at2);
        r = add_q_or_k_row(r, subgroupShuffle(f.a3, j), subgroupShuffle(f.b3, j), is_query, at3);
    }
    return r;
}

@compute @workgroup_size(8)
fn forward_lanes(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                 @builtin(subgroup_invocation_id) lane: u32) {
    let flat = flat_workgroup(workgroup, workgroups);
    if is_surplus(flat) { return; }
    let task = lane_task_of(flat, lane);
    // Of the scores of own rows 0 to 3 (a) and 4 to 7 (b) so far.
    var highest_a = vec4(LOWEST);
    var highest_b = vec4(LOWEST);
    var total_a = vec4(0.0);  // this lane's part of the sum of exp(score - highest)
    var total_b = vec4(0.0);
    var sums = Sums();
    for (var first = 0u; first < params.tokens; first += OTHERS) {
        var s = q_k(task, true, first);
        s = masked(task, first, Products(params.scale * s.a0, params.scale * s.b0, params.scale * s.a1,
                                         params.scale * s.b1, params.scale * s.a2, params.scale * s.b2,
                                         params.scale * s.a3, params.scale * s.b3), LOWEST);
        let higher_a = max(highest_a, max_of_lanes(max(max(s.a0, s.a1), max(s.a2, s.a3)), lane));
        let higher_b = max(highest_b, max_of_lanes(max(max(s.b0, s.b1), max(s.b2, s.b3)), lane));
        let shrink_a = exp(highest_a - higher_a);
        let shrink_b = exp(highest_b - higher_b);
        highest_a = higher_a;
        highest_b = higher_b;
        let p = Products(exp(s.a0 - higher_a), exp(s.b0 - higher_b), exp(s.a1 - higher_a), exp(s.b1 - higher_b),
                         exp(s.a2 - higher_a), exp(s.b2 - higher_b), exp(s.a3 - higher_a), exp(s.b3 - higher_b));
        total_a = total_a * shrink_a + ((p.a0 + p.a1) + (p.a2 + p.a3));
        total_b = total_b * shrink_b + ((p.b0 + p.b1) + (p.b2 + p.b3));
        sums = Sums(scale_rows(sums.c0, shrink_a, shrink_b), scale_rows(sums.c1, shrink_a, shrink_b),
                    scale_rows(sums.c2, shrink_a, shrink_b), scale_rows(sums.c3, shrink_a, shrink_b));
        sums = add_v(sums, p, task, first);
    }
    total_a = sum_of_lanes(total_a, lane);
    total_b = sum_of_lanes(total_b, lane);
    sums = Sums(scale_rows(sums.c0, 1.0 / total_a, 1.0 / total_b), scale_rows(sums.c1, 1.0 / total_a, 1.0 / total_b),
                scale_rows(sums.c2, 1.0 / total_a, 1.0 / total_b), scale_rows(sums.c3, 1.0 / total_a, 1.0 / total_b));
    let rows = min(LANES, params.tokens - task.own);
    if task.channel == lane && lane < rows {
        let highest = select(highest_a, highest_b, lane >= 4u)[lane % 4u];
        let total = select(total_a, total_b, lane >= 4u)[lane % 4u];
        logsumexp[task.head * params.tokens + task.own + lane] = highest + natural_log(total);
    }
    var at = token_at(task, task.own) + task.channel;
    for (var row = 0u; row < rows; row++) {
        if task.channel < task.size { y_vec4[at] = Activation4(row_of(sums.c0, row)); }
        if QUADS > 1u && task.channel + 8u < task.size { y_vec4[at + 8u] = Activation4(row_of(sums.c1, row)); }
        if QUADS > 2u && task.channel + 16u < task.size { y_vec4[at + 16u] = Activation4(row_of(sums.c2, row)); }
        if QUADS > 2u && task.channel + 24u < task.size { y_vec4[at + 24u] = Activation4(row_of(sums.c3, row)); }
        at += task.row;
    }
}

// ds of a block from q . k (s) and d_y . v (t).
fn ds_of(p: Products, t: Products, dot0a: vec4<f32>, dot0b: vec4<f32>, dot1a: vec4<f32>, dot1b: vec4<f32>,
         dot2a: vec4<f32>, dot2b: vec4<f32>, dot3a: vec4<f32>, dot3b: vec4<f32>) -> Products {
    return Products(p.a0 * (t.a0 - dot0a), p.b0 * (t.b0 - dot0b), p.a1 * (t.a1 - dot1a), p.b1 * (t.b1 - dot1b),
                    p.a2 * (t.a2 - dot2a), p.b2 * (t.b2 - dot2b), p.a3 * (t.a3 - dot3a), p.b3 * (t.b3 - dot3b));
}

// p from a score and the logarithm of its query's sum.
fn p_of(score: vec4<f32>, log_sum: vec4<f32>) -> vec4<f32> {
    return exp(min(params.scale * score - log_sum, vec4(0.0)));
}

@compute @workgroup_size(8)
fn backward_query_lanes(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                        @builtin(subgroup_invocation_id) lane: u32) {
    let flat = flat_workgroup(workgroup, workgroups);
    if is_surplus(flat) { return; }
    let task = lane_task_of(flat, lane);
    // Lane l knows row l; every lane needs all eight.
    let query = task.head * params.tokens + min(task.own + lane, task.last);
    let log_sum = saved_logsumexp[query];
    let dot = saved_dots[query];
    let log_a = vec4(subgroupShuffle(log_sum, 0u), subgroupShuffle(log_sum, 1u), subgroupShuffle(log_sum, 2u),
                     subgroupShuffle(log_sum, 3u));
    let log_b = vec4(subgroupShuffle(log_sum, 4u), subgroupShuffle(log_sum, 5u), subgroupShuffle(log_sum, 6u),
                     subgroupShuffle(log_sum, 7u));
    let dot_a = vec4(subgroupShuffle(dot, 0u), subgroupShuffle(dot, 1u), subgroupShuffle(dot, 2u),
                     subgroupShuffle(dot, 3u));
    let dot_b = vec4(subgroupShuffle(dot, 4u), subgroupShuffle(dot, 5u), subgroupShuffle(dot, 6u),
                     subgroupShuffle(dot, 7u));
    var sums = Sums();
    for (var first = 0u; first < params.tokens; first += OTHERS) {
        let s = q_k(task, true, first);
        let p = Products(p_of(s.a0, log_a), p_of(s.b0, log_b), p_of(s.a1, log_a), p_of(s.b1, log_b),
                         p_of(s.a2, log_a), p_of(s.b2, log_b), p_of(s.a3, log_a), p_of(s.b3, log_b));
        let ds = ds_of(p, d_y_v(task, true, first), dot_a, dot_b, dot_a, dot_b, dot_a, dot_b, dot_a, dot_b);
        sums = add_q_or_k(sums, masked(task, first, ds, 0.0), task, false, first);
    }
    var at = token_at(task, task.own) + task.channel;
    for (var row = 0u; row < min(LANES, params.tokens - task.own); row++) {
        let scale = params.scale;
        if task.channel < task.size { d_q_vec4[at] = Activation4(scale * row_of(sums.c0, row)); }
        if QUADS > 1u && task.channel + 8u < task.size { d_q_vec4[at + 8u] = Activation4(scale * row_of(sums.c1, row)); }
        if QUADS > 2u && task.channel + 16u < task.size { d_q_vec4[at + 16u] = Activation4(scale * row_of(sums.c2, row)); }
        if QUADS > 2u && task.channel + 24u < task.size { d_q_vec4[at + 24u] = Activation4(scale * row_of(sums.c3, row)); }
        at += task.row;
    }
}

@compute @workgroup_size(8)
fn backward_key_value_lanes(@builtin(workgroup_id) workgroup: vec3<u32>,
                            @builtin(num_workgroups) workgroups: vec3<u32>,
                            @builtin(subgroup_invocation_id) lane: u32) {
    let flat = flat_workgroup(workgroup, workgroups);
    if is_surplus(flat) { return; }
    let task = lane_task_of(flat, lane);
    var key_sums = Sums();
    var value_sums = Sums();
    for (var first = 0u; first < params.tokens; first += OTHERS) {
        // Of this lane's four queries.
        let query = task.head * params.tokens + min(first + lane + vec4(0u, 8u, 16u, 24u), vec4(task.last));
        let log_sum = vec4(saved_logsumexp[query.x], saved_logsumexp[query.y], saved_logsumexp[query.z],
                           saved_logsumexp[query.w]);
        let dot = vec4(saved_dots[query.x], saved_dots[query.y], saved_dots[query.z], saved_dots[query.w]);
        let s = q_k(task, false, first);
        var p = Products(p_of(s.a0, log_sum.xxxx), p_of(s.b0, log_sum.xxxx), p_of(s.a1, log_sum.yyyy),
                         p_of(s.b1, log_sum.yyyy), p_of(s.a2, log_sum.zzzz), p_of(s.b2, log_sum.zzzz),
                         p_of(s.a3, log_sum.wwww), p_of(s.b3, log_sum.wwww));
        p = masked(task, first, p, 0.0);
        value_sums = add_d_y(value_sums, p, task, first);
        let ds = ds_of(p, d_y_v(task, false, first), dot.xxxx, dot.xxxx, dot.yyyy, dot.yyyy, dot.zzzz, dot.zzzz,
                       dot.wwww, dot.wwww);
        key_sums = add_q_or_k(key_sums, ds, task, true, first);
    }
    let k = key_sums;
    let v = value_sums;
    // With twice the sums of the other passes, a lane adds up 2 quads at most.
    var at = token_at(task, task.own) + task.channel;
    for (var row = 0u; row < min(LANES, params.tokens - task.own); row++) {
        if task.channel < task.size {
            d_k_vec4[at] = Activation4(params.scale * row_of(k.c0, row));
            d_v_vec4[at] = Activation4(row_of(v.c0, row));
        }
        if QUADS > 1u && task.channel + 8u < task.size {
            d_k_vec4[at + 8u] = Activation4(params.scale * row_of(k.c1, row));
            d_v_vec4[at + 8u] = Activation4(row_of(v.c1, row));
        }
        at += task.row;
    }
}
