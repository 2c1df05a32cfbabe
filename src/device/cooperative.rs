//! Whether an adapter multiplies the cooperative matrices that `product_cooperative.wgsl` is written in.

use wgpu::{CooperativeMatrixProperties, CooperativeScalarType};

/// Rows and depth of A, columns of B, and the element types: the sizes and types of `product_cooperative.wgsl`, which a
/// test compares with the WGSL. wgpu lists only matrices that a subgroup holds together, as the kernels want them.
const NEEDED: CooperativeMatrixProperties = CooperativeMatrixProperties {
    m_size: 8,
    n_size: 8,
    k_size: 8,
    ab_type: CooperativeScalarType::F32,
    cr_type: CooperativeScalarType::F32,
    saturating_accumulation: false,
};

/// Lanes of the subgroups that `product_cooperative.wgsl` divides its workgroups into.
const LANES: u32 = 32;

/// Sizes and types in words.
pub(super) fn describe(matrices: &CooperativeMatrixProperties) -> String {
    let scalar = |ty| match ty {
        CooperativeScalarType::F32 => "f32",
        CooperativeScalarType::F16 => "f16",
        CooperativeScalarType::I32 => "i32",
        CooperativeScalarType::U32 => "u32",
    };
    let CooperativeMatrixProperties { m_size, n_size, k_size, ab_type, cr_type, .. } = *matrices;
    format!("{m_size}x{n_size}x{k_size} of {} with sums in {}", scalar(ab_type), scalar(cr_type))
}

/// What an adapter of these features, with these matrices, lacks to run the kernels, in words.
pub(super) fn lacks(
    features: wgpu::Features,
    info: &wgpu::AdapterInfo,
    matrices: &[CooperativeMatrixProperties],
) -> Option<String> {
    let is_needed = |listed: &CooperativeMatrixProperties| {
        // Saturation is about integers.
        CooperativeMatrixProperties { saturating_accumulation: false, ..*listed } == NEEDED
    };
    if !features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) || !matrices.iter().any(is_needed)
    {
        let listed: Vec<String> = matrices.iter().map(describe).collect();
        let listed = if listed.is_empty() { "none".to_owned() } else { listed.join(", ") };
        return Some(format!("the kernels need matrices of {}, and it lists {listed}", describe(&NEEDED)));
    }
    // Metal states no subgroup size, but its SIMD-groups that hold matrices are of 32.
    let lanes = [info.subgroup_min_size, info.subgroup_max_size];
    let has_lanes = info.backend == wgpu::Backend::Metal || lanes == [LANES, LANES];
    if !features.contains(wgpu::Features::SUBGROUP) || !has_lanes {
        return Some(format!(
            "the kernels need subgroups of {LANES} lanes, and its subgroups have {} to {}",
            lanes[0], lanes[1]
        ));
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use naga::{CooperativeRole, TypeInner};

    use super::*;
    use crate::device::shader::{Extensions, Shader};
    use crate::graph::DType;
    use crate::ops;

    const ALL: wgpu::Features =
        wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SUBGROUP);

    fn adapter(backend: wgpu::Backend, lanes: [u32; 2]) -> wgpu::AdapterInfo {
        let mut info = wgpu::AdapterInfo::new(wgpu::DeviceType::DiscreteGpu, backend);
        [info.subgroup_min_size, info.subgroup_max_size] = lanes;
        info
    }

    fn matrices(
        size: u32,
        ab_type: CooperativeScalarType,
        cr_type: CooperativeScalarType,
    ) -> CooperativeMatrixProperties {
        CooperativeMatrixProperties { m_size: size, n_size: size, k_size: size, ab_type, cr_type, ..NEEDED }
    }

    #[test]
    fn only_the_very_sizes_and_types_will_do() {
        use CooperativeScalarType::{F16, F32};
        let vulkan = adapter(wgpu::Backend::Vulkan, [32, 32]);
        let (tensor_cores, mixed) = (matrices(16, F16, F32), matrices(8, F16, F32));
        let f32 = matrices(8, F32, F32);
        assert_eq!(lacks(ALL, &vulkan, &[tensor_cores, mixed, f32]), None);
        let saturating = CooperativeMatrixProperties { saturating_accumulation: true, ..f32 };
        assert_eq!(lacks(ALL, &vulkan, &[saturating]), None);
        // What NVIDIA's and AMD's drivers list over Vulkan.
        let message = lacks(ALL, &vulkan, &[tensor_cores, mixed]).unwrap();
        assert!(message.contains("need matrices of 8x8x8 of f32 with sums in f32"), "{message}");
        assert!(
            message.ends_with("lists 16x16x16 of f16 with sums in f32, 8x8x8 of f16 with sums in f32"),
            "{message}"
        );
        for near in [
            matrices(16, F32, F32),
            matrices(8, F32, F16),
            CooperativeMatrixProperties { k_size: 16, ..f32 },
            CooperativeMatrixProperties { m_size: 16, ..f32 },
            CooperativeMatrixProperties { n_size: 16, ..f32 },
        ] {
            assert!(lacks(ALL, &vulkan, &[near]).is_some(), "{near:?}");
        }
        assert!(lacks(ALL, &vulkan, &[]).unwrap().ends_with("and it lists none"));
        assert!(lacks(wgpu::Features::SUBGROUP, &vulkan, &[f32]).is_some(), "without the feature");
    }

    #[test]
    fn subgroups_must_be_of_32_lanes() {
        let f32 = [NEEDED];
        let message = lacks(ALL, &adapter(wgpu::Backend::Vulkan, [32, 64]), &f32).unwrap();
        assert!(message.contains("need subgroups of 32 lanes, and its subgroups have 32 to 64"), "{message}");
        assert_eq!(lacks(ALL, &adapter(wgpu::Backend::Metal, [4, 64]), &f32), None);
        let without = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        assert!(lacks(without, &adapter(wgpu::Backend::Vulkan, [32, 32]), &f32).is_some());
    }

    /// Adapters are asked for exactly the types that naga finds in the ops.
    #[test]
    fn the_sizes_and_types_are_those_of_the_kernels() {
        let [m, n, k] = [NEEDED.m_size, NEEDED.n_size, NEEDED.k_size];
        let mut found = BTreeSet::new();
        for op_file in ops::ALL {
            let shader = Shader::load(op_file, DType::F32, Extensions::ALL).unwrap();
            let (module, info) = shader.module();
            let types = module.entry_points.iter().enumerate().flat_map(|(index, entry)| {
                let info = info.get_entry_point(index);
                entry
                    .function
                    .expressions
                    .iter()
                    .map(move |(handle, _)| info[handle].ty.inner_with(&module.types))
            });
            for ty in types {
                let &TypeInner::CooperativeMatrix { columns, rows, scalar, role } = ty else { continue };
                let size = match role {
                    CooperativeRole::A => [m, k],
                    CooperativeRole::B => [k, n],
                    CooperativeRole::C => [m, n],
                };
                assert_eq!([rows as u32, columns as u32], size, "{} {role:?}", op_file.name);
                assert_eq!(scalar, naga::Scalar::F32, "{} {role:?}", op_file.name);
                found.insert(format!("{role:?}"));
            }
        }
        assert_eq!(found.into_iter().collect::<String>(), "ABC");
    }
}
