// Position of an invocation in a one-dimensional grid that may be folded into two dimensions, because WebGPU allows
// at most 65,535 workgroups in each.

fn flat_workgroup(workgroup: vec3<u32>, workgroups: vec3<u32>) -> u32 {
    return workgroup.x + workgroup.y * workgroups.x;
}

fn flat_index(workgroup: vec3<u32>, workgroups: vec3<u32>, local: u32, workgroup_size: u32) -> u32 {
    return flat_workgroup(workgroup, workgroups) * workgroup_size + local;
}
