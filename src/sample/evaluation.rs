//! The network as samplers see it: x and a timestep in, its output out.
//!
//! What changes the output whatever the sampler (guidance, say) belongs here: the sampler only sees the value that
//! [`Evaluation::output`] names.

use super::SampleError;
use super::guidance::{Guidance, Shift};
use crate::checkpoint::Pipeline;
use crate::device::{DeviceError, Executor};
use crate::graph::{Graph, GraphError, TensorType, ValueId, gradients};
use crate::model::{Precision, UNetInputs};
use crate::ops::{self, guidance as guide};
use crate::sampler::{Guided, Process, Sampler, SamplerOptions, Step};

/// What the network is told beside x and the timestep, of the images of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions<'a> {
    /// Classes `[N]`.
    pub class_labels: Option<&'a [u32]>,
    /// For a super-resolution model: smaller images, enlarged and with their noise, `[N, H, W, C]`.
    pub low_resolution: Option<&'a [f32]>,
}

/// The part of a graph that evaluates the network at x.
#[derive(Debug)]
pub(super) struct Evaluation {
    /// What the network says, `[N, H, W, out_channels]`, guided.
    pub(super) output: ValueId,
    /// `[N]`, or `[2 N]` with classifier-free guidance.
    timesteps: ValueId,
    /// As many.
    class_labels: Option<ValueId>,
    /// With classifier-free guidance, the class of the first half.
    null_class: Option<u32>,
    low_resolution: Option<ValueId>,
    classifier: Option<ClassifierInputs>,
}

/// What the classifier's part of the graph is given.
#[derive(Debug)]
struct ClassifierInputs {
    timesteps: ValueId,
    class_labels: ValueId,
    /// The constant -1 `[N]`: log p is minus the cross-entropy.
    d_cross_entropy: ValueId,
    /// What [`Shift::factors`] gives for each image.
    factors: ValueId,
    shift: Shift,
    /// Of log p(class | x_t) with respect to x, as x.
    gradient: Option<ValueId>,
}

impl Evaluation {
    /// Appends the network of `pipeline`, applied to `x` `[N, H, W, C]` and guided.
    pub(super) fn build(
        graph: &mut Graph,
        pipeline: &Pipeline,
        precision: Precision,
        guidance: &Guidance,
        sampler: &Sampler,
        x: ValueId,
    ) -> Result<Self, SampleError> {
        let config = &pipeline.unet;
        let image = graph.ty(x).clone();
        let batch = image.shape[0];
        let null_class = config.null_class().filter(|_| guidance.is_classifier_free());
        let rows = if null_class.is_some() { 2 * batch } else { batch };
        let timesteps = graph.input("timesteps", TensorType::f32([rows]));
        let class_labels =
            config.num_class_embeds.map(|_| graph.input("class_labels", TensorType::u32([rows])));
        let low_resolution = config.super_resolution.map(|_| graph.input("low_resolution", image));
        let sample = graph.scoped("guidance", |graph| -> Result<ValueId, GraphError> {
            let sample = match low_resolution {
                Some(low) => ops::concat(graph, x, low)?,
                None => x,
            };
            if null_class.is_some() { guide::double(graph, sample) } else { Ok(sample) }
        })?;
        let inputs = UNetInputs { sample, timesteps, class_labels, key_step_sample: None };
        let mut output = precision.unet(graph, config, inputs)?;
        if null_class.is_some() {
            let (scale, rescale) = (guidance.scale as f32, guidance.rescale as f32);
            output = graph.scoped("guidance", |graph| {
                guide::classifier_free(graph, output, config.image_channels(), scale, rescale)
            })?;
        }
        let mut evaluation =
            Self { output, timesteps, class_labels, null_class, low_resolution, classifier: None };
        if guidance.classifier.is_some() {
            evaluation.add_classifier(graph, pipeline, precision, guidance, sampler, x)?;
        }
        Ok(evaluation)
    }

