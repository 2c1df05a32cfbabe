//! The types of numbers that storages hold.

/// A type of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
}

/// The classes of storages in the module `torch`, and what they hold; truth values are 0 and 1.
pub(super) const STORAGES: [(&str, Element); 10] = [
    ("DoubleStorage", Element::F64),
    ("FloatStorage", Element::F32),
    ("HalfStorage", Element::F16),
    ("BFloat16Storage", Element::Bf16),
    ("LongStorage", Element::I64),
    ("IntStorage", Element::I32),
    ("ShortStorage", Element::I16),
    ("CharStorage", Element::I8),
    ("ByteStorage", Element::U8),
    ("BoolStorage", Element::U8),
];

impl Element {
    /// Bytes of a number.
    pub(super) fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 => 1,
        }
    }

    /// Number `index` of a storage that holds it. Integers of more than 53 bits are rounded.
    pub(super) fn value(self, bytes: &[u8], index: usize, is_big_endian: bool) -> f64 {
        match self {
            Self::F64 => f64::from_le_bytes(number(bytes, index, is_big_endian)),
            Self::F32 => f32::from_le_bytes(number(bytes, index, is_big_endian)).into(),
            Self::F16 => half::f16::from_le_bytes(number(bytes, index, is_big_endian)).into(),
            Self::Bf16 => half::bf16::from_le_bytes(number(bytes, index, is_big_endian)).into(),
            Self::I64 => i64::from_le_bytes(number(bytes, index, is_big_endian)) as f64,
            Self::I32 => i32::from_le_bytes(number(bytes, index, is_big_endian)).into(),
            Self::I16 => i16::from_le_bytes(number(bytes, index, is_big_endian)).into(),
            Self::I8 => i8::from_le_bytes(number(bytes, index, is_big_endian)).into(),
            Self::U8 => bytes[index].into(),
        }
    }
}

/// The bytes of a number, the least significant first.
fn number<const N: usize>(bytes: &[u8], index: usize, is_big_endian: bool) -> [u8; N] {
    let mut number = [0; N];
    number.copy_from_slice(&bytes[index * N..][..N]);
    if is_big_endian {
        number.reverse();
    }
    number
}
