// Multi-head self-attention over the T pixels of an image; head h owns channels h D .. (h + 1) D:
//   s[i, j] = scale q_i . k_j,   p = softmax over j of s,   y_i = sum over j of p[i, j] v_j,   scale = 1 / sqrt(D)
// The T x T matrices are never stored. forward walks the keys in blocks with a running maximum and a running sum (flash
// attention, Dao et al. 2022) and stores log sum exp s per query; the backward passes compute p again from that:
//   ds[i, j] = p[i, j] (d_y_i . v_j - dot_i),   dot_i = d_y_i . y_i         (dot: backward_dot)
//   d_q_i = scale sum over j of ds[i, j] k_j                                backward_query
//   d_k_j = scale sum over i of ds[i, j] q_i,   d_v_j = sum over i of p[i, j] d_y_i        backward_key_value
// Own rows are queries (or keys in backward_key_value), other rows are the opposite.
// One workgroup per (n, head, 16 own rows, 256 channels of the result), other rows walked in blocks of 32. Two phases per
// block: each invocation computes two entries of the 16 x 32 matrix, from tiles of 16 channels in workgroup memory; then
// each adds up 16 own rows of one channel. The `_lanes` passes are in shared/attention_lanes.wgsl.

// #import activation
// #import attention_lanes
// #import index
// #import lanes
// #import logarithm
// #import products

