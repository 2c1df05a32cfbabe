// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): four random words from a
// 128-bit counter and a 64-bit key, with no state to keep. The counter is (block, step, stream, sample), where a block
// is four consecutive elements of one sample, and the stream says what the numbers are for (`src/random/purpose.rs`); the
// key is the seed. `key_step_sample` is a buffer of four words: (seed low, seed high, step, number of the first sample).

const PHILOX_M0 = 0xD2511F53u;
const PHILOX_M1 = 0xCD9E8D57u;
const PHILOX_W0 = 0x9E3779B9u;
const PHILOX_W1 = 0xBB67AE85u;

// High and low word of a 32 x 32 bit product, from 16-bit halves: WGSL has no 64-bit integers.
fn multiply_wide(a: u32, b: u32) -> vec2<u32> {
    let a_low = a & 0xFFFFu;
    let a_high = a >> 16u;
    let b_low = b & 0xFFFFu;
    let b_high = b >> 16u;
    let low = a_low * b_low;
    let middle = a_high * b_low + (low >> 16u);
    let middle_low = (middle & 0xFFFFu) + a_low * b_high;
    return vec2(a_high * b_high + (middle >> 16u) + (middle_low >> 16u), a * b);
}

fn philox(counter_in: vec4<u32>, key_in: vec2<u32>) -> vec4<u32> {
    var counter = counter_in;
    var key = key_in;
    for (var round = 0u; round < 10u; round++) {
        let p0 = multiply_wide(PHILOX_M0, counter.x);
        let p1 = multiply_wide(PHILOX_M1, counter.z);
        counter = vec4(p1.x ^ counter.y ^ key.x, p1.y, p0.x ^ counter.w ^ key.y, p0.y);
        key += vec2(PHILOX_W0, PHILOX_W1);
    }
    return counter;
}

// Random words of elements 4 block .. 4 block + 3 of one sample.
fn random_words(key_step_sample: vec4<u32>, stream: u32, sample: u32, block: u32) -> vec4<u32> {
    return philox(vec4(block, key_step_sample.z, stream, key_step_sample.w + sample), key_step_sample.xy);
}

// Uniform in (0, 1): 23 bits and a half, so that neither 0 nor 1 occurs and every value is exact in f32.
fn to_uniform(words: vec4<u32>) -> vec4<f32> {
    return (vec4<f32>(words >> vec4(9u)) + 0.5) * (1.0 / 8388608.0);
}

// (cos, sin) of 2 pi (u - 1/2). WGSL lets a driver's own be wrong by 2^-11, which shows in the noise: quarter turns are
// exact, and the polynomials for the rest are those of Cephes' sinf and cosf, good to 1e-7.
fn cos_sin_turn(u: f32) -> vec2<f32> {
    let quarters = 4.0 * (u - 0.5);
    let whole = round(quarters);
    let angle = (quarters - whole) * 1.5707963267948966; // in [-pi/4, pi/4]
    let z = angle * angle;
    let s = angle + angle * z * (-1.6666654611e-1 + z * (8.3321608736e-3 - z * 1.9515295891e-4));
    let c = 1.0 - 0.5 * z + z * z * (4.166664568298827e-2 + z * (-1.388731625493765e-3 + z * 2.443315711809948e-5));
    switch i32(whole) & 3 {
        case 0: { return vec2(c, s); }
        case 1: { return vec2(-s, c); }
        case 2: { return vec2(-c, -s); }
        default: { return vec2(s, -c); }
    }
}

// Distance of a pair of normals from 0, sqrt(-2 log(u)); next to u = 1 it is as good as elsewhere, and nothing there
// makes the root that of a negative number. The op imports logarithm.
fn radius(u: f32) -> f32 { return sqrt(max(-2.0 * natural_log(u), 0.0)); }

// Standard normals by the Box-Muller transform: two pairs from four words.
fn random_normals(key_step_sample: vec4<u32>, stream: u32, sample: u32, block: u32) -> vec4<f32> {
    let u = to_uniform(random_words(key_step_sample, stream, sample, block));
    return vec4(radius(u.x) * cos_sin_turn(u.y), radius(u.z) * cos_sin_turn(u.w));
}
