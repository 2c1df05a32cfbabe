//! What a classifier makes of images: the pooled features before its last layer, and the class it gives them.

use super::EvaluateError;
use crate::device::{Device, Executor};
use crate::graph::{Graph, ValueId};
use crate::network::{Component, FEATURES, LOGITS, Precision, SAMPLE, TIMESTEPS, prepare};
use crate::ops::cross_entropy::most_likely_class;

/// Feature vectors of images.
#[derive(Clone, Debug, Default)]
pub(super) struct Features {
    /// D
    pub(super) dimension: usize,
    /// `[N, D]`
    pub(super) rows: Vec<f64>,
}

impl Features {
    pub(super) fn len(&self) -> usize {
        self.rows.len() / self.dimension.max(1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[f64]> {
        self.rows.chunks_exact(self.dimension)
    }

    /// `count` of the rows, spread evenly.
    pub(super) fn spread(&self, count: usize) -> Self {
        let row = |index: usize| &self.rows[index * self.len() / count * self.dimension..][..self.dimension];
        Self { dimension: self.dimension, rows: (0..count).flat_map(row).copied().collect() }
    }
}

/// A classifier prepared on a device for batches of one size.
pub(super) struct FeatureNetwork {
    executor: Executor,
    batch: usize,
    classes: usize,
    /// Elements of an image.
    elements: usize,
    x: ValueId,
    features: ValueId,
    logits: ValueId,
}

impl FeatureNetwork {
    /// Images are given to it as free of noise: at timestep 0.
    pub(super) async fn new(
        device: &Device,
        classifier: &Component,
        batch: usize,
    ) -> Result<Self, EvaluateError> {
        let Component { network, weights } = classifier;
        let mut graph = Graph::new();
        let inputs = network.declare_inputs(&mut graph, batch)?;
        let x = inputs.get(SAMPLE)?;
        let outputs = network.apply(&mut graph, Precision::F32, &inputs, None)?;
        let (features, logits) = (outputs.get(FEATURES)?, outputs.get(LOGITS)?);
        let elements = graph.ty(x).len() / batch;
        let classes = graph.ty(logits).channels();
        let mut executor =
            prepare::<EvaluateError>(device, &graph, &[("", weights)], &[features, logits]).await?;
        executor.write(inputs.get(TIMESTEPS)?, &vec![0.0f32; batch])?;
        Ok(Self { executor, batch, classes, elements, x, features, logits })
    }

    /// Appends the features of `images` `[n, H, W, C]` to `features`, and gives the class of each.
    ///
    /// Values beyond -1..1 are clamped, as in an image file.
    pub(super) async fn extract(
        &mut self,
        images: &[f32],
        features: &mut Features,
    ) -> Result<Vec<u32>, EvaluateError> {
        let mut predicted = Vec::new();
        for images in images.chunks(self.batch * self.elements) {
            let count = images.len() / self.elements;
            let mut x: Vec<f32> = images.iter().map(|value| value.clamp(-1.0, 1.0)).collect();
            x.resize(self.batch * self.elements, 0.0);
            self.executor.write(self.x, &x)?;
            self.executor.run()?;
            let rows = self.executor.read(self.features).await?;
            features.dimension = rows.len() / self.batch;
            features.rows.extend(rows[..count * features.dimension].iter().map(|&value| f64::from(value)));
            let logits = self.executor.read(self.logits).await?;
            let logits = logits.chunks_exact(self.classes).take(count);
            predicted.extend(logits.map(|logits| most_likely_class(logits) as u32));
        }
        Ok(predicted)
    }
}

/// Features and what NumPy and scipy make of them, by `tools/oracle/frechet.py`.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod golden {
    use super::Features;
    use crate::golden::Golden;

    pub(crate) fn numbers(name: &str) -> Vec<f64> {
        Golden::read("frechet").numbers(name).to_vec()
    }

    pub(crate) fn features(name: &str) -> Features {
        let file = Golden::read("frechet");
        Features { dimension: file.shape(name)[1], rows: file.numbers(name).to_vec() }
    }
}
