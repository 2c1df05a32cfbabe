//! Which of a file's dictionaries is the state dict of the network.

use std::collections::HashSet;

use super::super::weights_file::listed;
use super::values::{Value, Values, View, brief};
use crate::pickle::Id;

/// Under these keys trainers keep the weights that they train; of several the first that is there.
const USUAL: [&str; 7] = ["state_dict", "model_state_dict", "model", "module", "network", "net", "unet"];

/// How deep state dicts are looked for: `{"state": {"model": {...}}}`.
const DEPTH: usize = 2;

/// A dictionary with tensors in it.
struct Candidate<'v> {
    /// Keys that lead to it, with dots between them; nothing for the whole file.
    path: String,
    tensors: Vec<(&'v str, View)>,
    /// What else it has.
    others: Vec<String>,
}

/// The tensors of the dictionary at `key`; without one, of the only dictionary with tensors, or of the usual one. Notes
/// say which, and what is left out.
pub(super) fn choose<'v>(
    values: &'v Values<'_>,
    key: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<Vec<(&'v str, View)>, String> {
    let mut search = Search { values, found: Vec::new(), rest: Vec::new(), seen: HashSet::new() };
    search.collect(values.root(), "", DEPTH)?;
    let Search { mut found, mut rest, .. } = search;
    let paths: Vec<String> = found.iter().map(|candidate| candidate.path.clone()).collect();
    let there = || match paths.as_slice() {
        [] => listed(&rest),
        [only] if only.is_empty() => "the tensors of the file itself".to_owned(),
        several => listed(several),
    };
    let position = match key {
        Some(key) => found
            .iter()
            .position(|candidate| candidate.path == key)
            .ok_or_else(|| format!("there are no tensors at the key {key}; there are: {}", there()))?,
        None if found.is_empty() => {
            return Err(format!(
                "it has no dictionary of names and tensors, which the state_dict() of a network is; there is: {}",
                there()
            ));
        }
        // The whole file, if that has tensors, comes first.
        None if found.len() == 1 || found[0].path.is_empty() => 0,
        None => {
            let usual = USUAL.iter().find_map(|usual| found.iter().position(|found| found.path == *usual));
            usual.ok_or_else(|| {
                format!(
                    "it has several dictionaries of tensors: {}; write the one to take alone with torch.save(torch.load(\
                     FILE)[KEY], NEW_FILE)",
                    there()
                )
            })?
        }
    };
    let chosen = found.swap_remove(position);
    rest.extend(found.into_iter().filter(|other| !other.path.is_empty()).map(|other| other.path));
    rest.extend(chosen.others);
    rest.sort();
    if !chosen.path.is_empty() || !rest.is_empty() {
        let what = if chosen.path.is_empty() { "its tensors" } else { chosen.path.as_str() };
        notes.push(format!("{what}: taken for the network's weights; left out: {}", listed(&rest)));
    }
    Ok(chosen.tensors)
}

/// What was found of a file's dictionaries.
struct Search<'v, 'a> {
    values: &'v Values<'a>,
    found: Vec<Candidate<'v>>,
    /// What has no tensors.
    rest: Vec<String>,
    /// Dictionaries that were looked at: a file may name one of them any number of times.
    seen: HashSet<Id>,
}

impl Search<'_, '_> {
    /// Adds a dictionary with tensors, or those in it.
    fn collect(&mut self, id: Id, path: &str, depth: usize) -> Result<(), String> {
        if let Some(view) = self.values.tensor(id)? {
            self.rest.push(in_words(path, &format!("a tensor {:?}", view.shape)));
            return Ok(());
        }
        if !self.seen.insert(id) {
            self.rest.push(path.to_owned());
            return Ok(());
        }
        let entries = match self.values.value(id)? {
            Value::Dict(entries) => entries,
            Value::Other(kind) => {
                self.rest.push(in_words(path, &kind));
                return Ok(());
            }
        };
        let (mut tensors, mut nested) = (Vec::new(), Vec::new());
        for (name, id) in entries {
            match self.values.tensor(id)? {
                Some(view) => tensors.push((name, view)),
                None => nested.push((name, id)),
            }
        }
        // Counters beside the networks are no network.
        if tensors.iter().all(|(_, view)| view.shape.is_empty()) {
            self.rest.extend(tensors.drain(..).map(|(name, _)| join(path, name)));
        }
        if !tensors.is_empty() {
            let others = nested.iter().map(|(name, _)| join(path, name)).collect();
            self.found.push(Candidate { path: path.to_owned(), tensors, others });
            return Ok(());
        }
        let before = self.found.len();
        for (name, id) in nested {
            let within = join(path, name);
            match depth {
                0 => self.rest.push(within),
                _ => self.collect(id, &within, depth - 1)?,
            }
        }
        // Of a dictionary without tensors its own name says enough.
        if self.found.len() == before && !path.is_empty() {
            let begins = format!("{path}.");
            self.rest.retain(|name| !name.starts_with(&begins));
            self.rest.push(path.to_owned());
        }
        Ok(())
    }
}

fn join(path: &str, name: &str) -> String {
    let name = brief(name);
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

/// What there is at a path.
fn in_words(path: &str, kind: &str) -> String {
    if path.is_empty() { kind.to_owned() } else { path.to_owned() }
}
