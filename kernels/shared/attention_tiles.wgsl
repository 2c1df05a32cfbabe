// The passes of attention.wgsl by workgroups of 256, for heads of any size: one per (n, head, 16 own rows, chunk of
// channels of the result), other rows walked in blocks of 32. Two phases per block: each invocation computes two
// entries of the 16 x 32 matrix, from tiles of 16 channels in workgroup memory; then each adds up ROWS own rows of one
// channel.

@compute @workgroup_size(WORKGROUP)
fn forward_FORM(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let flat = flat_workgroup(workgroup, workgroups);
    if is_surplus_tile(flat, params.queries) { return; }
    let task = task_of(flat, params.queries, local);
    let i = local / OTHER;
    let j = local % OTHER;
    let channel = task.channel;
    var highest = vec2(LOWEST);  // of the scores of rows i and i + 8 so far
    var total = vec2(0.0);       // of exp(score - highest)
    var sum = Column();
    for (var first = 0u; first < keys_end(first_own(flat, params.queries) + OWN); first += OTHER) {
        var s = params.scale * scores(task, first, local) + mask_of_FORM(task.n, first + j);
        s = select(vec2(LOWEST), s, see(task.own + vec2(i, i + 8u), first + j));
        block_p[j * OWN + i] = s.x;
        block_p[j * OWN + i + 8u] = s.y;
        workgroupBarrier();
        var higher = highest;
        for (var at = i; at < OTHER * OWN; at += OWN) { higher = max(higher, vec2(block_p[at], block_p[at + 8u])); }
        let shrink = exp(highest - higher);
        highest = higher;
        workgroupBarrier();
        s = exp(s - highest);
        block_p[j * OWN + i] = s.x;
        block_p[j * OWN + i + 8u] = s.y;
        if j == 0u {
            per_own[i] = shrink.x;
            per_own[i + 8u] = shrink.y;
        }
        workgroupBarrier();
        total *= shrink;
        for (var at = i; at < OTHER * OWN; at += OWN) { total += vec2(block_p[at], block_p[at + 8u]); }
        if channel < task.size {
            sum.a *= per_own4(task.row);
            if ROWS > 4u { sum.b *= per_own4(task.row + 4u); }
            if ROWS > 8u {
                sum.c *= per_own4(task.row + 8u);
                sum.d *= per_own4(task.row + 12u);
            }
            var index = token(task, false, first) + channel;
            let end = min(OTHER, params.keys - first) * OWN;
            for (var at = 0u; at < end; at += OWN) {
                add_p(&sum, f32(v[index]), at + task.row);
                index += params.channels;
            }
        }
    }
    workgroupBarrier();
    if j == 0u {
        per_own[i] = total.x;
        per_own[i + 8u] = total.y;
        let at = task.head * params.queries + task.own + i;
        let left = params.queries - task.own;
        let is_first_chunk = flat % tile_chunks() == 0u;
        if is_first_chunk && i < left { logsumexp[at] = highest.x + natural_log(total.x); }
        if is_first_chunk && i + 8u < left { logsumexp[at + 8u] = highest.y + natural_log(total.y); }
    }
    workgroupBarrier();
    if channel >= task.size { return; }
    for (var row = task.row; row < min(task.row + ROWS, params.queries - task.own); row++) {
        let index = token(task, true, task.own + row) + channel;
        y[index] = Activation(column_entry(sum, row - task.row) / per_own[row]);
    }
}

@compute @workgroup_size(WORKGROUP)
fn backward_query_FORM(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let flat = flat_workgroup(workgroup, workgroups);
    if is_surplus_tile(flat, params.queries) { return; }
    let task = task_of(flat, params.queries, local);
    let i = local / OTHER;
    let j = local % OTHER;
    let channel = task.channel;
    // Of queries i and i + 8; those beyond the last are computed and dropped.
    let own = task.head * params.queries + min(task.own + vec2(i, i + 8u), vec2(params.queries - 1u));
    let row0 = saved_rows[own.x];
    let row1 = saved_rows[own.y];
    var sum = Column();
    for (var first = 0u; first < keys_end(first_own(flat, params.queries) + OWN); first += OTHER) {
        let s = scores_and_d_p(task, true, first, local);
        let score = params.scale * s.xy + mask_of_FORM(task.n, first + j);
        var ds = exp(min(score - vec2(row0.x, row1.x), vec2(0.0))) * (s.zw - vec2(row0.y, row1.y));
        ds = select(vec2(0.0), ds, see(task.own + vec2(i, i + 8u), first + j));
        block_ds[j * OWN + i] = ds.x;
        block_ds[j * OWN + i + 8u] = ds.y;
        workgroupBarrier();
        if channel < task.size {
            var index = token(task, false, first) + channel;
            let end = min(OTHER, params.keys - first) * OWN;
            for (var at = 0u; at < end; at += OWN) {
                add_ds(&sum, f32(k[index]), at + task.row);
                index += params.channels;
            }
        }
    }
    if channel >= task.size { return; }
    for (var row = task.row; row < min(task.row + ROWS, params.queries - task.own); row++) {
        let index = token(task, true, task.own + row) + channel;
        d_q[index] = Activation(params.scale * column_entry(sum, row - task.row));
    }
}

@compute @workgroup_size(WORKGROUP)
fn backward_key_value_FORM(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                      @builtin(local_invocation_index) local: u32) {
    let flat = flat_workgroup(workgroup, workgroups);
    if is_surplus_tile(flat, params.keys) { return; }
    let task = task_of(flat, params.keys, local);
    let i = local / OTHER;
    let j = local % OTHER;
    let channel = task.channel;
    let key_masks = vec2(mask_of_FORM(task.n, task.own + i), mask_of_FORM(task.n, task.own + i + 8u));
    var key_sum = Column();
    var value_sum = Column();
    for (var first = first_query(first_own(flat, params.keys)); first < params.queries; first += OTHER) {
        let s = scores_and_d_p(task, false, first, local);
        let row = saved_rows[task.head * params.queries + min(first + j, params.queries - 1u)];
        var p = exp(min(params.scale * s.xy + key_masks - row.x, vec2(0.0)));
        p = select(vec2(0.0), p, is_seen(first + j, task.own + vec2(i, i + 8u)));
        let ds = p * (s.zw - row.y);
        block_p[j * OWN + i] = p.x;
        block_p[j * OWN + i + 8u] = p.y;
        block_ds[j * OWN + i] = ds.x;
        block_ds[j * OWN + i + 8u] = ds.y;
        workgroupBarrier();
        if channel < task.size {
            var index = token(task, true, first) + channel;
            let end = min(OTHER, params.queries - first) * OWN;
            for (var at = 0u; at < end; at += OWN) {
                add_ds(&key_sum, f32(q[index]), at + task.row);
                add_p(&value_sum, f32(d_y[index]), at + task.row);
                index += params.channels;
            }
        }
    }
    if channel >= task.size { return; }
    for (var row = task.row; row < min(task.row + ROWS, params.keys - task.own); row++) {
        let index = token(task, false, task.own + row) + channel;
        d_k[index] = Activation(params.scale * column_entry(key_sum, row - task.row));
        d_v[index] = Activation(column_entry(value_sum, row - task.row));
    }
}
