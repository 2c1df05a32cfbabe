//! The zip archive that PyTorch writes since 1.6: `NAME/data.pkl`, and the storages as `NAME/data/KEY`.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Read, Seek};

use zip::{CompressionMethod, ZipArchive};

use super::values::Storage;
use super::{COPY_AGAIN, Contents};

/// An archive, from which storages are read one at a time.
pub(super) struct Archive {
    zip: ZipArchive<BufReader<File>>,
    /// The file's length in bytes, which nothing in it exceeds.
    length: u64,
    /// What all names begin with.
    root: String,
    is_big_endian: bool,
    /// How many bytes of members were read.
    read: u64,
}

/// The pickle of an archive, and the rest.
pub(super) fn read(mut file: File, length: u64) -> Result<(Vec<u8>, Archive), String> {
    let damaged = |error: &dyn std::fmt::Display| {
        format!("this is no whole file of torch.save ({error}); {COPY_AGAIN}")
    };
    file.rewind().map_err(|error| damaged(&error))?;
    let zip = ZipArchive::new(BufReader::new(file)).map_err(|error| damaged(&error))?;
    let names: Vec<String> = zip.file_names().flatten().map(Cow::into_owned).collect();
    let ends = |ending: &str| names.iter().any(|name| name.ends_with(ending));
    if ends("/constants.pkl") {
        return Err("this is a program of TorchScript (torch.jit.save); write its weights with \
                    torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)"
            .to_owned());
    }
    let roots: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix("/data.pkl")).collect();
    let [root] = roots[..] else {
        let what =
            if ends(".npy") { "it is an archive of NumPy" } else { "there is no single data.pkl in it" };
        return Err(format!(
            "this is a zip archive, but not one of torch.save: {what}; write it with torch.save"
        ));
    };
    let root = root.to_owned();
    let mut archive = Archive { zip, length, root, is_big_endian: false, read: 0 };
    let has_order = names.contains(&archive.name("byteorder"));
    if has_order {
        archive.is_big_endian = match archive.member("byteorder")?.as_slice() {
            b"little" => false,
            b"big" => true,
            other => {
                let other = String::from_utf8_lossy(&other[..other.len().min(16)]).into_owned();
                return Err(format!("its byte order is {other:?}; little and big are known"));
            }
        };
    }
    Ok((archive.member("data.pkl")?, archive))
}

impl Archive {
    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.root)
    }

    /// The contents of a member, which is no longer than the file, and whose checksum is right.
    fn member(&mut self, name: &str) -> Result<Vec<u8>, String> {
        let (name, length) = (self.name(name), self.length);
        let shown = name.escape_debug().to_string();
        let damaged = |error: &dyn std::fmt::Display| {
            format!("its part {shown} cannot be read ({error}); {COPY_AGAIN}")
        };
        let member = self.zip.by_name(&name).map_err(|error| damaged(&error))?;
        if member.compression() != CompressionMethod::Stored {
            return Err(format!(
                "its part {shown} is compressed, which torch.save never does; write it again with torch.save"
            ));
        }
        let size = member.size();
        // Members that lie one in the other would have more bytes in all than their file.
        self.read = self.read.saturating_add(size);
        if self.read > length {
            return Err(damaged(&format!("with {} bytes in all, in a file of {length}", self.read)));
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size as usize).map_err(|error| damaged(&error))?;
        // One byte more, since the checksum is compared where the member ends.
        member.take(size + 1).read_to_end(&mut bytes).map_err(|error| damaged(&error))?;
        if bytes.len() as u64 != size {
            return Err(damaged(&format!("{} bytes of {size}", bytes.len())));
        }
        Ok(bytes)
    }
}

impl Contents for Archive {
    fn bytes(&mut self, storage: &Storage) -> Result<(Vec<u8>, bool), String> {
        let bytes = self.member(&format!("data/{}", storage.key))?;
        if Some(bytes.len() as u64) != storage.bytes() {
            return Err(format!(
                "its storage {} has {} bytes, where the pickle says {} numbers of {}; {COPY_AGAIN}",
                storage.key.escape_debug(),
                bytes.len(),
                storage.length,
                storage.element.size()
            ));
        }
        Ok((bytes, self.is_big_endian))
    }
}
