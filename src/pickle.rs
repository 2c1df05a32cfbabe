//! Python's pickles, as far as they hold plain data.
//!
//! A pickle is a program for a machine with a stack. This reader runs only the opcodes that plain data need; it calls
//! nothing and imports nothing. Values are nodes of one list and name each other by number, so that a value that is
//! used twice is kept once, and neither nesting nor a cycle takes stack or time. Bytes and text are borrowed from the
//! file.
//!
//! The opcodes: <https://github.com/python/cpython/blob/main/Lib/pickletools.py>. Left out on purpose ([`NOT_RUN`]):
//! those that copy or drop what is on the stack (DUP, POP, POP_MARK), which no pickler writes for data, those that make
//! objects of classes (INST, OBJ), persistent identifiers as text, extension codes, sets and buffers out of band.

mod machine;

use std::borrow::Cow;

/// The most values, entries of containers and stored references together. A batch of CIFAR-10 has 60,000.
pub(crate) const MAX_VALUES: usize = 1 << 22;

/// The number of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Id(u32);

/// A value.
#[derive(Debug, PartialEq)]
pub(crate) enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Bytes(Cow<'a, [u8]>),
    Text(Cow<'a, str>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// Keys and values, in the order in which they were set.
    Dict(Vec<(Id, Id)>),
    /// What is imported: module and name, both text.
    Global {
        module: Id,
        name: Id,
    },
    /// What stands for something that lies outside of the pickle, and is named by this value.
    Persistent(Id),
    /// What a global was to be called with, a tuple; the state that the result was to take on, and the entries that it
    /// was to have as a dictionary, a [`Node::Dict`].
    Call {
        function: Id,
        arguments: Id,
        state: Option<Id>,
        entries: Option<Id>,
    },
}

/// Opcodes that are not run, by their names.
const NOT_RUN: [(u8, &str); 15] = [
    (b'0', "POP"),
    (b'1', "POP_MARK"),
    (b'2', "DUP"),
    (b'P', "PERSID"),
    (b'i', "INST"),
    (b'o', "OBJ"),
    (0x82, "EXT1"),
    (0x83, "EXT2"),
    (0x84, "EXT4"),
    (0x8f, "EMPTY_SET"),
    (0x90, "ADDITEMS"),
    (0x91, "FROZENSET"),
    (0x92, "NEWOBJ_EX"),
    (0x97, "NEXT_BUFFER"),
    (0x98, "READONLY_BUFFER"),
];

/// An opcode that is not run, for people.
fn opcode(code: u8) -> String {
    match NOT_RUN.iter().find(|(known, _)| *known == code) {
        Some((_, name)) => format!("the opcode {name}"),
        None => format!("{code:#04x} in place of an opcode"),
    }
}

/// A call of a global that was left as it is.
#[derive(Debug, PartialEq)]
pub(crate) struct Call<'p> {
    pub(crate) module: &'p str,
    pub(crate) name: &'p str,
    pub(crate) arguments: &'p [Id],
    pub(crate) state: Option<Id>,
}

/// What is wrong with a pickle.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum PickleError {
    #[error("the end of the file in the middle of a value that begins at byte {0}")]
    Cut(usize),
    #[error("{} at byte {at}, which plain data do not need", opcode(*code))]
    Opcode { code: u8, at: usize },
    #[error("more than {MAX_VALUES} values")]
    TooMany,
    #[error("{what} at byte {at}")]
    Malformed { what: &'static str, at: usize },
}

