//! Calls of attention to check and time.

use super::{Attention, BackwardDot, BackwardKeyValue, BackwardQuery, Forward, MASKED, Settings};
use crate::graph::TensorType;
use crate::ops::{Case, Fill, Input, Op, Operands, Output, dims};

/// A call: its name, the shape of q, keys of a sample where they are others than the queries, and what queries look at.
struct Call {
    name: &'static str,
    q: Vec<usize>,
    keys: Option<usize>,
    settings: Settings,
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let call = |name, q: &[usize], heads| {
        let Attention { heads, causal, .. } = Attention::from(heads);
        Call { name, q: q.to_vec(), keys: None, settings: Settings { heads, causal, masked: false } }
    };
    let cross = |name, q, keys, heads| Call { keys: Some(keys), ..call(name, q, heads) };
    let causal = |call: Call| Call { settings: Settings { causal: true, ..call.settings }, ..call };
    let masked = |call: Call| Call { settings: Settings { masked: true, ..call.settings }, ..call };
    let calls = [
        call("ragged", &[2, 5, 3, 21], 3),
        call("tokens in a row", &[3, 37, 10], 2),
        call("one token", &[2, 1, 1, 6], 2),
        call("large scores", &[2, 7, 5, 32], 2),
        call("head larger than a workgroup", &[2, 3, 2, 602], 2),
        call("eight heads", &[2, 8, 8, 64], 8),
        call("more heads than fill the lanes", &[2, 7, 5, 60], 5),
        call("lanes that two quads do not fill", &[1, 3, 3, 76], 1),
        call("U-Net S", &[16, 8, 8, 64], 1),
        call("U-Net M", &[2, 16, 16, 128], 1),
        call("ddpm-cifar10-32", &[2, 16, 16, 256], 1),
        call("heads of 80", &[1, 35, 160], 2),
        call("heads of 160", &[2, 19, 320], 2),
        call("a head of 512", &[1, 21, 512], 1),
        cross("fewer keys, ragged", &[2, 5, 3, 21], 7, 3),
        cross("more keys, in fours", &[2, 9, 24], 41, 2),
        cross("one key", &[2, 5, 8], 1, 1),
        cross("pixels and 77 words", &[2, 8, 8, 160], 77, 4),
        causal(call("causal, ragged", &[2, 37, 10], 2)),
        causal(call("causal, in fours", &[2, 70, 24], 3)),
        causal(cross("causal, more queries than keys", &[2, 43, 12], 9, 1)),
        causal(cross("causal, more keys than queries", &[2, 9, 12], 45, 1)),
        masked(call("mask, ragged", &[3, 7, 10], 2)),
        masked(cross("mask, pixels and words", &[3, 6, 7, 40], 37, 2)),
        masked(causal(call("mask, causal", &[2, 50, 24], 3))),
        masked(causal(call("mask, causal, ragged", &[2, 21, 14], 2))),
    ];
    let mut cases = Vec::new();
    for Call { name, q, keys, settings } in calls {
        let k = match keys {
            Some(keys) => vec![q[0], keys, q[q.len() - 1]],
            None => q.clone(),
        };
        let query = || Fill::normal(q.clone());
        let mut operands = match name {
            "large scores" => vec![integers(&q, 0), integers(&k, 1), Fill::normal(k.clone())],
            _ => vec![query(), Fill::normal(k.clone()), Fill::normal(k.clone())],
        };
        if settings.masked {
            operands.push(mask(&k));
        }
        cases.push(Case::new(name, Forward(settings), operands.clone()));
        // The sums must belong to q and k, or p is no distribution.
        let Some(logsumexp) = logsumexp_of(&operands, settings) else { continue };
        let dot = BackwardDot { heads: settings.heads };
        cases.push(Case::new(name, dot, vec![query(), query(), logsumexp.clone()]));
        let mask = operands.split_off(3);
        // Contents are drawn by position: q and k must stay where the forward pass has them.
        let backward = [operands, vec![query(), rows_of(&logsumexp)], mask].concat();
        cases.push(Case::new(name, BackwardQuery(settings), backward.clone()));
        cases.push(Case::new(name, BackwardKeyValue(settings), backward));
    }
    cases
}

/// Integers up to about 80. A head of 16 channels makes scores of +-1000 of them without rounding, so that all error is
/// the softmax's. (A rounded score of 1000 would be off by 6e-5, and so would every p.)
fn integers(shape: &[usize], index: u32) -> Fill {
    let normal = Fill::Normal { shape: shape.to_vec(), mean: 0.0, std: 20.0 };
    Fill::Floats { shape: shape.to_vec(), data: normal.data(index).into_iter().map(f32::round).collect() }
}

/// A mask that hides every third key, some by far less than [`MASKED`], and moves the others; the first key always
/// counts, because a first query that is causal sees no other.
fn mask(k: &[usize]) -> Fill {
    let (samples, keys) = (k[0], k[1..k.len() - 1].iter().product());
    let moved = Fill::normal([samples, keys]).data(9);
    let number = |(at, moved): (usize, f32)| match at % keys % 6 {
        2 => MASKED,
        5 => -1e30,
        _ => moved,
    };
    Fill::Floats { shape: vec![samples, keys], data: moved.into_iter().enumerate().map(number).collect() }
}

/// Output `logsumexp` of the forward pass.
fn logsumexp_of(operands: &[Fill], settings: Settings) -> Option<Fill> {
    let types: Vec<TensorType> = operands.iter().map(Fill::ty).collect();
    let data: Vec<Vec<f32>> = (0..).zip(operands).map(|(index, fill)| fill.data(index)).collect();
    let outputs = Forward(settings).output_types(&types.iter().collect::<Vec<_>>()).ok()?;
    let (mut y, mut logsumexp) = (vec![0.0; outputs[0].len()], vec![0.0; outputs[1].len()]);
    Forward(settings).compute(Operands {
        inputs: types.iter().zip(&data).map(|(ty, data)| Input { ty, data }).collect(),
        outputs: vec![
            Output { ty: &outputs[0], data: &mut y },
            Output { ty: &outputs[1], data: &mut logsumexp },
        ],
    });
    Some(Fill::Floats { shape: outputs[1].shape.clone(), data: logsumexp })
}

/// What the backward passes know of each query: the sums, each beside a dot product.
fn rows_of(logsumexp: &Fill) -> Fill {
    let dots = Fill::normal(logsumexp.ty().shape).data(8);
    let data = logsumexp.data(0).into_iter().zip(dots).flat_map(|(sum, dot)| [sum, dot]).collect();
    let [n, heads, queries] = dims(&logsumexp.ty());
    Fill::Floats { shape: vec![n, heads, 2 * queries], data }
}