struct Params { samples: u32, tokens: u32, channels: u32, heads: u32, scale: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<Activation>;                // [N, T, C]
@group(0) @binding(2) var<storage, read> k: array<Activation>;                // [N, T, C]
@group(0) @binding(3) var<storage, read> v: array<Activation>;                // [N, T, C]
@group(0) @binding(4) var<storage, read_write> y: array<Activation>;          // [N, T, C]
@group(0) @binding(5) var<storage, read_write> logsumexp: array<f32>;         // [N, heads, T]
@group(0) @binding(6) var<storage, read> d_y: array<Activation>;              // [N, T, C]
@group(0) @binding(7) var<storage, read> saved_y: array<Activation>;          // [N, T, C]
@group(0) @binding(8) var<storage, read> saved_logsumexp: array<f32>;         // [N, heads, T]
@group(0) @binding(9) var<storage, read_write> row_dots: array<f32>;          // [N, heads, T]
@group(0) @binding(10) var<storage, read> saved_dots: array<f32>;             // [N, heads, T]
@group(0) @binding(11) var<storage, read_write> d_q: array<Activation>;       // [N, T, C]
@group(0) @binding(12) var<storage, read_write> d_k: array<Activation>;       // [N, T, C]
@group(0) @binding(13) var<storage, read_write> d_v: array<Activation>;       // [N, T, C]
// The same tensors, four channels at a time.
@group(0) @binding(14) var<storage, read> q_vec4: array<Activation4>;
@group(0) @binding(15) var<storage, read> k_vec4: array<Activation4>;
@group(0) @binding(16) var<storage, read> v_vec4: array<Activation4>;
@group(0) @binding(17) var<storage, read_write> y_vec4: array<Activation4>;
@group(0) @binding(18) var<storage, read> d_y_vec4: array<Activation4>;
@group(0) @binding(19) var<storage, read> saved_y_vec4: array<Activation4>;
@group(0) @binding(20) var<storage, read_write> d_q_vec4: array<Activation4>;
@group(0) @binding(21) var<storage, read_write> d_k_vec4: array<Activation4>;
@group(0) @binding(22) var<storage, read_write> d_v_vec4: array<Activation4>;

const OWN = 16u;
const OTHER = 32u;
const WORKGROUP = 256u;  // OWN * OTHER / 2
const TILE = 4u;         // vec4s of channels of a tile
const PITCH = 5u;        // of the other rows' tile, one more against bank conflicts
const LOWEST = -1.0e30;  // below every score, and a driver that multiplies it by a constant has no infinity

var<workgroup> own_a: array<vec4<f32>, 64>;     // [OWN, TILE]: of q or k
var<workgroup> own_b: array<vec4<f32>, 64>;     // [OWN, TILE]: of d_y or v
var<workgroup> other_a: array<vec4<f32>, 160>;  // [OTHER, PITCH]: of k or q
var<workgroup> other_b: array<vec4<f32>, 160>;  // [OTHER, PITCH]: of v or d_y
var<workgroup> block_p: array<f32, 512>;        // [OTHER, OWN]: scores, then p
var<workgroup> block_ds: array<f32, 512>;       // [OTHER, OWN]
var<workgroup> per_own: array<f32, 16>;

// What a workgroup works on.
struct Task {
    head: u32,     // n, head
    base: u32,     // index of token 0 of this head in [N, T, C]
    own: u32,      // first own row
    channel: u32,  // of the result, within the head: the first one
    size: u32,     // channels of a head
}

fn task_of(flat: u32) -> Task {
    let size = params.channels / params.heads;
    let chunks = (size + WORKGROUP - 1u) / WORKGROUP;
    let blocks = (params.tokens + OWN - 1u) / OWN;
    let chunk = flat % chunks;
    let head = flat / chunks / blocks;
    let base = head / params.heads * params.tokens * params.channels + head % params.heads * size;
    return Task(head, base, flat / chunks % blocks * OWN, chunk * WORKGROUP, size);
}

// Four channels from index `at`, of which `left` exist.
fn q4(at: u32, left: u32) -> vec4<f32> {
    if left >= 4u { return vec4(f32(q[at]), f32(q[at + 1u]), f32(q[at + 2u]), f32(q[at + 3u])); }
    let rest = vec3(f32(q[at]), f32(q[at + min(1u, left - 1u)]), f32(q[at + left - 1u]));
    return vec4(select(vec3(0.0), rest, vec3(0u, 1u, 2u) < vec3(left)), 0.0);
}
fn k4(at: u32, left: u32) -> vec4<f32> {
    if left >= 4u { return vec4(f32(k[at]), f32(k[at + 1u]), f32(k[at + 2u]), f32(k[at + 3u])); }
    let rest = vec3(f32(k[at]), f32(k[at + min(1u, left - 1u)]), f32(k[at + left - 1u]));
    return vec4(select(vec3(0.0), rest, vec3(0u, 1u, 2u) < vec3(left)), 0.0);
}
fn v4(at: u32, left: u32) -> vec4<f32> {
    if left >= 4u { return vec4(f32(v[at]), f32(v[at + 1u]), f32(v[at + 2u]), f32(v[at + 3u])); }
    let rest = vec3(f32(v[at]), f32(v[at + min(1u, left - 1u)]), f32(v[at + left - 1u]));
    return vec4(select(vec3(0.0), rest, vec3(0u, 1u, 2u) < vec3(left)), 0.0);
}
fn d_y4(at: u32, left: u32) -> vec4<f32> {
    if left >= 4u { return vec4(f32(d_y[at]), f32(d_y[at + 1u]), f32(d_y[at + 2u]), f32(d_y[at + 3u])); }
    let rest = vec3(f32(d_y[at]), f32(d_y[at + min(1u, left - 1u)]), f32(d_y[at + left - 1u]));
    return vec4(select(vec3(0.0), rest, vec3(0u, 1u, 2u) < vec3(left)), 0.0);
}

// Four channels of a row of q or k, and of d_y or v; zero outside of the matrix.
fn row_a(task: Task, is_query: bool, row: u32, channel: u32) -> vec4<f32> {
    if row >= params.tokens || channel >= task.size { return vec4(0.0); }
    let at = task.base + row * params.channels + channel;
    if is_query { return q4(at, task.size - channel); }
    return k4(at, task.size - channel);
}
fn row_b(task: Task, is_query: bool, row: u32, channel: u32) -> vec4<f32> {
    if row >= params.tokens || channel >= task.size { return vec4(0.0); }
    let at = task.base + row * params.channels + channel;
    if is_query { return d_y4(at, task.size - channel); }
    return v4(at, task.size - channel);
}

// q . k of own rows i and i + 8 with other row j, where this invocation is (i, j).
fn scores(task: Task, first: u32, local: u32) -> vec2<f32> {
    let i = local / OTHER * TILE;
    let j = local % OTHER * PITCH;
    let tile_row = local / TILE;
    let tile_channel = local % TILE;
    var s = vec2(0.0);
    for (var first_channel = 0u; first_channel < task.size; first_channel += 4u * TILE) {
        let channel = first_channel + 4u * tile_channel;
        workgroupBarrier();
        if tile_row < OTHER {
            other_a[tile_row * PITCH + tile_channel] = row_a(task, false, first + tile_row, channel);
        } else if tile_row < OTHER + OWN {
            own_a[(tile_row - OTHER) * TILE + tile_channel] = row_a(task, true, task.own + tile_row - OTHER, channel);
        }
        workgroupBarrier();
        for (var c = 0u; c < TILE; c++) {
            let a = other_a[j + c];
            s += vec2(dot(own_a[i + c], a), dot(own_a[i + 8u * TILE + c], a));
        }
    }
    return s;
}

// The same, and d_y . v: (q . k of row i, of row i + 8, d_y . v of row i, of row i + 8).
fn scores_and_d_p(task: Task, own_is_query: bool, first: u32, local: u32) -> vec4<f32> {
    let i = local / OTHER * TILE;
    let j = local % OTHER * PITCH;
    let tile_row = local / TILE;
    let tile_channel = local % TILE;
    var s = vec4(0.0);
    for (var first_channel = 0u; first_channel < task.size; first_channel += 4u * TILE) {
        let channel = first_channel + 4u * tile_channel;
        workgroupBarrier();
        if tile_row < OTHER {
            other_a[tile_row * PITCH + tile_channel] = row_a(task, !own_is_query, first + tile_row, channel);
        } else {
            let row = tile_row - OTHER;
            other_b[row * PITCH + tile_channel] = row_b(task, !own_is_query, first + row, channel);
        }
        if tile_row < OWN {
            own_a[tile_row * TILE + tile_channel] = row_a(task, own_is_query, task.own + tile_row, channel);
        } else if tile_row < 2u * OWN {
            let row = tile_row - OWN;
            own_b[row * TILE + tile_channel] = row_b(task, own_is_query, task.own + row, channel);
        }
        workgroupBarrier();
        for (var c = 0u; c < TILE; c++) {
            let a = other_a[j + c];
            let b = other_b[j + c];
            s += vec4(dot(own_a[i + c], a), dot(own_a[i + 8u * TILE + c], a),
                      dot(own_b[i + c], b), dot(own_b[i + 8u * TILE + c], b));
        }
    }
    return s;
}

// Sixteen own rows of one channel.
struct Column { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }

fn column_entry(column: Column, row: u32) -> f32 {
    var quarter = column.a;
    if row >= 4u { quarter = column.b; }
    if row >= 8u { quarter = column.c; }
    if row >= 12u { quarter = column.d; }
    return quarter[row % 4u];
}

// p or ds of four own rows.
fn p4(at: u32) -> vec4<f32> { return vec4(block_p[at], block_p[at + 1u], block_p[at + 2u], block_p[at + 3u]); }
fn ds4(at: u32) -> vec4<f32> { return vec4(block_ds[at], block_ds[at + 1u], block_ds[at + 2u], block_ds[at + 3u]); }
fn per_own4(at: u32) -> vec4<f32> { return vec4(per_own[at], per_own[at + 1u], per_own[at + 2u], per_own[at + 3u]); }

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let task = task_of(flat_workgroup(workgroup, workgroups));
    if task.head >= params.samples * params.heads { return; }
    let i = local / OTHER;
    let j = local % OTHER;
    let channel = task.channel + local;
    var highest = vec2(LOWEST);  // of the scores of rows i and i + 8 so far
    var total = vec2(0.0);       // of exp(score - highest)
    var sum = Column();
    for (var first = 0u; first < params.tokens; first += OTHER) {
        var s = params.scale * scores(task, first, local);
        if first + j >= params.tokens { s = vec2(LOWEST); }
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
            sum = Column(sum.a * per_own4(0u), sum.b * per_own4(4u), sum.c * per_own4(8u), sum.d * per_own4(12u));
            var index = task.base + first * params.channels + channel;
            let end = min(OTHER, params.tokens - first) * OWN;
            for (var at = 0u; at < end; at += OWN) {
                let value = f32(v[index]);
                sum.a += value * p4(at);
                sum.b += value * p4(at + 4u);
                sum.c += value * p4(at + 8u);
                sum.d += value * p4(at + 12u);
                index += params.channels;
            }
        }
    }
    workgroupBarrier();
    if j == 0u {
        per_own[i] = total.x;
        per_own[i + 8u] = total.y;
        let at = task.head * params.tokens + task.own + i;
        let rows = params.tokens - task.own;
        if task.channel == 0u && i < rows { logsumexp[at] = highest.x + natural_log(total.x); }
        if task.channel == 0u && i + 8u < rows { logsumexp[at + 8u] = highest.y + natural_log(total.y); }
    }
    workgroupBarrier();
    if channel >= task.size { return; }
    for (var row = 0u; row < min(OWN, params.tokens - task.own); row++) {
        let index = task.base + (task.own + row) * params.channels + channel;
        y[index] = Activation(column_entry(sum, row) / per_own[row]);
    }
}

