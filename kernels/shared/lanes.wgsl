// #requires subgroups
// Matrix products by the 8 lanes of a subgroup, which is a workgroup here: no workgroup memory, no barriers. For drivers
// that run on the CPU, where both are slow, a load costs as much as ten multiply-adds, and a shuffle one instruction.
// Eight own rows meet 32 other rows. First own . other, with the lanes over the other rows:
//   s[i, j] = sum over c of own[i, c] other[j, c]          each lane loads its rows, and hears the own ones from the others
// then a sum over the other rows, with the lanes over channels:
//   r[i, c] = sum over j of s[i, j] other[j, c]            each lane hears s from the lane that has it

const LANES = 8u;
const OTHERS = 32u;  // rows of a block, 4 a lane

// Own rows 0 to 3 (a) and 4 to 7 (b), each with rows lane, lane + 8, lane + 16 and lane + 24 of a block of others.
struct Products {
    a0: vec4<f32>, b0: vec4<f32>, a1: vec4<f32>, b1: vec4<f32>,
    a2: vec4<f32>, b2: vec4<f32>, a3: vec4<f32>, b3: vec4<f32>,
}

// Four channels of the own rows.
struct Rows {
    r0: vec4<f32>, r1: vec4<f32>, r2: vec4<f32>, r3: vec4<f32>,
    r4: vec4<f32>, r5: vec4<f32>, r6: vec4<f32>, r7: vec4<f32>,
}

// Adds the products of four channels: of the own row `lane`, and of this lane's four other rows.
fn add_products(s: Products, own: vec4<f32>, o0: vec4<f32>, o1: vec4<f32>, o2: vec4<f32>, o3: vec4<f32>) -> Products {
    let r0 = subgroupShuffle(own, 0u);
    let r1 = subgroupShuffle(own, 1u);
    let r2 = subgroupShuffle(own, 2u);
    let r3 = subgroupShuffle(own, 3u);
    let r4 = subgroupShuffle(own, 4u);
    let r5 = subgroupShuffle(own, 5u);
    let r6 = subgroupShuffle(own, 6u);
    let r7 = subgroupShuffle(own, 7u);
    return Products(s.a0 + dots(o0, r0, r1, r2, r3), s.b0 + dots(o0, r4, r5, r6, r7),
                    s.a1 + dots(o1, r0, r1, r2, r3), s.b1 + dots(o1, r4, r5, r6, r7),
                    s.a2 + dots(o2, r0, r1, r2, r3), s.b2 + dots(o2, r4, r5, r6, r7),
                    s.a3 + dots(o3, r0, r1, r2, r3), s.b3 + dots(o3, r4, r5, r6, r7));
}

// Adds `other` times the factor of each own row.
fn add_rows(r: Rows, a: vec4<f32>, b: vec4<f32>, other: vec4<f32>) -> Rows {
    return Rows(r.r0 + a.x * other, r.r1 + a.y * other, r.r2 + a.z * other, r.r3 + a.w * other,
                r.r4 + b.x * other, r.r5 + b.y * other, r.r6 + b.z * other, r.r7 + b.w * other);
}

fn scale_rows(r: Rows, a: vec4<f32>, b: vec4<f32>) -> Rows {
    return Rows(r.r0 * a.x, r.r1 * a.y, r.r2 * a.z, r.r3 * a.w, r.r4 * b.x, r.r5 * b.y, r.r6 * b.z, r.r7 * b.w);
}

fn row_of(r: Rows, row: u32) -> vec4<f32> {
    switch row {
        case 0u: { return r.r0; }
        case 1u: { return r.r1; }
        case 2u: { return r.r2; }
        case 3u: { return r.r3; }
        case 4u: { return r.r4; }
        case 5u: { return r.r5; }
        case 6u: { return r.r6; }
        default: { return r.r7; }
    }
}

// The largest value of all lanes, and the sum over all lanes.
fn max_of_lanes(value: vec4<f32>, lane: u32) -> vec4<f32> {
    let pairs = max(value, subgroupShuffle(value, lane ^ 1u));
    let quads = max(pairs, subgroupShuffle(pairs, lane ^ 2u));
    return max(quads, subgroupShuffle(quads, lane ^ 4u));
}
fn sum_of_lanes(value: vec4<f32>, lane: u32) -> vec4<f32> {
    let pairs = value + subgroupShuffle(value, lane ^ 1u);
    let quads = pairs + subgroupShuffle(pairs, lane ^ 2u);
    return quads + subgroupShuffle(quads, lane ^ 4u);
}
