//! The header of an `.npy` file: shape, order and element type.
//!
//! The format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::io::{self, Read};

use super::{Problem, WHOLE, problem};

/// The length of the header of the files that this program writes, from the first byte to the first number.
///
/// NumPy makes it as short as a multiple of 64 can be, 128 bytes for a batch of images. Readers take spaces of any
/// number; these ones tell later that the numbers are those that the program wrote.
pub(super) const OWN_LENGTH: usize = 448;
/// The longest header that is read; NumPy itself refuses more than 10,000 bytes.
const MAX_LENGTH: usize = 1 << 20;
const SAVE_IT: &str = "save it with numpy.save";

/// What an `.npy` file says about its numbers.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) shape: Vec<usize>,
    pub(crate) fortran_order: bool,
    pub(crate) dtype: Dtype,
    /// Whether this program wrote the file.
    pub(crate) is_own: bool,
    /// Bytes before the first number.
    pub(super) length: usize,
}

/// The type of the elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dtype {
    pub(crate) kind: Kind,
    /// Bytes of an element.
    pub(crate) size: usize,
    pub(super) is_big_endian: bool,
    /// As NumPy writes it, such as `<f4`.
    pub(crate) name: String,
}

/// What the elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Unsigned,
    Signed,
    Float,
}

impl Dtype {
    /// Parses a type of numbers, or says what it is instead.
    fn parse(name: &str) -> Result<Self, String> {
        let named = |what: &str| format!("{what} (dtype {})", name.escape_default());
        let other = || named("elements that are no numbers");
        let (order, rest) = name.split_at_checked(1).ok_or_else(other)?;
        let (kind, size) = rest.split_at_checked(1).ok_or_else(other)?;
        let size: Option<usize> = size.parse().ok();
        let (kind, sizes): (Kind, &[usize]) = match kind {
            "b" => (Kind::Bool, &[1]),
            "u" => (Kind::Unsigned, &[1, 2, 4, 8]),
            "i" => (Kind::Signed, &[1, 2, 4, 8]),
            "f" => (Kind::Float, &[2, 4, 8]),
            "O" => return Err(named("Python objects, which NumPy pickles")),
            "U" | "S" | "a" => return Err(named("text")),
            "c" => return Err(named("complex numbers")),
            "M" | "m" => return Err(named("dates or times")),
            _ => return Err(other()),
        };
        let size =
            size.filter(|size| sizes.contains(size)).ok_or_else(|| named("numbers of another size"))?;
        if !["<", ">", "|", "="].contains(&order) {
            return Err(other());
        }
        Ok(Self { kind, size, is_big_endian: order == ">", name: name.to_owned() })
    }
}

impl Header {
    /// Reads a header; `what` is what the numbers are to be, and `advice` how to make such a file.
    ///
    /// # Errors
    /// [`Problem`] for another format, a header that is cut short, and elements that are no numbers.
    pub(crate) fn read(reader: &mut impl Read, what: &str, advice: &'static str) -> Result<Self, Problem> {
        let mut bytes = Vec::new();
        let mut get = |count: usize| -> Result<Vec<u8>, Problem> {
            bytes.clear();
            reader.by_ref().take(count as u64).read_to_end(&mut bytes).map_err(unreadable)?;
            if bytes.len() == count { Ok(bytes.clone()) } else { Err(cut()) }
        };
        let other_format = || problem("a .npy file", "another format", SAVE_IT);
        let magic = get(8).map_err(|_| other_format())?;
        let &[0x93, b'N', b'U', b'M', b'P', b'Y', major, minor] = magic.as_slice() else {
            return Err(other_format());
        };
        // The length is a u16 in version 1, a u32 from version 2 on.
        let width = match major {
            1 => 2,
            2 | 3 => 4,
            _ => {
                return Err(problem(
                    "version 1 to 3 of the format",
                    format!("version {major}.{minor}"),
                    SAVE_IT,
                ));
            }
        };
        let length = get(width)?.iter().rev().fold(0, |length, &byte| length << 8 | usize::from(byte));
        if length > MAX_LENGTH {
            let expected = format!("a header of at most {MAX_LENGTH} bytes");
            return Err(problem(expected, format!("one of {length} bytes"), SAVE_IT));
        }
        let text = get(length)?;
        let Dictionary { descr, fortran_order, shape } = Dictionary::parse(&text).ok_or_else(|| {
            problem(
                "the header of a plain array, with descr, fortran_order and shape",
                "something else",
                SAVE_IT,
            )
        })?;
        let descr = descr.ok_or("records of named fields").map_err(str::to_owned);
        let dtype = descr
            .and_then(|name| Dtype::parse(&name))
            .map_err(|found| problem(format!("{what} that are numbers"), found, advice))?;
        let length = 8 + width + length;
        let is_own = major == 1 && length == OWN_LENGTH && dtype.name == "<f4" && !fortran_order;
        Ok(Self { shape, fortran_order, dtype, is_own, length })
    }

