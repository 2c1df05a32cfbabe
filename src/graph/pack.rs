//! Values laid end to end, so that one dispatch can walk all of them.

use super::{BufferRole, DType, Graph, GraphError, Storage, TensorType, ValueId};
use crate::device::webgpu::{BINDING_ALIGNMENT, MAX_BINDING_BYTES};

/// Flat buffers are bound whole.
pub(super) const MAX_PACKED_ELEMENTS: usize = MAX_BINDING_BYTES / 4;

/// And their parts one by one.
const PACK_ALIGNMENT: usize = BINDING_ALIGNMENT / 4;

impl Graph {
    /// Packs values end to end into as few flat state values as WebGPU's binding limit allows.
    ///
    /// The values become slices of the flat ones, so that one dispatch can walk all of them. Packing two lists of
    /// the same shapes gives the same offsets: that is how weights, gradients and moments line up.
    ///
    /// # Errors
    /// [`GraphError::Pack`] for a value that is already a slice or an input, or is over the limit by itself.
    pub fn pack(
        &mut self,
        name: &str,
        values: &[ValueId],
        role: BufferRole,
    ) -> Result<Vec<ValueId>, GraphError> {
        let mut lengths = vec![0];
        let mut slices = Vec::new();
        for &id in values {
            let value = self.value(id);
            let fault = match value.storage {
                Storage::Slice { .. } => Some("it is part of another one already".to_owned()),
                Storage::Input => Some("it is an input".to_owned()),
                _ if value.ty.dtype != DType::F32 => Some("its elements are not f32".to_owned()),
                _ if value.ty.len() > MAX_PACKED_ELEMENTS => Some(format!(
                    "its shape {:?} takes more than {} MiB",
                    value.ty.shape,
                    MAX_BINDING_BYTES >> 20
                )),
                _ => None,
            };
            if let Some(reason) = fault {
                return Err(GraphError::Pack { name: value.name.clone(), reason });
            }
            let padded = value.ty.len().next_multiple_of(PACK_ALIGNMENT);
            let last = lengths.len() - 1;
            if lengths[last] + padded > MAX_PACKED_ELEMENTS {
                lengths.push(0);
            }
            let last = lengths.len() - 1;
            slices.push((last, lengths[last]));
            lengths[last] += padded;
        }
        let flat: Vec<ValueId> =
            lengths.iter().map(|&length| self.state(name, TensorType::f32([length]), role)).collect();
        for (&id, (index, offset)) in values.iter().zip(slices) {
            self.set_storage(id, Storage::Slice { of: flat[index], offset });
        }
        Ok(flat)
    }
}
