// Dynamic loss scaling (Micikevicius et al. 2018, "Mixed precision training"), as torch.amp.GradScaler. Gradients that
// are stored in 16 bits would vanish below 6e-8, so the loss's own gradient is S rather than 1, and all others with it;
// S is as large as they bear:
//   clip     norm = sqrt(sum) / S        factor = min(1, max_norm / (norm + 1e-6)) / S
//            or, where a gradient overflowed, factor = 0: AdamW skips the step
//   update   S = S / 2 after a skipped step, 2 S after `growth_interval` steps in a row that were not
// `state` is (S, steps since S changed, steps skipped in all). One invocation. S is a power of two: no rounding.
// Run it: ddpm-gpu kernels bench loss_scale --cases --device NAME.

struct Params { max_norm: f32, growth_interval: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> sum: array<f32>;                   // [1], squares of the scaled gradients
@group(0) @binding(2) var<storage, read> scaler: array<f32>;                // [3], the state
@group(0) @binding(3) var<storage, read_write> norm_and_scale: array<f32>;  // [2]
@group(0) @binding(4) var<storage, read> clipped: array<f32>;               // [2], norm_and_scale
@group(0) @binding(5) var<storage, read_write> state: array<f32>;           // [3]

const LARGEST_SCALE = 1.0e38;

@compute @workgroup_size(1)
fn clip() {
    let norm = sqrt(sum[0]) / scaler[0];
    // By the exponent's bits: WGSL lets a compiler assume that floats are neither infinite nor NaN. Infinity
    // and NaN pass through to the host.
    let is_finite = (bitcast<u32>(sum[0]) & 0x7F800000u) != 0x7F800000u;
    norm_and_scale[0] = select(sum[0], norm, is_finite);
    norm_and_scale[1] = select(0.0, min(1.0, params.max_norm / (norm + 1e-6)) / scaler[0], is_finite);
}

@compute @workgroup_size(1)
fn update() {
    if clipped[1] == 0.0 {
        state[0] *= 0.5;
        state[1] = 0.0;
        state[2] += 1.0;
        return;
    }
    state[1] += 1.0;
    if state[1] >= f32(params.growth_interval) {
        state[0] = min(2.0 * state[0], LARGEST_SCALE);
        state[1] = 0.0;
    }
}
