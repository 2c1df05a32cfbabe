// Gaussian error linear unit (Hendrycks and Gimpel 2016) in three forms, by the override FORM:
//   0, erf:    y = x Phi(x) = x (1 + erf(x / sqrt 2)) / 2                    PyTorch's default
//   1, tanh:   y = x (1 + tanh z) / 2 = x sigmoid(2 z),   z = sqrt(2 / pi) (x + 0.044715 x^3)
//   2, quick:  y = x sigmoid(1.702 x)                                        CLIP
// Backward multiplies d_y by the derivative:
//   Phi(x) + x phi(x),   s + x s (1 - s) 2 z',   s + x s (1 - s) 1.702       with s the sigmoid
// One invocation per element, or in `_vec4` per four; tensors of any shape. All forms read and write each element once,
// so that memory decides the time; arithmetic does on software adapters, where quick costs least and erf most. WGSL has
// no erf (see shared/gelu.wgsl), and its tanh may overflow inside for large numbers: a sigmoid of a clamped argument
// stands for it.
// On lavapipe (Mesa 25, 2 cores) `_vec4` is 2.1 times as fast as the plain one at 2 x 16 x 8 x 64.
// Run it: ddpm-gpu kernels bench gelu --cases --device NAME.

// #import activation
// #import gelu
// #import index

struct Params { length: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Activation>;
@group(0) @binding(2) var<storage, read> d_y: array<Activation>;
@group(0) @binding(3) var<storage, read_write> y: array<Activation>;
@group(0) @binding(4) var<storage, read_write> d_x: array<Activation>;
// The same tensors, four elements at a time.
@group(0) @binding(5) var<storage, read> x_vec4: array<Activation4>;
@group(0) @binding(6) var<storage, read> d_y_vec4: array<Activation4>;
@group(0) @binding(7) var<storage, read_write> y_vec4: array<Activation4>;
@group(0) @binding(8) var<storage, read_write> d_x_vec4: array<Activation4>;

override WORKGROUP: u32 = 64;
override FORM: u32 = 0u;

const SQRT_8_OVER_PI = 1.5957691216057308;  // 2 sqrt(2 / pi)
const CUBIC = 0.044715;
const QUICK = 1.702;

// The sigmoid; clamped so that exp neither overflows nor leaves the range in which 1 + exp is finite.
fn sigmoid(x: vec4<f32>) -> vec4<f32> { return 1.0 / (1.0 + exp(clamp(-x, vec4(-80.0), vec4(80.0)))); }

// What the sigmoid is taken of, and its derivative; beyond 20 the sigmoid is 0 or 1 in any case.
fn argument(x: vec4<f32>) -> vec4<f32> {
    if FORM == 2u { return QUICK * x; }
    let t = clamp(x, vec4(-20.0), vec4(20.0));
    return SQRT_8_OVER_PI * t * (1.0 + CUBIC * t * t);
}
fn argument_slope(x: vec4<f32>) -> vec4<f32> {
    if FORM == 2u { return vec4(QUICK); }
    let t = clamp(x, vec4(-20.0), vec4(20.0));
    return SQRT_8_OVER_PI * (1.0 + 3.0 * CUBIC * t * t);
}

fn activate(x: vec4<f32>) -> vec4<f32> {
    if FORM == 0u { return gelu(x); }
    return x * sigmoid(argument(x));
}

fn slope(x: vec4<f32>) -> vec4<f32> {
    if FORM == 0u { return gelu_slope(x); }
    let s = sigmoid(argument(x));
    return s + x * s * (1.0 - s) * argument_slope(x);
}

@compute @workgroup_size(WORKGROUP)
fn forward_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length / 4u { return; }
    y_vec4[i] = Activation4(activate(vec4<f32>(x_vec4[i])));
}

@compute @workgroup_size(WORKGROUP)
fn backward_vec4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length / 4u { return; }
    d_x_vec4[i] = Activation4(vec4<f32>(d_y_vec4[i]) * slope(vec4<f32>(x_vec4[i])));
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    y[i] = Activation(activate(vec4(f32(x[i]))).x);
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.length { return; }
    d_x[i] = Activation(f32(d_y[i]) * slope(vec4(f32(x[i]))).x);
}