    /// Appends the classifier, its gradient with respect to `x`, and the shift of the output by it, where the sampler's
    /// steps are guided that way.
    fn add_classifier(
        &mut self,
        graph: &mut Graph,
        pipeline: &Pipeline,
        precision: Precision,
        guidance: &Guidance,
        sampler: &Sampler,
        x: ValueId,
    ) -> Result<(), SampleError> {
        let Some((classifier, scale)) = &guidance.classifier else { return Ok(()) };
        let rows = TensorType::f32([graph.ty(x).shape[0]]);
        let class_labels = TensorType::u32(rows.shape.clone());
        let scale = *scale;
        let shift = match sampler.guided {
            Guided::Mean => Shift::Mean { scale },
            Guided::Eps => {
                let options = SamplerOptions::new(&pipeline.scheduler);
                let levels = Process::new(sampler, &pipeline.scheduler, &options)?.noise_levels();
                Shift::Output { levels, prediction_type: pipeline.scheduler.prediction_type, scale }
            }
        };
        let mut factors = rows.shape.clone();
        if shift.is_of_mean() {
            factors.push(2);
        }
        let mut inputs = graph.scoped(CLASSIFIER, |graph| ClassifierInputs {
            timesteps: graph.input("timesteps", rows.clone()),
            class_labels: graph.input("class_labels", class_labels),
            d_cross_entropy: graph.input("d_cross_entropy", rows.clone()),
            factors: graph.input("factors", TensorType::f32(factors)),
            shift,
            gradient: None,
        });
        let unet_inputs =
            UNetInputs { sample: x, timesteps: inputs.timesteps, class_labels: None, key_step_sample: None };
        let config = &classifier.config;
        let cross_entropy = graph.scoped(CLASSIFIER, |graph| -> Result<ValueId, SampleError> {
            let outputs = precision.classifier(graph, &config.encoder, config.num_classes, unet_inputs)?;
            Ok(ops::cross_entropy(graph, outputs.logits, inputs.class_labels)?)
        })?;
        let d_x = gradients(graph, &[(cross_entropy, inputs.d_cross_entropy)], &[x])?;
        inputs.gradient = d_x.first().copied().flatten();
        if let (Some(gradient), false) = (inputs.gradient, inputs.shift.is_of_mean()) {
            self.output = graph
                .scoped("guidance", |graph| guide::shift(graph, self.output, gradient, inputs.factors))?;
        }
        self.classifier = Some(inputs);
        Ok(())
    }

    /// Appends, after the update of `x`, what the classifier adds to its mean, where the sampler's steps are guided
    /// that way; and gives the value that this reads beside the output.
    pub(super) fn guide_mean(&self, graph: &mut Graph, x: ValueId) -> Result<Option<ValueId>, GraphError> {
        let Some(classifier) = self.classifier.as_ref().filter(|classifier| classifier.shift.is_of_mean())
        else {
            return Ok(None);
        };
        if let Some(gradient) = classifier.gradient {
            guide::shift_mean(graph, x, self.output, gradient, classifier.factors)?;
        }
        Ok(classifier.gradient)
    }

    /// Sets what the network is told of a batch.
    pub(super) fn start(
        &self,
        executor: &mut Executor,
        conditions: Conditions<'_>,
    ) -> Result<(), DeviceError> {
        if let (Some(id), Some(low)) = (self.low_resolution, conditions.low_resolution) {
            executor.write(id, low)?;
        }
        let Some(labels) = conditions.class_labels else { return Ok(()) };
        if let Some(classifier) = &self.classifier {
            executor.write(classifier.class_labels, labels)?;
            executor.write(classifier.d_cross_entropy, &vec![-1.0f32; labels.len()])?;
        }
        match (self.class_labels, self.null_class) {
            (Some(id), Some(null_class)) => {
                executor.write(id, &[vec![null_class; labels.len()], labels.to_vec()].concat())
            }
            (Some(id), None) => executor.write(id, labels),
            (None, _) => Ok(()),
        }
    }

    /// Sets how far the classifier's gradient moves each image, for the steps that are to be taken.
    pub(super) fn set_shift<'a>(
        &self,
        executor: &mut Executor,
        steps: impl Iterator<Item = Option<&'a Step>>,
    ) -> Result<(), DeviceError> {
        let Some(classifier) = &self.classifier else { return Ok(()) };
        let factors = steps.flat_map(|step| classifier.shift.factors(step));
        executor.write(classifier.factors, &factors.map(|factor| factor as f32).collect::<Vec<f32>>())
    }

    /// Sets the timesteps `[N]` of the next run.
    pub(super) fn set_timesteps(
        &self,
        executor: &mut Executor,
        timesteps: &[f32],
    ) -> Result<(), DeviceError> {
        if let Some(classifier) = &self.classifier {
            executor.write(classifier.timesteps, timesteps)?;
        }
        let copies = if self.null_class.is_some() { 2 } else { 1 };
        executor.write(self.timesteps, &timesteps.repeat(copies))
    }
}

/// The scope of the classifier's parameters.
pub(super) const CLASSIFIER: &str = "classifier";
