//! Which kernels a command is about.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use crate::ops::Op;

/// Words that must all occur in `op.entry variant`, such as `conv2d.backward shuffle`.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    words: Vec<String>,
}

impl FromStr for Filter {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self { words: text.split_whitespace().map(str::to_lowercase).collect() })
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words.join(" "))
    }
}

impl Filter {
    /// Whether a variant of an op is wanted.
    pub fn accepts(&self, op: &dyn Op, variant: &str) -> bool {
        self.words.iter().all(|word| op.name().contains(word) || variant.contains(word))
    }
}
