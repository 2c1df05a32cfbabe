//! What a classifier makes of images: the pooled features before its last layer, and the class it gives them.

use super::EvaluateError;
use crate::checkpoint::Classifier;
use crate::device::{Device, Executor};
use crate::graph::{Graph, TensorType, ValueId};
use crate::model::{ClassifierOutputs, Precision, UNetInputs, from_tensors};
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
    outputs: ClassifierOutputs,
}

impl FeatureNetwork {
    /// Images are given to it as free of noise: at timestep 0.
    pub(super) async fn new(
        device: &Device,
        classifier: &Classifier,
        batch: usize,
    ) -> Result<Self, EvaluateError> {
        let encoder = &classifier.config.encoder;
        let [height, width] = encoder.image_size()?;
        let classes = classifier.config.num_classes;
        let mut graph = Graph::new();
        let x = graph.input("x", TensorType::f32([batch, height, width, encoder.in_channels]));
        let timesteps = graph.input("timesteps", TensorType::f32([batch]));
        let inputs = UNetInputs { sample: x, timesteps, class_labels: None, key_step_sample: None };
        let outputs = Precision::F32.classifier(&mut graph, encoder, classes, inputs)?;
        let weights = from_tensors(&graph, &classifier.weights)?;
        let mut executor = device.prepare(&graph, &[outputs.features, outputs.logits]).await?;
        for (parameter, data) in graph.parameters().iter().zip(&weights) {
            executor.write(parameter.value, data)?;
        }
        executor.write(timesteps, &vec![0.0f32; batch])?;
        Ok(Self { executor, batch, classes, elements: height * width * encoder.in_channels, x, outputs })
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
            let rows = self.executor.read(self.outputs.features).await?;
            features.dimension = rows.len() / self.batch;
            features.rows.extend(rows[..count * features.dimension].iter().map(|&value| f64::from(value)));
            let logits = self.executor.read(self.outputs.logits).await?;
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
