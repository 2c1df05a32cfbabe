//! Settings that name parts of a network by patterns, in which `*` stands for any text and `?` for one character.

use std::collections::BTreeSet;

use wildmatch::WildMatch;

use super::TrainError;
use crate::graph::Graph;
use crate::network::some_names;

/// What a pattern is compared with.
#[derive(Clone, Copy)]
pub(super) enum Compared {
    /// All of a name.
    Name,
    /// All of a name, or what follows one of its dots.
    End,
}

impl Compared {
    fn matches(self, pattern: &str, name: &str) -> bool {
        let is_end = || WildMatch::new(&format!("*.{pattern}")).matches(name);
        WildMatch::new(pattern).matches(name) || matches!(self, Self::End) && is_end()
    }

    fn in_words(self) -> &'static str {
        match self {
            Self::Name => "the name",
            Self::End => "the end of the name",
        }
    }
}

/// The names that match one of the patterns. `setting` is what has the patterns, `things` what the names are of.
///
/// # Errors
/// [`TrainError::Setting`] for a pattern that matches nothing.
pub(super) fn matching(
    setting: &'static [&'static str; 1],
    patterns: &[String],
    compared: Compared,
    names: &[&str],
    things: &str,
) -> Result<BTreeSet<String>, TrainError> {
    let mut all = BTreeSet::new();
    for pattern in patterns {
        let matched = names.iter().filter(|name| compared.matches(pattern, name));
        let found: Vec<String> = matched.map(|&name| name.to_owned()).collect();
        if found.is_empty() {
            let message = format!(
                "`{}` has `{pattern}`, which is {} of none of the model's {} {things}: {}; `*` stands for any text",
                setting[0],
                compared.in_words(),
                names.len(),
                some_names(names)
            );
            return Err(TrainError::setting(setting, message));
        }
        all.extend(found);
    }
    Ok(all)
}

/// Takes the parameters out of training whose names match.
///
/// # Errors
/// As [`matching`].
pub(super) fn freeze(graph: &mut Graph, patterns: &[String]) -> Result<(), TrainError> {
    let names: Vec<&str> = graph.parameters().iter().map(|parameter| parameter.name.as_str()).collect();
    let found = matching(&["freeze"], patterns, Compared::Name, &names, "tensors")?;
    graph.freeze(|name| found.contains(name));
    Ok(())
}
