// One term of the variational bound for each sample, in bits per dimension (Ho et al. 2020, equations 5 and 13; Nichol
// and Dhariwal 2021, section 3.1). Both distributions are normal with a diagonal covariance, so with
//   d  = g (truth - prediction)          the true mean minus the model's, linear in the prediction
//   l  = log of the model's variance     where there are 2 C channels: between l_min and l_max, by v in -1..1
//   l' = log of the posterior's variance
// an element contributes, in nats,
//   KL      = (l - l' - 1 + exp(l' - l) + d^2 exp(-l)) / 2                                 at t > 0
//   decoder = -log(Phi((d + h) exp(-l/2)) - Phi((d - h) exp(-l/2))),  h = 1/255            at t = 0
// Phi is the normal distribution function; below -0.999 and above 0.999 the bin of x_start reaches to infinity. Everything
// is in logarithms, so that a prediction hundreds of standard deviations off still has a loss and a gradient.
//   per_sample[n] = 1/(E ln 2) sum over e                   forward: one workgroup per sample, ends in a tree
//   d_prediction  = d_per_sample[n] / (E ln 2) d/dprediction   backward: one invocation per element of the truth
// A row of coefficients is g, l', l_min, l_max, and 1 for the decoder's term or 0.
// Run it: ddpm-gpu kernels bench vlb_loss --cases --device NAME.

// #import index
// #import logarithm
// #import tree_sum TERM=f32

struct Params { samples: u32, elements: u32, channels: u32, predicted_channels: u32, freeze_mean: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> prediction: array<f32>;          // [N, H, W, C] or [N, H, W, 2 C]
@group(0) @binding(2) var<storage, read> truth: array<f32>;               // [N, H, W, C]
@group(0) @binding(3) var<storage, read> x_start: array<f32>;             // [N, H, W, C]
@group(0) @binding(4) var<storage, read> coefficients: array<f32>;        // [N, 5]
@group(0) @binding(5) var<storage, read_write> per_sample: array<f32>;    // [N]
@group(0) @binding(6) var<storage, read> d_per_sample: array<f32>;        // [N]
@group(0) @binding(7) var<storage, read_write> d_prediction: array<f32>;  // as prediction

override WORKGROUP: u32 = 256;  // a power of two

const LN_2 = 0.6931471805599453;
const HALF_LN_2_PI = 0.9189385332046727;
const HALF_BIN = 0.00392156862745098;

// 1 - exp(x) for x <= 0, without cancellation near 0.
fn one_minus_exp(x: f32) -> f32 {
    if x > -0.25 { return -x * (1.0 + x * (0.5 + x * (1.0 / 6.0 + x * (1.0 / 24.0 + x * (1.0 / 120.0))))); }
    return 1.0 - exp(x);
}

// log Phi(z) + z^2 / 2, which stays small however far out in the left tail z is; by a rational Chebyshev fit of erfc that
// holds to 1.2e-7.
fn scaled_log_cdf(z: f32) -> f32 {
    let u = abs(z) * 0.7071067811865476;
    let t = 1.0 / (1.0 + 0.5 * u);
    let series = -1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806 + t * (0.27886807
        + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277))))))));
    let tail = natural_log(t) + series - LN_2;
    if z <= 0.0 { return tail; }
    return natural_log(one_minus_exp(tail - u * u)) + u * u;
}

// The logarithm of a bin's probability, and its derivatives by the difference and by the log of the variance.
struct Bin { log_likelihood: f32, d_difference: f32, d_log_variance: f32 }

// A bin that is narrow beside the standard deviation: the density in its middle, tilted. With the middle m, the width w and
// y = m w / 2, its probability is phi(m) w sinh(y) / y exp(-w^2 / 24).
fn narrow_bin(middle: f32, width: f32, inverse: f32) -> Bin {
    let y = 0.5 * abs(middle) * width;
    var log_tilt = y * y * (1.0 / 6.0 - y * y / 180.0);
    var slope = y * (1.0 / 3.0 - y * y / 45.0);
    if y > 0.1 {
        let rest = exp(-2.0 * y);
        log_tilt = y + natural_log((1.0 - rest) / (2.0 * y));
        slope = (1.0 + rest) / (1.0 - rest) - 1.0 / y;
    }
    var bin: Bin;
    bin.log_likelihood = natural_log(width) - 0.5 * middle * middle - HALF_LN_2_PI + log_tilt - width * width / 24.0;
    bin.d_difference = inverse * (0.5 * width * slope * sign(middle) - middle);
    bin.d_log_variance = 0.5 * (middle * middle - 1.0 - width * abs(middle) * slope + width * width / 12.0);
    return bin;
}

