//! What a loader sees in a dataset.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::{Dataset, Skipped};

/// What a dataset holds, by decoding all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Images that can be read, by class, in the order of the classes; a single entry with no name without classes.
    pub counts: Vec<(String, usize)>,
    /// Images by \[width, height\] in their files.
    pub sizes: BTreeMap<[usize; 2], usize>,
    /// Images by colour mode in their files.
    pub modes: BTreeMap<String, usize>,
    /// What cannot be read.
    pub bad: Vec<Skipped>,
}

/// Looks at every image of a dataset.
pub fn survey(dataset: &dyn Dataset) -> Survey {
    let classes = dataset.classes();
    let names = if classes.is_empty() { vec![String::new()] } else { classes.to_vec() };
    let mut found = Survey {
        counts: names.into_iter().map(|name| (name, 0)).collect(),
        bad: dataset.skipped().to_vec(),
        ..Survey::default()
    };
    let originals: Vec<_> = (0..dataset.len()).into_par_iter().map(|index| dataset.original(index)).collect();
    for (index, original) in originals.into_iter().enumerate() {
        match original {
            Ok(original) => {
                let class = dataset.label(index).unwrap_or(0) as usize;
                if let Some((_, count)) = found.counts.get_mut(class) {
                    *count += 1;
                }
                *found.sizes.entry([original.width, original.height]).or_default() += 1;
                *found.modes.entry(original.mode).or_default() += 1;
            }
            Err(error) => {
                found.bad.push(Skipped { path: dataset.location(index).into(), reason: error.reason() });
            }
        }
    }
    found
}
