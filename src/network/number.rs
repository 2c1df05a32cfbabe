//! Numbers as Python writes them into configurations.

use serde::{Serialize, Serializer};

/// Python's libraries write 1 where serde_json would write 1.0, and diffusers compares configurations as text.
pub(crate) fn whole_as_integer<T, S>(value: &T, serializer: S) -> Result<S::Ok, S::Error>
where
    T: Copy + Into<f64> + Serialize,
    S: Serializer,
{
    let wide: f64 = (*value).into();
    if wide.fract() == 0.0 { serializer.serialize_i64(wide as i64) } else { value.serialize(serializer) }
}
