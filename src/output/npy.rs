//! Batches of images as NumPy's `.npy` files.
//!
//! Files are written through npyz. They are read here: npyz 0.9 multiplies the sizes of a shape without a check
//! and parses a header of any depth by recursion, so that a hostile file would end the program.

use std::path::Path;

use npyz::WriterBuilder;

use super::OutputError;
use super::atomic::write_atomically;
use crate::files::read_regular;

/// Reads a batch of images `[N, C, H, W]` of float32 or float64, in C or Fortran order; returns shape and data.
///
/// # Errors
/// [`OutputError::Read`] if the file cannot be read, [`OutputError::BadFile`] if it holds something else.
pub fn read_npy(path: &Path) -> Result<([usize; 4], Vec<f32>), OutputError> {
    let bytes = read_regular(path).map_err(|source| OutputError::Read { path: path.to_owned(), source })?;
    parse(&bytes).map_err(|problem| OutputError::BadFile {
        path: path.to_owned(),
        expected: problem.expected.to_owned(),
        found: problem.found,
        advice: problem.advice.to_owned(),
    })
}

/// Writes a batch of images `[N, C, H, W]` as float32.
///
/// # Errors
/// [`OutputError::Unfit`] if `data` is not of that shape; [`OutputError::Write`] or [`OutputError::NoFile`] if
/// the file cannot be written.
pub fn write_npy(path: &Path, shape: [usize; 4], data: &[f32]) -> Result<(), OutputError> {
    if element_count(&shape) != Some(data.len()) {
        let found = format!("{} numbers for the shape {shape:?}", data.len());
        return Err(super::unfit("as many numbers as the shape has", found));
    }
    write_atomically(path, |file| {
        let shape = shape.map(|size| size as u64);
        let options = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(file);
        let mut writer = options.begin_nd()?;
        writer.extend(data.iter().copied())?;
        writer.finish()
    })
}

/// What is wrong with a file.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) expected: &'static str,
    pub(crate) found: String,
    pub(crate) advice: &'static str,
}

fn problem(expected: &'static str, found: impl Into<String>, advice: &'static str) -> Problem {
    Problem { expected, found: found.into(), advice }
}

const SAVE_IT: &str = "save it with numpy.save";
const WHOLE: &str = "the file may have been cut short: write it again";

fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1, |product: usize, &size| product.checked_mul(size))
}

/// Splits a file into its header and its data.
///
/// The format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.
pub(crate) fn split_npy(bytes: &[u8]) -> Result<(Header, &[u8]), Problem> {
    let no_npy = || problem("a .npy file", "another format", SAVE_IT);
    let (&version, rest) =
        bytes.strip_prefix(b"\x93NUMPY").and_then(|rest| rest.split_first_chunk::<2>()).ok_or_else(no_npy)?;
    let cut = || problem("a whole header", "the end of the file", WHOLE);
    // The length of the header is a u16 in version 1, a u32 from version 2 on.
    let (length, rest) = match version {
        [1, _] => {
            rest.split_first_chunk().map(|(&length, rest)| (usize::from(u16::from_le_bytes(length)), rest))
        }
        [2 | 3, _] => {
            rest.split_first_chunk().map(|(&length, rest)| (u32::from_le_bytes(length) as usize, rest))
        }
        [major, minor] => {
            return Err(problem("version 1 to 3 of the format", format!("version {major}.{minor}"), SAVE_IT));
        }
    }
    .ok_or_else(cut)?;
    let (header, data) = rest.split_at_checked(length).ok_or_else(cut)?;
    let header = Header::parse(header).ok_or_else(|| {
        problem("the header of a plain array, with descr, fortran_order and shape", "something else", SAVE_IT)
    })?;
    Ok((header, data))
}

fn parse(bytes: &[u8]) -> Result<([usize; 4], Vec<f32>), Problem> {
    let (header, data) = split_npy(bytes)?;
    let shape: [usize; 4] = header.shape.as_slice().try_into().map_err(|_| {
        let advice = "a batch of images has four dimensions: give it the missing ones with reshape";
        problem("the shape (N, C, H, W)", format!("{:?}", header.shape), advice)
    })?;
    let size = match header.descr.as_str() {
        "<f4" | ">f4" => 4,
        "<f8" | ">f8" => 8,
        other => {
            let advice = "convert it with x.astype(\"float32\")";
            return Err(problem("float32 or float64", format!("the dtype {other}"), advice));
        }
    };
    let elements = element_count(&shape).filter(|&count| count > 0);
    if elements.and_then(|count| count.checked_mul(size)) != Some(data.len()) {
        let found = format!("{} bytes for the shape {shape:?} of {}", data.len(), header.descr);
        return Err(problem("at least one number, and as many as the shape has", found, WHOLE));
    }

    let values: Vec<f32> = match header.descr.as_str() {
        "<f4" => data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        ">f4" => data.as_chunks().0.iter().map(|&bytes| f32::from_be_bytes(bytes)).collect(),
        "<f8" => data.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes) as f32).collect(),
        _ => data.as_chunks().0.iter().map(|&bytes| f64::from_be_bytes(bytes) as f32).collect(),
    };
    Ok((shape, if header.fortran_order { from_fortran(&values, shape) } else { values }))
}

/// From the order in which the first index runs fastest to that in which the last does.
fn from_fortran(values: &[f32], [n, c, h, w]: [usize; 4]) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for i in 0..n {
        for j in 0..c {
            for y in 0..h {
                out.extend((0..w).map(|x| values[i + n * (j + c * (y + h * x))]));
            }
        }
    }
    out
}

/// The header's dictionary, such as `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, 8, 8), }`.
pub(crate) struct Header {
    pub(crate) descr: String,
    pub(crate) fortran_order: bool,
    pub(crate) shape: Vec<usize>,
}

impl Header {
    /// Reads the three keys in any order; `None` for anything else.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        let mut text = Text(std::str::from_utf8(bytes).ok()?.trim());
        text.eat("{")?;
        while text.eat("}").is_none() {
            let key = text.string()?;
            text.eat(":")?;
            match key {
                "descr" => descr = Some(text.string()?.to_owned()),
                "fortran_order" => fortran_order = Some(text.boolean()?),
                "shape" => shape = Some(text.tuple()?),
                _ => return None,
            }
            if text.eat(",").is_none() && !text.0.starts_with('}') {
                return None;
            }
        }
        (text.0.is_empty()).then_some(())?;
        Some(Self { descr: descr?, fortran_order: fortran_order?, shape: shape? })
    }
}

/// What is left of the header.
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn eat(&mut self, token: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(token)?.trim_start();
        Some(())
    }

    fn string(&mut self) -> Option<&'a str> {
        let quote = self.0.chars().next().filter(|quote| "'\"".contains(*quote))?;
        let (string, rest) = self.0[1..].split_once(quote)?;
        self.0 = rest.trim_start();
        Some(string)
    }

    fn boolean(&mut self) -> Option<bool> {
        self.eat("True").map(|()| true).or_else(|| self.eat("False").map(|()| false))
    }

    fn tuple(&mut self) -> Option<Vec<usize>> {
        self.eat("(")?;
        let (numbers, rest) = self.0.split_once(')')?;
        self.0 = rest.trim_start();
        let numbers = numbers.trim();
        let numbers = numbers.strip_suffix(',').unwrap_or(numbers);
        if numbers.is_empty() {
            return Some(Vec::new());
        }
        // Python 2 wrote sizes as `3L`.
        numbers.split(',').map(|number| number.trim().trim_end_matches('L').parse().ok()).collect()
    }
}

#[cfg(test)]
mod tests;
