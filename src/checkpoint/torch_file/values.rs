//! What a pickle of PyTorch says: containers, and tensors as views of storages.

use std::collections::HashMap;

use super::elements::{Element, STORAGES};
use super::{COPY_AGAIN, WRITE_AGAIN, refusal_of_pickle};
use crate::pickle::{Id, Node, Pickle};

/// Most axes of a tensor.
const MOST_AXES: usize = 16;

/// Most letters of a storage's name, which is a number.
const MOST_LETTERS: usize = 64;

/// All that may be imported, beside the classes of storages.
const IMPORTS: [(&str, &str); 4] = [ORDERED_DICT, REBUILD, REBUILD_V2, PARAMETER];
const ORDERED_DICT: (&str, &str) = ("collections", "OrderedDict");
/// `(storage, offset, size, stride)`
const REBUILD: (&str, &str) = ("torch._utils", "_rebuild_tensor");
/// `(storage, offset, size, stride, requires_grad, hooks)`, and since 2.1 `metadata`.
const REBUILD_V2: (&str, &str) = ("torch._utils", "_rebuild_tensor_v2");
/// `(tensor, requires_grad, hooks)`
const PARAMETER: (&str, &str) = ("torch._utils", "_rebuild_parameter");
/// The module of the classes of storages.
const STORAGE_MODULE: &str = "torch";

/// Numbers in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    /// Its name in the file.
    pub(super) key: String,
    pub(super) element: Element,
    /// How many numbers it has.
    pub(super) length: u64,
}

impl Storage {
    /// How many bytes it has.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.length.checked_mul(self.element.size() as u64)
    }
}

/// A tensor as a view of a storage; all its numbers lie in the storage.
#[derive(Debug)]
pub(super) struct View {
    pub(super) storage: Storage,
    pub(super) shape: Vec<usize>,
    /// How many numbers it has.
    pub(super) elements: u64,
    offset: usize,
    stride: Vec<usize>,
}

impl View {
    /// Calls `with` with the place in the storage of each number, in row-major order.
    pub(super) fn each(&self, mut with: impl FnMut(usize)) {
        let mut index = vec![0; self.shape.len()];
        let mut at = self.offset;
        for _ in 0..self.elements {
            with(at);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                at += self.stride[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                at -= index[axis] * self.stride[axis];
                index[axis] = 0;
            }
        }
    }
}

/// A value that is no tensor.
pub(super) enum Value<'v> {
    /// Entries whose keys are all text, in order. Texts are not copied: many keys may be one long text of the file.
    Dict(Vec<(&'v str, Id)>),
    /// Anything else, in words.
    Other(String),
}

/// The beginning of a text of the file, for a message.
pub(super) fn brief(text: &str) -> String {
    const SHOWN: usize = 80;
    let shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() { shown + "..." } else { shown }
}

/// The values of a pickle that imports nothing but what tensors need, none of which contains itself.
pub(super) struct Values<'a> {
    pickle: Pickle<'a>,
}

