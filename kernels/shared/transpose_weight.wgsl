// Weights [columns, taps, depth] of the forward product transposed to [depth, taps, columns], so that the gradient of the
// input sums over neighbouring numbers. One invocation turns a block of 4 x 4.

@compute @workgroup_size(WORKGROUP)
fn transpose_weight(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
               @builtin(local_invocation_index) local: u32) {
    let index = flat_index(workgroup, workgroups, local, WORKGROUP);
    let product = forward_product();
    let i_quads = product.depth / 4u;
    let o_quads = product.columns / 4u;
    let row = index / i_quads;
    let i_quad = index % i_quads;
    let o_quad = row / product.taps;
    let tap = row % product.taps;
    if o_quad >= o_quads { return; }
    let source_stride = product.taps * i_quads;
    let source = o_quad * 4u * source_stride + tap * i_quads + i_quad;
    let v0 = weight_vec4[source];
    let v1 = weight_vec4[source + source_stride];
    let v2 = weight_vec4[source + 2u * source_stride];
    let v3 = weight_vec4[source + 3u * source_stride];
    let target_stride = product.taps * o_quads;
    let target_at = i_quad * 4u * target_stride + tap * o_quads + o_quad;
    transposed_weight_vec4[target_at] = vec4(v0.x, v1.x, v2.x, v3.x);
    transposed_weight_vec4[target_at + target_stride] = vec4(v0.y, v1.y, v2.y, v3.y);
    transposed_weight_vec4[target_at + 2u * target_stride] = vec4(v0.z, v1.z, v2.z, v3.z);
    transposed_weight_vec4[target_at + 3u * target_stride] = vec4(v0.w, v1.w, v2.w, v3.w);
}
