//! JSON files as Python's `json` module reads and writes them.
//!
//! Python writes NaN, Infinity and -Infinity bare, which JSON does not have. Here they are strings of these names between
//! reading and writing, so that a key that this program does not use passes through unchanged.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::CheckpointError;
use crate::files::read_regular;

/// Longest first: Infinity ends -Infinity.
const NOT_FINITE: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Reads a file.
pub(super) fn read_json(path: &Path) -> Result<Value, CheckpointError> {
    let bytes = read_regular(path).map_err(CheckpointError::read(path))?;
    let text = String::from_utf8(bytes).map_err(|_| {
        CheckpointError::invalid(path, "this is no JSON text: it has bytes that are not UTF-8; copy it again")
    })?;
    serde_json::from_str(&quoted(&text)).map_err(|error| {
        let message = match error.is_eof() {
            true if text.trim().is_empty() => "the file is empty; copy it again".to_owned(),
            true => format!(
                "the file is incomplete, it ends at line {} within the JSON; complete it, or copy it again",
                error.line()
            ),
            false => format!("this is no JSON text ({error}); correct it there, or copy it again"),
        };
        CheckpointError::invalid(path, message)
    })
}

/// Writes a file.
pub(super) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), CheckpointError> {
    fs::write(path, json_text(path, value)?).map_err(CheckpointError::write(path))
}

/// What [`write_json`] writes.
pub(super) fn json_text(path: &Path, value: &impl serde::Serialize) -> Result<String, CheckpointError> {
    let mut text =
        serde_json::to_string_pretty(value).map_err(|error| CheckpointError::invalid(path, error))?;
    for name in NOT_FINITE {
        // A quote within a string has a backslash before it, so this is a whole value.
        text = text.replace(&format!(": \"{name}\""), &format!(": {name}"));
    }
    Ok(text + "\n")
}

/// The text with quotes around the numbers that JSON does not have.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut is_string = false;
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let name = NOT_FINITE.iter().find(|name| !is_string && rest.starts_with(**name));
        let taken = match (next, name) {
            (_, Some(name)) => {
                out.extend(["\"", name, "\""]);
                rest = &rest[name.len()..];
                continue;
            }
            // What follows a backslash ends no string.
            ('\\', None) if is_string => next.len_utf8() + rest[1..].chars().next().map_or(0, char::len_utf8),
            ('"', None) => {
                is_string = !is_string;
                1
            }
            _ => next.len_utf8(),
        };
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Written by Python 3: json.dumps({...}, indent=2)
    const PYTHON: &str = "{\n  \"a\": -Infinity,\n  \"b\": \"NaN, \\\"Infinity\\\"\",\n  \"c\": [\n    NaN,\n    1.5\n  ],\n  \"d\": Infinity\n}";

    #[test]
    fn numbers_that_json_does_not_have_pass_through() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        fs::write(&path, PYTHON).unwrap();
        let value = read_json(&path).unwrap();
        assert_eq!(value["a"], "-Infinity");
        assert_eq!(value["b"], "NaN, \"Infinity\"");
        assert_eq!(value["c"][0], "NaN");
        write_json(&path, &value).unwrap();
        let written = fs::read_to_string(&path).unwrap();
        assert!(written.contains("\"a\": -Infinity,") && written.contains("\"d\": Infinity\n"), "{written}");
        assert!(written.contains("\"NaN, \\\"Infinity\\\"\""), "{written}");
    }

    #[test]
    fn a_file_that_ends_too_soon_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        for (text, words) in [
            (&b"{\"a\": 1,"[..], "incomplete"),
            (b"{\"a\": \"\\", "incomplete"),
            (b"", "empty"),
            (b"{\"a\" 1}", "no JSON text"),
            (b"\xff\xfe", "not UTF-8"),
        ] {
            fs::write(&path, text).unwrap();
            let message = read_json(&path).unwrap_err().to_string();
            assert!(message.contains(words) && message.contains("a.json"), "{message}");
        }
    }
}
