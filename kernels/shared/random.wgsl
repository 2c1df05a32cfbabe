// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): four random words from a
// 128-bit counter and a 64-bit key, with no state to keep. The counter is (block, step, stream, sample), where a block
// is four consecutive elements of one sample; the key is the seed. `key_step_sample` is a buffer of four words:
// (seed low, seed high, step, number of the first sample).

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

// Standard normals by the Box-Muller transform: two pairs from four words.
fn random_normals(key_step_sample: vec4<u32>, stream: u32, sample: u32, block: u32) -> vec4<f32> {
    let u = to_uniform(random_words(key_step_sample, stream, sample, block));
    let radius = sqrt(-2.0 * log(u.xz));
    // WGSL promises the accuracy of cos and sin only within [-pi, pi].
    let angle = 6.283185307179586 * (u.yw - 0.5);
    return vec4(radius.x * cos(angle.x), radius.x * sin(angle.x), radius.y * cos(angle.y), radius.y * sin(angle.y));
}
