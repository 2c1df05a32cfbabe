//! Files of `torch.save`, read without running anything that is in them.
//!
//! Such a file is a pickle, a program for Python, and the contents of storages beside it: members of a zip archive
//! since PyTorch 1.6 ([`archive`]), one after the other before that ([`legacy`]). What is understood of the pickle are
//! containers and tensors ([`values`]); whatever else it imports or does is refused by its name.
//!
//! Source: `torch/serialization.py`, `torch/_utils.py` and `torch/storage.py` of PyTorch.

mod archive;
mod choice;
mod elements;
mod legacy;
mod values;

use std::io::Read;
use std::path::Path;

use self::choice::choose;
use self::values::{Storage, Values, brief};
use super::{COPY_AGAIN, CheckpointError, foreign};
use crate::files::open_regular;
use crate::network::{Tensor, Tensors};
use crate::pickle::PickleError;

/// What to do with a file that is refused for more than tensors.
const WRITE_AGAIN: &str = "nothing in it was run. Where you trust the file, write its tensors alone in Python: found = \
                           torch.load(FILE, weights_only=False), then torch.save(STATE_DICT, NEW_FILE)";

/// Why a pickle that cannot be read is refused.
fn refusal_of_pickle(error: PickleError) -> String {
    format!("its pickle has {error}; {WRITE_AGAIN}")
}

/// The least that tensors may take, whatever the length of their file, in bytes.
const SMALL: u64 = 1 << 20;
/// How many times the length of its file tensors may take: 16 bits become 32, and a storage may be that of several.
const MOST_TIMES: u64 = 8;

/// Where the contents of storages lie.
trait Contents {
    /// The bytes of a storage, and whether the most significant of a number's bytes comes first.
    fn bytes(&mut self, storage: &Storage) -> Result<(Vec<u8>, bool), String>;
}

/// Reads the tensors of the state dict in a file, whose numbers must be finite: the one at `key`, such as `ema` or
/// `state.model`, or the obvious one. Numbers are widened or rounded to 32-bit floats. `notes` gets what was assumed
/// and what was left out.
///
/// # Errors
/// [`CheckpointError::Invalid`] that names what is refused.
pub(super) fn read(
    path: &Path,
    key: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<Tensors, CheckpointError> {
    let (mut file, length) = open_regular(path).map_err(CheckpointError::read(path))?;
    let mut head = Vec::new();
    (&mut file)
        .take(legacy::MAGIC.len() as u64)
        .read_to_end(&mut head)
        .map_err(CheckpointError::read(path))?;
    let mut said = Vec::new();
    let read = if head.starts_with(b"PK") {
        archive::read(file, length).and_then(|(pickle, mut contents)| {
            tensors(&Values::read(&pickle)?, key, length, &mut contents, &mut said)
        })
    } else if head == legacy::MAGIC {
        legacy::read(file, length).and_then(|file| {
            let (values, mut contents) = file.parts()?;
            tensors(&values, key, length, &mut contents, &mut said)
        })
    } else {
        Err(foreign::of_contents(path).unwrap_or_else(|| {
            format!(
                "this is no file of torch.save: it begins neither as a zip archive nor as PyTorch before 1.6 wrote; \
                 {COPY_AGAIN}"
            )
        }))
    };
    notes.extend(said.into_iter().map(|note| format!("{}: {note}", path.display())));
    read.map_err(|message| CheckpointError::invalid(path, message))
}

/// The tensors of a state dict among the values of a file of `length` bytes.
fn tensors(
    values: &Values<'_>,
    key: Option<&str>,
    length: u64,
    contents: &mut dyn Contents,
    notes: &mut Vec<String>,
) -> Result<Tensors, String> {
    let mut chosen = choose(values, key, notes)?;
    let most = (MOST_TIMES * length).max(SMALL);
    let elements = chosen.iter().try_fold(0u64, |sum, (_, view)| sum.checked_add(view.elements));
    if elements.and_then(|elements| elements.checked_mul(4)).is_none_or(|bytes| bytes > most) {
        return Err(format!(
            "its tensors together would take more than {most} bytes, which is much more than the file has: it is damaged, \
             or a few numbers are spread over large tensors; store them with .contiguous()"
        ));
    }
    let mut names: Vec<&str> = chosen.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("it has two tensors called {}; {COPY_AGAIN}", brief(twice[0])));
    }
    // A storage is read once for all tensors in it.
    chosen.sort_by(|(_, left), (_, right)| left.storage.key.cmp(&right.storage.key));
    let mut last: Option<(Storage, Vec<u8>, bool)> = None;
    let (mut tensors, mut rounded) = (Tensors::new(), Vec::new());
    for (name, view) in chosen {
        if last.as_ref().is_none_or(|(storage, ..)| *storage != view.storage) {
            let (bytes, is_big_endian) = contents.bytes(&view.storage)?;
            last = Some((view.storage.clone(), bytes, is_big_endian));
        }
        let Some((storage, bytes, is_big_endian)) = &last else { continue };
        let mut is_rounded = false;
        let mut data = Vec::new();
        data.try_reserve_exact(view.elements as usize)
            .map_err(|_| format!("there is no memory for the tensor {name} {:?}", view.shape))?;
        view.each(|index| {
            let wide = storage.element.value(bytes, index, *is_big_endian);
            let narrow = wide as f32;
            is_rounded |= f64::from(narrow) != wide && wide.is_finite();
            data.push(narrow);
        });
        let tensor = Tensor { shape: view.shape, data };
        if let Some((index, value)) = tensor.find(|value| !value.is_finite()) {
            return Err(format!(
                "the tensor {name} has {value} at {index:?} as a 32-bit float, which is no number to go on with; take \
                 earlier weights, or copy the file again"
            ));
        }
        if is_rounded {
            rounded.push(name);
        }
        tensors.insert(name.to_owned(), tensor);
    }
    if let Some(first) = rounded.first() {
        let count = rounded.len();
        notes.push(format!("the numbers of {count} tensors, such as {first}, are rounded to 32-bit floats"));
    }
    Ok(tensors)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
