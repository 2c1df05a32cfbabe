//! What WebGPU promises on every device, as far as graphs and plans are laid out by it.
//!
//! This is the lowest layer: it knows nothing of graphs, and graphs know nothing else of devices.

/// Bytes of the largest part of a buffer that a kernel can be given.
pub const MAX_BINDING_BYTES: usize = 128 << 20;

/// Bytes of the largest buffer.
pub const MAX_BUFFER_BYTES: usize = 256 << 20;

/// What is bound starts at a multiple of this many bytes within its buffer.
pub const BINDING_ALIGNMENT: usize = 256;

/// Timestamps in a query set, at most.
pub const MAX_QUERIES: usize = 4096;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_webgpus() {
        let limits = wgpu::Limits::default();
        assert_eq!(MAX_BINDING_BYTES as u64, limits.max_storage_buffer_binding_size);
        assert_eq!(MAX_BUFFER_BYTES as u64, limits.max_buffer_size);
        assert_eq!(BINDING_ALIGNMENT as u32, limits.min_storage_buffer_offset_alignment);
        assert_eq!(BINDING_ALIGNMENT as u32, limits.min_uniform_buffer_offset_alignment);
        assert_eq!(MAX_QUERIES as u32, wgpu::QUERY_SET_MAX_QUERIES);
    }
}
