//! The text that keeps the choices of one adapter and driver.

use serde::{Deserialize, Serialize};

use super::{AdapterIdentity, Table, fnv1a};

/// Keeps texts from run to run, each under a name that is fit for a file: the choices of one adapter and driver.
pub trait TuningStore: Send + Sync {
    /// Where the text of this name is, for messages.
    fn place(&self, name: &str) -> String;

    /// The text of this name; `None` where there is none.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, String>;

    /// Keeps a text, whole or not at all, in place of the one of this name.
    ///
    /// # Errors
    /// Why it cannot be kept, and where.
    fn write(&self, name: &str, text: &[u8]) -> Result<(), String>;
}

/// Changes with the meaning of the text.
const FORMAT: u64 = 1;

#[derive(Serialize, Deserialize)]
struct Contents {
    format: u64,
    adapter: AdapterIdentity,
    choices: Table,
}

/// The name of an adapter's text: the characters of its name that a file name may have, and a hash of name and driver.
fn name_of(adapter: &AdapterIdentity) -> String {
    let words: Vec<String> = adapter
        .name
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    let slug: String = words.join("-").chars().take(40).collect();
    let AdapterIdentity { name, driver, driver_info, backend } = adapter;
    let hash = fnv1a(&[name, driver, driver_info, backend].map(String::as_str).join("\n"));
    format!("{slug}-{hash:016x}.json")
}

/// The choices kept for an adapter, none if there is no text; else why the text is of no use.
pub(super) fn read(store: &dyn TuningStore, adapter: &AdapterIdentity) -> Result<Table, String> {
    let name = name_of(adapter);
    let ignored = |why: &str| {
        format!("{}: {why}; it is ignored, and replaced when kernels are tuned again", store.place(&name))
    };
    let text = match store.read(&name) {
        Ok(Some(text)) => text,
        Ok(None) => return Ok(Table::new()),
        Err(error) => return Err(ignored(&format!("cannot be read: {error}"))),
    };
    let no_cache = |error: serde_json::Error| ignored(&format!("expected a tuning cache: {error}"));
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(no_cache)?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        None | Some(FORMAT) => {}
        Some(other) => {
            return Err(ignored(&format!("is a tuning cache of format {other}, expected {FORMAT}")));
        }
    }
    let contents: Contents = serde_json::from_value(value).map_err(no_cache)?;
    if contents.adapter != *adapter {
        let describe =
            |a: &AdapterIdentity| format!("{} ({} {}, {})", a.name, a.driver, a.driver_info, a.backend);
        let (found, expected) = (describe(&contents.adapter), describe(adapter));
        return Err(ignored(&format!("is the tuning cache of {found}, expected that of {expected}")));
    }
    Ok(contents.choices)
}

/// Keeps the choices of an adapter; fails with what follows from it.
pub(super) fn write(
    store: &dyn TuningStore,
    adapter: &AdapterIdentity,
    choices: &Table,
) -> Result<(), String> {
    let contents = Contents { format: FORMAT, adapter: adapter.clone(), choices: choices.clone() };
    let text = serde_json::to_vec_pretty(&contents).map_err(|error| error.to_string());
    text.and_then(|text| store.write(&name_of(adapter), &text)).map_err(|error| {
        format!(
            "choices of kernels cannot be kept, so the next run tunes again and may choose others: {error}"
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;
    use crate::device::tuner::Choice;
    use crate::tuning_folder::TuningFolder;

    fn adapter(driver_info: &str) -> AdapterIdentity {
        AdapterIdentity {
            name: "A GPU (model 3/4)".to_owned(),
            driver: "driver".to_owned(),
            driver_info: driver_info.to_owned(),
            backend: "Vulkan".to_owned(),
        }
    }

    fn table() -> Table {
        let choice = Choice {
            variant: "forward_tiled".to_owned(),
            wgsl: "0123".to_owned(),
            milliseconds: BTreeMap::from([
                ("forward_tiled".to_owned(), 0.1),
                ("forward".to_owned(), 1.0 / 3.0),
            ]),
            out_of_time: None,
        };
        let unfinished = Choice { out_of_time: Some(0.3), ..choice.clone() };
        Table::from([("a call".to_owned(), choice), ("another".to_owned(), unfinished)])
    }

    #[test]
    fn choices_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let nested = TuningFolder(folder.path().join("not/there yet"));
        assert_eq!(read(&nested, &adapter("1")), Ok(Table::new()));
        write(&nested, &adapter("1"), &table()).unwrap();
        assert_eq!(read(&nested, &adapter("1")), Ok(table()));
        assert_eq!(read(&nested, &adapter("2")), Ok(Table::new()), "another driver has another file");
    }

    #[test]
    fn a_damaged_or_foreign_file_is_named_with_what_was_expected() {
        let folder = tempfile::tempdir().unwrap();
        let store = TuningFolder(folder.path().to_owned());
        let path = |adapter: &AdapterIdentity| folder.path().join(name_of(adapter));
        let file = path(&adapter("1"));
        assert!(
            file.file_name().unwrap().to_str().unwrap().starts_with("a-gpu-model-3-4-"),
            "{}",
            file.display()
        );
        let warning = |contents: &[u8]| {
            fs::write(&file, contents).unwrap();
            let warning = read(&store, &adapter("1")).unwrap_err();
            assert!(warning.contains(file.to_str().unwrap()) && warning.contains("ignored"), "{warning}");
            warning
        };
        write(&store, &adapter("2"), &table()).unwrap();
        let foreign = fs::read(path(&adapter("2"))).unwrap();
        let message = warning(&foreign);
        assert!(
            message.contains("(driver 2, Vulkan), expected that of A GPU (model 3/4) (driver 1"),
            "{message}"
        );
        for cut in [0, 1, foreign.len() / 2, foreign.len() - 1] {
            assert!(warning(&foreign[..cut]).contains("expected a tuning cache"));
        }
        assert!(warning(b"\xff\xfe").contains("expected a tuning cache"));
        assert!(warning(b"{\"choices\": 3}").contains("expected a tuning cache"));
        assert!(warning(b"{\"format\": 2}").contains("of format 2, expected 1"));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "in the way").unwrap();
        let warning = write(&TuningFolder(file.join("tuning")), &adapter("1"), &table()).unwrap_err();
        assert!(warning.contains("cannot be kept") && warning.contains("file"), "{warning}");
    }
}