@compute @workgroup_size(WORKGROUP)
fn backward_dot(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let row = flat_index(workgroup, workgroups, local, WORKGROUP);
    if row >= params.samples * params.heads * params.tokens { return; }
    let size = params.channels / params.heads;
    let head = row / params.tokens;
    let token = head / params.heads * params.tokens + row % params.tokens;
    let first = token * params.channels + head % params.heads * size;
    var sum = 0.0;
    for (var index = first; index < first + size; index++) { sum += f32(d_y[index]) * f32(saved_y[index]); }
    row_dots[row] = sum;
}

@compute @workgroup_size(WORKGROUP)
fn backward_query(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let task = task_of(flat_workgroup(workgroup, workgroups));
    if task.head >= params.samples * params.heads { return; }
    let i = local / OTHER;
    let j = local % OTHER;
    let channel = task.channel + local;
    // Of queries i and i + 8; those beyond the last are computed and dropped.
    let rows = task.head * params.tokens + min(task.own + vec2(i, i + 8u), vec2(params.tokens - 1u));
    let normaliser = vec2(saved_logsumexp[rows.x], saved_logsumexp[rows.y]);
    let row_dot = vec2(saved_dots[rows.x], saved_dots[rows.y]);
    var sum = Column();
    for (var first = 0u; first < params.tokens; first += OTHER) {
        let s = scores_and_d_p(task, true, first, local);
        let ds = exp(min(params.scale * s.xy - normaliser, vec2(0.0))) * (s.zw - row_dot);
        block_ds[j * OWN + i] = ds.x;
        block_ds[j * OWN + i + 8u] = ds.y;
        workgroupBarrier();
        if channel < task.size {
            var index = task.base + first * params.channels + channel;
            let end = min(OTHER, params.tokens - first) * OWN;
            for (var at = 0u; at < end; at += OWN) {
                let key = f32(k[index]);
                sum.a += key * ds4(at);
                sum.b += key * ds4(at + 4u);
                sum.c += key * ds4(at + 8u);
                sum.d += key * ds4(at + 12u);
                index += params.channels;
            }
        }
    }
    if channel >= task.size { return; }
    for (var row = 0u; row < min(OWN, params.tokens - task.own); row++) {
        let index = task.base + (task.own + row) * params.channels + channel;
        d_q[index] = Activation(params.scale * column_entry(sum, row));
    }
}

