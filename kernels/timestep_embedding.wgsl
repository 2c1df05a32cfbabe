// Sinusoidal embedding of timesteps (Vaswani et al. 2017; diffusers' get_timestep_embedding, max_period 10000):
//   y[n, i], y[n, half + i] = sin(t[n] f_i), cos(t[n] f_i),   f_i = exp(-ln(10000) i / (half - freq_shift))
// with the halves exchanged if cos_first, and a last column of zeros if the number of channels is odd. One invocation
// per element.
//
// Angles reach 1000 rad, where an f32 frequency (relative error 1e-7) is off by 1e-4 rad and WGSL promises nothing of
// sin. So the angle is kept in turns, as a 32-bit fixed-point fraction that wraps by itself: the host gives
// r^1, r^2, r^4, ... of the ratio r = f_1 as fractions, the kernel multiplies those of the bits of i in integers, and
// the rest of the angle lies within [-pi/4, pi/4] of a multiple of pi/2, where short polynomials are exact to 1e-7.
// For |t| <= 1000 the error is below 1e-5 on every device.
//
// The host could write the sinusoids instead of the timesteps. It would save at most 0.01 % of a training step: 60 us
// of 578 ms (digits, 16 images, llvmpipe), 13 us of which any dispatch takes. A network would no longer take diffusers'
// timesteps [N]. `ddpm-gpu profile train --model digits --device llvmpipe --tuning off --top 0` shows it.
//
// Run it: ddpm-gpu kernels bench timestep_embedding --device NAME.

// #import index
// #import logarithm
// #import random
// #import sin_turns

struct Params {
    samples: u32, channels: u32, half: u32, cos_first: u32, turns: u32,  // turns: 1 / (2 pi) as a fraction
    power_0: u32, power_1: u32, power_2: u32, power_3: u32, power_4: u32,
    power_5: u32, power_6: u32, power_7: u32, power_8: u32, power_9: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> timesteps: array<f32>;  // [N]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;    // [N, C]

override WORKGROUP: u32 = 64;

// The product of two fractions of 2^32, rounded, where the bit is set.
fn times(fraction: u32, power: u32, bit: u32) -> u32 {
    let product = multiply_wide(fraction, power);
    return select(fraction, product.x + (product.y >> 31u), bit != 0u);
}

// f_i / (2 pi), in turns per timestep.
fn frequency(i: u32) -> u32 {
    var f = params.turns;
    f = times(f, params.power_0, i & 1u);
    f = times(f, params.power_1, i & 2u);
    f = times(f, params.power_2, i & 4u);
    f = times(f, params.power_3, i & 8u);
    f = times(f, params.power_4, i & 16u);
    f = times(f, params.power_5, i & 32u);
    f = times(f, params.power_6, i & 64u);
    f = times(f, params.power_7, i & 128u);
    f = times(f, params.power_8, i & 256u);
    return times(f, params.power_9, i & 512u);
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.samples * params.channels { return; }
    let n = i / params.channels;
    let c = i % params.channels;
    if c >= 2u * params.half {
        y[i] = 0.0;
        return;
    }
    let second = c >= params.half;
    let f = frequency(select(c, c - params.half, second));
    let whole = floor(timesteps[n]);
    var turns = bitcast<u32>(i32(whole)) * f + u32((timesteps[n] - whole) * f32(f));
    // cos(a) = sin(a + a quarter turn)
    if second != (params.cos_first != 0u) { turns += 0x40000000u; }
    y[i] = sin_turns(turns);
}
