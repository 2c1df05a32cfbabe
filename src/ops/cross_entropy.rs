//! Cross-entropy of a classifier's logits, of each sample.

use super::{Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, Word, expect, expect_shape};
use crate::graph::{DType, Graph, GraphError, TensorType, ValueId};

/// `-log softmax(logits)[n, labels[n]]` of each sample, `[N]`; [`weighted_mean`](super::weighted_mean()) makes the loss of it.
///
/// `logits` are f32 `[N, K]`, `labels` u32 `[N]`. The host checks that labels are less than K; a kernel takes a larger one
/// for the last class. The gradient of the result, negated, is that of log p(label | input).
///
/// # Errors
/// [`GraphError::Shape`] for other shapes.
pub fn cross_entropy(graph: &mut Graph, logits: ValueId, labels: ValueId) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward, &[logits, labels])
}

/// The class with the largest logit; of equal ones the last.
pub(crate) fn most_likely_class(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0)
}

#[derive(Debug)]
struct Forward;

#[derive(Debug)]
struct Backward;

/// Checks logits and labels, and gives N and K.
fn expect_logits(logits: &TensorType, labels: &TensorType) -> Result<[usize; 2], String> {
    let is_matrix = logits.shape.len() == 2 && !logits.is_empty() && logits.dtype == DType::F32;
    expect(is_matrix, || "logits must be f32 [N, K]".to_owned())?;
    let [samples, classes] = super::dims(logits);
    let fits = labels.shape == [samples] && labels.dtype == DType::U32;
    expect(fits, || format!("labels must be u32 [{samples}]"))?;
    Ok([samples, classes])
}

fn variant(entry: &'static str, logits: &TensorType) -> Vec<Variant> {
    let [samples, classes] = super::dims(logits);
    let params: Vec<(&'static str, Word)> = vec![("samples", samples.into()), ("classes", classes.into())];
    vec![Variant::single(entry, Grid::Workgroups(samples), params)]
}

/// The logarithm of the sum of all exponentials.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = logits.iter().fold(f64::NEG_INFINITY, |largest, &logit| largest.max(f64::from(logit)));
    largest + logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum::<f64>().ln()
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "cross_entropy.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["logits", "labels"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["per_sample"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [samples, _] = expect_logits(inputs[0], inputs[1])?;
        Ok(vec![TensorType::f32([samples])])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        if call.needs[1] {
            return Err(GraphError::NoGradient { path: graph.path(), op: self.name() });
        }
        let d_per_sample = call.d_output(graph, self)?;
        let inputs = [call.inputs[0], call.inputs[1], d_per_sample];
        Ok(vec![Some(graph.apply_one(Backward, &inputs)?), None])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        variant("forward", &types.inputs[0])
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([logits, labels], [per_sample]) = operands.split();
        let [_, classes] = super::dims(logits.ty);
        for (n, loss) in per_sample.data.iter_mut().enumerate() {
            let logits = &logits.data[n * classes..][..classes];
            let label = (labels.u32()[n] as usize).min(classes - 1);
            *loss = (log_sum_exp(logits) - f64::from(logits[label])) as f32;
        }
    }
}

impl Op for Backward {
    fn name(&self) -> &'static str {
        "cross_entropy.backward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["logits", "labels", "d_per_sample"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["d_logits"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [samples, _] = expect_logits(inputs[0], inputs[1])?;
        expect_shape("d_per_sample", inputs[2], &[samples])?;
        Ok(vec![inputs[0].clone()])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        variant("backward", &types.inputs[0])
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([logits, labels, d_per_sample], [d_logits]) = operands.split();
        let [_, classes] = super::dims(logits.ty);
        for (n, d_logits) in d_logits.data.chunks_mut(classes).enumerate() {
            let logits = &logits.data[n * classes..][..classes];
            let label = (labels.u32()[n] as usize).min(classes - 1);
            let log_sum = log_sum_exp(logits);
            for (k, d) in d_logits.iter_mut().enumerate() {
                let softmax = (f64::from(logits[k]) - log_sum).exp();
                let truth = if k == label { 1.0 } else { 0.0 };
                *d = (f64::from(d_per_sample.data[n]) * (softmax - truth)) as f32;
            }
        }
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let labels = |samples: u32, classes: u32| {
        Fill::integers((0..samples).map(|n| (n * n + 1) % classes).collect::<Vec<u32>>())
    };
    let wide = || Fill::Normal { shape: vec![5, 7], mean: 90.0, std: 20.0 };
    // Each of these overflows or vanishes unless its own largest logit is subtracted, which a different invocation
    // finds in each.
    let far_apart = || {
        let logit = |n: usize, k: usize| {
            (400 * n) as f32 + if k == [1, 63, 149][n] { 200.0 } else { (k * k % 101) as f32 }
        };
        let data = (0..3).flat_map(|n| (0..150).map(move |k| logit(n, k))).collect();
        Fill::Floats { shape: vec![3, 150], data }
    };
    let huge = || {
        let data = vec![1e30, -1e30, 0.0, -1000.0, 100.0, 1e30, -1e30, 0.0, -1e37, 0.0, 5.0, -1e30];
        Fill::Floats { shape: vec![3, 4], data }
    };
    vec![
        Case::new("ragged", Forward, vec![Fill::normal([5, 7]), labels(5, 7)]),
        Case::new("logits of 1e30", Forward, vec![huge(), labels(3, 4)]),
        Case::new("logits of 1e30", Backward, vec![huge(), labels(3, 4), Fill::normal([3])]),
        Case::new("exponentials that overflow", Forward, vec![wide(), labels(5, 7)]),
        Case::new(
            "labels out of range",
            Forward,
            vec![Fill::normal([3, 4]), Fill::integers([9, u32::MAX, 1])],
        ),
        Case::new("more classes than a workgroup", Forward, vec![Fill::normal([3, 150]), labels(3, 150)]),
        Case::new("logits far apart", Forward, vec![far_apart(), labels(3, 150)]),
        Case::new("ten classes", Forward, vec![Fill::normal([64, 10]), labels(64, 10)]),
        Case::new("ragged", Backward, vec![Fill::normal([5, 7]), labels(5, 7), Fill::normal([5])]),
        Case::new("exponentials that overflow", Backward, vec![wide(), labels(5, 7), Fill::normal([5])]),
        Case::new(
            "labels out of range",
            Backward,
            vec![Fill::normal([3, 4]), Fill::integers([9, u32::MAX, 1]), Fill::normal([3])],
        ),
        Case::new("logits far apart", Backward, vec![far_apart(), labels(3, 150), Fill::normal([3])]),
        Case::new(
            "more classes than a workgroup",
            Backward,
            vec![Fill::normal([3, 150]), labels(3, 150), Fill::normal([3])],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::most_likely_class;

    #[test]
    fn the_largest_logit_decides() {
        assert_eq!(most_likely_class(&[0.5, 2.0, -1.0]), 1);
        assert_eq!(most_likely_class(&[-3.0, f32::NEG_INFINITY]), 0);
        assert_eq!(most_likely_class(&[1.0, 1.0]), 1);
    }
}
