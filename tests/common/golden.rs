//! Golden files: tensors that other programs have computed, with metadata. The tests in `src` read them by this too.
#![allow(dead_code)] // each test uses a part of it

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// A file of `tests/golden`.
pub(crate) struct Golden {
    path: PathBuf,
    /// Shapes and elements by name. Every number of a golden file is exact in f64.
    tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
    metadata: HashMap<String, String>,
}

impl Golden {
    /// Reads a file by its name without the ending, such as `schedules` or `data/images/expected`.
    pub(crate) fn read(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let path = folder.join(format!("{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.tensors().into_iter().map(|(name, view)| {
            let data = view.data();
            let numbers: Vec<f64> = match view.dtype() {
                Dtype::F32 => data.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
                Dtype::F64 => data.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
                Dtype::I64 => data.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as f64).collect(),
                Dtype::U16 => data.as_chunks().0.iter().map(|&b| f64::from(u16::from_le_bytes(b))).collect(),
                Dtype::U8 => data.iter().map(|&b| f64::from(b)).collect(),
                other => panic!("{name} is {other:?}"),
            };
            (name, (view.shape().to_vec(), numbers))
        });
        let tensors = tensors.collect();
        Self { path, tensors, metadata: header.metadata().clone().unwrap_or_default() }
    }

    /// The names of the tensors in alphabetical order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn tensor(&self, name: &str) -> &(Vec<usize>, Vec<f64>) {
        self.tensors.get(name).unwrap_or_else(|| panic!("{} has no tensor {name}", self.path.display()))
    }

    pub(crate) fn shape(&self, name: &str) -> &[usize] {
        &self.tensor(name).0
    }

    pub(crate) fn numbers(&self, name: &str) -> &[f64] {
        &self.tensor(name).1
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        self.numbers(name).iter().map(|&number| number as f32).collect()
    }

    /// Timesteps or labels.
    pub(crate) fn indices(&self, name: &str) -> Vec<usize> {
        self.numbers(name).iter().map(|&number| number as usize).collect()
    }

    pub(crate) fn metadata(&self, key: &str) -> &str {
        let text = self.metadata.get(key);
        text.unwrap_or_else(|| panic!("{} says nothing of {key}", self.path.display()))
    }

    /// The cases that the metadata describe, by their names.
    pub(crate) fn cases(&self) -> BTreeMap<String, Value> {
        serde_json::from_str(self.metadata("cases")).unwrap()
    }
}
