// Guidance of the network's output towards a class.
//   double:    y[n] = y[N + n] = x[n]: one batch for the network with no class (the first half) and with one
//   forward:   y = w cond + (1 - w) uncond, w being `scale`: classifier-free guidance (Ho and Salimans 2022), where uncond
//              and cond are the halves of the output of the doubled batch. w = 1 gives cond to the bit
//   forward_rescaled:  y' = (phi std(cond) / std(y) + 1 - phi) y, phi being `rescale`, with the standard deviations of each
//              sample: keeps images from overexposure (Lin et al. 2023, equations 15 and 16)
//   shift:     y = output + f gradient: classifier guidance (Dhariwal and Nichol 2021), the gradient being that of
//              log p(class | x_t), f factors[n]
//   shift_mean:  y += f exp(r v) gradient, in place, f and r being factors[n]; v is the part of
//              the output that stands for the variance, where there is one
// Of an output with learned variance, the channels beyond those of x stay as the conditional half has them. One invocation
// per element; forward_rescaled takes one workgroup per sample, and its sums end in a tree whose order never changes.
// Run it: ddpm-gpu kernels bench guidance --cases --device NAME.

// #import index
// #import tree_sum TERM=vec2<f32>

struct Params { samples: u32, elements: u32, channels: u32, output_channels: u32, scale: f32, rescale: f32 }
@group(0) @binding(0) var<uniform> params: Params;                    // elements of a sample of the first operand
@group(0) @binding(1) var<storage, read> x: array<f32>;               // [N, E]
@group(0) @binding(2) var<storage, read> outputs: array<f32>;         // [2 N, P, output_channels]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;         // [2 N, E], [N, P, output_channels];
//                                                                       shift_mean: [N, P, channels]
@group(0) @binding(4) var<storage, read> output: array<f32>;          // [N, P, output_channels]
@group(0) @binding(5) var<storage, read> gradient: array<f32>;        // [N, P, channels]
@group(0) @binding(6) var<storage, read> factors: array<f32>;         // [N]; shift_mean: [N, 2]

override WORKGROUP: u32 = 64;  // a power of two

@compute @workgroup_size(WORKGROUP)
fn double(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
          @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    let length = params.samples * params.elements;
    if i >= length { return; }
    y[i] = x[i];
    y[length + i] = x[i];
}

fn guided(i: u32) -> f32 {
    let cond = outputs[params.samples * params.elements + i];
    if i % params.output_channels >= params.channels { return cond; }
    return params.scale * cond + (1.0 - params.scale) * outputs[i];
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.samples * params.elements { return; }
    y[i] = guided(i);
}

@compute @workgroup_size(WORKGROUP)
fn forward_rescaled(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let n = flat_workgroup(workgroup, workgroups);
    if n >= params.samples { return; }
    let first = n * params.elements;
    let end = first + params.elements;
    let conditional = params.samples * params.elements;  // where the conditional half begins

    var term = vec2(0.0);
    for (var i = first + local; i < end; i += WORKGROUP) {
        if i % params.output_channels < params.channels { term += vec2(outputs[conditional + i], guided(i)); }
    }
    let mean = tree_sum(term, local) / f32(params.elements / params.output_channels * params.channels);
    term = vec2(0.0);
    for (var i = first + local; i < end; i += WORKGROUP) {
        if i % params.output_channels < params.channels {
            let difference = vec2(outputs[conditional + i], guided(i)) - mean;
            term += difference * difference;
        }
    }
    let variance = tree_sum(term, local);
    var factor = 1.0;
    if variance.y > 0.0 { factor = params.rescale * sqrt(variance.x / variance.y) + 1.0 - params.rescale; }
    for (var i = first + local; i < end; i += WORKGROUP) {
        y[i] = guided(i) * select(1.0, factor, i % params.output_channels < params.channels);
    }
}

@compute @workgroup_size(WORKGROUP)
fn shift(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
         @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.samples * params.elements { return; }
    let pixel = i / params.output_channels;
    let channel = i % params.output_channels;
    var value = output[i];
    if channel < params.channels {
        value += factors[i / params.elements] * gradient[pixel * params.channels + channel];
    }
    y[i] = value;
}

@compute @workgroup_size(WORKGROUP)
fn shift_mean(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
              @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.samples * params.elements { return; }
    let row = i / params.elements;
    var factor = factors[2u * row];
    if params.output_channels == 2u * params.channels {
        let v = output[i / params.channels * params.output_channels + i % params.channels + params.channels];
        factor *= exp(factors[2u * row + 1u] * v);
    }
    y[i] += factor * gradient[i];
}
