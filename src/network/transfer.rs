//! Weights of one network as the first ones of another, which may have other layers.

use std::fmt::{self, Display};

use super::weights::file_shapes;
use super::{ModelError, Network, Tensor, Tensors};

/// What a network takes of another's weights, and what it does not.
#[derive(Clone, Debug, Default)]
pub struct Transfer {
    /// All tensors of the network: those that were taken, and fresh ones for the others.
    pub weights: Tensors,
    /// Number of tensors that were taken.
    pub taken: usize,
    /// What was not taken, in the network's order, what the network does not have at the end.
    pub left_out: Vec<LeftOut>,
}

/// A tensor that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// Its shape in the weights that were given; `None` where they lack it.
    pub given: Option<Vec<usize>>,
    /// Its shape in the network; `None` where the network lacks it.
    pub expected: Option<Vec<usize>>,
}

impl Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let there = self.given.as_ref().map_or("not there".to_owned(), |shape| format!("{shape:?} there"));
        let here = self.expected.as_ref().map_or("not".to_owned(), |shape| format!("{shape:?}"));
        write!(f, "{} is {there}, {here} in the model", self.name)
    }
}

/// Some of a list of names, for messages: the first of each group, by what stands before the first dot.
pub fn some_names(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let group = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let mut shown: Vec<&str> = Vec::new();
    for name in names {
        if !shown.iter().any(|other| group(other) == group(name)) {
            shown.push(name);
        }
    }
    shown.truncate(SHOWN);
    let more = if shown.len() < names.len() { " and so on" } else { "" };
    format!("{}{more}", shown.join(", "))
}

impl dyn Network + '_ {
    /// Takes of `given` what has a place here, by name and shape; the rest is drawn from `seed`, as for a new run.
    ///
    /// # Errors
    /// [`ModelError`] for a configuration that cannot be built.
    pub fn transfer(&self, given: &Tensors, seed: u64) -> Result<Transfer, ModelError> {
        let graph = self.alone()?;
        let mut transfer = Transfer { weights: self.fresh_weights(seed)?, ..Transfer::default() };
        let mut unused: Vec<&String> = given.keys().collect();
        for parameter in graph.parameters() {
            let names = [Some(&parameter.name), parameter.former_name.as_ref()];
            let found = names.into_iter().flatten().find_map(|name| given.get_key_value(name));
            let shapes = file_shapes(&graph, parameter);
            match found {
                Some((name, tensor))
                    if shapes.0 == tensor.shape || shapes.1.as_ref() == Some(&tensor.shape) =>
                {
                    let tensor = Tensor { shape: shapes.0, data: tensor.data.clone() };
                    transfer.weights.insert(parameter.name.clone(), tensor);
                    transfer.taken += 1;
                    unused.retain(|other| *other != name);
                }
                found => {
                    transfer.left_out.push(LeftOut {
                        name: parameter.name.clone(),
                        given: found.map(|(_, tensor)| tensor.shape.clone()),
                        expected: Some(shapes.0),
                    });
                    unused.retain(|other| Some(*other) != found.map(|(name, _)| name));
                }
            }
        }
        transfer.left_out.extend(unused.into_iter().map(|name| LeftOut {
            name: name.clone(),
            given: given.get(name).map(|tensor| tensor.shape.clone()),
            expected: None,
        }));
        Ok(transfer)
    }
}
