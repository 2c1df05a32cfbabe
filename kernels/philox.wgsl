// Random numbers by themselves: the words of the counter-based generator of shared/random.wgsl, and standard normals.
//   words[n, e], normals[n, e]: element e of sample n, from block e / 4
// One invocation per block of four elements of one sample. `integers` exists to prove that the stream is the same on
// every adapter; `normals` draws x_T.
// Run it: ddpm-gpu kernels bench philox --cases --device NAME.

// #import index
// #import logarithm
// #import random

struct Params { samples: u32, elements: u32, blocks: u32, stream: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> key_step_sample: array<u32>;  // [4]
@group(0) @binding(2) var<storage, read_write> words: array<u32>;      // [N, E]
@group(0) @binding(3) var<storage, read_write> normals: array<f32>;    // [N, E]

override WORKGROUP: u32 = 64;

fn key() -> vec4<u32> {
    return vec4(key_step_sample[0], key_step_sample[1], key_step_sample[2], key_step_sample[3]);
}

@compute @workgroup_size(WORKGROUP)
fn integers(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.samples * params.blocks { return; }
    let n = i / params.blocks;
    let block = i % params.blocks;
    let drawn = random_words(key(), params.stream, n, block);
    for (var lane = 0u; lane < min(4u, params.elements - 4u * block); lane++) {
        words[n * params.elements + 4u * block + lane] = drawn[lane];
    }
}

@compute @workgroup_size(WORKGROUP)
fn standard_normals(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, WORKGROUP);
    if i >= params.samples * params.blocks { return; }
    let n = i / params.blocks;
    let block = i % params.blocks;
    let drawn = random_normals(key(), params.stream, n, block);
    for (var lane = 0u; lane < min(4u, params.elements - 4u * block); lane++) {
        normals[n * params.elements + 4u * block + lane] = drawn[lane];
    }
}
