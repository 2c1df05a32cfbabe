//! What a kernel takes of a device's limits, by reflection.

use naga::{AddressSpace, TypeInner};

use crate::device::DeviceError;
use crate::device::limits::{
    BINDINGS, INVOCATIONS, INVOCATIONS_ALONG, STORAGE_BUFFERS, UNIFORM_BUFFERS, UNIFORM_BYTES,
    WORKGROUP_BYTES,
};
use crate::device::shader::{Extensions, Shader, Usage};
use crate::ops::{Op, Pass, Types};

/// What a pass takes of a device's limits, with its overrides applied, by the names of [`default_limits`](crate::device::default_limits).
///
/// # Errors
/// [`DeviceError::Shader`] for WGSL that does not compile.
pub fn footprint(
    op: &dyn Op,
    types: Types<'_>,
    pass: &Pass,
) -> Result<Vec<(&'static str, u64)>, DeviceError> {
    let shader = Shader::load(op.file(), types.activation(), Extensions::ALL)?;
    let bindings = shader.bindings(pass.entry)?;
    let uniforms = bindings.iter().filter(|binding| binding.usage == Usage::Params).count();
    let numbers = bindings.iter().map(|binding| binding.index + 1).max().unwrap_or(0);
    let size = shader.workgroup_size(pass)?;
    let (module, info) = shader.resolved(pass)?;
    let used = info.get_entry_point(0);
    let mut workgroup_bytes = 0;
    for (handle, variable) in module.global_variables.iter() {
        if variable.space != AddressSpace::WorkGroup || used[handle].is_empty() {
            continue;
        }
        let inner: &TypeInner = &module.types[variable.ty].inner;
        // Drivers may pad each variable to 16 bytes, and WebGPU counts it so.
        workgroup_bytes += u64::from(inner.size(module.to_ctx())).next_multiple_of(16);
    }
    let mut taken = vec![
        (STORAGE_BUFFERS, (bindings.len() - uniforms) as u64),
        (UNIFORM_BUFFERS, uniforms as u64),
        (UNIFORM_BYTES, shader.params(pass)?.len() as u64),
        (BINDINGS, numbers.into()),
        (INVOCATIONS, size.iter().map(|&along| u64::from(along)).product()),
        (WORKGROUP_BYTES, workgroup_bytes),
    ];
    taken.extend(INVOCATIONS_ALONG.into_iter().zip(size.map(u64::from)));
    Ok(taken)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::device::default_limits;
    use crate::ops;

    /// Two tiles of 32 rows and one unit of padding, by 16 steps, in units of four floats.
    #[test]
    fn a_footprint_counts_workgroup_memory_with_overrides() {
        let cases = ops::linear::cases();
        let case = cases
            .iter()
            .find(|case| case.op.name() == "linear.forward" && case.name == "time embedding")
            .unwrap();
        let (inputs, outputs) = (case.input_types(), case.output_types().unwrap());
        let types = Types { inputs: &inputs, outputs: &outputs };
        let variants = case.op.variants(types);
        let variant = variants.iter().find(|variant| variant.name == "forward_workgroup_32").unwrap();
        let taken = footprint(case.op.as_ref(), types, &variant.passes[0]).unwrap();
        let of = |name: &str| taken.iter().find(|(known, _)| *known == name).unwrap().1;
        assert_eq!(of(WORKGROUP_BYTES), 2 * 16 * (32 / 4 + 1) * 16);
        assert_eq!((of(INVOCATIONS), of(INVOCATIONS_ALONG[1]), of(STORAGE_BUFFERS)), (64, 8, 4));
    }

    #[test]
    fn everything_taken_has_a_limit() {
        let case = &ops::silu::cases()[0];
        let (inputs, outputs) = (case.input_types(), case.output_types().unwrap());
        let types = Types { inputs: &inputs, outputs: &outputs };
        let pass = &case.op.variants(types)[0].passes[0];
        for (name, _) in footprint(case.op.as_ref(), types, pass).unwrap() {
            assert!(default_limits().iter().any(|(limit, _)| *limit == name), "{name}");
        }
    }
}
