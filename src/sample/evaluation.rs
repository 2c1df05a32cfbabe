//! The network as samplers see it: x and a timestep in, its output out.
//!
//! What changes the output whatever the sampler (guidance, say) belongs here: the sampler only sees the value that
//! [`Evaluation::output`] names.

use super::SampleError;
use super::guidance::{Guidance, Shift};
use crate::conditions::{CLASS_LABELS, Conditions};
use crate::device::{DeviceError, Executor};
use crate::graph::{Graph, GraphError, TensorType, ValueId, gradients};
use crate::network::{Input, LOGITS, NamedValues, Precision, SAMPLE, TIMESTEPS};
use crate::ops::{self, guidance as guide};
use crate::pipeline::Pipeline;
use crate::sampler::{Guided, Process, Sampler, SamplerOptions, Step};

/// The part of a graph that evaluates the network at x.
#[derive(Debug)]
pub(super) struct Evaluation {
    /// What the network says, `[N, H, W, out_channels]`, guided.
    pub(super) output: ValueId,
    /// `[N]`, or `[2 N]` with classifier-free guidance.
    timesteps: ValueId,
    /// What else the network is told of each image, and where; as many rows.
    conditions: Vec<(Input, ValueId)>,
    /// Whether the first half of the rows is told nothing: classifier-free guidance.
    is_doubled: bool,
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
        let network = &pipeline.denoiser()?.network;
        let image = graph.ty(x).clone();
        let batch = image.shape[0];
        let is_doubled = guidance.is_classifier_free();
        let rows = if is_doubled { 2 * batch } else { batch };
        let timesteps = graph.input(TIMESTEPS, TensorType::f32([rows]));
        let mut inputs = NamedValues::default().with(TIMESTEPS, timesteps);
        let mut conditions = Vec::new();
        for input in network.conditions()? {
            let value = graph.input(input.name, input.ty(rows));
            inputs = inputs.with(input.name, value);
            conditions.push((input, value));
        }
        let sample = match is_doubled {
            true => graph.scoped("guidance", |graph| guide::double(graph, x))?,
            false => x,
        };
        let inputs = inputs.with(SAMPLE, sample);
        let mut output = network.apply(graph, precision, &inputs, None)?.get(SAMPLE)?;
        if is_doubled {
            let (scale, rescale) = (guidance.scale as f32, guidance.rescale as f32);
            output = graph.scoped("guidance", |graph| {
                guide::classifier_free(graph, output, image.channels(), scale, rescale)
            })?;
        }
        let mut evaluation = Self { output, timesteps, conditions, is_doubled, classifier: None };
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
            timesteps: graph.input(TIMESTEPS, rows.clone()),
            class_labels: graph.input(CLASS_LABELS, class_labels),
            d_cross_entropy: graph.input("d_cross_entropy", rows.clone()),
            factors: graph.input("factors", TensorType::f32(factors)),
            shift,
            gradient: None,
        });
        let given = NamedValues::default().with(SAMPLE, x).with(TIMESTEPS, inputs.timesteps);
        let network = &classifier.classifier()?.network;
        let cross_entropy = graph.scoped(CLASSIFIER, |graph| -> Result<ValueId, SampleError> {
            let logits = network.apply(graph, precision, &given, None)?.get(LOGITS)?;
            Ok(ops::cross_entropy(graph, logits, inputs.class_labels)?)
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
    pub(super) fn start(&self, executor: &mut Executor, conditions: &Conditions) -> Result<(), SampleError> {
        if let (Some(classifier), Some(labels)) = (&self.classifier, conditions.class_labels()) {
            executor.write(classifier.class_labels, labels)?;
            executor.write(classifier.d_cross_entropy, &vec![-1.0f32; labels.len()])?;
        }
        for (input, value) in &self.conditions {
            let Some(condition) = conditions.get(input.name) else {
                let message = format!("the model is told `{}` of each image; give them", input.name);
                return Err(SampleError::Request(message));
            };
            if self.is_doubled {
                let both = input.unconditional(condition).followed_by(condition);
                input.write(executor, *value, &both)?;
            } else {
                input.write(executor, *value, condition)?;
            }
        }
        Ok(())
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
        let copies = if self.is_doubled { 2 } else { 1 };
        executor.write(self.timesteps, &timesteps.repeat(copies))
    }
}

/// The scope of the classifier's parameters.
pub(super) const CLASSIFIER: &str = "classifier";