impl<'a> Values<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, String> {
        Self::of(Pickle::read(bytes).map_err(refusal_of_pickle)?)
    }

    pub(super) fn of(pickle: Pickle<'a>) -> Result<Self, String> {
        let is_known = |import: &(&str, &str)| {
            let is_storage = |(module, name): (&str, &str)| {
                module == STORAGE_MODULE && STORAGES.iter().any(|(storage, _)| *storage == name)
            };
            IMPORTS.contains(import) || is_storage(*import)
        };
        if let Some((module, name)) = pickle.imports().find(|import| !is_known(import)) {
            return Err(format!(
                "it imports {}.{} of Python, with which a file may run code, and which tensors and dictionaries do not \
                 need; {WRITE_AGAIN}",
                brief(module),
                brief(name)
            ));
        }
        if pickle.has_cycle() {
            return Err(format!("its pickle has a value that contains itself; {WRITE_AGAIN}"));
        }
        Ok(Self { pickle })
    }

    pub(super) fn root(&self) -> Id {
        self.pickle.root()
    }

    /// What a value is that is no tensor.
    pub(super) fn value(&self, id: Id) -> Result<Value<'_>, String> {
        if !self.is_dict(id)? {
            let kind = match self.pickle.node(id) {
                Node::Persistent(_) => "a storage".to_owned(),
                _ => self.pickle.kind(id),
            };
            return Ok(Value::Other(kind));
        }
        let entries = self.pickle.entries(id).unwrap_or_default();
        let named = |&(key, value): &(Id, Id)| Some((self.text(key)?, value));
        Ok(match entries.iter().map(named).collect() {
            Some(entries) => Value::Dict(entries),
            None => Value::Other("a dictionary whose keys are not text".to_owned()),
        })
    }

    /// Whether a value is a dictionary, ordered or not.
    fn is_dict(&self, id: Id) -> Result<bool, String> {
        let Some(call) = self.pickle.call(id) else {
            return Ok(matches!(self.pickle.node(id), Node::Dict(_)));
        };
        if (call.module, call.name) != ORDERED_DICT {
            return Ok(false);
        }
        match call.arguments {
            [] => Ok(true),
            _ => Err("it has an OrderedDict that is made of arguments, as Python 2 wrote; write it again with Python 3"
                .to_owned()),
        }
    }

    fn text(&self, id: Id) -> Option<&str> {
        match self.pickle.node(id) {
            Node::Text(text) => Some(text),
            // Python 2
            Node::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The tensor that a value is.
    pub(super) fn tensor(&self, id: Id) -> Result<Option<View>, String> {
        let Some(call) = self.pickle.call(id) else { return Ok(None) };
        match ((call.module, call.name), call.arguments) {
            (PARAMETER, &[tensor, _, _])
                if self.pickle.call(tensor).is_some_and(|call| call.name != PARAMETER.1) =>
            {
                self.tensor(tensor)
            }
            (REBUILD, &[storage, offset, size, stride])
            | (
                REBUILD_V2,
                &[storage, offset, size, stride, _, _] | &[storage, offset, size, stride, _, _, _],
            ) => self.view(storage, offset, size, stride).map(Some),
            (PARAMETER | REBUILD | REBUILD_V2, arguments) => Err(format!(
                "its pickle calls {} with {} arguments that are not those of a tensor; {COPY_AGAIN}",
                call.name,
                arguments.len()
            )),
            _ => Ok(None),
        }
    }

    /// All storages that are named, by their keys.
    pub(super) fn storages(&self) -> Result<HashMap<String, Storage>, String> {
        let named = self.pickle.persistent().map(|id| self.storage(id));
        let mut storages: HashMap<String, Storage> = HashMap::new();
        for storage in named {
            let storage = storage?;
            let first = storages.entry(storage.key.clone()).or_insert_with(|| storage.clone());
            if *first != storage {
                return Err(format!(
                    "it names its storage {} as one of two types or lengths; {COPY_AGAIN}",
                    storage.key.escape_debug()
                ));
            }
        }
        Ok(storages)
    }

    fn view(&self, storage: Id, offset: Id, size: Id, stride: Id) -> Result<View, String> {
        let damaged = |what: &str| format!("it has a tensor {what}; {COPY_AGAIN}");
        let storage = self.storage(storage)?;
        let (Some(shape), Some(stride)) = (self.numbers(size), self.numbers(stride)) else {
            return Err(damaged("whose sizes and strides are no tuples of numbers from 0 on"));
        };
        let &Node::Int(offset) = self.pickle.node(offset) else {
            return Err(damaged("whose offset is no number"));
        };
        if shape.len() != stride.len() || shape.len() > MOST_AXES {
            return Err(damaged(&format!(
                "with {} sizes and {} strides, where there are at most {MOST_AXES}",
                shape.len(),
                stride.len()
            )));
        }
        let elements = shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
        // The place after the last number, of a tensor that has any.
        let end = || {
            let steps = shape.iter().zip(&stride).map(|(&size, &stride)| (size - 1).checked_mul(stride));
            let last =
                steps.into_iter().try_fold(u64::try_from(offset).ok()?, |sum, step| sum.checked_add(step?));
            last?.checked_add(1)
        };
        let is_within = match elements {
            Some(0) => true,
            Some(_) => end().is_some_and(|end| end <= storage.length),
            None => false,
        };
        let (Some(elements), true) = (elements, is_within) else {
            return Err(damaged(&format!(
                "of the sizes {shape:?} with strides {stride:?} from {offset} on, of which not all lies in its storage {} \
                 of {} numbers",
                storage.key.escape_debug(),
                storage.length
            )));
        };
        let as_usize = |numbers: Vec<u64>| numbers.into_iter().map(|number| number as usize).collect();
        Ok(View {
            storage,
            shape: as_usize(shape),
            elements,
            offset: usize::try_from(offset).unwrap_or_default(),
            stride: as_usize(stride),
        })
    }

    /// `("storage", class, key, location, length)`, in older files followed by None.
    fn storage(&self, id: Id) -> Result<Storage, String> {
        let &Node::Persistent(name) = self.pickle.node(id) else {
            return Err(format!("it has a tensor whose storage is {}; {WRITE_AGAIN}", self.pickle.kind(id)));
        };
        let other = || {
            format!(
                "it refers to something beside it that is no storage of numbers, or a view of another storage; \
                 {WRITE_AGAIN}"
            )
        };
        let Node::Tuple(parts) = self.pickle.node(name) else { return Err(other()) };
        let (&[tag, class, key, _, length], older) = match parts[..] {
            [tag, class, key, location, length] => (&[tag, class, key, location, length], None),
            [tag, class, key, location, length, view] => (&[tag, class, key, location, length], Some(view)),
            _ => return Err(other()),
        };
        if older.is_some_and(|view| *self.pickle.node(view) != Node::None) {
            return Err(other());
        }
        let &Node::Global { name: class, .. } = self.pickle.node(class) else { return Err(other()) };
        let class = self.text(class).unwrap_or_default();
        let element = STORAGES.iter().find(|(known, _)| *known == class).map(|(_, element)| *element);
        let length = match self.pickle.node(length) {
            &Node::Int(length) => u64::try_from(length).ok(),
            _ => None,
        };
        match (self.text(tag), element, self.text(key), length) {
            (Some("storage"), Some(element), Some(key), Some(length)) if key.len() <= MOST_LETTERS => {
                Ok(Storage { key: key.to_owned(), element, length })
            }
            _ => Err(other()),
        }
    }

    /// A tuple of numbers from 0 on, no more than there can be and one.
    fn numbers(&self, id: Id) -> Option<Vec<u64>> {
        let Node::Tuple(numbers) = self.pickle.node(id) else { return None };
        let numbers = &numbers[..numbers.len().min(MOST_AXES + 1)];
        let number = |&id: &Id| match self.pickle.node(id) {
            &Node::Int(number) => u64::try_from(number).ok(),
            _ => None,
        };
        numbers.iter().map(number).collect()
    }
}
