//! Which parameters a run leaves as they are.

use wildmatch::WildMatch;

use super::TrainError;
use crate::graph::Graph;
use crate::network::some_names;

/// Takes the parameters out of training whose names match a pattern, in which `*` stands for any text and `?` for one
/// character.
///
/// # Errors
/// [`TrainError::Setting`] for a pattern that matches nothing.
pub(super) fn freeze(graph: &mut Graph, patterns: &[String]) -> Result<(), TrainError> {
    for pattern in patterns {
        let pattern = WildMatch::new(pattern);
        let names: Vec<&str> = graph.parameters().iter().map(|parameter| parameter.name.as_str()).collect();
        if !names.iter().any(|name| pattern.matches(name)) {
            let message = format!(
                "`freeze` has `{pattern}`, which matches none of the model's {} tensors: {}; `*` stands for any text",
                names.len(),
                some_names(&names)
            );
            return Err(TrainError::setting(&["freeze"], message));
        }
        graph.freeze(|name| pattern.matches(name));
    }
    Ok(())
}
