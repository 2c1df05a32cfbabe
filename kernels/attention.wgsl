// Multi-head attention of T queries to S keys, each with a value; head h owns channels h D .. (h + 1) D:
//   s[i, j] = scale q_i . k_j + mask_j,   p = softmax over j of s,   y_i = sum over j of p[i, j] v_j
// with scale = 1 / sqrt(D). Queries and keys may be the same pixels (self-attention) or others (cross-attention). The
// mask is optional: one number for each sample and key, the same for all heads and queries. With CAUSAL query i sees
// keys 0 .. i only. The T x S matrices are never stored. forward walks the keys in blocks with a running maximum and a
// running sum (flash attention, Dao et al. 2022) and keeps log sum exp s per query; the backward passes compute p again
// from that:
//   ds[i, j] = p[i, j] (d_y_i . v_j - dot_i),   dot_i = d_y_i . y_i         (backward_dot: that, beside log sum exp)
//   d_q_i = scale sum over j of ds[i, j] k_j                                backward_query
//   d_k_j = scale sum over i of ds[i, j] q_i,   d_v_j = sum over i of p[i, j] d_y_i        backward_key_value
// Own rows are queries (or keys in backward_key_value), other rows are the opposite. This file holds the shared
// functions; the passes are in shared/attention_tiles.wgsl, for workgroups of 256 and heads of any size, and in
// shared/attention_lanes.wgsl, for subgroups of 8 and heads in fours. Both are imported once without a mask and once
// with one, since a buffer that a pass mentions must be bound. On software adapters the lanes are ahead of the tiles,
// because there a barrier is a loop over all invocations that starts again. Nothing hidden is infinite: its score is
// LOWEST, so that exp(score - highest) is 0, and a mask counts from MASKED on. So a query whose keys are all masked
// weighs them as if none were, where a mask of -infinity would give NaN.
// On lavapipe (Mesa 25, 2 cores), at 16 x 8 x 8 x 64 with one head, the lanes are 9 times as fast in backward_query,
// 5.8 times in backward_key_value, and the faster ones in forward too. Mesa's compiler for AMD, ACO, makes of 100
// instructions in the inner loops, on RDNA3 (navi31), 47 to 50 multiply-adds for the lanes (111 to 160 registers) and
// 12 to 23 for the tiles (58 to 70 registers).
// Run it: ddpm-gpu kernels bench attention --device NAME.

// #import activation
// #import attention_lanes
// #import attention_lane_passes _FORM=
// #import attention_lane_passes _FORM=_masked
// #import attention_tiles _FORM=
// #import attention_tiles _FORM=_masked
// #import index
// #import lanes
// #import logarithm
// #import products