@compute @workgroup_size(WORKGROUP)
fn backward_key_value(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                      @builtin(local_invocation_index) local: u32) {
    let task = task_of(flat_workgroup(workgroup, workgroups));
    if task.head >= params.samples * params.heads { return; }
    let i = local / OTHER;
    let j = local % OTHER;
    let channel = task.channel + local;
    var key_sum = Column();
    var value_sum = Column();
    for (var first = 0u; first < params.tokens; first += OTHER) {
        let s = scores_and_d_p(task, false, first, local);
        let row = task.head * params.tokens + min(first + j, params.tokens - 1u);
        let p = exp(min(params.scale * s.xy - saved_logsumexp[row], vec2(0.0)));
        let ds = p * (s.zw - saved_dots[row]);
        block_p[j * OWN + i] = p.x;
        block_p[j * OWN + i + 8u] = p.y;
        block_ds[j * OWN + i] = ds.x;
        block_ds[j * OWN + i + 8u] = ds.y;
        workgroupBarrier();
        if channel < task.size {
            var index = task.base + first * params.channels + channel;
            let end = min(OTHER, params.tokens - first) * OWN;
            for (var at = 0u; at < end; at += OWN) {
                let query = f32(q[index]);
                let d = f32(d_y[index]);
                key_sum.a += query * ds4(at);
                key_sum.b += query * ds4(at + 4u);
                key_sum.c += query * ds4(at + 8u);
                key_sum.d += query * ds4(at + 12u);
                value_sum.a += d * p4(at);
                value_sum.b += d * p4(at + 4u);
                value_sum.c += d * p4(at + 8u);
                value_sum.d += d * p4(at + 12u);
                index += params.channels;
            }
        }
    }
    if channel >= task.size { return; }
    for (var row = 0u; row < min(OWN, params.tokens - task.own); row++) {
        let index = task.base + (task.own + row) * params.channels + channel;
        d_k[index] = Activation(params.scale * column_entry(key_sum, row));
        d_v[index] = Activation(column_entry(value_sum, row));
    }
}

@compute @workgroup_size(64)
fn backward_dot_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                     @builtin(local_invocation_index) local: u32) {
    let row = flat_index(workgroup, workgroups, local, 64u);
    if row >= params.samples * params.heads * params.tokens { return; }
    let size = params.channels / params.heads / 4u;
    let head = row / params.tokens;
    let token = head / params.heads * params.tokens + row % params.tokens;
    let first = (token * params.heads + head % params.heads) * size;
    var sum = 0.0;
    for (var at = first; at < first + size; at++) { sum += dot(vec4<f32>(d_y_vec4[at]), vec4<f32>(saved_y_vec4[at])); }
    row_dots[row] = sum;
}
