// Rows of a table, chosen by labels:
//   y[n, c]        = table[labels[n], c]                                    forward, one invocation per (n, c)
//   d_table[k, c]  = sum over the n with labels[n] = k of d_y[n, c]         backward, one invocation per (k, c)
// The sum looks at every label rather than adding to the row it finds: no atomics, so the order never changes. The host
// refuses labels beyond the table; should one arrive here all the same, it means the last row.
// Run it: ddpm-gpu kernels bench embedding --cases --device NAME.

// #import index

struct Params { samples: u32, channels: u32, rows: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> table: array<f32>;          // [K, C]
@group(0) @binding(2) var<storage, read> labels: array<u32>;         // [N]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;        // [N, C]
@group(0) @binding(4) var<storage, read> d_y: array<f32>;            // [N, C]
@group(0) @binding(5) var<storage, read_write> d_table: array<f32>;  // [K, C]

override WORKGROUP: u32 = 64;

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.samples * params.channels { return; }
    let row = min(labels[i / params.channels], params.rows - 1u);
    y[i] = table[row * params.channels + i % params.channels];
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.rows * params.channels { return; }
    let row = i / params.channels;
    var index = i % params.channels;
    var sum = 0.0;
    for (var n = 0u; n < params.samples; n++) {
        if min(labels[n], params.rows - 1u) == row { sum += d_y[index]; }
        index += params.channels;
    }
    d_table[i] = sum;
}
