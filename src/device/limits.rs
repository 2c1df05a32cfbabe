//! The limits of a device by their names, and what WebGPU promises of them on every device.

pub(super) const STORAGE_BUFFERS: &str = "storage buffers in a stage";
pub(super) const UNIFORM_BUFFERS: &str = "uniform buffers in a stage";
pub(super) const UNIFORM_BYTES: &str = "bytes in a uniform binding";
pub(super) const BINDINGS: &str = "binding numbers in a group";
pub(super) const INVOCATIONS: &str = "invocations in a workgroup";
pub(super) const INVOCATIONS_ALONG: [&str; 3] = [
    "invocations in a workgroup along x",
    "invocations in a workgroup along y",
    "invocations in a workgroup along z",
];
pub(super) const WORKGROUP_BYTES: &str = "bytes of workgroup memory";

/// The limits that kernels run into.
pub(super) fn by_name(limits: &wgpu::Limits) -> Vec<(&'static str, u64)> {
    vec![
        ("bytes in a storage binding", limits.max_storage_buffer_binding_size),
        ("bytes in a buffer", limits.max_buffer_size),
        (STORAGE_BUFFERS, limits.max_storage_buffers_per_shader_stage.into()),
        (UNIFORM_BUFFERS, limits.max_uniform_buffers_per_shader_stage.into()),
        (UNIFORM_BYTES, limits.max_uniform_buffer_binding_size),
        (BINDINGS, limits.max_bindings_per_bind_group.into()),
        (INVOCATIONS, limits.max_compute_invocations_per_workgroup.into()),
        (INVOCATIONS_ALONG[0], limits.max_compute_workgroup_size_x.into()),
        (INVOCATIONS_ALONG[1], limits.max_compute_workgroup_size_y.into()),
        (INVOCATIONS_ALONG[2], limits.max_compute_workgroup_size_z.into()),
        (WORKGROUP_BYTES, limits.max_compute_workgroup_storage_size.into()),
        ("workgroups in a dimension", limits.max_compute_workgroups_per_dimension.into()),
    ]
}

/// WebGPU's default limits, which every device offers, by the names of [`AdapterReport::limits`](super::AdapterReport).
pub fn default_limits() -> Vec<(&'static str, u64)> {
    by_name(&wgpu::Limits::default())
}
