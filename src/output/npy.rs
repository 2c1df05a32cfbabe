//! Arrays as NumPy's `.npy` files.
//!
//! They are read here rather than through npyz 0.9, which multiplies the sizes of a shape without a check and parses a
//! header of any depth by recursion, so that a hostile file would end the program.

mod elements;
mod header;

use std::io::{BufReader, Write};
use std::path::Path;

pub(crate) use elements::{floats, in_c_order, integers, reserve};
pub(crate) use header::{Header, Kind};

use super::OutputError;
use super::atomic::write_atomically;
use crate::files::open_regular;

/// What is wrong with a file: what was expected, what is there, what to do.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) expected: String,
    pub(crate) found: String,
    pub(crate) advice: &'static str,
}

pub(crate) fn problem(
    expected: impl Into<String>,
    found: impl Into<String>,
    advice: &'static str,
) -> Problem {
    Problem { expected: expected.into(), found: found.into(), advice }
}

pub(crate) const WHOLE: &str = "the file may have been cut short: write it again";
const TO_FLOAT: &str = "give floats in the range of the network, where images are -1 to 1: of uint8, \
    x.astype(\"float32\") / 127.5 - 1";

/// Reads a batch `[N, C, H, W]` of finite floats, as the network takes or gives them; returns shape and data.
///
/// Values are not brought to another range: images are read elsewhere.
///
/// # Errors
/// [`OutputError::Read`] if the file cannot be read, [`OutputError::BadFile`] if it holds something else.
pub fn read_npy(path: &Path) -> Result<([usize; 4], Vec<f32>), OutputError> {
    let unreadable = |source| OutputError::Read { path: path.to_owned(), source };
    let bad = |Problem { expected, found, advice }| OutputError::BadFile {
        path: path.to_owned(),
        expected,
        found,
        advice: advice.to_owned(),
    };
    let (file, length) = open_regular(path).map_err(unreadable)?;
    parse(&mut BufReader::new(file), length).map_err(bad)
}

/// Writes a batch `[N, C, H, W]` of the network's numbers as float32.
///
/// The header is longer than it need be, by which the file is known when it is read as images: its numbers are then
/// taken as they are.
///
/// # Errors
/// [`OutputError::Unfit`] if `data` is not of that shape; [`OutputError::Write`] or [`OutputError::NoFile`] if
/// the file cannot be written.
pub fn write_npy(path: &Path, shape: [usize; 4], data: &[f32]) -> Result<(), OutputError> {
    let count = shape.iter().try_fold(1, |count: usize, &size| count.checked_mul(size));
    if count != Some(data.len()) {
        let found = format!("{} numbers for the shape {shape:?}", data.len());
        return Err(super::unfit("as many numbers as the shape has", found));
    }
    write_atomically(path, |file| {
        file.write_all(&Header::own(shape))?;
        data.iter().try_for_each(|value| file.write_all(&value.to_le_bytes()))
    })
}

fn parse(reader: &mut impl std::io::Read, length: u64) -> Result<([usize; 4], Vec<f32>), Problem> {
    let header = Header::read(reader, "a batch of floats", TO_FLOAT)?;
    let shape: [usize; 4] = header.shape.as_slice().try_into().map_err(|_| {
        let advice = "a batch of images has four dimensions: give it the missing ones with reshape";
        problem("the shape (N, C, H, W)", format!("{:?}", header.shape), advice)
    })?;
    if header.dtype.kind != Kind::Float {
        let found = format!("the dtype {}", header.dtype.name);
        return Err(problem("floats, in the range that the network takes", found, TO_FLOAT));
    }
    let count = header.count(length, "a batch of floats")?;
    if count == 0 {
        return Err(problem(
            "at least one number",
            format!("the shape {shape:?}"),
            "write it again with images in it",
        ));
    }
    Ok((shape, floats(reader, &header, count)?))
}

#[cfg(test)]
mod tests;
