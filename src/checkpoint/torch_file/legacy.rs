//! What PyTorch wrote before 1.6, and writes with `_use_new_zipfile_serialization=False`: pickles in a row (a magic
//! number, the version, the system, the object, the keys of the storages), and the storages in the order of the keys.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek};

use super::values::{Storage, Values};
use super::{COPY_AGAIN, Contents, refusal_of_pickle};
use crate::pickle::{Node, Pickle};

/// The pickle of 0x1950a86a20f9469cfc6c, an integer of 80 bits.
pub(super) const MAGIC: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";
const VERSION: i64 = 1001;

/// The bytes of a file.
pub(super) struct Legacy(Vec<u8>);

pub(super) fn read(mut file: File, length: u64) -> Result<Legacy, String> {
    let damaged = |error: &dyn std::fmt::Display| format!("it cannot be read: {error}");
    file.rewind().map_err(|error| damaged(&error))?;
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(usize::try_from(length).unwrap_or(usize::MAX))
        .map_err(|error| damaged(&error))?;
    file.read_to_end(&mut bytes).map_err(|error| damaged(&error))?;
    Ok(Legacy(bytes))
}

impl Legacy {
    /// The object, and what follows it.
    fn object(&self) -> Result<(Pickle<'_>, &[u8]), String> {
        let (version, rest) = Pickle::read_first(&self.0[MAGIC.len()..]).map_err(refusal_of_pickle)?;
        if *version.node(version.root()) != Node::Int(VERSION) {
            let found = version.kind(version.root());
            return Err(format!("the version of its format is {found}; {VERSION} is read"));
        }
        let (system, rest) = Pickle::read_first(rest).map_err(refusal_of_pickle)?;
        let is_little = system.entry(system.root(), "little_endian").map(|id| system.node(id));
        if is_little == Some(&Node::Bool(false)) {
            return Err("its numbers have their most significant byte first, and the format of PyTorch before 1.6 is read \
                        where the least is first; load it in PyTorch and write it again with torch.save"
                .to_owned());
        }
        Pickle::read_first(rest).map_err(refusal_of_pickle)
    }

    /// The values, and the storages, of which the pickle says how many bytes each has.
    pub(super) fn parts(&self) -> Result<(Values<'_>, LegacyContents<'_>), String> {
        let (pickle, rest) = self.object()?;
        let values = Values::of(pickle)?;
        let known = values.storages()?;
        let (keys, mut rest) = Pickle::read_first(rest).map_err(refusal_of_pickle)?;
        let damaged = |what: &str| format!("{what}; {COPY_AGAIN}");
        let Node::List(list) = keys.node(keys.root()) else {
            return Err(damaged("the keys of its storages are no list"));
        };
        let mut found = HashMap::new();
        for &id in list {
            let storage = match keys.node(id) {
                Node::Text(key) => known.get(key.as_ref()),
                _ => None,
            };
            let Some(storage) = storage else {
                return Err(damaged("it lists a storage that no tensor of it has"));
            };
            let cut = || damaged(&format!("it ends in the middle of storage {}", storage.key.escape_debug()));
            let (length, after) = rest.split_first_chunk().ok_or_else(cut)?;
            if u64::from_le_bytes(*length) != storage.length {
                let (key, said) = (storage.key.escape_debug(), u64::from_le_bytes(*length));
                return Err(damaged(&format!(
                    "its storage {key} has {said} numbers, where the pickle says {}",
                    storage.length
                )));
            }
            let size = storage.bytes().and_then(|bytes| usize::try_from(bytes).ok());
            let (bytes, after) = size.and_then(|size| after.split_at_checked(size)).ok_or_else(cut)?;
            found.insert(storage.key.clone(), bytes);
            rest = after;
        }
        Ok((values, LegacyContents(found)))
    }
}

/// Bytes of storages by their keys.
pub(super) struct LegacyContents<'a>(HashMap<String, &'a [u8]>);

impl Contents for LegacyContents<'_> {
    fn bytes(&mut self, storage: &Storage) -> Result<(Vec<u8>, bool), String> {
        let missing = || format!("its storage {} is missing; {COPY_AGAIN}", storage.key.escape_debug());
        let bytes = self.0.get(&storage.key).ok_or_else(missing)?;
        Ok((bytes.to_vec(), false))
    }
}