struct Params { samples: u32, queries: u32, keys: u32, channels: u32, heads: u32, scale: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<Activation>;                // [N, T, C]
@group(0) @binding(2) var<storage, read> k: array<Activation>;                // [N, S, C]
@group(0) @binding(3) var<storage, read> v: array<Activation>;                // [N, S, C]
@group(0) @binding(4) var<storage, read_write> y: array<Activation>;          // [N, T, C]
@group(0) @binding(5) var<storage, read_write> logsumexp: array<f32>;         // [N, heads, T]
@group(0) @binding(6) var<storage, read> d_y: array<Activation>;              // [N, T, C]
@group(0) @binding(7) var<storage, read> saved_y: array<Activation>;          // [N, T, C]
@group(0) @binding(8) var<storage, read> saved_logsumexp: array<f32>;         // [N, heads, T]
@group(0) @binding(9) var<storage, read_write> rows: array<vec2<f32>>;        // [N, heads, 2 T]: log sum exp, dot
@group(0) @binding(10) var<storage, read> saved_rows: array<vec2<f32>>;       // [N, heads, 2 T]
@group(0) @binding(11) var<storage, read_write> d_q: array<Activation>;       // [N, T, C]
@group(0) @binding(12) var<storage, read_write> d_k: array<Activation>;       // [N, S, C]
@group(0) @binding(13) var<storage, read_write> d_v: array<Activation>;       // [N, S, C]
@group(0) @binding(14) var<storage, read> mask: array<f32>;                   // [N, S]
// The same tensors, four channels at a time.
@group(0) @binding(15) var<storage, read> q_vec4: array<Activation4>;
@group(0) @binding(16) var<storage, read> k_vec4: array<Activation4>;
@group(0) @binding(17) var<storage, read> v_vec4: array<Activation4>;
@group(0) @binding(18) var<storage, read_write> y_vec4: array<Activation4>;
@group(0) @binding(19) var<storage, read> d_y_vec4: array<Activation4>;
@group(0) @binding(20) var<storage, read> saved_y_vec4: array<Activation4>;
@group(0) @binding(21) var<storage, read_write> d_q_vec4: array<Activation4>;
@group(0) @binding(22) var<storage, read_write> d_k_vec4: array<Activation4>;
@group(0) @binding(23) var<storage, read_write> d_v_vec4: array<Activation4>;

override CAUSAL: bool = false;

const OWN = 16u;
const OTHER = 32u;
const WORKGROUP = 256u;  // OWN * OTHER / 2
const TILE = 4u;         // vec4s of channels of a tile
const PITCH = 5u;        // of the other rows' tile, one more against bank conflicts
const LOWEST = -1.0e30;  // below every score, and a driver that multiplies it by a constant has no infinity
const MASKED = -1.0e4;   // numbers of a mask beyond +-1e4 count as +-1e4

var<workgroup> own_a: array<vec4<f32>, 64>;     // [OWN, TILE]: of q or k
var<workgroup> own_b: array<vec4<f32>, 64>;     // [OWN, TILE]: of d_y or v
var<workgroup> other_a: array<vec4<f32>, 160>;  // [OTHER, PITCH]: of k or q
var<workgroup> other_b: array<vec4<f32>, 160>;  // [OTHER, PITCH]: of v or d_y
var<workgroup> block_p: array<f32, 512>;        // [OTHER, OWN]: scores, then p
var<workgroup> block_ds: array<f32, 512>;       // [OTHER, OWN]
var<workgroup> per_own: array<f32, 16>;

// What the mask adds to the scores of a key of sample n; keys beyond the last count as the last.
fn mask_of(n: u32, key: u32) -> f32 { return 0.0; }
fn mask_of_masked(n: u32, key: u32) -> f32 {
    return clamp(mask[n * params.keys + min(key, params.keys - 1u)], MASKED, -MASKED);
}

// Whether queries see a key, and a query sees keys.
fn see(query: vec2<u32>, key: u32) -> vec2<bool> {
    return vec2(key < params.keys) & ((query >= vec2(key)) | vec2(!CAUSAL));
}
fn is_seen(query: u32, key: vec2<u32>) -> vec2<bool> {
    return vec2(query < params.queries) & ((vec2(query) >= key) | vec2(!CAUSAL));
}

// One more than the last key that some of the queries before `end` see, and the first block with a query that sees a
// key.
fn keys_end(end: u32) -> u32 { return select(params.keys, min(params.keys, end), CAUSAL); }
fn first_query(key: u32) -> u32 { return select(0u, key / OTHER * OTHER, CAUSAL); }

fn tokens(is_query: bool) -> u32 { return select(params.keys, params.queries, is_query); }

// What a workgroup of the tiled passes works on, and which of its results an invocation adds up: ROWS own rows of one
// channel.
struct Task {
    n: u32,
    head: u32,     // n, head
    offset: u32,   // of the head in a token's channels
    own: u32,      // first own row
    channel: u32,  // of the result, within the head
    row: u32,      // of the result, within the own rows: the first one
    size: u32,     // channels of a head
}

// 4 for heads of at most 64 channels, 8 for at most 128, else 16, so that all invocations add up.
override ROWS: u32 = 16u;

// The parts of a head's channels and own rows, and what a workgroup makes of its number. Where barriers follow, use
// these and not a Task, which depends on the invocation: compilers want all invocations to go the same way provably.
fn head_size() -> u32 { return params.channels / params.heads; }
fn channel_lanes() -> u32 { return WORKGROUP * ROWS / OWN; }
fn tile_chunks() -> u32 { return (head_size() + channel_lanes() - 1u) / channel_lanes(); }
fn tile_blocks(own_tokens: u32) -> u32 { return (own_tokens + OWN - 1u) / OWN; }
fn tile_head(flat: u32, own_tokens: u32) -> u32 { return flat / tile_chunks() / tile_blocks(own_tokens); }
fn first_own(flat: u32, own_tokens: u32) -> u32 { return flat / tile_chunks() % tile_blocks(own_tokens) * OWN; }
fn is_surplus_tile(flat: u32, own_tokens: u32) -> bool {
    return tile_head(flat, own_tokens) >= params.samples * params.heads;
}

fn task_of(flat: u32, own_tokens: u32, local: u32) -> Task {
    let head = tile_head(flat, own_tokens);
    let channel = flat % tile_chunks() * channel_lanes() + local % channel_lanes();
    return Task(head / params.heads, head, head % params.heads * head_size(), first_own(flat, own_tokens), channel,
                local / channel_lanes() * ROWS, head_size());
}

// Index of a token's first channel of this head.
fn token(task: Task, is_query: bool, row: u32) -> u32 {
    return (task.n * tokens(is_query) + row) * params.channels + task.offset;
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
    if row >= tokens(is_query) || channel >= task.size { return vec4(0.0); }
    let at = token(task, is_query, row) + channel;
    if is_query { return q4(at, task.size - channel); }
    return k4(at, task.size - channel);
}
fn row_b(task: Task, is_query: bool, row: u32, channel: u32) -> vec4<f32> {
    if row >= tokens(is_query) || channel >= task.size { return vec4(0.0); }
    let at = token(task, is_query, row) + channel;
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
    for (var first_channel = 0u; first_channel < head_size(); first_channel += 4u * TILE) {
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
    for (var first_channel = 0u; first_channel < head_size(); first_channel += 4u * TILE) {
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

// Up to sixteen own rows of one channel: ROWS of them.
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

// column += value times the p, or the ds, of the own rows from row `at` % OWN of another row on
fn add_p(column: ptr<function, Column>, value: f32, at: u32) {
    (*column).a += value * p4(at);
    if ROWS > 4u { (*column).b += value * p4(at + 4u); }
    if ROWS > 8u {
        (*column).c += value * p4(at + 8u);
        (*column).d += value * p4(at + 12u);
    }
}
fn add_ds(column: ptr<function, Column>, value: f32, at: u32) {
    (*column).a += value * ds4(at);
    if ROWS > 4u { (*column).b += value * ds4(at + 4u); }
    if ROWS > 8u {
        (*column).c += value * ds4(at + 8u);
        (*column).d += value * ds4(at + 12u);
    }
}

@compute @workgroup_size(WORKGROUP)
fn backward_dot(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let row = flat_index(workgroup, workgroups, local, WORKGROUP);
    if row >= params.samples * params.heads * params.queries { return; }
    let size = params.channels / params.heads;
    let head = row / params.queries;
    let token = head / params.heads * params.queries + row % params.queries;
    let first = token * params.channels + head % params.heads * size;
    var sum = 0.0;
    for (var index = first; index < first + size; index++) { sum += f32(d_y[index]) * f32(saved_y[index]); }
    rows[row] = vec2(saved_logsumexp[row], sum);
}

@compute @workgroup_size(64)
fn backward_dot_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                     @builtin(local_invocation_index) local: u32) {
    let row = flat_index(workgroup, workgroups, local, 64u);
    if row >= params.samples * params.heads * params.queries { return; }
    let size = params.channels / params.heads / 4u;
    let head = row / params.queries;
    let token = head / params.heads * params.queries + row % params.queries;
    let first = (token * params.heads + head % params.heads) * size;
    var sum = 0.0;
    for (var at = first; at < first + size; at++) { sum += dot(vec4<f32>(d_y_vec4[at]), vec4<f32>(saved_y_vec4[at])); }
    rows[row] = vec2(saved_logsumexp[row], sum);
}
