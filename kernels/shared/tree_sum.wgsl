// The sum of a term of each invocation of a workgroup, in all of them: `// #import tree_sum TERM=f32`, or vec2<f32>.
// A tree in workgroup memory, so the order of the additions never changes. WORKGROUP, the importing op's number of
// invocations, is a power of two. All invocations of the workgroup must come here together.

var<workgroup> tree: array<TERM, WORKGROUP>;

fn tree_sum(term: TERM, local: u32) -> TERM {
    workgroupBarrier();  // the previous sum has been read
    tree[local] = term;
    for (var stride = WORKGROUP / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if local < stride { tree[local] += tree[local + stride]; }
    }
    workgroupBarrier();
    return tree[0];
}