    /// The header of a file of this program, for float32 in C order.
    pub(super) fn own(shape: [usize; 4]) -> Vec<u8> {
        let [n, c, h, w] = shape;
        let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({n}, {c}, {h}, {w}), }}");
        let start = b"\x93NUMPY\x01\x00";
        let length = OWN_LENGTH - start.len() - 2;
        let text = format!("{text:width$}\n", width = length - 1);
        [start.as_slice(), &(length as u16).to_le_bytes(), text.as_bytes()].concat()
    }

    /// The number of elements, of which a file of `length` bytes has neither more nor fewer.
    pub(crate) fn count(&self, length: u64, what: &str) -> Result<usize, Problem> {
        let count = self.shape.iter().try_fold(1, |count: usize, &size| count.checked_mul(size));
        let bytes = count.and_then(|count| count.checked_mul(self.dtype.size)).map(|bytes| bytes as u64);
        let rest = length.saturating_sub(self.length as u64);
        if bytes != Some(rest) {
            let found = format!("{rest} bytes for the shape {:?} of {}", self.shape, self.dtype.name);
            let advice = match bytes {
                Some(bytes) if bytes < rest => "the file holds more than its header says: write it again",
                _ => WHOLE,
            };
            return Err(problem(format!("{what}, as many as their shape has"), found, advice));
        }
        Ok(count.unwrap_or(0))
    }

    /// The index of an element, such as `[0, 2, 7, 7]`, from its place in the file.
    pub(crate) fn index(&self, mut place: usize) -> Vec<usize> {
        let mut index = vec![0; self.shape.len()];
        let mut set = |axis: usize| {
            let size = self.shape[axis].max(1);
            index[axis] = place % size;
            place /= size;
        };
        if self.fortran_order {
            (0..self.shape.len()).for_each(&mut set);
        } else {
            (0..self.shape.len()).rev().for_each(&mut set);
        }
        index
    }
}

fn cut() -> Problem {
    problem("a whole header", "the end of the file", WHOLE)
}

/// What reading fails with, where bytes were to come.
pub(super) fn unreadable(error: io::Error) -> Problem {
    let found = match error.kind() {
        io::ErrorKind::UnexpectedEof => "the end of the file".to_owned(),
        _ => error.to_string(),
    };
    problem("a whole array", found, WHOLE)
}

/// The header's dictionary, such as `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, 8, 8), }`.
struct Dictionary {
    /// `None` for a list of fields.
    descr: Option<String>,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl Dictionary {
    /// Reads the three keys in any order; `None` for anything else.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        let mut text = Text(std::str::from_utf8(bytes).ok()?.trim());
        text.eat("{")?;
        while text.eat("}").is_none() {
            let key = text.string()?;
            text.eat(":")?;
            match key {
                "descr" => descr = Some(text.string_or_fields()?),
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

    /// A string; or `None` in place of a list of fields, which is passed over.
    fn string_or_fields(&mut self) -> Option<Option<String>> {
        if !self.0.starts_with('[') {
            return Some(Some(self.string()?.to_owned()));
        }
        let mut depth = 0_usize;
        let end = self.0.find(|letter| {
            match letter {
                '[' => depth += 1,
                ']' => depth -= 1,
                _ => {}
            }
            depth == 0
        })?;
        self.0 = self.0[end + 1..].trim_start();
        Some(None)
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
