//! The numbers of an `.npy` file, read piece by piece, so that an array is held once.

use std::io::Read;

use half::f16;

use super::header::unreadable;
use super::{Header, Kind, Problem, WHOLE, problem};

/// Bytes that are read at once; a multiple of every size of an element.
const PIECE: usize = 1 << 16;

/// An empty list with room for `count` elements.
pub(crate) fn reserve<T>(count: usize) -> Result<Vec<T>, Problem> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| {
        let found = format!("one of {count} elements");
        problem("an array that memory has space for", found, "split it into several files")
    })?;
    Ok(values)
}

/// Calls `take` with each of `count` elements of `N` bytes, the least first, and its place; then the input must end.
fn each<const N: usize>(
    reader: &mut impl Read,
    header: &Header,
    count: usize,
    mut take: impl FnMut(usize, [u8; N]) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let mut piece = vec![0; PIECE];
    for first in (0..count).step_by(PIECE / N) {
        let here = (count - first).min(PIECE / N);
        let piece = &mut piece[..here * N];
        reader.read_exact(piece).map_err(unreadable)?;
        for (place, element) in piece.as_chunks::<N>().0.iter().enumerate() {
            let mut element = *element;
            if header.dtype.is_big_endian {
                element.reverse();
            }
            take(first + place, element)?;
        }
    }
    // an archive compares its checksum when it is read to the end
    match reader.read(&mut [0]).map_err(unreadable)? {
        0 => Ok(()),
        _ => Err(problem("the end of the array", "more bytes", WHOLE)),
    }
}

/// Calls `take` with each element of an array of truth values or integers, and its place.
pub(crate) fn integers(
    reader: &mut impl Read,
    header: &Header,
    count: usize,
    mut take: impl FnMut(usize, i128) -> Result<(), Problem>,
) -> Result<(), Problem> {
    match (header.dtype.kind, header.dtype.size) {
        (Kind::Bool, _) => each(reader, header, count, |i, [byte]| take(i, i128::from(byte != 0))),
        (Kind::Signed, 1) => each(reader, header, count, |i, bytes| take(i, i8::from_le_bytes(bytes).into())),
        (Kind::Signed, 2) => {
            each(reader, header, count, |i, bytes| take(i, i16::from_le_bytes(bytes).into()))
        }
        (Kind::Signed, 4) => {
            each(reader, header, count, |i, bytes| take(i, i32::from_le_bytes(bytes).into()))
        }
        (Kind::Signed, _) => {
            each(reader, header, count, |i, bytes| take(i, i64::from_le_bytes(bytes).into()))
        }
        (Kind::Unsigned, 1) => {
            each(reader, header, count, |i, bytes| take(i, u8::from_le_bytes(bytes).into()))
        }
        (Kind::Unsigned, 2) => {
            each(reader, header, count, |i, bytes| take(i, u16::from_le_bytes(bytes).into()))
        }
        (Kind::Unsigned, 4) => {
            each(reader, header, count, |i, bytes| take(i, u32::from_le_bytes(bytes).into()))
        }
        (Kind::Unsigned, _) => {
            each(reader, header, count, |i, bytes| take(i, u64::from_le_bytes(bytes).into()))
        }
        (Kind::Float, _) => {
            let found = format!("floats (dtype {})", header.dtype.name);
            Err(problem("whole numbers", found, "convert them with x.astype(\"int64\")"))
        }
    }
}

/// The elements of an array of floats, all of them finite, as float32 in C order.
pub(crate) fn floats(reader: &mut impl Read, header: &Header, count: usize) -> Result<Vec<f32>, Problem> {
    let mut values = reserve(count)?;
    let mut push = |place: usize, value: f64| {
        let single = value as f32;
        if single.is_finite() {
            values.push(single);
            return Ok(());
        }
        let range = if value.is_finite() { ", which float32 cannot hold," } else { "" };
        let found = format!("{value:?}{range} at index {:?}", header.index(place));
        Err(problem(
            "finite numbers",
            found,
            "find out where it comes from, or replace it with numpy.nan_to_num",
        ))
    };
    match header.dtype.size {
        2 => each(reader, header, count, |i, bytes| push(i, f16::from_le_bytes(bytes).into()))?,
        4 => each(reader, header, count, |i, bytes| push(i, f32::from_le_bytes(bytes).into()))?,
        _ => each(reader, header, count, |i, bytes| push(i, f64::from_le_bytes(bytes)))?,
    }
    Ok(in_c_order(values, header))
}

/// Elements as they lie in the file, brought to the order in which the last index runs fastest.
pub(crate) fn in_c_order<T: Copy>(values: Vec<T>, header: &Header) -> Vec<T> {
    if !header.fortran_order {
        return values;
    }
    let shape = &header.shape;
    let mut step = 1;
    let steps: Vec<usize> = shape
        .iter()
        .map(|size| {
            let next = step * size;
            std::mem::replace(&mut step, next)
        })
        .collect();
    let (mut index, mut place) = (vec![0; shape.len()], 0);
    let mut ordered = Vec::with_capacity(values.len());
    for _ in 0..values.len() {
        ordered.push(values[place]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            place += steps[axis];
            if index[axis] < shape[axis] {
                break;
            }
            place -= steps[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    ordered
}