/// The values of a pickle.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// Reads a pickle of protocols 0 to 5.
    ///
    /// # Errors
    /// [`PickleError`] for what is cut short, malformed, no plain data, or more than [`MAX_VALUES`].
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, PickleError> {
        Ok(Self::read_first(bytes)?.0)
    }

    /// As [`Pickle::read`], of one of several pickles in a row; and what follows it.
    ///
    /// # Errors
    /// As [`Pickle::read`].
    pub(crate) fn read_first(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), PickleError> {
        let (nodes, root, length) = machine::run(bytes)?;
        Ok((Self { nodes, root }, &bytes[length..]))
    }

    /// The value that was pickled.
    pub(crate) fn root(&self) -> Id {
        self.root
    }

    pub(crate) fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id.0 as usize]
    }

    /// The value of a dictionary's key, text or the same bytes; the one that was set last.
    pub(crate) fn entry(&self, dict: Id, key: &str) -> Option<Id> {
        let Node::Dict(entries) = self.node(dict) else { return None };
        let is_key = |id: Id| match self.node(id) {
            Node::Text(text) => text == key,
            Node::Bytes(bytes) => **bytes == *key.as_bytes(),
            _ => false,
        };
        entries.iter().rev().find(|&&(found, _)| is_key(found)).map(|&(_, value)| value)
    }

    /// Bytes, also as Python 3 writes them up to protocol 2: as the call `_codecs.encode(text, "latin1")`.
    pub(crate) fn bytes(&self, id: Id) -> Option<Cow<'_, [u8]>> {
        if let Node::Bytes(bytes) = self.node(id) {
            return Some(Cow::Borrowed(bytes));
        }
        let call = self.call(id)?;
        let &[text, encoding] = call.arguments else { return None };
        let is_latin = matches!(self.node(encoding), Node::Text(name) if name == "latin1");
        match self.node(text) {
            Node::Text(text) if (call.module, call.name) == ("_codecs", "encode") && is_latin => {
                let bytes: Option<Vec<u8>> = text.chars().map(|letter| u8::try_from(letter).ok()).collect();
                bytes.map(Cow::Owned)
            }
            _ => None,
        }
    }

    /// The parts of a call.
    pub(crate) fn call(&self, id: Id) -> Option<Call<'_>> {
        let &Node::Call { function, arguments, state, .. } = self.node(id) else { return None };
        let &Node::Global { module, name } = self.node(function) else { return None };
        let (Node::Text(module), Node::Text(name), Node::Tuple(arguments)) =
            (self.node(module), self.node(name), self.node(arguments))
        else {
            return None;
        };
        Some(Call { module, name, arguments, state })
    }

    /// The entries of a dictionary, or of the object of a call that has some.
    pub(crate) fn entries(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.node(id) {
            Node::Dict(entries) => Some(entries),
            &Node::Call { entries: Some(entries), .. } => self.entries(entries),
            _ => None,
        }
    }

    /// Every import: module and name, in the order of the file.
    pub(crate) fn imports(&self) -> impl Iterator<Item = (&str, &str)> {
        self.nodes.iter().filter_map(|node| match node {
            &Node::Global { module, name } => match (self.node(module), self.node(name)) {
                (Node::Text(module), Node::Text(name)) => Some((module.as_ref(), name.as_ref())),
                _ => None,
            },
            _ => None,
        })
    }

    /// Everything that stands for something outside of the pickle.
    pub(crate) fn persistent(&self) -> impl Iterator<Item = Id> {
        let ids = (0..self.nodes.len() as u32).map(Id);
        ids.filter(|&id| matches!(self.node(id), Node::Persistent(_)))
    }

    /// Whether a value that the root leads to contains itself.
    pub(crate) fn has_cycle(&self) -> bool {
        #[derive(Clone, Copy, PartialEq)]
        enum Seen {
            Not,
            Within,
            Done,
        }
        let mut seen = vec![Seen::Not; self.nodes.len()];
        // A value is entered at its first visit, and left when all that it holds has been.
        let mut visits = vec![(self.root, false)];
        while let Some((id, is_leaving)) = visits.pop() {
            let at = id.0 as usize;
            match (is_leaving, seen[at]) {
                (true, _) => seen[at] = Seen::Done,
                (false, Seen::Done) => {}
                (false, Seen::Within) => return true,
                (false, Seen::Not) => {
                    seen[at] = Seen::Within;
                    visits.push((id, true));
                    self.held(id, |held| visits.push((held, false)));
                }
            }
        }
        false
    }

    /// Calls `with` with each value that a value holds.
    fn held(&self, id: Id, mut with: impl FnMut(Id)) {
        match self.node(id) {
            Node::Tuple(items) | Node::List(items) => items.iter().copied().for_each(with),
            Node::Dict(entries) => entries.iter().flat_map(|&(key, value)| [key, value]).for_each(with),
            &Node::Persistent(id) => with(id),
            &Node::Call { function, arguments, state, entries } => {
                [Some(function), Some(arguments), state, entries].into_iter().flatten().for_each(with);
            }
            Node::None | Node::Bool(_) | Node::Int(_) | Node::Float(_) | Node::Bytes(_) | Node::Text(_) => {}
            Node::Global { .. } => {}
        }
    }

    /// What a value is, for people.
    pub(crate) fn kind(&self, id: Id) -> String {
        match self.node(id) {
            Node::None => "None".to_owned(),
            Node::Bool(_) => "a truth value".to_owned(),
            Node::Int(value) => format!("the number {value}"),
            Node::Float(value) => format!("the number {value:?}"),
            Node::Bytes(_) => "bytes".to_owned(),
            Node::Text(_) => "text".to_owned(),
            Node::Tuple(_) => "a tuple".to_owned(),
            Node::List(_) => "a list".to_owned(),
            Node::Dict(_) => "a dictionary".to_owned(),
            Node::Global { .. } | Node::Call { .. } | Node::Persistent(_) => "another object".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