fn bin_of(x: f32, difference: f32, log_variance: f32) -> Bin {
    let inverse = exp(-0.5 * log_variance);
    let middle = difference * inverse;
    let width = 2.0 * HALF_BIN * inverse;
    let is_lowest = x < -0.999;
    let is_highest = x > 0.999;
    if width < 0.05 && !(is_lowest || is_highest) { return narrow_bin(middle, width, inverse); }
    // Phi(-z) = 1 - Phi(z): flipped so that nothing cancels, `near` is the end nearer to the mean.
    let is_turned = select(middle > 0.0, is_highest, is_lowest || is_highest);
    let direction = select(1.0, -1.0, is_turned);
    let near = direction * middle + 0.5 * width;
    let far = near - width;
    // (near^2 - far^2) / 2, at most 0 between two ends.
    let fall = direction * middle * width;
    var excess = scaled_log_cdf(near);
    var at_far = 0.0;
    if !(is_lowest || is_highest) {
        excess += natural_log(one_minus_exp(min(fall + scaled_log_cdf(far) - excess, 0.0)));
        at_far = exp(fall - HALF_LN_2_PI - excess);
    }
    // The normal density at each end, as a share of the bin's probability.
    let at_near = exp(-HALF_LN_2_PI - excess);
    var bin: Bin;
    bin.log_likelihood = excess - 0.5 * near * near;
    bin.d_difference = direction * inverse * (at_near - at_far);
    bin.d_log_variance = 0.5 * (at_far * far - at_near * near);
    return bin;
}

struct Element { difference: f32, log_variance: f32 }

// Element i of the truth, whose prediction is element `predicted`, in sample n.
fn element(i: u32, predicted: u32, n: u32) -> Element {
    var found: Element;
    found.difference = coefficients[5u * n] * (truth[i] - prediction[predicted]);
    found.log_variance = coefficients[5u * n + 3u];
    if params.predicted_channels > params.channels {
        let fraction = 0.5 * (prediction[predicted + params.channels] + 1.0);
        let low = coefficients[5u * n + 2u];
        found.log_variance = low + fraction * (found.log_variance - low);
    }
    return found;
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let n = flat_workgroup(workgroup, workgroups);
    if n >= params.samples { return; }
    let end = (n + 1u) * params.elements;
    let log_true = coefficients[5u * n + 1u];
    let is_decoder = coefficients[5u * n + 4u] != 0.0;
    var sum = 0.0;
    for (var i = n * params.elements + local; i < end; i += WORKGROUP) {
        let e = element(i, i / params.channels * params.predicted_channels + i % params.channels, n);
        if is_decoder {
            sum -= bin_of(x_start[i], e.difference, e.log_variance).log_likelihood;
        } else {
            let square = e.difference * e.difference;
            sum += 0.5 * (e.log_variance - log_true - 1.0 + exp(log_true - e.log_variance) + square * exp(-e.log_variance));
        }
    }
    let total = tree_sum(sum, local);
    if local == 0u { per_sample[n] = total / (LN_2 * f32(params.elements)); }
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.samples * params.elements { return; }
    let n = i / params.elements;
    let predicted = i / params.channels * params.predicted_channels + i % params.channels;
    let e = element(i, predicted, n);
    var d_difference: f32;
    var d_log_variance: f32;
    if coefficients[5u * n + 4u] != 0.0 {
        let bin = bin_of(x_start[i], e.difference, e.log_variance);
        d_difference = -bin.d_difference;
        d_log_variance = -bin.d_log_variance;
    } else {
        let inverse = exp(-e.log_variance);
        d_difference = e.difference * inverse;
        d_log_variance = 0.5 * (1.0 - exp(coefficients[5u * n + 1u] - e.log_variance)
            - e.difference * e.difference * inverse);
    }
    let scale = d_per_sample[n] / (LN_2 * f32(params.elements));
    d_prediction[predicted] = select(-scale * coefficients[5u * n] * d_difference, 0.0, params.freeze_mean != 0u);
    if params.predicted_channels > params.channels {
        let range = coefficients[5u * n + 3u] - coefficients[5u * n + 2u];
        d_prediction[predicted + params.channels] = scale * 0.5 * range * d_log_variance;
    }
}
