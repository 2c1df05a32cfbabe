//! How often a classifier of noised images is right.

use super::EvaluateError;
use crate::data::{Batch, Dataset};
use crate::device::Device;
use crate::graph::Graph;
use crate::network::{Component, LOGITS, NamedValues, Precision, SAMPLE, TIMESTEPS, prepare};
use crate::ops::cross_entropy::most_likely_class;
use crate::pipeline::Pipeline;
use crate::random::{Purpose, Stream};
use crate::sample::Noised;

/// Images that a classifier is measured with, and how many of them at once.
const MEASURED_IMAGES: usize = 1024;
const MEASURED_BATCH: usize = 64;

/// Share of images that are given their class, for timesteps uniform in each quarter of 0..T, the least noisy first.
///
/// Measured on up to 1024 images of `dataset`, evenly taken, each noised once in each quarter.
///
/// # Errors
/// [`EvaluateError`] for images that do not fit the classifier.
pub async fn accuracy(
    device: &Device,
    classifier: &Pipeline,
    dataset: &dyn Dataset,
    seed: u64,
) -> Result<[f64; 4], EvaluateError> {
    let Component { network, weights } = classifier.classifier()?;
    let schedule = classifier.scheduler.schedule()?;
    let prediction = classifier.scheduler.prediction_type;
    let steps = schedule.num_train_timesteps();
    let mut graph = Graph::new();
    let noised = Noised::build(&mut graph, MEASURED_BATCH, network.image()?)?;
    let of_timesteps = graph.input(TIMESTEPS, network.input(TIMESTEPS)?.ty(MEASURED_BATCH));
    let inputs = NamedValues::default().with(SAMPLE, noised.x_t).with(TIMESTEPS, of_timesteps);
    let logits = network.apply(&mut graph, Precision::F32, &inputs, None)?.get(LOGITS)?;
    let classes = graph.ty(logits).channels();
    let mut executor = prepare::<EvaluateError>(device, &graph, &[("", weights)], &[logits]).await?;
    let count = dataset.len().min(MEASURED_IMAGES);
    let chosen: Vec<usize> = (0..count).map(|image| image * dataset.len() / count).collect();
    let elements = dataset.image_shape().elements();
    let mut right = [0usize; 4];
    for (index, chosen) in chosen.chunks(MEASURED_BATCH).enumerate() {
        let mut batch = Batch::read(dataset, chosen.iter().copied())?;
        batch.images.resize(MEASURED_BATCH * elements, 0.0);
        for (quarter, right) in right.iter_mut().enumerate() {
            // No training step has this number.
            let sample = (index * MEASURED_BATCH) as u32;
            let step = u32::MAX - quarter as u32;
            let stream = Stream { seed, step, stream: Purpose::Timesteps.into(), sample };
            let timestep = |n: usize| {
                let u = f64::from(Stream { sample: sample + n as u32, ..stream }.uniform(0));
                (((quarter as f64 + u) / 4.0 * steps as f64) as usize).min(steps - 1)
            };
            let timesteps: Vec<usize> = (0..MEASURED_BATCH).map(timestep).collect();
            let factors = timesteps.iter().map(|&t| schedule.q_sample_coefficients(t, prediction));
            noised.write(&mut executor, &batch.images, factors, stream)?;
            executor.write(of_timesteps, &timesteps.iter().map(|&t| t as f32).collect::<Vec<f32>>())?;
            executor.run()?;
            let logits = executor.read(logits).await?;
            let pairs = logits.chunks(classes).zip(batch.labels());
            *right += pairs.filter(|(logits, label)| most_likely_class(logits) == **label as usize).count();
        }
    }
    Ok(right.map(|right| right as f64 / count as f64))
}
