//! How many parameters a network may have.

use super::ModelError;
use crate::graph::Graph;

/// Most classes.
pub(super) const CLASSES: usize = 1 << 20;
/// Most parameters of a whole network: 17 GB of them.
const PARAMETERS: u64 = 1 << 32;

/// The number of parameters of a graph; the sizes of its layers are bounded before it is built.
pub(super) fn check_parameters(graph: &Graph) -> Result<u64, ModelError> {
    let parameters = graph.parameters().iter().map(|parameter| graph.ty(parameter.value).len() as u64).sum();
    if parameters > PARAMETERS {
        return Err(ModelError::TooLarge { parameters, most: PARAMETERS });
    }
    Ok(parameters)
}
