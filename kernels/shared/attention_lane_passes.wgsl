// #requires subgroups
// The passes of attention.wgsl for heads in fours by subgroups of 8 lanes, without workgroup memory or barriers; see
// attention_lanes.wgsl.

@compute @workgroup_size(8)
fn forward_FORM_lanes(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                      @builtin(subgroup_invocation_id) lane: u32) {
    let flat = flat_workgroup(workgroup, workgroups);
    if is_surplus(flat, params.queries) { return; }
    let task = lane_task_of(flat, params.queries, lane);
    // Of the scores of own rows 0 to 3 (a) and 4 to 7 (b) so far.
    var highest_a = vec4(LOWEST);
    var highest_b = vec4(LOWEST);
    var total_a = vec4(0.0);  // this lane's part of the sum of exp(score - highest)
    var total_b = vec4(0.0);
    var sums = Sums();
    for (var first = 0u; first < keys_end(lane_own(flat, params.queries) + LANES); first += OTHERS) {
        var s = q_k(task, true, first);
        let m0 = mask_of_FORM(task.n, first + lane);
        let m1 = mask_of_FORM(task.n, first + lane + 8u);
        let m2 = mask_of_FORM(task.n, first + lane + 16u);
        let m3 = mask_of_FORM(task.n, first + lane + 24u);
        s = Products(params.scale * s.a0 + m0, params.scale * s.b0 + m0, params.scale * s.a1 + m1,
                     params.scale * s.b1 + m1, params.scale * s.a2 + m2, params.scale * s.b2 + m2,
                     params.scale * s.a3 + m3, params.scale * s.b3 + m3);
        s = hidden(task, true, first, s, LOWEST);
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
                    scale_rows(sums.c2, shrink_a, shrink_b), scale_rows(sums.c3, shrink_a, shrink_b),
                    scale_rows(sums.c4, shrink_a, shrink_b));
        sums = add_v(sums, p, task, first);
    }
    total_a = sum_of_lanes(total_a, lane);
    total_b = sum_of_lanes(total_b, lane);
    sums = Sums(scale_rows(sums.c0, 1.0 / total_a, 1.0 / total_b), scale_rows(sums.c1, 1.0 / total_a, 1.0 / total_b),
                scale_rows(sums.c2, 1.0 / total_a, 1.0 / total_b), scale_rows(sums.c3, 1.0 / total_a, 1.0 / total_b),
                scale_rows(sums.c4, 1.0 / total_a, 1.0 / total_b));
    let left = min(LANES, params.queries - task.own);
    if task.channel == lane && lane < left {
        let highest = select(highest_a, highest_b, lane >= 4u)[lane % 4u];
        let total = select(total_a, total_b, lane >= 4u)[lane % 4u];
        logsumexp[task.head * params.queries + task.own + lane] = highest + natural_log(total);
    }
    var at = token_at(task, true, task.own) + task.channel;
    for (var row = 0u; row < left; row++) {
        if task.channel < task.size { y_vec4[at] = Activation4(row_of(sums.c0, row)); }
        if QUADS > 1u && task.channel + 8u < task.size { y_vec4[at + 8u] = Activation4(row_of(sums.c1, row)); }
        if QUADS > 2u && task.channel + 16u < task.size { y_vec4[at + 16u] = Activation4(row_of(sums.c2, row)); }
        if QUADS > 2u && task.channel + 24u < task.size { y_vec4[at + 24u] = Activation4(row_of(sums.c3, row)); }
        if QUADS > 4u && task.channel + 32u < task.size { y_vec4[at + 32u] = Activation4(row_of(sums.c4, row)); }
        at += task.row;
    }
}

