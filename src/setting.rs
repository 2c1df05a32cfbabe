//! Settings that are refused.

/// A setting, or several together, that make no sense or do not fit what they are used with.
///
/// The message calls settings by the names of their fields. Programs that offer them under other names, such as flags,
/// find the names in `names`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SettingError {
    /// The fields of the options or the request, with a path where a field is within another, such as
    /// `ema_warmup.power`.
    pub names: &'static [&'static str],
    /// What is wrong, and what to do.
    pub message: String,
}

impl SettingError {
    pub(crate) fn new(names: &'static [&'static str], message: impl Into<String>) -> Self {
        Self { names, message: message.into() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// The lines of code of the library that name flags.
    fn find_flags(folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with("src/cli") {
                continue;
            }
            if path.is_dir() {
                find_flags(&path, found);
                continue;
            }
            for line in fs::read_to_string(&path).unwrap_or_default().lines() {
                let is_flag = |at: usize| line[at + 2..].starts_with(|next: char| next.is_ascii_lowercase());
                let has_flag = line.match_indices("--").any(|(at, _)| is_flag(at));
                if has_flag && !line.trim_start().starts_with("//") {
                    found.push(format!("{}: {}", path.display(), line.trim()));
                }
            }
        }
    }

    /// Who uses the library has no flags; `cli::hints` names them to those who have.
    #[test]
    fn the_library_names_no_flags() {
        let mut found = Vec::new();
        find_flags(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}