@compute @workgroup_size(8)
fn backward_query_FORM_lanes(@builtin(workgroup_id) workgroup: vec3<u32>,
                             @builtin(num_workgroups) workgroups: vec3<u32>,
                             @builtin(subgroup_invocation_id) lane: u32) {
    let flat = flat_workgroup(workgroup, workgroups);
    if is_surplus(flat, params.queries) { return; }
    let task = lane_task_of(flat, params.queries, lane);
    // Lane l knows row l; every lane needs all eight.
    let own_row = saved_rows[task.head * params.queries + min(task.own + lane, params.queries - 1u)];
    let log_sum = own_row.x;
    let dot = own_row.y;
    let log_a = vec4(subgroupShuffle(log_sum, 0u), subgroupShuffle(log_sum, 1u), subgroupShuffle(log_sum, 2u),
                     subgroupShuffle(log_sum, 3u));
    let log_b = vec4(subgroupShuffle(log_sum, 4u), subgroupShuffle(log_sum, 5u), subgroupShuffle(log_sum, 6u),
                     subgroupShuffle(log_sum, 7u));
    let dot_a = vec4(subgroupShuffle(dot, 0u), subgroupShuffle(dot, 1u), subgroupShuffle(dot, 2u),
                     subgroupShuffle(dot, 3u));
    let dot_b = vec4(subgroupShuffle(dot, 4u), subgroupShuffle(dot, 5u), subgroupShuffle(dot, 6u),
                     subgroupShuffle(dot, 7u));
    var sums = Sums();
    for (var first = 0u; first < keys_end(lane_own(flat, params.queries) + LANES); first += OTHERS) {
        let s = q_k(task, true, first);
        let m0 = vec4(mask_of_FORM(task.n, first + lane));
        let m1 = vec4(mask_of_FORM(task.n, first + lane + 8u));
        let m2 = vec4(mask_of_FORM(task.n, first + lane + 16u));
        let m3 = vec4(mask_of_FORM(task.n, first + lane + 24u));
        let p = Products(p_of(s.a0, m0, log_a), p_of(s.b0, m0, log_b), p_of(s.a1, m1, log_a), p_of(s.b1, m1, log_b),
                         p_of(s.a2, m2, log_a), p_of(s.b2, m2, log_b), p_of(s.a3, m3, log_a), p_of(s.b3, m3, log_b));
        let ds = ds_of(p, d_y_v(task, true, first), dot_a, dot_b, dot_a, dot_b, dot_a, dot_b, dot_a, dot_b);
        sums = add_q_or_k(sums, hidden(task, true, first, ds, 0.0), task, false, first);
    }
    var at = token_at(task, true, task.own) + task.channel;
    for (var row = 0u; row < min(LANES, params.queries - task.own); row++) {
        let x = params.scale;
        let left = task.size - min(task.channel, task.size);
        if left > 0u { d_q_vec4[at] = Activation4(x * row_of(sums.c0, row)); }
        if QUADS > 1u && left > 8u { d_q_vec4[at + 8u] = Activation4(x * row_of(sums.c1, row)); }
        if QUADS > 2u && left > 16u { d_q_vec4[at + 16u] = Activation4(x * row_of(sums.c2, row)); }
        if QUADS > 2u && left > 24u { d_q_vec4[at + 24u] = Activation4(x * row_of(sums.c3, row)); }
        if QUADS > 4u && left > 32u { d_q_vec4[at + 32u] = Activation4(x * row_of(sums.c4, row)); }
        at += task.row;
    }
}

@compute @workgroup_size(8)
fn backward_key_value_FORM_lanes(@builtin(workgroup_id) workgroup: vec3<u32>,
                                 @builtin(num_workgroups) workgroups: vec3<u32>,
                                 @builtin(subgroup_invocation_id) lane: u32) {
    let flat = flat_workgroup(workgroup, workgroups);
    if is_surplus(flat, params.keys) { return; }
    let task = lane_task_of(flat, params.keys, lane);
    let key = task.own;
    let m_a = vec4(mask_of_FORM(task.n, key), mask_of_FORM(task.n, key + 1u), mask_of_FORM(task.n, key + 2u),
                   mask_of_FORM(task.n, key + 3u));
    let m_b = vec4(mask_of_FORM(task.n, key + 4u), mask_of_FORM(task.n, key + 5u), mask_of_FORM(task.n, key + 6u),
                   mask_of_FORM(task.n, key + 7u));
    var key_sums = Sums();
    var value_sums = Sums();
    for (var first = first_query(lane_own(flat, params.keys)); first < params.queries; first += OTHERS) {
        // Of this lane's four queries.
        let query = task.head * params.queries
            + min(first + lane + vec4(0u, 8u, 16u, 24u), vec4(params.queries - 1u));
        let row0 = saved_rows[query.x];
        let row1 = saved_rows[query.y];
        let row2 = saved_rows[query.z];
        let row3 = saved_rows[query.w];
        let log_sum = vec4(row0.x, row1.x, row2.x, row3.x);
        let dot = vec4(row0.y, row1.y, row2.y, row3.y);
        let s = q_k(task, false, first);
        var p = Products(p_of(s.a0, m_a, log_sum.xxxx), p_of(s.b0, m_b, log_sum.xxxx),
                         p_of(s.a1, m_a, log_sum.yyyy), p_of(s.b1, m_b, log_sum.yyyy),
                         p_of(s.a2, m_a, log_sum.zzzz), p_of(s.b2, m_b, log_sum.zzzz),
                         p_of(s.a3, m_a, log_sum.wwww), p_of(s.b3, m_b, log_sum.wwww));
        p = hidden(task, false, first, p, 0.0);
        value_sums = add_d_y(value_sums, p, task, first);
        let ds = ds_of(p, d_y_v(task, false, first), dot.xxxx, dot.xxxx, dot.yyyy, dot.yyyy, dot.zzzz, dot.zzzz,
                       dot.wwww, dot.wwww);
        key_sums = add_q_or_k(key_sums, ds, task, true, first);
    }
    let k = key_sums;
    let v = value_sums;
    // With twice the sums of the other passes, a lane adds up 2 quads at most.
    var at = token_at(task, false, task.own) + task.channel;
    for (var row = 0u; row < min(LANES, params.keys - task.own); row++) {
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
